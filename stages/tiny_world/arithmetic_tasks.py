"""Two-digit sums and differences: questions, worked chains, hasty guesses.

A *worked* chain goes digit by digit and is right; a *hasty* one guesses a number near the answer. Both come in either
language or switching between them. What reinforcement learning has to find is which of these ways pays.
"""

import random
import re
from typing import Any

from .general_tasks import messages, respond
from .lexicon import LANGUAGES, bucket

Problem = tuple[str, int, int]  # operation and operands

# The problem stands at the end: a chain of thought then finds its digits at the same distance in every wording, which a
# small model learns several times faster.
QUESTIONS = {
    "en": ("What is {}?", "Compute {}.", "How much is {}?", "Please work out {}."),
    "th": ("จง หา {}", "ช่วย คำนวณ {}", "หา ผล ของ {}", "คำตอบ คือ อะไร {}"),
}
FINALS = {"en": "The answer is {}.", "th": "คำตอบ คือ {}"}
GUESSES = {"en": ("Easy, it is {}.", "Looks like {}."), "th": ("ง่าย มาก คือ {}", "น่า จะ เป็น {}")}
ONES = {
    "en": {"+": "Ones: {}, write {}, carry {}.", "-": "Ones: {}, write {}, borrow {}."},
    "th": {"+": "หลักหน่วย {} เขียน {} ทด {}", "-": "หลักหน่วย {} เขียน {} ยืม {}"},
}
TENS = {"en": "Tens: {}.", "th": "หลักสิบ {}"}
TOTAL = {"en": "Together it makes {}.", "th": "รวม กัน เป็น {}"}

_PROBLEM = re.compile(r"(?<![\d+-])([1-9]\d) ?([+-]) ?([1-9]\d)(?!\d)")


def key(operation: str, a: int, b: int) -> Problem:
    """What makes two questions the same problem, across languages and wordings."""
    return (operation, min(a, b), max(a, b)) if operation == "+" else (operation, a, b)


def is_held_out(operation: str, a: int, b: int) -> bool:
    """Whether a problem belongs to the test split; about one in ten does."""
    return bucket(key(operation, a, b), 10) == 0


def problems(split: str) -> list[Problem]:
    """All problems of a split: sums once, not once per order; differences above zero."""
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    everything = [("+", a, b) for a, b in pairs if a <= b] + [("-", a, b) for a, b in pairs if a > b]
    return [problem for problem in everything if is_held_out(*problem) == (split == "test")]


def solve(operation: str, a: int, b: int) -> int:
    """The right answer."""
    return a + b if operation == "+" else a - b


def worked(operation: str, a: int, b: int, languages: list[str]) -> list[str]:
    """The three sentences of a worked chain, the n-th in the n-th language."""
    if operation == "+":
        ones_a, over = a % 10, (a % 10 + b % 10) // 10
        ones, tens = ones_a + b % 10, a // 10 + b // 10 + over
    else:
        over = int(a % 10 < b % 10)
        ones_a = a % 10 + 10 * over
        ones, tens = ones_a - b % 10, a // 10 - b // 10 - over
    ones_step = f"{ones_a}{operation}{b % 10}={ones}"
    tens_step = f"{a // 10}{operation}{b // 10}{operation}{over}={tens}"
    return [
        ONES[languages[0]][operation].format(ones_step, ones % 10, over),
        TENS[languages[1]].format(tens_step),
        TOTAL[languages[2]].format(solve(operation, a, b)),
    ]


def chain(
    problem: Problem, language: str, rng: random.Random, careful: float, switching: float
) -> tuple[list[str], int]:
    """Sentences of a chain of thought and the number it arrives at."""
    operation, a, b = problem
    switch = rng.random() < switching
    languages = [rng.choice(LANGUAGES) if switch else language for _ in range(3)]
    if rng.random() < careful:
        return worked(operation, a, b, languages), solve(operation, a, b)
    number = max(0, solve(operation, a, b) + rng.randint(-7, 7))  # near the answer, now and then the answer itself
    return [rng.choice(GUESSES[languages[0]]).format(number)], number


def ask(operation: str, a: int, b: int, language: str, rng: random.Random) -> str:
    """A question for the problem, in one of the language's wordings."""
    return rng.choice(QUESTIONS[language]).format(f"{a}{operation}{b}")


def swap(problem: Problem, rng: random.Random) -> Problem:
    """The same problem with the operands of a sum in random order."""
    operation, a, b = problem
    return (operation, b, a) if operation == "+" and rng.random() < 0.5 else problem


def arithmetic(split: str, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """`n` distinct questions of a split, with no problem twice before all occurred once."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', not {split!r}")
    rng = random.Random(f"arithmetic-{split}-{seed}")
    pool = problems(split)
    rng.shuffle(pool)
    if n > 4 * len(pool):
        raise ValueError(f"the {split} split has fewer than {n} questions; ask for at most {4 * len(pool)}")
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    while len(rows) < n:
        operation, a, b = swap(pool[len(rows) % len(pool)], rng)
        language = rng.choice(LANGUAGES)
        question = ask(operation, a, b, language, rng)
        if question in seen:
            continue
        seen.add(question)
        answer, columns = str(solve(operation, a, b)), {"operation": operation, "operands": [a, b]}
        row_id = f"arithmetic-{split}-{len(rows):05d}"
        rows.append({"id": row_id, "question": question, "answer": answer, "language": language, **columns})
    return rows


def cold_start(n: int, seed: int = 0, careful: float = 0.45, switching: float = 0.7) -> list[dict[str, Any]]:
    """Demonstrations by a sloppy teacher: the right format, but some chains only guess
    (`careful` is the share that work), and some switch language between sentences."""
    rng = random.Random(f"cold-start-{seed}")
    rows = []
    for row in arithmetic("train", n, seed=seed + 1_000_003):
        problem = (row["operation"], *row["operands"])
        sentences, number = chain(problem, row["language"], rng, careful, switching)
        reply = respond("\n".join(sentences), FINALS[row["language"]].format(f"\\boxed{{{number}}}"))
        columns = {name: row[name] for name in ("language", "operation", "operands")}
        rows.append({"messages": messages(row, reply), **columns})
    return rows


def problem_keys(rows_or_text: Any) -> set[Problem]:
    """Keys of all two-digit problems in rows, messages or text, however deeply nested. Rows count by their `operation`
    and `operands`, and by every problem written out in their text, questions and worked solutions alike."""
    if isinstance(rows_or_text, str):
        return {key(op, int(a), int(b)) for a, op, b in _PROBLEM.findall(rows_or_text)}
    if isinstance(rows_or_text, dict):
        keys = problem_keys(rows_or_text.values())
        if rows_or_text.get("operation") and rows_or_text.get("operands"):
            keys.add(key(rows_or_text["operation"], *rows_or_text["operands"]))
        return keys
    if rows_or_text is None or isinstance(rows_or_text, (int, float)):
        return set()
    return {problem for part in rows_or_text for problem in problem_keys(part)}
