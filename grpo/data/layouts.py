"""Layouts of rows -> canonical messages: `messages`, ShareGPT's `conversations`, and pairs of columns."""

from __future__ import annotations

from typing import Any

from grpo.config.data import DataConfig
from grpo.data.rows import Row, load_rows
from grpo.errors import UserError
from grpo.types import Message

ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}  # ShareGPT's names
PAIRS = (("prompt", "completion"), ("prompt", "response"), ("instruction", "response"), ("instruction", "output"))


def read_messages(row: dict[str, Any], where: str) -> list[Message]:
    """The conversation of a data row, in any of the accepted forms.

    >>> read_messages({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "row 0")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
    if row.get("messages") is not None:
        messages = [_message(item, "role", "content", where) for item in _listed(row["messages"], "messages", where)]
    elif row.get("conversations") is not None:
        items = _listed(row["conversations"], "conversations", where)
        messages = [_message(item, "from", "value", where) for item in items]
    else:
        messages = _from_pair(row, where)
    if not any(message["role"] == "assistant" for message in messages):
        raise UserError(f"{where}: no assistant message, nothing to train on")
    if messages[0]["role"] == "assistant":
        raise UserError(f"{where}: the conversation starts with the assistant; put a user message before it")
    return messages


def as_turns(value: Any, role: str, where: str) -> list[Message]:
    """A string becomes one message of `role`; a list of messages stays what it is."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return [_message(item, "role", "content", where) for item in _listed(value, f"{role} text", where)]


def _from_pair(row: dict[str, Any], where: str) -> list[Message]:
    for asked, answered in PAIRS:
        if row.get(asked) is not None and row.get(answered) is not None:
            question = row[asked]
            if isinstance(question, str) and row.get("input"):  # Alpaca's extra column
                question = f"{question}\n\n{row['input']}"
            return as_turns(question, "user", where) + as_turns(row[answered], "assistant", where)
    forms = ", ".join(f"{asked} + {answered}" for asked, answered in PAIRS)
    raise UserError(f"{where}: expected messages, conversations or {forms} (it has: {', '.join(row) or 'nothing'})")


def _listed(value: Any, column: str, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: '{column}' must be a list of messages that is not empty")
    return value


def _message(item: Any, role_key: str, text_key: str, where: str) -> Message:
    if not isinstance(item, dict) or not isinstance(item.get(role_key), str) or not isinstance(item.get(text_key), str):
        raise UserError(f"{where}: each message needs the strings '{role_key}' and '{text_key}', got {item!r}")
    return {"role": ROLES.get(item[role_key], item[role_key]), "content": item[text_key]}


def conversation_rows(data: DataConfig) -> list[Row]:
    """Rows to train on; `data.system` is put before conversations that have no system message."""
    rows = load_rows(data)
    return [_with_system(row, data.system) for row in rows] if data.system else rows


def _with_system(row: Row, system: str) -> Row:
    messages = read_messages(row, "data")
    if messages[0]["role"] == "system":
        return row
    return {**row, "messages": [{"role": "system", "content": system}, *messages]}
