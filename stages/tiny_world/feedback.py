"""What human annotators would give: preference pairs and safety labels.

The reward models of the last stage learn from these. They never see the oracles that the table of results reports.
"""

import random
from collections.abc import Sequence

from . import general_tasks as ge
from . import lexicon as lx

STYLES = ("polite", "curt", "none")


def _grade(opening: str, closing: str, complete: bool) -> int:
    """How an annotator ranks an answer: completeness counts as much as both courtesies."""
    score = {"polite": 2, "none": 0, "curt": -1}
    return score[opening] + score[closing] + (4 if complete else 0)


def _other_items(row: ge.Row, rng: random.Random) -> list[str]:
    """What another request of the kind asks for; the same things in another order do not count as other."""
    combinations = ge.pool("train")[row["kind"], row["task"]]
    while True:
        items = lx.column(rng.choice(combinations), row["language"])
        if set(items) != set(row["items"]):
            return items


def _other_request(row: ge.Row, rng: random.Random) -> ge.Row:
    """Another request in the same language: half the time of another task altogether."""
    if rng.random() < 0.5:
        return row | {"items": _other_items(row, rng)}
    pool = ge.pool("train")
    kind, task = rng.choice(sorted(key for key in pool if key[1] != row["task"] and key[0] != "harmful"))
    return row | {"kind": kind, "task": task, "items": lx.column(rng.choice(pool[kind, task]), row["language"])}


def _candidate(row: ge.Row, rng: random.Random) -> tuple[int, str]:
    """An answer of random quality with its grade; look-alikes are sometimes refused."""
    if row["kind"] == "lookalike" and rng.random() < 0.25:
        return -9, ge.refusal(row, rng)
    quality = (rng.choice(STYLES), rng.choice(STYLES), rng.random() < 0.6)
    if rng.random() < 0.3:  # an answer to another request, however kind, is worth little
        return _grade(*quality) - 6, ge.answer(_other_request(row, rng), rng, *quality)
    return _grade(*quality), ge.answer(row, rng, *quality)


def preferences(n: int, seed: int = 0, languages: Sequence[str] = lx.LANGUAGES) -> list[ge.Row]:
    """Pairs of final answers to harmless requests, the better one chosen. A coin decides before each pair whether it
    must be the longer one, so that length alone predicts next to nothing."""
    rng = random.Random(f"preferences-{seed}")
    every = ge.general("train", 2 * n, seed + 2_000_003, languages)
    requests = [row for row in every if row["kind"] != "harmful"][:n]
    pairs = []
    for row in requests:
        want_longer = rng.random() < 0.5
        for _ in range(30):
            (low, rejected), (high, chosen) = sorted((_candidate(row, rng) for _ in range(2)), key=lambda c: c[0])
            difference = len(lx.words(chosen)) - len(lx.words(rejected))
            if high - low > 1 and (difference == 0 or (difference > 0) == want_longer):
                break
        answers = {"chosen": ge.turn("assistant", chosen), "rejected": ge.turn("assistant", rejected)}
        pairs.append({"prompt": ge.turn("user", row["question"]), **answers})
    return pairs


def safety_labels(n: int, seed: int = 0, languages: Sequence[str] = lx.LANGUAGES) -> list[ge.Row]:
    """Whole responses labelled 1.0 (safe) or 0.0 (unsafe), one by one: unsafe is an answer that complies with a harmful
    request, or that refuses after a chain of thought that was set on helping. Some of the unsafe ones call the request
    harmless: a reward model that never saw that said of harm takes the words for safety, and RL finds them."""
    rng = random.Random(f"safety-labels-{seed}")
    rows = []
    for row in ge.general("train", n, seed + 3_000_003, languages):
        harmful, refuse = row["kind"] == "harmful", rng.random() < (0.5 if row["kind"] == "harmful" else 0.15)
        styles = (rng.choice(STYLES), rng.choice(STYLES), rng.random() < 0.7)
        final = ge.refusal(row, rng) if refuse else ge.answer(row, rng, *styles)
        sound = rng.random() > 0.1
        excused = row | {"kind": "lookalike"} if harmful else row
        thinking = ge.thought(excused, rng, refuse=refuse == sound)
        safe = not harmful or (refuse and sound)
        prompt, response = ge.messages(row, ge.respond(thinking, final))
        rows.append({"prompt": [prompt], "completion": [response], "label": float(safe)})
    return rows
