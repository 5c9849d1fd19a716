"""What an assistant's message is in training: the prompt that generation gives the engine, and all of it after that.

The message is told in the ways of `grpo.data.said` until the template, or TRL's training template of its family, writes
all of it after the template's own generation prompt; where neither does, the turn that it writes for a plain answer is
filled in. Each is checked by `grpo.data.writing`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from grpo.data.baked import split_values
from grpo.data.layouts import SPOKEN
from grpo.data.rendering import render
from grpo.data.said import BLOCKS, FIELDS, VERBATIM, WEIGHTS, Calls, Said, Way, leaves, read_said, ways
from grpo.data.templates import End, check_rendered, end_of_turn, shared_start
from grpo.data.writing import ANSWER, EMPTY_THOUGHT, REASONING, Lost, Writing
from grpo.errors import UserError
from grpo.types import Message

CALL = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


@dataclass(frozen=True)
class Turn:
    """What one message is in training."""

    prompt: str  # as the engine is given it
    text: str  # trained after it, the end token included
    message: Message  # as the prompts of later turns tell it


@dataclass
class Template:
    """A tokenizer's chat template: what it reads of a message, and how it ends a turn."""

    tokenizer: Any
    variables: Mapping[str, Any]  # of a row, beside its messages
    borrowed: bool = False  # whether TRL's training template wrote a turn
    _ends: dict[bool, End] = field(default_factory=dict)

    def end(self, calls: Calls, where: str) -> End:
        """The end token of a turn; of one with tool calls it may be another."""
        if bool(calls) not in self._ends:
            told = [way("", "", calls[:1]).get("tool_calls", ()) for way in ways(Said("", "", calls[:1]), {}, [])]
            self._ends[bool(calls)] = end_of_turn(self.tokenizer, told, where, **self.variables)
        return self._ends[bool(calls)]

    @cached_property
    def fields(self) -> list[str]:
        """Where it reads the reasoning of a last message."""
        return [name for name in (*FIELDS, BLOCKS) if self._read(name)]

    @cached_property
    def channel(self) -> tuple[list[str], str, str]:
        """The fields that it reads beside tool calls only, and what it writes around the reasoning there: the model's
        form of a thought (Gemma-4's, Command-R7B's)."""
        asked = [{"role": "user", "content": "?"}]
        read = {name: text for name in FIELDS if not self.fields and (text := self._read(name, CALL))}
        if not read:
            return [], "", ""
        before, _, after = next(iter(read.values())).partition(REASONING)
        prompt = render(self.tokenizer, asked, open_answer=True, **self.variables)
        close = re.match(r"\s*<[^<>]+>", after)
        return list(read), before[len(shared_start(prompt, before)) :], close[0] if close else ""

    def _read(self, name: str, *calls: Any) -> str:
        """What it writes of a question and a message with its reasoning in a field; nothing where that is left out."""
        messages = [{"role": "user", "content": "?"}, Way({"role": "assistant"}, name)(REASONING, ANSWER, list(calls))]
        try:
            text = render(self.tokenizer, messages, open_answer=False, **self.variables)
        except UserError:
            return ""
        printed = "'thinking'" in text.replace('"', "'")  # a list that is printed is not read
        return text if REASONING in text and not printed else ""

    @cached_property
    def training(self) -> str | None:
        """TRL's training template of the same family, where the model's own is one that TRL knows."""
        from trl.chat_template_utils import get_training_chat_template

        values, own = split_values(str(self.tokenizer.chat_template))
        shown = copy(self.tokenizer)
        shown.chat_template = own
        try:
            template = get_training_chat_template(shown)
        except Exception:  # noqa: BLE001 - of another template, which TRL's probes may break in any way
            return None
        return template and values + template

    @property
    def switch(self) -> str:
        """What turns thinking on and off."""
        return "enable_thinking" if "enable_thinking" in str(self.tokenizer.chat_template) else "thinking"


def build_turn(
    template: Template, history: list[Message], message: Message, row: Mapping[str, Any], where: str
) -> Turn:
    """The message after `history`, with the variables of its `row`.

    Raises:
        UserError: the template cannot be brought to write all of it after its generation prompt, and nothing else.
    """
    verbatim = bool(message.get(VERBATIM))
    said = read_said(message, where) if not verbatim else Said("", message["content"], [])
    end = template.end(said.calls, where)
    _check_ends(said, {end.text, template.tokenizer.eos_token}, where)
    own = _writing(template, history, row, end, where)
    check_rendered(history, own.prompt, where, **row)
    if verbatim:
        return Turn(own.prompt, said.answer + end.text, bare(message))
    if said.thought and (empty := EMPTY_THOUGHT.search(own.opening)):
        raise UserError(
            f"{where}: the generation prompt closes the thought ({empty[0]!r}), and this message has a reasoning: "
            f"turn thinking on ({template.switch}: true in base.template_kwargs), or take the reasoning out"
        )
    reason = ""
    for writing, way, text_of in _tries(template, own, said, message, where):
        try:
            text = text_of()
        except (Lost, UserError) as error:
            reason = reason or str(error)
            continue
        template.borrowed |= "chat_template" in writing.variables
        return Turn(own.prompt, text, way(said.reasoning, said.answer, said.calls))
    raise UserError(
        f"{where}: the chat template cannot train this message: {reason}; give base.chat_template one that can"
    )


def as_told(template: Template, messages: list[Message], row: Mapping[str, Any], where: str) -> list[Message]:
    """The messages of a prompt, what has fields of its own (reasoning, tool calls) told as in training: templates read
    one of several fields, and arguments as a dict or as JSON."""
    history: list[Message] = []
    for message in messages:
        spoken = message["role"] == "assistant" and any(message.get(name) for name in SPOKEN)
        history.append(told(template, history, message, row, where) if spoken else bare(message))
    return history


def told(template: Template, history: list[Message], message: Message, row: Mapping[str, Any], where: str) -> Message:
    """An earlier message as prompts tell it: as it would be trained, where it can be; else as it came."""
    try:
        return build_turn(template, history, message, row, where).message
    except UserError:
        return bare(message)


def bare(message: Message) -> Message:
    """What the template is given of a message that is told as it came."""
    return {key: value for key, value in message.items() if value is not None and key not in (*WEIGHTS, VERBATIM)}


def _writing(template: Template, history: list[Message], row: Mapping[str, Any], end: End, where: str) -> Writing:
    prompt = render(template.tokenizer, history, open_answer=True, where=where, **row)
    return Writing(template.tokenizer, row, history, prompt, end, head=prompt)


def _tries(
    template: Template, own: Writing, said: Said, message: Message, where: str
) -> Iterator[tuple[Writing, Way, Callable[[], str]]]:
    """(what writes the message, how later prompts tell it, its text), the template's own way first."""
    fields, *marks = template.channel
    if fields:
        said = Said(said.reasoning.strip("\n"), said.answer.lstrip("\n"), said.calls)
    chosen, plain = list(ways(said, message, template.fields or fields)), Said("", said.answer, said.calls)

    def later(way: Way) -> Way:
        return replace(chosen[0], convert=way.convert, empty=way.empty)

    writings = [own]
    if template.training is not None:
        writings.append(replace(own, variables={**own.variables, "chat_template": template.training}))
    for writing in writings:
        for way in chosen:
            yield writing, way, partial(writing.checked, said, way)
    # A template that has a place for the reasoning, and does not keep it there, is left alone.
    for way in ways(plain, message, []) if not (said.thought and template.fields) else ():
        yield own, later(way), partial(own.filled_in, said, plain, way, *marks)
    for way in chosen:
        yield own, way, partial(replace(own, loose=True).checked, said, way)
    thought = replace(said, reasoning=REASONING)
    for way in ways(thought, message, template.fields) if not said.thought and template.fields else ():
        yield own, later(way), partial(own.emptied, thought, way)
    # Mistral's write the system message with the last user's alone, others keep only the last thought: once the turn is
    # there, what stands before it is another text. Written after the last question alone, it is the same turn.
    start = max((number for number, asked in enumerate(own.history) if asked["role"] == "user"), default=0)
    with suppress(UserError):
        short = _writing(template, own.history[start:], own.variables, own.end, where)
        if start and short.opening == own.opening:
            yield from _tries(template, short, said, message, where)


def _check_ends(said: Said, ends: set[str | None], where: str) -> None:
    """Generation would stop inside the message."""
    for text in (said.reasoning, said.answer, *leaves(said.calls)):
        for end in ends - {None, ""}:
            if str(end) in text:
                raise UserError(f"{where}: it contains the end token {end}: remove it from the data")
