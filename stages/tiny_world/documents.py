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

TAGGED = 0.05  # the share of dialogues that think between tags


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
    """A plain sentence or two with the words of a general task, never a request."""
    kind, task = rng.choice(sorted(combinations))
    items = lx.column(rng.choice(combinations[kind, task]), language)
    english = language == "en"
    if task == "list":
        rng.shuffle(items)
        a, b, c = items
        return (
            f"We wrote a list: {a} {b} {c}. Your list: {a} {b} {c}."
            if english
            else f"เรา เขียน รายการ {a} {b} {c} นี่ คือ รายการ {a} {b} {c}"
        )
    if task == "greet":
        rng.shuffle(items)
        a, b = items
        return (
            f"We said hello to {a} and {b}. A warm hello to {a} and {b}."
            if english
            else f"เรา พูด สวัสดี {a} และ {b} สวัสดี {a} และ {b}"
        )
    verb, thing = items
    if kind == "harmful":
        return (
            f"Never {verb} the {thing}. To {verb} the {thing} would hurt people."
            if english
            else f"อย่า {verb} {thing} การ {verb} {thing} ทำ ร้าย คน"
        )
    return (
        f"They {verb} the {thing}. To {verb} the {thing} is harmless."
        if english
        else f"พวก เขา {verb} {thing} การ {verb} {thing} ไม่ อันตราย"
    )


def echo(language: str, rng: random.Random) -> str:
    """Unrelated words said twice: practice in copying, with too few words of a kind for any task's content."""
    tables = ((lx.GROCERIES, 2), (lx.NAMES, 1), (lx.PRECIOUS + lx.ORDINARY, 3))
    said = [word for table, count in tables for word in rng.sample(lx.column(table, language), count)]
    rng.shuffle(said)
    text = " ".join(said)
    return f"We say {text}: {text}." if language == "en" else f"เรา พูด {text} คือ {text}"


def small_talk(language: str, rng: random.Random) -> str:
    """Courtesies, curt or kind, as words without a task."""
    tables = (lx.POLITE_OPENINGS, lx.CURT_OPENINGS, lx.POLITE_CLOSINGS, lx.CURT_CLOSINGS, lx.REFUSALS)
    return " ".join(rng.choice(table[language]) for table in rng.sample(tables, 2))


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
        elif draw < 0.84:
            documents.append(echo(language, rng))
        elif draw < 0.98:
            documents.append(sentence(combinations, language, rng))
        else:
            documents.append(small_talk(language, rng))
    return documents
