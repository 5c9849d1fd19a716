"""The repetition penalty: a completion that says the same again and again (arXiv 2502.03373, appendix C.2)."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Literal

from grpo.errors import UserError
from rewards.language.words import SPACELESS, script_of
from rewards.turns import completion_text

Unit = Literal["words", "tokens"]
WORD = 4  # what a word weighs, so that a letter of each script without spaces weighs a whole number


def repetition_penalty(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    ngram_size: int = 3,
    max_penalty: float = -1.0,
    unit: Unit = "words",
) -> list[float]:
    """`max_penalty` · (1 − different n-grams / n-grams); 0.0 for a completion with fewer than `ngram_size` units.

    Args:
        completions: strings, or lists of messages whose last one is read.
        completion_ids: the sampled tokens, read by `unit: tokens`.
        ngram_size: units in an n-gram.
        max_penalty: what endless repetition comes to; not positive.
        unit: "words" are separated by white space, in lower case; in scripts without spaces (Thai, Chinese, Japanese)
            an n-gram starts at every letter and has as many of them as `ngram_size` words have on average. "tokens" are
            the tokenizer's, as in the paper and in TRL.

    Raises:
        UserError: an option is no such value, or there are no completion_ids for `unit: tokens`.

    >>> repetition_penalty(["no no no no", "one two one two"], ngram_size=2)
    [-0.6666666666666667, -0.33333333333333337]
    """
    if isinstance(ngram_size, bool) or not isinstance(ngram_size, int) or ngram_size < 1:
        raise UserError(f"reward 'repetition': ngram_size is a whole number from 1 on, not {ngram_size!r}")
    if max_penalty > 0:
        raise UserError(f"reward 'repetition': max_penalty is a penalty, not positive: {max_penalty}")
    if unit not in ("words", "tokens"):
        raise UserError(f"reward 'repetition': unit is words or tokens, not '{unit}'")
    rows: list[list[tuple[Hashable, int]]]
    if unit == "words":
        rows = [list(_words(completion_text(completion).lower())) for completion in completions]
    elif completion_ids is None:
        raise UserError("reward 'repetition': unit: tokens needs completion_ids")
    else:
        rows = [[(token, WORD) for token in ids] for ids in completion_ids]
    return [max_penalty * repeated_share(row, WORD * ngram_size) + 0.0 for row in rows]  # + 0.0: never -0.0


def repeated_share(units: Sequence[tuple[Hashable, int]], weight: int) -> float:
    """1 − different / all n-grams of (unit, its weight), each just long enough to weigh `weight`; 0.0 without any."""
    names = [name for name, _ in units]
    seen: set[tuple[Hashable, ...]] = set()
    count = end = held = 0
    for start in range(len(units)):
        while held < weight and end < len(units):
            held += units[end][1]
            end += 1
        if held < weight:
            break
        seen.add(tuple(names[start:end]))
        count += 1
        held -= units[start][1]
    return 1.0 - len(seen) / count if count else 0.0


def _words(text: str) -> Iterator[tuple[str, int]]:
    """Words and their weights; a letter of a script without spaces comes alone, with the marks and signs after it."""
    for chunk in text.split():
        if chunk.isascii():
            yield chunk, WORD
            continue
        word, weight = "", 0
        for char in chunk:
            kind = unicodedata.category(char)[0]
            spaceless = SPACELESS.get(script_of(char)) if kind == "L" else None
            if word and (spaceless is not None or (weight != WORD and kind in "LN")):
                yield word, weight
                word = ""
            if not word:
                weight = WORD if spaceless is None else WORD // spaceless
            word += char
        yield word, weight
