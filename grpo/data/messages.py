"""Messages as people write them -> `role` and `content`, whatever else they hold kept."""

from __future__ import annotations

import json
import re
from itertools import takewhile
from typing import Any

from grpo.data.rows import Row, first_present
from grpo.data.transcripts import read_transcript
from grpo.errors import UserError, shorten
from grpo.types import Message

TURNS = ("messages", "conversations", "conversation")
MEDIUM = re.compile(r"(decoded_)?(image|video|audio)s?(_?\d+|_(path|url|file)s?)?")
ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "function_response"), "tool"),
    **{name: name for name in ("system", "developer")},
}  # ShareGPT's and others' names
_CALLS = ("function_call", "tool_call")  # roles of a turn whose text is the call
SPOKEN = ("tool_calls", "reasoning_content", "reasoning", "thinking")  # what an assistant may say instead of content


def as_turns(value: Any, role: str, where: str, column: str = "prompt") -> list[Message]:
    """Text becomes one message of `role`, unless it is a list of messages in JSON or what a chat template wrote."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str):
        listed, read = listed_text(value), read_transcript(value, f"{where}: '{column}'")
        if role and listed is None and read is None:
            return [{"role": role, "content": value}]
        if read is not None and read[1]:
            raise UserError(f"{where}: '{column}' ends before its last turn does")
        value = listed if read is None else read[0]
    if not isinstance(value, (list, tuple)) or not value:
        text = "" if column in TURNS else "a string or "
        raise UserError(f"{where}: '{column}' must be {text}a list of messages that is not empty")
    return [read_message(item, f"{where}, '{column}'") for item in value]


def read_message(item: Any, where: str) -> Message:
    """One message under its usual names, whatever else it holds kept; a table's empty cells are left out."""
    fields = {key: value for key, value in item.items() if value is not None} if isinstance(item, dict) else {}
    named = fields.pop("from", None), fields.pop("value", None)
    role, content = fields.pop("role", named[0]), fields.pop("content", named[1])
    if isinstance(content, (list, tuple)) and content and all(isinstance(part, dict) for part in content):
        spoken = ROLES.get(str(role).strip().lower()) == "assistant"
        thoughts = list(takewhile(lambda part: part.get("type") == "thinking" and spoken, content))
        content = "".join(_text_part(part, where) for part in content[len(thoughts) :])
        thought = "".join(_thought(part, where) for part in thoughts)
        if thought and fields.setdefault("thinking", thought) != thought:
            raise UserError(f"{where}: a message holds a 'thinking' block and another 'thinking': keep one")
    if content is None and any(fields.get(name) for name in (*SPOKEN, "function_call")):
        content = ""
    if not isinstance(role, str) or not isinstance(content, str):
        wanted = "each message needs the strings 'role' and 'content' (or 'from' and 'value')"
        raise UserError(f"{where}: {wanted}, got {shorten(repr(item), 200)}")
    name = role.strip().lower()
    if media := [field for field in fields if MEDIUM.fullmatch(field) and holds(fields, field)]:
        raise UserError(f"{where}: a message holds {media[0]!r}: only text can be trained on")
    if name not in ROLES:
        raise UserError(f"{where}: role '{role}' is none of {', '.join(ROLES)}")
    if name in _CALLS or "function_call" in fields:
        called = content if name in _CALLS else fields.pop("function_call")
        fields["tool_calls"], content = _calls(called, where), "" if name in _CALLS else content
    return {"role": ROLES[name], "content": content, **fields}


def _thought(part: dict[str, Any], where: str) -> str:
    """Of a block as Anthropic has it, a text, or Mistral, which makes it of blocks of text."""
    thought = part.get("thinking")
    blocks = thought if isinstance(thought, list) else [{"text": thought}]
    return "".join(_text_part(block, where) for block in blocks)


def _text_part(part: dict[str, Any], where: str) -> str:
    text = part.get("text")
    if part.get("type", "text") not in ("text", "input_text", "output_text") or not isinstance(text, str):
        raise UserError(f"{where}: a message holds {part.get('type', 'something')!r}: only text can be trained on")
    return text


def _calls(called: Any, where: str) -> list[dict[str, Any]]:
    """`{name, arguments}`, or a list of them, as JSON or not, as the calls that templates know."""
    try:
        called = json.loads(called) if isinstance(called, str) else called
        calls = [dict(call) for call in (called if isinstance(called, list) else [called])]
        for call in calls:
            arguments = call["arguments"]
            call["arguments"] = json.loads(arguments) if isinstance(arguments, str) else arguments
            assert isinstance(call["name"], str)
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        text = f"a call must be JSON of {{name, arguments}}, got {shorten(repr(called), 200)}"
        raise UserError(f"{where}: {text}") from error
    return [{"type": "function", "function": call} for call in calls]


def listed_text(text: str, of: type = dict) -> list[Any] | None:
    """The list of messages that a text holds as JSON; None where it is something else."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    messages = isinstance(value, list) and value and all(isinstance(item, (of, dict)) for item in value)
    named = messages and all({"role", "from"} & item.keys() for item in value if not isinstance(item, list))
    return value if named else None


def holds(row: Row, name: str) -> bool:
    """Whether a column is there and not empty."""
    value = first_present(row, (name,))[1]
    return value is not None and value is not False and not (isinstance(value, (str, list, tuple, dict)) and not value)
