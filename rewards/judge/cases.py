"""The rows of a data set as a judge reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grpo.data.conversations import Part, response_text


class NoReference(Exception):
    """The row has nothing to judge against."""


@dataclass(frozen=True)
class Case:
    """`reference`: the right answer, or the completion to compare with."""

    question: str
    answer: str
    reference: str = ""


def reference_answer(value: Any) -> str:
    """The text of a gold: one answer, or a list of which any is right.

    Raises:
        NoReference: it is missing or empty.
    """
    answers = value if isinstance(value, list | tuple) else [value]
    texts = [str(answer).strip() for answer in answers if answer is not None]
    if not any(texts):
        raise NoReference("no reference answer")
    return "\nor: ".join(filter(None, texts))


def reference_completion(value: Any, part: Part) -> str:
    """The text of a completion to compare with: a string, or messages whose last one is read.

    Raises:
        NoReference: it is neither, or empty.
    """
    messages = isinstance(value, list) and bool(value) and isinstance(value[-1], dict) and "content" in value[-1]
    text = response_text(value, part) if isinstance(value, str) or messages else ""
    if not text:
        raise NoReference("no completion to compare with")
    return text


def cut_middle(text: str, limit: int) -> str:
    """At most `limit` characters and a mark: the beginning and the end stay, where the task and the answer stand."""
    if len(text) <= limit:
        return text
    tail = limit // 2
    head = limit - tail
    return f"{text[:head]}\n[... {len(text) - limit} characters left out here ...]\n{text[len(text) - tail :]}"


def as_text(prompt: Any) -> str:
    """A prompt as the judge reads it: a text as it is, of messages the only one, or each after its role."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)
