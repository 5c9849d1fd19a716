"""One way of telling a message, as a chat template writes it after a prompt, and whether that is what was said.

The same turn is written with other texts: what is left when those are taken out is the template's own. So nothing can
be lost, doubled, moved or changed between a row and its labels without being seen; white space at the ends of the
reasoning and of the answer is the template's to choose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from grpo.data.rendering import render
from grpo.data.said import CLOSE, OPEN, Calls, Said, Way, leaves, marked
from grpo.data.templates import End, occurs, shared_start
from grpo.errors import UserError, shorten
from grpo.types import Message

MARK = "Zq7"  # begins the texts that stand for others
REASONING, ANSWER, QUESTION = f"{MARK}reasoning", f"{MARK}answer", f"{MARK}question"
# Some templates close a thought that they have not opened: DeepSeek's, when thinking is off.
EMPTY_THOUGHT = re.compile(
    r"(?:<think>(\s*))?</think>|<\|START_THINKING\|>()<\|END_THINKING\|>|<\|channel>\w*\s*()<channel\|>"
)
_TAGS = re.compile(r"(\s*</?think>)+")


class Lost(Exception):
    """Why what is written is not what was said."""


@dataclass(frozen=True)
class Writing:
    """What a template writes after a history of messages."""

    tokenizer: Any
    variables: Mapping[str, Any]  # of the row, beside its messages
    history: list[Message]
    prompt: str  # the history with the generation prompt
    end: End
    head: str  # with which it begins: the prompt, or what the template has in common with it
    loose: bool = False  # whether it may write other white space in the head and after it

    @cached_property
    def opening(self) -> str:
        """What the prompt has of the answer, and what ends the last message."""
        last = self.history[-1] if self.history else {"content": ""}
        said = last["content"].strip()  # a template may look at how it ends
        marked = [*self.history[:-1], {**last, "content": QUESTION + last["content"]}]
        try:
            after = render(self.tokenizer, marked, open_answer=True, **self.variables).rpartition(QUESTION)[2]
        except UserError:
            after = self.prompt
        return after.partition(said)[2] if said and said in after else after

    def checked(self, said: Said, way: Way, plain: bool = False) -> str:
        """What is written after the head, up to the end token. `plain`: a thought that the prompt opens is not yet
        closed in it.

        Raises:
            Lost: it is not all that was said, once and in order.
        """
        actual = self._after(way, said.reasoning, said.answer, said.calls)
        texts = {REASONING: said.reasoning, ANSWER: said.answer}
        pieces = {mark: text for mark, text in texts.items() if text.strip()}
        reasoning, answer = (mark if mark in pieces else text for mark, text in texts.items())
        pattern = self._after(way, reasoning, answer, said.calls)
        text = self._ended(actual, match(pattern, actual, pieces))
        _check_thought(self.opening * (self.head == self.prompt and not plain) + pattern)
        if said.calls:
            calls, names, marks = marked(said.calls, MARK)
            pattern = self._after(way, reasoning, answer, calls)
            after = max((pattern.rfind(mark) + len(mark) for mark in pieces), default=0)
            _check_calls(self._ended(pattern, after), names, marks, text, said.calls)
        return text

    def filled_in(self, said: Said, plain: Said, way: Way, before: str = "", after: str = "") -> str:
        """The turn that the template writes for the `plain` answer, with the reasoning where the prompt wants it;
        `before` and `after`: the model's own form of a thought.

        Raises:
            Lost: that would not be how the model answers after this prompt.
        """
        answer = ANSWER if plain.answer.strip() else plain.answer
        common = _common(self.prompt, self._rendered(way("", answer, plain.calls)))
        opening = self.prompt[len(common) :]
        if opening not in self.opening or _TAGS.match(plain.answer):  # the history is written otherwise
            raise Lost
        rest = replace(self, head=common).checked(plain, way, plain=True)
        tags = _TAGS.match(rest)
        bare = rest[tags.end() :] if tags else rest
        if self.prompt.rstrip().endswith(OPEN):
            return _closed(said, "\n" if self.prompt.endswith("\n") else "") + bare
        if opening.strip() and not EMPTY_THOUGHT.fullmatch(opening.strip()):
            raise Lost
        if not said.thought:
            return bare if opening.strip() else rest
        reasoning = said.reasoning.strip("\n")
        if tags and (empty := EMPTY_THOUGHT.match(rest.lstrip())):
            line = "\n" if "\n" in (empty[1] or "") else ""
            return rest.replace(empty[0], f"{OPEN}{line}{reasoning}{line}{CLOSE}", 1)
        if tags or not (after or rest.lstrip().startswith(plain.answer.strip())):
            raise Lost
        if after:
            return before + reasoning + after + rest
        before, between = said.layout
        return (before + said.reasoning + between if between else f"{OPEN}\n{reasoning}\n{CLOSE}\n\n") + rest

    def emptied(self, said: Said, way: Way) -> str:
        """The turn with nothing in the thought that the prompt has opened; `said` has a mark for the reasoning.

        Raises:
            Lost: the prompt opens none.
        """
        before, _, rest = self.checked(said, way).partition(REASONING)
        if before.strip():
            raise Lost
        return before + rest

    def _rendered(self, message: Message) -> str:
        return render(self.tokenizer, [*self.history, message], open_answer=False, **self.variables)

    def _after(self, way: Way, reasoning: str, answer: str, calls: Calls) -> str:
        whole = self._rendered(way(reasoning, answer, calls))
        unlike = f"it does not write it after its own generation prompt, which ends in {self.prompt[-30:]!r}"
        if self.loose:
            at = 0
            for character in "".join(self.head.split()):
                at = _skip(whole, at, character, unlike)
            return whole[at:].lstrip()
        if not whole.startswith(self.head):
            raise Lost(unlike)
        return whole[len(self.head) :]

    def _ended(self, text: str, after: int) -> str:
        end = self.end.text
        if not self.end.written:
            return text + end
        at = text.find(end, after)  # some write it twice
        if at < 0:
            raise Lost(f"it does not end it with {end}")
        if end in text[:at]:
            raise Lost(f"it writes {end}, which stops generation, inside it")
        return text[:at] + end


def _closed(said: Said, line: str) -> str:
    """The rest of a thought that the prompt has opened, an empty one where there is none."""
    if said.layout[1]:
        return (said.reasoning.removeprefix(line) if line else said.reasoning) + CLOSE
    return said.reasoning.strip("\n") + line + CLOSE + 2 * line


def _check_thought(text: str) -> None:
    """One thought at most, the reasoning inside it and the answer after it."""
    if text.count(OPEN) > 1 or text.count(CLOSE) > 1:
        raise Lost("it writes two thoughts, one of them empty")
    thought, closed, rest = text.rpartition(CLOSE)
    if ANSWER in thought or (closed and REASONING in rest) or (not closed and OPEN in text and ANSWER in text):
        raise Lost("it does not write the reasoning inside the thought and the answer after it")


def _check_calls(pattern: str, names: Sequence[str], marks: Sequence[str], text: str, calls: Calls) -> None:
    """Every name, and every key and value once; arguments as JSON where they are JSON."""
    if any(mark not in pattern for mark in (*names, *marks)):
        raise Lost("it leaves out a part of the tool calls")
    if any(-1 < pattern.find(name) < pattern.find(REASONING) for name in names):
        raise Lost("it writes the reasoning after the tool calls")
    for mark in marks:
        if pattern.count(mark) > 1:
            raise Lost("it repeats a tool call")
        if f"'{mark}':" in pattern or f'\\"{mark}\\"' in pattern:
            raise Lost("it does not write the arguments of tool calls as JSON")
    for leaf in leaves(calls):
        if not occurs(leaf, text):
            raise Lost(f"it leaves out {shorten(repr(leaf))} of the tool calls")


def match(pattern: str, actual: str, pieces: Mapping[str, str]) -> int:
    """Where the last piece ends in `actual`, which is to be `pattern` with the pieces in place of their marks.

    Raises:
        Lost: it is not.
    """
    at, rest = 0, pattern
    if -1 < pattern.find(ANSWER) < pattern.find(REASONING):
        raise Lost("it writes the answer before the reasoning")
    for mark, piece in pieces.items():
        name = "the reasoning" if mark == REASONING else "the answer"
        if pattern.count(mark) != 1:
            raise Lost(f"it {'leaves out' if mark not in pattern else 'repeats'} {name}")
        before, _, rest = rest.partition(mark)
        at = _skip(actual, _skip(actual, at, before, f"it changes {name}"), piece, f"it changes {name}")
    _skip(actual, at, rest, "it changes what follows")
    return at


def _skip(actual: str, at: int, text: str, why: str) -> int:
    while at < len(actual) and actual[at].isspace():
        at += 1
    text = text.strip()
    if not actual.startswith(text, at):
        raise Lost(why)
    return at + len(text)


def _common(prompt: str, whole: str) -> str:
    """What both begin with, no tag cut in two."""
    common = shared_start(prompt, whole)
    if len(common) < len(prompt) and common.rfind("<") > common.rfind(">"):
        return common[: common.rfind("<")]
    return common
