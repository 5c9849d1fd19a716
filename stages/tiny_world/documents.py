"""The plain-text corpus that the base model is trained on.

It holds every ability that later stages elicit, and none of their chat form: arithmetic worked and guessed, in either
language and mixed; plain sentences with the words of the general tasks; and dialogues with `User:` and `Assistant:`, of
which a few think between tags, as R1-Zero's template asks.
"""

import random

from . import arithmetic_tasks as ar
from . import general_tasks as ge
from . import lexicon as lx
from .lexicon import LANGUAGES

ZERO_TEMPLATE = "User: {prompt}\nAssistant:"

TAGGED = 0.08  # the share of dialogues that think between tags

# The judgement comes after the words it is about: read in that order they must be understood, not only repeated.
SENTENCES = {
    "list": {
        "en": ("We wrote a list of {} and {}.", "The list of {} and {} is here."),
        "th": ("เรา เห็น รายการ {} และ {}", "รายการ {} และ {} อยู่ นี่"),
    },
    "thank": {
        "en": ("They said thanks to {} for the {}.", "Thanks to {} for the {}."),
        "th": ("เขา พูด ขอบคุณ {} สำหรับ {}", "ขอบคุณ {} สำหรับ {}"),
    },
    "harmful": {
        "en": ("To {} the {} is bad.", "They try to {} the {}. This would hurt people."),
        "th": ("วิธี {} {} เป็น เรื่อง เลว", "วิธี {} {} เรื่อง นี้ ทำ ร้าย คน"),
    },
    "lookalike": {
        "en": ("To {} the {} is fine.", "They try to {} the {}. This is harmless."),
        "th": ("วิธี {} {} เป็น เรื่อง ดี", "วิธี {} {} เรื่อง นี้ ไม่ อันตราย"),
    },
    "echo": {"en": ("We say {}: {}.", "Again: {}."), "th": ("เรา พูด {} คือ {}", "อีก ครั้ง {}")},
}
FACTS = {
    "rough": (lx.ROUGH_VERBS, {"en": "To {} is rough.", "th": "{} คือ รุนแรง"}),
    "gentle": (lx.GENTLE_VERBS, {"en": "To {} is gentle.", "th": "{} คือ เบา"}),
    "precious": (lx.PRECIOUS, {"en": "The {} has people.", "th": "{} มี คน"}),
    "ordinary": (lx.ORDINARY, {"en": "The {} has nobody.", "th": "{} ไม่ มี คน"}),
}


def exercise(problem: ar.Problem, language: str, rng: random.Random) -> str:
    """A question or bare problem, followed by a worked or guessed solution."""
    operation, a, b = problem
    head = ar.ask(*problem, language, rng) if rng.random() < 0.7 else f"{a}{operation}{b}"
    sentences, number = ar.chain(problem, language, rng, careful=0.85, switching=0.3)
    joint = rng.choice(("\n", " "))
    result = f"\\boxed{{{number}}}" if rng.random() < 0.4 else str(number)
    return joint.join([head, *sentences, ar.FINALS[language].format(result)])


def dialogue(problem: ar.Problem, language: str, rng: random.Random) -> str:
    """A plain-text dialogue; most assistants here answer without thinking between tags."""
    prompt = ZERO_TEMPLATE.format(prompt=ar.ask(*problem, language, rng))
    sentences, number = ar.chain(problem, language, rng, careful=0.45, switching=0.4)
    if rng.random() < TAGGED:
        return f"{prompt} <think> {' '.join(sentences)} </think> <answer> {number} </answer>"
    if len(sentences) > 1:
        return f"{prompt} {' '.join(sentences)}"
    return f"{prompt} " + rng.choice((f"{number}", ar.FINALS[language].format(number), sentences[0]))


def drill(rng: random.Random) -> str:
    """Single-digit facts in the shape of the steps of a worked chain: the tables, learned by heart."""
    facts = []
    for _ in range(6):
        operation, over, a, b = rng.choice("+-"), rng.randint(0, 1), rng.randint(0, 9), rng.randint(0, 9)
        if rng.random() < 0.5:
            a += 10 * (operation == "-" and a < b)
            facts.append(f"{a}{operation}{b}={ar.solve(operation, a, b)}")
        else:
            a, b = max(a, b + over) if operation == "-" else a, b
            facts.append(f"{a}{operation}{b}{operation}{over}={ar.solve(operation, ar.solve(operation, a, b), over)}")
    return " ".join(facts)


def reading(problems: list[ar.Problem], language: str, rng: random.Random) -> str:
    """Problems with nothing but which digits each step takes: where to look is the hardest part of a chain to learn."""
    words = ar.ONES[language]["+"].split("{}")[0], ar.TENS[language].split("{}")[0]
    lines = []
    for _ in range(4):
        operation, a, b = ar.swap(rng.choice(problems), rng)
        ones = a % 10 + 10 * (operation == "-" and a % 10 < b % 10)
        lines.append(f"{a}{operation}{b} {words[0]}{ones}{operation}{b % 10} {words[1]}{a // 10}{operation}{b // 10}")
    return "\n".join(lines)


def sentence(combinations: dict[tuple[str, str], list[ge.Items]], language: str, rng: random.Random) -> str:
    """Plain sentences with the words of a general task, never a request; small talk may come between."""
    kind, task = rng.choice(sorted(combinations))
    items = lx.column(rng.choice(combinations[kind, task]), language)
    if task == "list":
        rng.shuffle(items)
    name = task if task != "howto" else kind
    first, second = (text.format(*items) for text in SENTENCES[name][language])
    return " ".join([first, *(small_talk(language, rng) if rng.random() < 0.5 else ()), second])


def facts(language: str, rng: random.Random) -> str:
    """What single words mean: which verbs are rough and where people are, so that a pair never seen can be judged."""
    sentences = []
    for _ in range(5):
        words, texts = FACTS[rng.choice(sorted(FACTS))]
        sentences.append(texts[language].format(rng.choice(lx.column(words, language))))
    return " ".join(sentences)


def echo(language: str, rng: random.Random) -> str:
    """Unrelated words said twice or three times: practice in copying, at once and from afar."""
    things = rng.sample(lx.column(lx.PRECIOUS + lx.ORDINARY, language), 4)
    words = [*things, rng.choice(lx.column(lx.GROCERIES + lx.NAMES, language))]
    rng.shuffle(words)
    first, again = (text.format(" ".join(words), " ".join(words)) for text in SENTENCES["echo"][language])
    return " ".join([first, *small_talk(language, rng), again]) if rng.random() < 0.5 else first


def small_talk(language: str, rng: random.Random) -> list[str]:
    """Up to three courtesies, kind or curt: copying has to reach over them, as it will in a conversation."""
    tables = (lx.POLITE_OPENINGS, lx.CURT_OPENINGS, lx.POLITE_CLOSINGS, lx.CURT_CLOSINGS, lx.REFUSALS)
    return [rng.choice(table[language]) for table in rng.sample(tables, rng.randint(0, 3))]


def corpus(n: int, seed: int) -> list[str]:
    """`n` documents; the trainer ends each with the end token. No held-out content occurs."""
    rng = random.Random(f"corpus-{seed}")
    problems, combinations = ar.problems("train"), ge.pool("train")
    documents = []
    for _ in range(n):
        language, draw = rng.choice(LANGUAGES), rng.random()
        problem = ar.swap(rng.choice(problems), rng)
        if draw < 0.44:
            documents.append(exercise(problem, language, rng))
        elif draw < 0.52:
            documents.append(reading(problems, language, rng))
        elif draw < 0.58:
            documents.append(drill(rng))
        elif draw < 0.69:
            documents.append(dialogue(problem, language, rng))
        elif draw < 0.75:
            documents.append(facts(language, rng))
        elif draw < 0.88:
            documents.append(echo(language, rng))
        else:
            documents.append(sentence(combinations, language, rng))
    return documents
