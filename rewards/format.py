"""The format reward: the thinking in its tags, in order, exactly once, and an answer after it.

Many chat templates write the opening ``<think>`` themselves, so that the completion lacks it; a reward that looks for
it there is a constant 0 (trl#6966, open-r1#560). What is judged here is the whole assistant turn: what the template
wrote of it, then the completion.

`tag_count` and `reasoning_steps` give credit for parts of the form. They are crutches for a model that seldom gets the
whole of it right, both easy to please: neither looks at the order or at what is said.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from grpo.errors import UserError
from rewards.turns import Opened, completion_text, turns

ENOUGH_STEPS = 3
_STEP = re.compile(
    r"^[ \t]*(?:[*#]+[ \t]*)?(?:(?:step[ \t]\d+|first|second|third|next|then|finally)\b|\d{1,3}[.)][ \t])"
    r"|^[ \t]*[-*][ \t]",
    re.IGNORECASE | re.MULTILINE,
)

_SPECIAL = re.compile(  # tokens of chat templates that mark an end
    r"<[|｜][^|｜<>\n]{1,60}[|｜]>|</?s>|<\/?(?:eos|bos|pad|unk|eot|eom|im_end|end_of_turn|start_of_turn|endoftext)>"
    r"|\[/?INST\]|\[(?:EOS|PAD|SEP|CLS)\]",
    re.IGNORECASE,
)


def format_reward(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    prefill: Sequence[str | None] | None = None,
    *,
    think_tag: str = "think",
    answer_tag: str | None = None,
    strict: bool = True,
    code: str | None = None,
    opened: Opened = "auto",
) -> list[float]:
    """1.0 for ``<think>...</think>`` followed by an answer and nothing before it, else 0.0.

    Args:
        completions: strings, or lists of messages whose last one is judged.
        prompts: where "auto" looks when there is no `prefill`: the end of a string prompt, or of a last message that
            is the assistant's.
        prefill: what the chat template wrote after the last message; the scoring layer passes it.
        think_tag: name of the tag around the thinking (which may be empty, as R1 leaves it for trivial requests).
        answer_tag: name of the tag around the answer, R1-Zero's "answer".
        strict: nothing may stand before the thinking nor, with an `answer_tag`, outside of the two; false: text may.
        code: a language such as "python": the answer must hold a closed code block that is marked with it.
        opened: whether the prompt ends inside an open thinking tag; "auto" sees for itself.

    Raises:
        UserError: `opened` is none of true, false, auto.

    >>> format_reward(["<think>2+3</think> 5", "2+3</think> 5"], prefill=["", "<think>"])
    [1.0, 1.0]
    """
    if opened not in (True, False, "auto"):
        raise UserError(f"reward 'format': opened is true, false or auto, not '{opened}'")
    scores = []
    for turn in turns(completions, prompts, prefill, think_tag, opened):
        answer = read_answer(turn, think_tag, answer_tag, strict)
        scores.append(float(answer is not None and (code is None or _has_code(answer, code))))
    return scores


def tag_count(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    prefill: Sequence[str | None] | None = None,
    *,
    think_tag: str = "think",
    answer_tag: str = "answer",
    opened: Opened = "auto",
) -> list[float]:
    """The share of the four tags, opening and closing, that occur exactly once; arguments as in `format_reward`.

    >>> tag_count(["<think>2+3</think> 5", "2+3</think> <answer>5</answer>"])
    [0.5, 0.75]
    """
    if opened not in (True, False, "auto"):
        raise UserError(f"reward 'tag_count': opened is true, false or auto, not '{opened}'")
    tags = _tags(think_tag, answer_tag)
    whole = turns(completions, prompts, prefill, think_tag, opened)
    return [sum(turn.count(tag) == 1 for tag in tags) / len(tags) for turn in whole]


def reasoning_steps(completions: Sequence[Any]) -> list[float]:
    """min(1, steps / 3): lines that begin with a number, a bullet, "Step 1", "First", "Next" or the like (English).

    >>> reasoning_steps(["First, add.\\nThen divide.", "42"])
    [0.6666666666666666, 0.0]
    """
    return [min(1.0, len(_STEP.findall(completion_text(c))) / ENOUGH_STEPS) for c in completions]


def read_answer(text: str, think: str = "think", answer: str | None = None, strict: bool = True) -> str | None:
    """The answer of one assistant turn; None unless the tags are in order, each exactly once, and it is not empty."""
    tags = _tags(think, answer)
    if any(text.count(tag) != 1 for tag in tags):
        return None
    places = [text.find(tag) for tag in tags]
    if places != sorted(places):
        return None
    parts = []  # before, thinking, and the rest; or before, thinking, between, answer, after
    for tag in tags:
        before, _, text = text.partition(tag)
        parts.append(before)
    body, outside = (text, parts[:1]) if answer is None else (parts[3], [parts[0], parts[2], _SPECIAL.sub("", text)])
    if (strict and any(part.strip() for part in outside)) or not _says_something(body):
        return None
    return body


def _tags(*names: str | None) -> list[str]:
    return [tag for name in names if name is not None for tag in (f"<{name}>", f"</{name}>")]


def _has_code(answer: str, language: str) -> bool:
    block = re.search(rf"```{re.escape(language)}[ \t\r]*\n(.*?)```", answer, re.DOTALL | re.IGNORECASE)
    return block is not None and _says_something(block[1])


def _says_something(text: str) -> bool:
    """Invisible characters are no answer, nor is the text of an end token."""
    return any(unicodedata.category(char)[0] in "LNSP" for char in _SPECIAL.sub("", text))
