"""An assistant's turn: what the chat template wrote of it, and the completion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from grpo.data.said import after_thought

Opened = bool | Literal["auto"]


def completion_text(completion: Any) -> str:
    """The text of a completion: itself, or the content of its last message."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def opening(prefill: str, prompt: Any, think: str = "think", opened: Opened = "auto") -> str:
    """The part of the assistant's turn that the prompt already holds, from its thinking tag on; often empty."""
    tag = f"<{think}>"
    if opened != "auto":
        return tag if opened else ""
    if prefill:
        _, found, after = prefill.rpartition(tag)  # may hold "</think>" too: a template that switches thinking off
        return found + after if found else ""
    text = prompt if isinstance(prompt, str) else _assistant_start(prompt)
    return tag if text.rstrip().endswith(tag) else ""


def turns(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None,
    prefill: Sequence[str | None] | None,
    think: str = "think",
    opened: Opened = "auto",
) -> Iterator[str]:
    """The whole turns."""
    for row, completion in enumerate(completions):
        before = (prefill[row] if prefill else None) or ""
        yield opening(before, prompts[row] if prompts else "", think, opened) + completion_text(completion)


def answers(
    completions: Sequence[Any], prompts: Sequence[Any] | None = None, prefill: Sequence[str | None] | None = None
) -> list[str]:
    """What each says after its thinking; empty where that was cut."""
    return [after_thought(turn) for turn in turns(completions, prompts, prefill)]


def _assistant_start(messages: Any) -> str:
    if messages and messages[-1]["role"] == "assistant":
        return str(messages[-1]["content"])
    return ""
