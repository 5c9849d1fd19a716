"""Whether an answer equals a gold, and whether a gold can be judged against."""

from __future__ import annotations

import functools
import re

from rewards.accuracy.choices import choice
from rewards.accuracy.compare import for_worker, is_endless, quick_verdict, same, spelt
from rewards.accuracy.numbers import parse_value
from rewards.accuracy.relations import both_signs, without_conditions
from rewards.accuracy.texts import has_ellipsis, is_formula, is_prose, is_text
from rewards.accuracy.times import parse_clock
from rewards.accuracy.workers import ask, pool_size

MOST_QUESTIONS = 8  # to a worker, about one answer
__all__ = ["is_equal", "is_parseable", "pool_size", "quick_verdict"]


def is_equal(gold: str, answer: str) -> bool:
    """Whether `answer` is right. The gold is known to be parseable; the two are never swapped."""
    asked: list[str] = []

    def worker_says_equal(expected: str, given: str) -> bool:
        if len(asked) >= MOST_QUESTIONS or "died" in asked:  # each part of "a or b or ..." may cost its limit of time
            return False
        asked.append(ask(expected, given))
        return asked[-1] == "equal"

    return same(_spelt_gold(gold), spelt(answer), worker_says_equal)


@functools.lru_cache(maxsize=100_000)
def _spelt_gold(gold: str) -> str:
    return spelt(gold)


@functools.lru_cache(maxsize=100_000)
def is_parseable(gold: str) -> bool:
    """Whether a gold can be judged against: a number, a choice, a text, or mathematics that the parser reads."""
    text = _spelt_gold(gold)
    if not text or is_endless(text):
        return bool(text)
    if parse_value(text) is not None or is_text(text) or has_ellipsis(text) or parse_clock(text) is not None:
        return True
    if choice(text) is not None:
        return True
    if is_prose(gold) and "\\" not in gold:
        return False
    # A gold that no worker can evaluate (a tower of powers), or that is notation it does not read (p \to q), equals
    # what is spelt the same.
    formula = for_worker(both_signs(without_conditions(text)))
    whole = formula.count("{") == formula.count("}") and re.search(r"\\[a-zA-Z|]|[_^]", formula) is not None
    return (whole and is_formula(formula)) or ask(formula, None) != "unparseable"
