"""The accuracy reward for mathematics: 1.0 when the final answer equals the gold, else 0.0.

Where the answer is read is `rewards.accuracy.extraction`'s policy; what equals what is decided by
`rewards.accuracy.equality`, safely and within two seconds of CPU time an answer. A gold that is missing or cannot be
understood is never scored: the row's value is None, with the reason through `log_error` (see
`grpo.scoring.groups.RewardFunction`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from grpo.errors import UserError, shorten
from rewards.accuracy.equality import is_equal, is_parseable
from rewards.accuracy.extraction import Strict, extract_answer, read_golds
from rewards.accuracy.workers import pool_size
from rewards.turns import turns

__all__ = ["accuracy_reward", "extract_answer", "gold_is_parseable", "grade"]


def accuracy_reward(
    completions: Sequence[Any],
    answer: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    prefill: Sequence[str | None] | None = None,
    *,
    strict: Strict = False,
    anywhere: bool = False,
    log_error: Callable[[int, str], None] | None = None,
) -> list[float | None]:
    r"""1.0 for a right final answer, 0.0 for a wrong or missing one, None where the gold cannot be judged against.

    Args:
        completions: strings, or lists of messages whose last one is read.
        answer: the golds; a list gold means any of its items.
        prompts: they tell whether the template opened the thinking: one that never ends has no answer.
        prefill: likewise, see `rewards.format.format_reward`.
        strict: False reads a box, ``####``, ``<answer>`` or a final-answer phrase; True (or "box") only the box;
            "answer" only the ``<answer>`` tag.
        anywhere: where none of these is found, read the last formula, number or lone letter of the text.
        log_error: given by the scoring layer, takes (row, reason).

    Raises:
        UserError: `strict` is none of these values, or contradicts `anywhere`.

    >>> accuracy_reward([r"so \boxed{0.5}", "The answer is 7 or 5"], ["1/2", "5"])
    [1.0, 0.0]
    """
    check_places("accuracy", strict, anywhere)
    rows = list(zip(turns(completions, prompts, prefill), answer, strict=True))
    with ThreadPoolExecutor(pool_size()) as threads:  # threads only wait: the work is in the worker processes
        scores = list(threads.map(lambda row: grade(row[0], row[1], strict, anywhere), rows))
    for index, score in enumerate(scores):
        if score is None and log_error is not None:
            log_error(index, _gold_problem(rows[index][1]))
    return scores


def check_places(name: str, strict: Any, anywhere: bool) -> None:
    """
    Raises:
        UserError: of the reward with that name, `strict` is none of its values, or contradicts `anywhere`.
    """
    if strict not in (True, False, "box", "answer"):
        raise UserError(f"reward '{name}': strict is true, false, box or answer, not '{strict}'")
    if strict and anywhere:
        raise UserError(f"reward '{name}': strict={strict} reads one place only: leave out anywhere")


def grade(completion: str, gold: Any, strict: Strict = False, anywhere: bool = False) -> float | None:
    """The accuracy of one completion; None when the gold is missing or unparseable."""
    golds = [text for text in read_golds(gold) if is_parseable(text)]
    if not golds:
        return None
    answer = extract_answer(completion, strict, anywhere)
    return float(answer is not None and any(is_equal(text, answer) for text in golds))


def gold_is_parseable(gold: Any) -> bool:
    """Whether rows with this gold can be scored; `grpo check` counts the ones that cannot."""
    return any(is_parseable(text) for text in read_golds(gold))


def _gold_problem(gold: Any) -> str:
    if gold is None or gold == [] or gold == "":
        return "no gold answer"
    return f"unparseable gold answer: {shorten(repr(gold))}"
