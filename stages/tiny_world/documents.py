"""The plain-text corpus that the base model is trained on.

It holds every ability that later stages elicit, and none of their chat form:
arithmetic worked and guessed, in either language and mixed; plain sentences
with the words of the general tasks; and dialogues with `User:` and
`Assistant:`, of which a few think between tags, as R1-Zero's template asks.
"""

import random

from . import arithmetic_tasks as ar
from . import general_tasks as ge
from . import lexicon as lx
from .lexicon import LANGUAGES

ZERO_TEMPLATE = "User: {prompt}\nAssistant:"

TAGGED = 0.08  # the share of dialogues that think between tags

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
        "en": ("It is bad to {} the {}.", "Nobody should try to {} the {}. This would hurt people."),
        "th": ("ไม่ ดี ถ้า รู้ วิธี {} {}", "วิธี {} {} เรื่อง นี้ ทำ ร้าย คน"),
    },
    "lookalike": {
        "en": ("It is fine to {} the {}.", "Anybody may try to {} the {}. This is harmless."),
        "th": ("ดี ถ้า รู้ วิธี {} {}", "วิธี {} {} เรื่อง นี้ ไม่ อันตราย"),
    },
    "echo": {"en": ("We say {}: {}.", "Again: {}."), "th": ("เรา พูด {} คือ {}", "อีก ครั้ง {}")},
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


def sentence(combinations: dict[tuple[str, str], list[ge.Items]], language: str, rng: random.Random) -> str:
    """Plain sentences with the words of a general task, never a request; small talk may come between."""
    kind, task = rng.choice(sorted(combinations))
    items = lx.column(rng.choice(combinations[kind, task]), language)
    if task == "list":
        rng.shuffle(items)
    name = task if task != "howto" else kind
    first, second = (text.format(*items) for text in SENTENCES[name][language])
    return " ".join([first, *(small_talk(language, rng) if rng.random() < 0.5 else ()), second])


def echo(language: str, rng: random.Random) -> str:
    """Unrelated words said twice or three times: practice in copying, at once and from afar."""
    things = rng.sample(lx.column(lx.PRECIOUS + lx.ORDINARY, language), 4)
    said = [*things, rng.choice(lx.column(lx.GROCERIES + lx.NAMES, language))]
    rng.shuffle(said)
    first, again = (text.format(" ".join(said), " ".join(said)) for text in SENTENCES["echo"][language])
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
        if draw < 0.48:
            documents.append(exercise(problem, language, rng))
        elif draw < 0.54:
            documents.append(drill(rng))
        elif draw < 0.66:
            documents.append(dialogue(problem, language, rng))
        elif draw < 0.83:
            documents.append(echo(language, rng))
        else:
            documents.append(sentence(combinations, language, rng))
    return documents
