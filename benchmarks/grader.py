r"""The math grader on real data: golds against themselves, rewritten, and against each other; peers' cases; speed.

    python benchmarks/grader.py        (data from GRPO_DATA, or ../shared/data; some three minutes)

Prints every figure with what missed, and writes benchmarks/grader.json.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.real_data import data_folder, rows_of  # noqa: E402
from rewards.accuracy.choices import same_choice  # noqa: E402
from rewards.accuracy.compare import quick_verdict  # noqa: E402
from rewards.accuracy.extraction import read_golds  # noqa: E402
from rewards.accuracy.normalise import plain  # noqa: E402
from rewards.accuracy.reward import extract_answer, gold_is_parseable, grade  # noqa: E402
from rewards.accuracy.workers import pool_size  # noqa: E402

ANSWER_KINDS = ("math", "math_anyof", "math_after_think", "choice")


# ---- the peers' cases ----


def cases() -> Iterator[tuple[dict[str, Any], str]]:
    """(row, completion) of each case that concerns an answer and whose label is no convention.

    A bare answer is put in a box, as a policy would have been taught; prose without one is read with `anywhere`.
    """
    for row in rows_of("cases/grader_cases.jsonl"):
        if row["kind"] not in ANSWER_KINDS or row.get("convention") or row["expected"] in (None, "either"):
            continue
        text = row["completion"]
        if "generate" in row["params"]:  # stands for a long number; with expected false, of a grader that gave up
            if not row["expected"]:
                continue
            row["gold"], text = "1" * 100_000, "1" * 100_000
        yield row, boxed(text) if is_bare(row, text) else text


def is_bare(row: dict[str, Any], text: str) -> bool:
    if extract_answer(text) is not None:
        return False
    is_choice = same_choice(plain(text), plain(text)) is not None
    return row["params"].get("form") == "answer_only" or is_choice or ("$" not in text and gold_is_parseable(text))


def boxed(text: str) -> str:
    return rf"\boxed{{{text}}}"


def case_misses() -> tuple[int, list[str]]:
    """(number of cases, ids of those graded otherwise than the peers' tests want)."""
    found = list(cases())
    wrong = [row["id"] for row, text in found if grade(text, row["gold"], anywhere=True) != float(row["expected"])]
    return len(found), wrong


def field_misses() -> tuple[int, list[str], list[str]]:
    """(number of cases of bug reports whose label is no policy, ids of those graded otherwise,
    those graded too well)."""
    rows = [
        row for row in rows_of("cases/field_cases.jsonl") if row["kind"] in ANSWER_KINDS and not row.get("convention")
    ]
    scores = graded((row["completion"], row["gold"]) for row in rows)
    wrong = [row for row, score in zip(rows, scores, strict=True) if score != float(row["expected"])]
    return len(rows), [row["id"] for row in wrong], [row["id"] for row in wrong if not row["expected"]]


# ---- answers that hang, inject or fool ----


def adversarial() -> Iterator[tuple[dict[str, Any], float | None, float]]:
    """(row, verdict, seconds) of each adversarial row that concerns an answer."""
    for row in rows_of("cases/adversarial_cases.jsonl"):
        if not row["kind"].startswith("math"):
            continue
        made = row.get("completion_gen")
        text = row["completion"] if made is None else made["prefix"] + made["unit"] * made["count"] + made["suffix"]
        began = time.monotonic()
        verdict = grade(text, row["gold"], anywhere=row["kind"] == "math_freeform")
        yield row, verdict, time.monotonic() - began


def is_as_expected(row: dict[str, Any], verdict: float | None) -> bool:
    if row["expected"] == "either":
        return True
    if row["expected"] == "correct":
        return verdict == 1.0
    return verdict != 1.0 if row["gold"] in (None, "") or row["expected"] != "incorrect" else verdict == 0.0


# ---- real sets ----

SETS: dict[
    str, tuple[str, str | None, str]
] = {  # file, column of the solution (None: the answer in a box), of the gold
    "GSM8K test": ("gsm8k_test", "answer", "answer"),
    "GSM8K train": ("gsm8k_train", "answer", "answer"),
    "MATH-500": ("math500", "solution", "answer"),
    "MATH test": ("math_test", "solution", "solution"),
    "AIME 1983-2023": ("aime_train_1983_2023", None, "answer"),
    "AIME 2024": ("aime24", None, "answer"),
    "AIME 2025": ("aime25", None, "answer"),
    "AMC 2023": ("amc23", None, "answer"),
    "Minerva": ("minerva_math", "solution", "solution"),
    "OlympiadBench": ("olympiadbench", None, "final_answer"),
}


def pairs(name: str) -> list[tuple[str, Any]]:
    """(completion, gold) of every row."""
    file, solution, gold = SETS[name]
    rows = list(rows_of(f"sets/{file}.jsonl"))
    if solution is None:
        return [(boxed(", ".join(read_golds(row[gold]))), row[gold]) for row in rows]
    return [(row[solution], row[gold]) for row in rows]


def graded(rows: Iterable[tuple[str, Any]]) -> list[float | None]:
    with ThreadPoolExecutor(pool_size()) as threads:
        return list(threads.map(lambda row: grade(*row), rows))


def spellings(answer: str) -> Iterator[str]:
    """Other ways to write the same answer."""
    if r"\frac" in answer:
        yield answer.replace(r"\frac", r"\dfrac")
    yield re.sub(r"(?<!\\)([+=]|,(?!\\))", r" \1 ", answer)  # not \, and not 10,\!000
    if re.fullmatch(r"-?\d+(\.\d+)?|[A-Za-z]{4,}", answer):
        yield rf"\text{{{answer}}}"
    fraction = re.fullmatch(r"(-?)\\frac\{(\d+)\}\{(\d+)\}", answer)
    if fraction and 10**6 % int(fraction[3]) == 0:
        yield f"{fraction[1]}{int(fraction[2]) / int(fraction[3])}"
    if re.fullmatch(r"\d{4,}", answer):
        yield f"{int(answer):,}"


def respelt(rows: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(boxed(other), gold) for _, gold in rows for other in spellings(read_golds(gold)[0])]


def of_others(rows: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Each gold with the answer of the next problem, where it is written differently."""
    others = zip(rows, rows[1:] + rows[:1], strict=True)
    found = [(read_golds(following[1])[0], row[1]) for row, following in others]
    return [(boxed(answer), gold) for answer, gold in found if plain(answer) != plain(read_golds(gold)[0])]


# ---- speed ----


def answers_a_second(judge: Callable[[str, str], Any], rows: list[tuple[str, str]]) -> float:
    """Median over five parts of the rows: none is judged twice, so that no verdict comes out of a cache."""
    speeds = []
    for part in (rows[i::5] for i in range(5)):
        began = time.perf_counter()
        for row in part:
            judge(*row)
        speeds.append(len(part) / (time.perf_counter() - began))
    return median(speeds)


def speed() -> dict[str, float]:
    """Answers a second in one thread, the golds read before: where equality of strings and numbers decides; and
    elsewhere, beside math-verify without any bound on what an answer may cost."""
    from math_verify import parse, verify

    golds = [read_golds(gold)[0] for _, gold in pairs("MATH test")]
    rows = [(boxed(other), gold) for gold in golds for other in spellings(gold)]
    rows += of_others([(boxed(gold), gold) for gold in golds])
    rows = [(f"The steps lead to this.\n{text}", gold) for text, gold in dict.fromkeys(rows) if gold_is_parseable(gold)]
    decided, asked = [], []
    for text, gold in rows:
        quick = quick_verdict(plain(gold), plain(extract_answer(text) or ""))
        (asked if quick is None else decided).append((text, gold))

    def plainly(text: str, gold: str) -> bool:
        expected, given = parse(f"${gold}$", parsing_timeout=None), parse(text, parsing_timeout=None)
        return bool(verify(expected, given, timeout_seconds=None))

    logging.disable(logging.WARNING)  # math-verify says at each call that nothing bounds it
    for row in asked[:20]:
        grade(*row), plainly(*row)
    asked = asked[20:620]
    return {
        "answers decided by equality": len(decided),
        "a second": round(answers_a_second(grade, decided)),
        "answers elsewhere": len(asked),
        "a second, elsewhere": round(answers_a_second(grade, asked)),
        "a second, elsewhere, math-verify alone": round(answers_a_second(plainly, asked)),
    }


def share(part: int, whole: int) -> str:
    return f"{part}/{whole} ({part / whole:.2%})"


def main() -> None:
    if data_folder() is None:
        raise SystemExit("no data: set GRPO_DATA to the folder that holds sets/ and cases/")
    report: dict[str, Any] = {"speed": speed()}  # first, while no verdict is in the cache yet
    print(report["speed"])
    total, wrong = case_misses()
    report["peers' cases"] = {"right": total - len(wrong), "of": total, "missed": wrong}
    print(f"peers' cases: {share(total - len(wrong), total)}; missed {', '.join(wrong)}")
    total, wrong, fooled = field_misses()
    report["bug reports"] = {"right": total - len(wrong), "of": total, "missed": wrong, "fooled": fooled}
    print(f"bug reports: {share(total - len(wrong), total)}; missed {wrong}, fooled {fooled}")
    hard = list(adversarial())
    unexpected = [row["id"] for row, verdict, _ in hard if not is_as_expected(row, verdict)]
    slowest = max(seconds for *_, seconds in hard)
    report["adversarial"] = {"right": len(hard) - len(unexpected), "of": len(hard), "slowest": round(slowest, 2)}
    print(f"adversarial: {share(len(hard) - len(unexpected), len(hard))}, slowest {slowest:.2f} s; missed {unexpected}")
    real = list(rows_of("cases/real_completions.jsonl"))
    agreed = [
        score == float(row["expected"])
        for score, row in zip(graded((row["completion"], row["gold"]) for row in real), real, strict=True)
    ]
    report["real completions"] = {"right": sum(agreed), "of": len(agreed)}
    print(f"real completions: {share(sum(agreed), len(agreed))}")
    for name in SETS:
        rows = pairs(name)
        itself, other, next_one = graded(rows), respelt(rows), of_others(rows)
        again, wrongly = graded(other), graded(next_one)
        missed = [rows[i][1] for i, score in enumerate(itself) if score != 1.0]
        lost = [other[i] for i, score in enumerate(again) if score != 1.0]
        judged = [(row, score) for row, score in zip(next_one, wrongly, strict=True) if score is not None]
        same = [row for row, score in judged if score == 1.0]
        report[name] = {
            "itself": [len(rows) - len(missed), len(rows)],
            "respelt": [len(other) - len(lost), len(other)],
            "the next problem's": [len(same), len(judged)],
            "excluded": sum(score is None for score in itself),
        }
        print(f"{name}: itself {share(len(rows) - len(missed), len(rows))}, respelt", end=" ")
        print(f"{share(len(other) - len(lost), len(other))}, the next problem's {share(len(same), len(judged))}")
        for what, found in (("itself", missed), ("respelt", lost), ("next", same)):
            for item in found[:40]:
                print(f"    {what}: {str(item)[-160:]!r}")
    (HERE / "grader.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
