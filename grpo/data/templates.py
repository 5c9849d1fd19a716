"""Messages -> text, by the model's own chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from grpo.data.rendering import render
from grpo.errors import UserError, shorten
from grpo.types import Message

VARIABLES = {"tools": list, "documents": list, "chat_template_kwargs": dict}  # columns that reach the template
_MARK = "MARKER"  # stands for an answer when the template is probed


def row_variables(row: dict[str, Any], where: str) -> dict[str, Any]:
    """What a row has for the template besides its messages: `tools`, `documents`, `chat_template_kwargs`.

    Raises:
        UserError: one of them cannot be read.
    """
    found: dict[str, Any] = {}
    for name, kind in VARIABLES.items():
        value = row.get(name)
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):  # as tables keep it
            try:
                value = json.loads(value)
            except ValueError as error:
                raise UserError(f"{where}: '{name}' is not JSON: {error}") from error
        if (isinstance(value, str) and value) or (value and not isinstance(value, kind)):
            what = f"must be a {'list' if kind is list else 'dict'}, got {shorten(repr(value))}"
            raise UserError(f"{where}: '{name}' {what}; data.columns {{unused: {name}}} if it is not meant to be seen")
        if value:
            found[name] = value
    return {**found, **found.pop("chat_template_kwargs", {})}


def check_rendered(
    messages: Sequence[Message],
    text: str,
    where: str,
    tools: Sequence[Any] = (),
    documents: Sequence[Any] = (),
    **_: Any,
) -> None:
    """
    Raises:
        UserError: the template left out what the user or the system says, a tool, or a document.
    """
    for message in messages:
        if message["role"] != "assistant" and not occurs(message["content"].strip(), text):
            raise UserError(
                f"{where}: the model's chat template does not write what the {message['role']} says "
                f"({shorten(repr(message['content']))}): put it where the template has a place for it"
            )
    beside = [("documents", begin, f"column 'documents' ({shorten(repr(begin))})") for begin in map(_begin, documents)]
    beside += [("tools", name, f"the tool '{name}' of column 'tools'") for name in map(_name, tools)]
    for column, part, what in beside:
        if not occurs(part, text):
            raise UserError(
                f"{where}: the model's chat template does not write {what}: use one that does (base.chat_template), or "
                f"say with data.columns {{unused: {column}}} that it is not meant to be seen"
            )


def _begin(document: Any) -> str:
    """How the longest of its texts begins."""
    longest = max(document.values() if isinstance(document, dict) else [document], key=lambda part: len(str(part)))
    return str(longest).strip().partition("\n")[0][:40]


def _name(tool: Any) -> str:
    function = tool.get("function", tool) if isinstance(tool, dict) else tool
    return str(function.get("name", "")) if isinstance(function, dict) else str(function)


def occurs(part: str, text: str) -> bool:
    """Whether it stands in the text, as it is or inside JSON."""
    return part in text or any(json.dumps(part, ensure_ascii=ascii_only)[1:-1] in text for ascii_only in (True, False))


def render_chat(
    messages: list[Message], tokenizer: Any, where: str = "chat template", **variables: Any
) -> tuple[str, str]:
    """(full prompt text, what the template wrote to open the assistant's turn, ``<think>`` included if it opens it)."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "the model has no chat template: set data.template (eval.data.template of grpo eval) to a plain-text one "
            "such as 'Q: {prompt}\\nA:'"
        )
    text = render(tokenizer, messages, open_answer=True, where=where, **variables)
    without = render(tokenizer, messages, open_answer=False, where=where, **variables)
    return text, text[len(without) :] if text.startswith(without) else ""


@dataclass(frozen=True)
class End:
    """The token that ends an assistant turn. `written`: at its end, and not only by the turn after it (GLM's)."""

    id: int
    text: str
    written: bool


def turn_end(tokenizer: Any) -> tuple[int, str]:
    """(id, text) of the token with which the template ends an assistant turn: what the model must learn to say."""
    end = end_of_turn(tokenizer)
    return end.id, end.text


def end_of_turn(
    tokenizer: Any, called: Sequence[Sequence[Any]] = ((),), where: str = "chat template", **variables: Any
) -> End:
    """What ends a turn whatever follows it (the last such token: inner parts have ends of their own), else what ends it
    when nothing follows, else the first token of the next turn. Headers of turns are no ends. `called`: the tool calls
    of the turn, in the forms that the template may want.

    Raises:
        UserError: no such token, so the end could not be learnt.
    """

    def rendered(*messages: Message, opened: bool = False) -> str:
        return render(tokenizer, messages, open_answer=opened, where=where, **variables)

    asked = {"role": "user", "content": "?"}
    for calls in called:
        turn = {"role": "assistant", "content": _MARK, **({"tool_calls": list(calls)} if calls else {})}
        reply = {"role": "tool", "content": "?", "name": "f", "tool_call_id": "0"} if calls else asked
        try:
            alone = _after(rendered(asked, turn))
            break
        except UserError as error:
            refused = error
    else:
        raise refused
    try:
        followed = _after(rendered(asked, turn, reply))
    except UserError:
        followed = alone
    prompt, without = rendered(asked, opened=True), rendered(asked)
    opened = prompt[len(shared_start(prompt, without)) :]
    # A template that always opens the next turn is no other with a generation prompt: the first ends the question.
    opening = _ends(tokenizer, opened) or _ends(tokenizer, prompt.rpartition("?")[2])[1:]
    opening = [end for end in opening if end[1] != tokenizer.eos_token]  # which ends the question there (Qwen1.5's)
    shared = shared_start(alone, followed)
    texts = [shared, alone, followed]
    if calls and not end_of_turn(tokenizer, where=where, **variables).written:  # what stands in it is of the calls
        texts = [followed[len(shared) :]]
        texts += texts if _ends(tokenizer, texts[0]) else [str(end) for _, end in _ends(tokenizer, alone)[-1:]]
    found = [[end for end in _ends(tokenizer, text) if end not in opening] for text in texts]
    if not any(found):
        raise UserError(
            f"{where}: the model's chat template writes no end token after an assistant turn (it writes {alone!r}), "
            "so the end could not be learnt; use a template that ends each turn with a special token"
        )
    own = [end for end in found[0] if end[1] == tokenizer.eos_token and not calls]
    index, text = (
        own[0] if own else found[0][-1] if found[0] and len(found) > 1 else next(end for ends in found for end in ends)
    )
    return End(index, text, text in alone)


def shared_start(one: str, other: str) -> str:
    """What both begin with."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(character for character, _ in same)


def _after(text: str) -> str:
    """What follows the answer of a probe, or all that follows the question, where the answer is left out."""
    return text.rpartition(_MARK if _MARK in text else "?")[2]


def _ends(tokenizer: Any, text: str) -> list[tuple[int, str]]:
    """The tokens of a text that no other text is written with, of the special ones where there are any."""
    added = tokenizer.added_tokens_decoder
    found = [
        (index, added[index]) for index in tokenizer(text, add_special_tokens=False)["input_ids"] if index in added
    ]
    special = [(index, str(token)) for index, token in found if token.special or index in tokenizer.all_special_ids]
    return special or [(index, str(token)) for index, token in found if str(token).strip()]
