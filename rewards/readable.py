"""Whether people can read a chain of thought, for data that is trained on: R1 dropped those with very long paragraphs
or blocks of code. 1.0 or 0.0 each, to be used as filters; languages that are mixed are `language`'s, what is said again
and again `repetition`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from grpo.errors import UserError
from rewards.language.reward import chain_of_thought
from rewards.turns import turns

_FENCE = re.compile(r"`{3}|^[ \t>]*~{3}", re.MULTILINE)
_BREAK = re.compile(r"\n[ \t\r]*\n")


def paragraphs(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    prefill: Sequence[str | None] | None = None,
    *,
    max_characters: int = 1500,
    think_tag: str = "think",
) -> list[float]:
    """1.0 where no paragraph of the thinking has more than `max_characters`, else 0.0; a blank line ends one.

    Args:
        completions: strings, or lists of messages whose last one is read.
        prompts: see `rewards.format.format_reward`; they tell whether the template opened the thinking.
        prefill: likewise.
        max_characters: 1,500 are some 250 words of English.
        think_tag: name of the tag around the thinking.

    Raises:
        UserError: `max_characters` is no such number.

    >>> paragraphs(["<think>one\\n\\ntwo</think>5", "<think>one two</think>5"], max_characters=5)
    [1.0, 0.0]
    """
    if isinstance(max_characters, bool) or not isinstance(max_characters, int) or max_characters < 1:
        raise UserError(f"reward 'paragraphs': max_characters is a whole number from 1 on, not {max_characters!r}")

    def short(thought: str) -> bool:
        return all(len(paragraph.strip()) <= max_characters for paragraph in _BREAK.split(thought))

    return _of_thoughts(short, completions, prompts, prefill, think_tag)


def no_code(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    prefill: Sequence[str | None] | None = None,
    *,
    think_tag: str = "think",
) -> list[float]:
    """1.0 where there is no fenced block of code in the thinking, else 0.0; arguments as in `paragraphs`.

    >>> no_code(["<think>```x = 1```</think>5", "<think>x is 1</think>```print(5)```"])
    [0.0, 1.0]
    """
    return _of_thoughts(lambda thought: _FENCE.search(thought) is None, completions, prompts, prefill, think_tag)


def _of_thoughts(
    good: Callable[[str], bool],
    completions: Sequence[Any],
    prompts: Sequence[Any] | None,
    prefill: Sequence[str | None] | None,
    think_tag: str,
) -> list[float]:
    whole = turns(completions, prompts, prefill, think_tag)
    return [float(good(chain_of_thought(turn, think_tag))) for turn in whole]
