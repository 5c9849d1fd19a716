"""Rows of preferences, as people publish them -> a prompt and its two answers; rows of judged answers -> one.

The prompt may stand inside of both answers (TRL's implicit prompts, hh-rlhf): it is what the two have in common.
"""

from __future__ import annotations

from typing import Any

from grpo.data.layouts import LABELS, PROMPT_COLUMNS, read_messages, read_prompt, with_context
from grpo.data.messages import SPOKEN, TURNS, as_turns, read_message
from grpo.data.rows import Row, first_present
from grpo.data.templates import row_variables
from grpo.errors import UserError
from grpo.types import Message

PAIR = ("prompt", "chosen", "rejected")
BETTER = ("better_response_id", "safer_response_id")  # PKU-SafeRLHF's, of response_0 and response_1
_VALUES = {**dict.fromkeys(("1", "1.0", "true", "safe"), 1.0), **dict.fromkeys(("0", "0.0", "false", "unsafe"), 0.0)}


def read_pair(row: Row, where: str) -> Row:
    """The row with a `prompt`, and `chosen` and `rejected` as texts that answer it.

    >>> said = "\\n\\nHuman: Hi\\n\\nAssistant: "
    >>> read_pair({"chosen": said + "Hello", "rejected": said + "Go"}, "row 0")
    {'chosen': 'Hello', 'rejected': 'Go', 'prompt': [{'role': 'user', 'content': 'Hi'}]}
    """
    better = first_present(row, BETTER)[1]
    if row.get("chosen") is None and better in (0, 1):
        names = f"response_{int(better)}", f"response_{1 - int(better)}"
        row = {**row, "chosen": row.get(names[0]), "rejected": row.get(names[1])}
    for name in PAIR[1:]:
        if row.get(name) is None:
            raise UserError(f"{where}: column '{name}' is missing; rows need {', '.join(PAIR)}")
    chosen, rejected = (_turns(row[name], where, name) for name in PAIR[1:])
    prompt: Any = []
    if first_present(row, PROMPT_COLUMNS)[0] is not None:
        prompt = read_prompt(row, where)[1]
        asked = as_turns(prompt, "user", where)
        if chosen[0] == rejected[0] and chosen[0]["role"] == "system" != asked[0]["role"]:
            prompt = asked = [chosen[0], *asked]  # which only the answers have
        chosen, rejected = _after(chosen, asked, where), _after(rejected, asked, where)
    most = min(len(chosen), len(rejected)) - 1
    common = next((place for place in range(most) if chosen[place] != rejected[place]), most)
    if common:
        prompt = [*as_turns(prompt, "user", where), *chosen[:common]] if prompt else chosen[:common]
    if not prompt:
        raise UserError(f"{where}: column 'prompt' is missing, and 'chosen' and 'rejected' do not begin with one")
    if first_present(row, PROMPT_COLUMNS)[0] is None:
        prompt = with_context(row, prompt, where)
    _refuse_variables(row, where)
    answers = {name: _answer(of[common:], where, name) for name, of in (("chosen", chosen), ("rejected", rejected))}
    return {**row, **answers, "prompt": prompt}


def read_judged(row: Row, where: str) -> Row:
    """The row with a `prompt`, the `completion` that answers it as a text, and its `label`, 1.0 or 0.0."""
    _, label = first_present(row, LABELS)
    column, answer = first_present(row, ("completion", "response"))
    if label is None:
        raise UserError(f"{where}: column 'label' is missing; rows need prompt, completion, label")
    if answer is None and any(row.get(turns) is not None for turns in TURNS):
        messages = read_messages({name: value for name, value in row.items() if name not in LABELS}, where)
        prompt: Any = messages[:-1]
        answered = messages[-1:]
    else:
        given = {"prompt": first_present(row, PROMPT_COLUMNS)[1], "completion": answer, "label": label}
        if missing := [column for column, value in given.items() if value is None]:
            raise UserError(f"{where}: column '{missing[0]}' is missing; rows need {', '.join(given)}")
        prompt = read_prompt(row, where)[1]
        answered = _after(_turns(answer, where, str(column)), as_turns(prompt, "user", where), where)
    _refuse_variables(row, where)
    key = str(label).lower()
    if key not in _VALUES:
        raise UserError(f"{where}: label {label!r}; use 1 or 0, true or false, safe or unsafe")
    return {**row, "prompt": prompt, "completion": _answer(answered, where, "completion"), "label": _VALUES[key]}


def _refuse_variables(row: Row, where: str) -> None:
    if found := row_variables(row, where):
        raise UserError(f"{where}: a reward model would not see column '{next(iter(found))}': remove or rename it")


def _turns(value: Any, where: str, column: str) -> list[Message]:
    """An answer, or the conversation that ends in it."""
    return [read_message(value, where)] if isinstance(value, dict) else as_turns(value, "assistant", where, column)


def _after(turns: list[Message], prompt: list[Message], where: str) -> list[Message]:
    """The turns without the prompt that they repeat, with or without its system message.

    Raises:
        UserError: they begin with another question.
    """
    for asked in (prompt, prompt[1:] if prompt[0]["role"] == "system" else prompt):
        if list(map(_said, turns[: len(asked)])) == list(map(_said, asked)):
            return turns[len(asked) :]
    if turns[0]["role"] != "assistant":
        raise UserError(f"{where}: an answer begins with other messages than the prompt holds: remove one of them")
    return turns


def _said(message: Message) -> tuple[str, str]:
    return message["role"], message["content"].strip()


def _answer(turns: list[Message], where: str, column: str) -> str:
    """
    Raises:
        UserError: it is not one message of the assistant, or says more than its content.
    """
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise UserError(
            f"{where}: '{column}' must end in one message of the assistant after what the prompt holds, and nothing "
            f"else; it has {', '.join(turn['role'] for turn in turns) or 'nothing'}"
        )
    for name in SPOKEN:
        if turns[0].get(name):
            raise UserError(f"{where}: '{column}': a reward model reads the content only, not its {name}")
    return str(turns[0]["content"])
