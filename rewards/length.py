"""Rewards on the length of completions, counted in tokens, the end token among them.

They come on top of a reward for being right: `overlong` keeps a run below its limit of tokens, `length` and
`cosine_length` prefer the short ones of the right answers. All three grow continuous differences out of equal answers,
which the division by the group's standard deviation blows up: give them a small weight, or an `advantage.std_floor`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from grpo.errors import UserError
from rewards.accuracy.extraction import Strict
from rewards.accuracy.reward import accuracy_reward
from rewards.turns import completion_text

LogError = Callable[[int, str], None]
NO_TOKENS = "no completion_ids for a text that is not empty (grpo score: give --tokenizer)"


def overlong_penalty(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    *,
    max_length: int | None = None,
    cache: int | None = None,
    log_error: LogError | None = None,
) -> list[float | None]:
    """DAPO's soft over-long punishment (arXiv 2503.14476, eq. 13): 0.0 for completions of at most `max_length` −
    `cache` tokens, from there linearly down to −1.0 at `max_length`, and −1.0 for longer ones.

    Args:
        completions: only to tell an empty completion from one that comes without its ids.
        completion_ids: the sampled tokens of each completion.
        max_length: tokens; the limit that completions are cut at (`max_tokens`), or less.
        cache: tokens before `max_length` over which the penalty grows; 0 for none. DAPO: 4,096 before 20,480.
        log_error: given by the scoring layer, takes (row, reason).

    Raises:
        UserError: an option is missing or no such number.

    >>> overlong_penalty(["a"] * 3, [[1] * 80, [1] * 90, [1] * 101], max_length=100, cache=20)
    [0.0, -0.5, -1.0]
    """
    longest = _whole("overlong", "max_length", max_length, 1)
    soft = _whole("overlong", "cache", cache, 0)
    if soft > longest:
        raise UserError(f"reward 'overlong': cache ({soft}) is more than max_length ({longest})")
    lengths = _token_counts(completions, completion_ids, log_error)
    return [None if count is None else _overlong(count, longest, soft) for count in lengths]


def cosine_length(
    completions: Sequence[Any],
    answer: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    prompts: Sequence[Any] | None = None,
    prefill: Sequence[str | None] | None = None,
    *,
    max_length: int | None = None,
    min_value_wrong: float = -1.0,
    max_value_wrong: float = -0.5,
    min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
    strict: Strict = False,
    log_error: LogError | None = None,
) -> list[float | None]:
    r"""The cosine reward of "Demystifying Long Chain-of-Thought Reasoning" (arXiv 2502.03373, appendix C.1).

    Half a cosine from length 0 to `max_length`: right answers fall from `max_value_correct` to `min_value_correct`,
    wrong ones rise from `min_value_wrong` to `max_value_wrong` (a longer try is the lesser fault); from `max_length` on
    the value stays. Defaults as in TRL. None where the gold cannot be judged against.

    Args:
        completions: strings, or lists of messages whose last one is read.
        answer: the golds, see `rewards.accuracy.reward.accuracy_reward`.
        completion_ids: the sampled tokens of each completion.
        prompts: with `prefill`, whether the template opened the thinking, as in `accuracy_reward`.
        prefill: likewise.
        max_length: tokens.
        strict: where the answer is read, as in `accuracy_reward`.
        log_error: given by the scoring layer, takes (row, reason).

    Raises:
        UserError: an option is missing or no such value.

    >>> cosine_length([r"\boxed{2}", r"\boxed{3}"], ["2", "2"], [[1] * 50] * 2, max_length=100)
    [0.75, -0.75]
    """
    longest = _whole("cosine_length", "max_length", max_length, 1)
    for low, high, which in (
        (min_value_wrong, max_value_wrong, "wrong"),
        (min_value_correct, max_value_correct, "correct"),
    ):
        if low > high:
            raise UserError(f"reward 'cosine_length': min_value_{which} ({low}) is above max_value_{which} ({high})")
    right = accuracy_reward(completions, answer, prompts, prefill, strict=strict, log_error=log_error)
    lengths = _token_counts(completions, completion_ids, log_error)
    values: list[float | None] = []
    for score, count in zip(right, lengths, strict=True):
        if score is None or count is None:
            values.append(None)
        elif score == 1.0:
            values.append(half_cosine(count, longest, max_value_correct, min_value_correct))
        else:
            values.append(half_cosine(count, longest, min_value_wrong, max_value_wrong))
    return values


def length_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    answer: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    prefill: Sequence[str | None] | None = None,
    *,
    strict: Strict = False,
    log_error: LogError | None = None,
) -> list[float | None]:
    r"""Kimi k1.5's length reward (arXiv 2501.12599, section 2.3.3) within the completions of one prompt.

    λ = 1/2 − (length − shortest) / (longest − shortest), 0 where all are equally long; a right answer gets λ, a wrong
    one min(0, λ). None where the gold cannot be judged against. Rows with equal prompts are one group.

    Args:
        prompts: strings or messages.
        completions: strings, or lists of messages whose last one is read.
        answer: the golds, see `rewards.accuracy.reward.accuracy_reward`.
        completion_ids: the sampled tokens of each completion.
        prefill: see `accuracy_reward`.
        strict: where the answer is read, as in `accuracy_reward`.
        log_error: given by the scoring layer, takes (row, reason).

    >>> length_reward(["?"] * 3, [r"\boxed{2}", r"\boxed{2}", r"\boxed{3}"], ["2"] * 3, [[1] * 4, [1] * 8, [1] * 4])
    [0.5, -0.5, 0.0]
    """
    right = accuracy_reward(completions, answer, prompts, prefill, strict=strict, log_error=log_error)
    lengths = _token_counts(completions, completion_ids, log_error)
    groups: dict[str, list[int]] = defaultdict(list)
    for prompt, count in zip(prompts, lengths, strict=True):
        if count is not None:
            groups[repr(prompt)].append(count)
    values: list[float | None] = []
    for prompt, score, count in zip(prompts, right, lengths, strict=True):
        if score is None or count is None:
            values.append(None)
            continue
        shortest, longest = min(groups[repr(prompt)]), max(groups[repr(prompt)])
        share = 0.0 if longest == shortest else 0.5 - (count - shortest) / (longest - shortest)
        values.append(share if score == 1.0 else min(0.0, share))
    return values


def length_range(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    *,
    min_tokens: int = 0,
    max_tokens: int | None = None,
    log_error: LogError | None = None,
) -> list[float | None]:
    """1.0 for a completion of `min_tokens` to `max_tokens` tokens, the end token among them, else 0.0.

    Args:
        completions: only to tell an empty completion from one that comes without its ids.
        completion_ids: the tokens of each completion.
        min_tokens: the fewest.
        max_tokens: the most; None: any number.
        log_error: given by the scoring layer, takes (row, reason).

    Raises:
        UserError: an option is no such number, or the range is empty, or neither end of it is given.

    >>> length_range(["a"] * 3, [[1], [1] * 5, [1] * 9], min_tokens=2, max_tokens=8)
    [0.0, 1.0, 0.0]
    """
    least = _whole("length_range", "min_tokens", min_tokens, 0)
    most = None if max_tokens is None else _whole("length_range", "max_tokens", max_tokens, 1)
    if most is not None and least > most:
        raise UserError(f"reward 'length_range': min_tokens ({least}) is more than max_tokens ({most})")
    if most is None and not least:
        raise UserError(
            "reward 'length_range': give `kwargs: {min_tokens: ..., max_tokens: ...}`, or one of them (grpo score "
            "takes no kwargs: name a small function of your own that sets it)"
        )
    counts = _token_counts(completions, completion_ids, log_error)
    return [None if count is None else float(least <= count and (most is None or count <= most)) for count in counts]


def half_cosine(length: int, longest: int, at_zero: float, at_longest: float) -> float:
    """From `at_zero` to `at_longest` along half a period of a cosine; constant from `longest` on."""
    progress = min(length, longest) / longest
    return at_longest + 0.5 * (at_zero - at_longest) * (1.0 + math.cos(math.pi * progress))


def _overlong(length: int, longest: int, soft: int) -> float:
    free = longest - soft
    if length <= free:
        return 0.0
    return -1.0 if length > longest else (free - length) / soft


def _token_counts(
    completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], log_error: LogError | None
) -> list[int | None]:
    """None for a text without ids: 0 would be the best length there is."""
    counts: list[int | None] = []
    for row, (completion, ids) in enumerate(zip(completions, completion_ids, strict=True)):
        missing = not len(ids) and completion_text(completion) != ""
        counts.append(None if missing else len(ids))
        if missing and log_error is not None:
            log_error(row, NO_TOKENS)
    return counts


def _whole(reward: str, option: str, value: Any, least: int) -> int:
    if value is None:
        raise UserError(
            f"reward '{reward}': give `kwargs: {{{option}: ...}}`, a number of tokens (grpo score takes no kwargs: "
            "name a small function of your own that sets it)"
        )
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"reward '{reward}': {option} is a whole number from {least} on, not {value!r}")
    return value
