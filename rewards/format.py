"""The format reward: the thinking in its tags, in order, exactly once, and an answer after it.

Many chat templates write the opening ``<think>`` themselves, so that the completion lacks it; a reward that looks for
it there is a constant 0 (trl#6966, open-r1#560). What is judged here is the whole assistant turn: what the template
wrote of it, then the completion.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

from grpo.errors import UserError


def format_reward(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    prefill: Sequence[str | None] | None = None,
    *,
    think_tag: str = "think",
    answer_tag: str | None = None,
    opened: bool | Literal["auto"] = "auto",
) -> list[float]:
    """1.0 for ``<think>...</think>`` followed by an answer and nothing before it, else 0.0.

    Args:
        completions: strings, or lists of messages whose last one is judged.
        prompts: where "auto" looks when there is no `prefill`: the end of a string prompt, or of a last message that
            is the assistant's.
        prefill: what the chat template wrote after the last message; the scoring layer passes it.
        think_tag: name of the tag around the thinking (which may be empty, as R1 leaves it for trivial requests).
        answer_tag: name of the tag around the answer, R1-Zero's "answer"; then nothing may stand outside of the two.
        opened: whether the prompt ends inside an open thinking tag; "auto" sees for itself.

    Raises:
        UserError: `opened` is none of true, false, auto.

    >>> format_reward(["<think>2+3</think> 5", "2+3</think> 5"], prefill=["", "<think>"])
    [1.0, 1.0]
    """
    if opened not in (True, False, "auto"):
        raise UserError(f"reward 'format': opened is true, false or auto, not '{opened}'")
    scores = []
    for row, completion in enumerate(completions):
        before = prefill[row] if prefill else None
        head = opening(before or "", prompts[row] if prompts else "", think_tag, opened)
        text = completion if isinstance(completion, str) else str(completion[-1]["content"])
        scores.append(float(is_well_formed(head + text, think_tag, answer_tag)))
    return scores


def opening(prefill: str, prompt: Any, think: str = "think", opened: bool | Literal["auto"] = "auto") -> str:
    """The part of the assistant's turn that the prompt already holds, from its thinking tag on; often empty."""
    tag = f"<{think}>"
    if opened != "auto":
        return tag if opened else ""
    if prefill:
        _, found, after = prefill.rpartition(tag)  # may hold "</think>" too: a template that switches thinking off
        return found + after if found else ""
    text = prompt if isinstance(prompt, str) else _assistant_start(prompt)
    return tag if text.rstrip().endswith(tag) else ""


def is_well_formed(text: str, think: str = "think", answer: str | None = None) -> bool:
    """Whether one assistant turn has the tags in order, each exactly once, and a non-empty answer."""
    tags = [f"<{think}>", f"</{think}>"]
    if answer is not None:
        tags += [f"<{answer}>", f"</{answer}>"]
    if any(text.count(tag) != 1 for tag in tags):
        return False
    before, _, rest = text.partition(tags[0])
    _, closed, rest = rest.partition(tags[1])
    if before.strip() or not closed:
        return False
    if answer is None:
        return _says_something(rest)
    outside, found, rest = rest.partition(tags[2])
    body, closed, after = rest.partition(tags[3])
    return bool(found and closed) and not outside.strip() and not after.strip() and _says_something(body)


def _assistant_start(messages: Any) -> str:
    if messages and messages[-1]["role"] == "assistant":
        return str(messages[-1]["content"])
    return ""


def _says_something(text: str) -> bool:
    return any(unicodedata.category(char)[0] in "LNSP" for char in text)  # invisible characters are no answer
