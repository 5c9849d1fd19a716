"""What an assistant's message says (reasoning, answer, tool calls), and the ways to tell a chat template.

Data keeps the reasoning in a field of its own or as `<think>...</think>` in the content; templates read one of several
fields, want tool arguments as a dict or as JSON, or know nothing of either. A `Way` writes the same message for one
kind of template, with other texts in it where the rendering is probed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo.errors import UserError, shorten
from grpo.types import Message

FIELDS = ("reasoning_content", "thinking", "reasoning")  # what data and templates call the reasoning
BLOCKS = "content blocks"  # Mistral's: content is a list of {"type": "thinking"} and {"type": "text"}
WEIGHTS = ("weight", "train", "training", "loss")  # not the template's: whether a turn is trained
VERBATIM = "verbatim"  # nor this: the content is all that the model wrote after the prompt, tags and channels included
OPEN, CLOSE = "<think>", "</think>"
Calls = list[Any]


@dataclass(frozen=True)
class Said:
    """The texts are as the row has them, whitespace at their ends included."""

    reasoning: str
    answer: str
    calls: Calls
    layout: tuple[str, str] = ("", "")  # in the content: what is before the reasoning, and between it and the answer

    @property
    def thought(self) -> bool:
        return bool(self.reasoning.strip())


def read_said(message: Message, where: str) -> Said:
    """What a message says.

    Raises:
        UserError: nothing, or two different reasonings, or something that is no text.
    """
    content, calls = message.get("content") or "", message.get("tool_calls") or []
    given = [message[name] for name in FIELDS if message.get(name)]
    if not isinstance(content, str) or not isinstance(calls, list) or not all(isinstance(text, str) for text in given):
        raise UserError(f"{where}: content and reasoning must be text, tool_calls a list")
    before, reasoning, between, answer = split_thought(content)
    if answer.lstrip().startswith(OPEN) and CLOSE not in answer:
        raise UserError(f"{where}: its thought never ends: remove the row, or give the message weight: 0")
    texts = {text.strip(): text for text in (*given, reasoning) if text.strip()}
    if len(texts) > 1:
        first, second = (shorten(repr(text)) for text in list(texts)[:2])
        raise UserError(f"{where}: it holds two reasonings, {first} and {second}: keep one")
    if not texts and not answer.strip() and not calls:
        raise UserError(f"{where}: the assistant says nothing: remove the row, or give the message weight: 0")
    if not reasoning.strip() and texts:  # in a field: what the content may have of it is an empty pair of tags
        before, between, reasoning = "", "", next(iter(texts.values()))
    return Said(reasoning, answer, list(calls), (before, between))


def is_trained(message: Message, where: str) -> bool:
    """By its `weight` or `train`: 1 (also where there is none) or 0.

    Raises:
        UserError: another weight.
    """
    for name in WEIGHTS:
        if message.get(name) not in (None, 0, 1):  # True and False are 1 and 0
            raise UserError(f"{where}: '{name}' must be 0 or 1, got {message[name]!r}: other weights cannot be trained")
    return all(message.get(name) != 0 for name in WEIGHTS)


def after_thought(text: str, prefill: str = "") -> str:
    """What an answer says after its thinking; empty when a thinking that `text` or the template's `prefill` has opened
    never ends: it was cut, there is no answer.

    >>> after_thought("<think>2+3</think> 5"), after_thought("5"), after_thought("so it is 5", "<think>\\n")
    (' 5', '5', '')
    """
    _, closed, rest = text.rpartition(CLOSE)
    opened = not closed and prefill.rfind(OPEN) > prefill.rfind(CLOSE)
    return "" if opened or OPEN in rest else rest


def split_thought(content: str) -> tuple[str, str, str, str]:
    """(before the reasoning, the reasoning, between, the answer) of a content that begins with one whole thought, whose
    opening tag may have been the prompt's; else it is all answer.

    >>> split_thought("<think>two and two</think>4")
    ('<think>', 'two and two', '</think>', '4')
    """
    head, closed, answer = content.partition(CLOSE)
    before, opened, reasoning = head.rpartition(OPEN)
    if not closed or before.strip() or OPEN in answer or CLOSE in answer:
        return "", "", "", content
    return before + opened, reasoning, CLOSE, answer


@dataclass(frozen=True)
class Way:
    """A message for a template of some kind, made of (reasoning, answer, tool calls)."""

    rest: dict[str, Any]  # the message's other fields
    field: str | None = None  # that holds the reasoning; None: the content does
    before: str = ""  # the reasoning in the content
    between: str = ""  # it and the answer
    bare: bool = True  # without the row's own line ends around them
    convert: Callable[[Any], Any] = lambda value: value  # the arguments of tool calls
    empty: str | None = ""  # a content that says nothing

    def __call__(self, reasoning: str, answer: str, calls: Calls) -> dict[str, Any]:
        if self.bare:
            reasoning, answer = reasoning.strip("\n"), answer.lstrip("\n")
        content: Any = answer if self.field else self.before + reasoning + self.between + answer
        if self.field == BLOCKS:
            content = [{"type": "thinking", "thinking": reasoning}, {"type": "text", "text": answer}]
        told = {self.field: reasoning} if self.field in FIELDS else {}
        called = {"tool_calls": [_with(call, self.convert) for call in calls]} if calls else {}
        return {**self.rest, "content": content or self.empty, **told, **called}


def ways(said: Said, message: Message, fields: Sequence[str]) -> Iterator[Way]:
    """Messages that say it, for a template which reads the reasoning in `fields`; where it has none, in the content."""
    other = (*FIELDS, *WEIGHTS, VERBATIM, "content", "tool_calls")
    rest = {key: value for key, value in message.items() if key not in other and value is not None}
    before, between = said.layout
    chosen = [Way(rest, field) for field in fields] if said.thought else []
    if not chosen and (between or not said.thought):
        chosen.append(Way(rest, None, before, between, bare=False))  # as the row has it
    if said.thought and not fields:
        chosen.append(Way(rest, None, f"{OPEN}\n", f"\n{CLOSE}\n\n"))
    elif between and not said.thought:
        chosen.append(Way(rest))  # an empty thought, which the template may want to write itself
    for convert in (lambda value: value, _parsed, _dumped) if said.calls else (lambda value: value,):
        for empty in ("", None) if said.calls and not said.answer.strip() else ("",):
            for way in chosen:
                yield replace(way, convert=convert, empty=empty)


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _dumped(value: Any) -> Any:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _with(call: Any, convert: Callable[[Any], Any]) -> Any:
    """A tool call with its arguments converted, in OpenAI's layout or flat."""
    if not isinstance(call, dict):
        return call
    call = {key: value for key, value in call.items() if value is not None}
    if isinstance(call.get("function"), dict):
        return {**call, "function": _with(call["function"], convert)}
    return {**call, "arguments": convert(call["arguments"])} if "arguments" in call else call


def marked(calls: Calls, mark: str) -> tuple[Calls, list[str], list[str]]:
    """The calls with each name, key and value replaced by a text of its own; the names' texts, and the others."""
    marks: list[str] = []
    names: list[str] = []

    def new(number: bool = False) -> Any:
        text = f"731{len(marks):03d}" if number else f"{mark}{len(marks)}x"
        marks.append(text)
        return int(text) if number else text

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {new(): replaced(item) for item in value.values()}
        if isinstance(value, list):
            return [replaced(item) for item in value]
        if isinstance(value, str):
            return new()
        return value if isinstance(value, bool | None) else new(number=True)

    def of_call(call: Any) -> Any:
        if not isinstance(call, dict):
            return call
        if isinstance(call.get("function"), dict):
            return {**call, "function": of_call(call["function"])}
        names.append(f"{mark}name{len(names)}x")
        given = replaced(_parsed(call.get("arguments")))
        told = _dumped(given) if isinstance(call.get("arguments"), str) else given
        return {**call, "name": names[-1], **({} if given is None else {"arguments": told})}

    return [of_call(call) for call in calls], names, marks


def leaves(calls: Calls) -> Iterator[str]:
    """Every text that the calls hold, names and keys included."""
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else {"name": str(call)}
        yield str(function.get("name", ""))
        yield from texts(_parsed(function.get("arguments")))


def texts(value: Any) -> Iterator[str]:
    """Every text in a value of JSON, keys included."""
    if isinstance(value, str):
        yield value
    for item in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from texts(item)
