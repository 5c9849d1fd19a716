"""Layouts of rows -> canonical messages. What holds a conversation, or a part of one, is used or refused by its name.

A row is its turns (`messages`, ShareGPT's `conversations`), a pair of columns, or a text that a chat template wrote.
Beside them may stand a system message, the turns before (`history`) and Alpaca's `input`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Any

from grpo.config.data import DataConfig
from grpo.data.rows import Row, first_present, load_rows
from grpo.data.transcripts import read_transcript
from grpo.errors import UserError, shorten
from grpo.types import Message

TURNS = ("messages", "conversations", "conversation")
PROMPT_COLUMNS = ("prompt", "question", "problem", "messages", "conversations", "conversation", "instruction", "query")
ASKED = ("prompt", "instruction", "query", "question", "problem", "input")
ANSWERED = ("completion", "response", "output", "solution", "answer")
_FIRST = (("prompt", "completion"), ("prompt", "response"), ("instruction", "response"), ("instruction", "output"))
PAIRS = tuple(dict.fromkeys([*_FIRST, *((asked, answered) for asked in ASKED for answered in ANSWERED)]))
FORMS = "messages, conversations, prompt + completion, instruction + output, question + answer, query + response"
SYSTEM = ("system", "system_prompt")
BELOW = ("input", "context")  # Alpaca's and Dolly's, below the instruction
BESIDE = (*BELOW, "choices", "options")  # of a question: in the messages that are made of a row, or refused
LONG = 8  # characters: a text that is not in another by chance
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "function_response"), "tool"),
    **{name: name for name in ("system", "developer")},
}  # ShareGPT's and others' names
_CALLS = ("function_call", "tool_call")  # roles of a turn whose text is the call
SPOKEN = ("tool_calls", "reasoning_content", "reasoning", "thinking")  # what an assistant may say instead of content


def read_messages(row: Row, where: str) -> list[Message]:
    """The conversation of a data row, in any of the accepted forms, with its system message and earlier turns.

    >>> read_messages({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "row 0")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
    turns = [name for name in TURNS if holds(row, name) or isinstance(row.get(name), list)]
    asked, answered = next((pair for pair in PAIRS if all(row.get(name) is not None for name in pair)), ("", ""))
    if turns:
        messages = as_turns(row[turns[0]], "", where, turns[0])
        for other in [*turns[1:], *([asked] if asked else [])]:
            if not _within(_questions(row[other], where, other), messages):
                raise UserError(f"{where}: '{turns[0]}' and '{other}' are two conversations: remove or rename one")
    elif asked:
        messages = as_turns(with_input(row, row[asked], asked), "user", where, asked)
        messages += as_turns(row[answered], "assistant", where, answered)
    elif isinstance(row.get("text"), str) and read_transcript(row["text"], f"{where}: 'text'"):
        messages = as_turns(row["text"], "", where, "text")
    else:
        raise UserError(f"{where}: expected {FORMS} (it has: {', '.join(row) or 'nothing'}); data.columns renames")
    messages = with_context(row, messages, where)
    if not any(message["role"] == "assistant" for message in messages):
        raise UserError(f"{where}: no assistant message, nothing to train on")
    if messages[0]["role"] == "assistant":
        raise UserError(f"{where}: the conversation starts with the assistant; put a user message before it")
    return messages


def read_prompt(row: Row, where: str, *, as_text: bool = False) -> tuple[str, str | list[Message]]:
    """(the column that holds the prompt, the prompt): a text, or messages when it was given so or has turns before it.

    The assistant's last turn of a conversation is what is to be learnt, no part of the prompt. `as_text`: for a
    plain-text template, which wants nothing else.
    """
    column, value = first_present(row, PROMPT_COLUMNS)
    if column is None:
        wanted, more = " | ".join(PROMPT_COLUMNS[:4]), ", ".join(PROMPT_COLUMNS[4:])
        has = f"(it has: {', '.join(row) or 'nothing'}); also read: {more}; data.columns renames"
        raise UserError(f"{where}: no column {wanted} {has}")
    value = with_input(row, value, column) if column in ("instruction", "query") else value
    listed = isinstance(value, str) and (_listed_text(value) is not None or column in TURNS)
    read = read_transcript(value, f"{where}: '{column}'") if isinstance(value, str) and not as_text else None
    if isinstance(value, str) and not listed and read is None:
        messages = with_context(row, [{"role": "user", "content": value}], where)
        prompt: str | list[Message] = value if len(messages) == 1 else messages
    else:
        opened = read[1] if read else ""
        messages = as_turns(value, "", where, column) if not opened else []
        last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
        if opened or (last and (column not in TURNS or _begun(last))):
            raise UserError(
                f"{where}: '{column}' ends in what the assistant has begun to say, and its answer cannot go on from "
                "there: end it with the user's message, or give the text, with data.template: '{prompt}'"
            )
        messages = messages[:-1] if last else messages
        if not messages:
            raise UserError(f"{where}: '{column}' has no message before the assistant's")
        prompt = with_context(row, messages, where)
    if as_text and holds(row, "tools"):
        raise UserError(f"{where}: column 'tools' is for a chat template, and data.template is none")
    if as_text and not isinstance(prompt, str):
        raise UserError(f"{where}: '{column}' holds messages, but 'template' wants a string")
    return column, prompt


def as_turns(value: Any, role: str, where: str, column: str = "prompt") -> list[Message]:
    """Text becomes one message of `role`, unless it is a list of messages in JSON or what a chat template wrote."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str):
        listed, read = _listed_text(value), read_transcript(value, f"{where}: '{column}'")
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
    if name not in ROLES:
        raise UserError(f"{where}: role '{role}' is none of {', '.join(ROLES)}")
    if name in _CALLS or "function_call" in fields:
        called = content if name in _CALLS else fields.pop("function_call")
        fields["tool_calls"], content = _calls(called, where), "" if name in _CALLS else content
    return {"role": ROLES[name], "content": content, **fields}


def _thought(part: dict[str, Any], where: str) -> str:
    """Of a block as Anthropic has it, a text, or Mistral, which makes it of blocks of text."""
    thought = part.get("thinking")
    return (
        _text_part({"text": thought}, where)
        if not isinstance(thought, list)
        else "".join(_text_part(inner, where) for inner in thought)
    )


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


def _begun(message: Message) -> bool:
    """The beginning of an answer: nothing, an opening tag, or marked as Mistral's and DeepSeek's interfaces do."""
    begun = any(message.get(name) for name in ("prefix", "prefill", "partial"))
    return begun or (message["content"].strip() in ("", "<think>") and not any(message.get(name) for name in SPOKEN))


def with_input(row: Row, asked: Any, column: str) -> Any:
    """Alpaca's `input`, or Dolly's `context`, below its instruction."""
    names = BELOW if column == "instruction" else () if column == "input" else BELOW[:1]
    texts = [row[name] for name in names if holds(row, name) and isinstance(row[name], str)]
    return "\n\n".join([asked, *texts]) if isinstance(asked, str) else asked


def with_context(row: Row, messages: list[Message], where: str) -> list[Message]:
    """The messages after the row's system message and earlier turns, each once.

    Raises:
        UserError: something that belongs to a conversation is in a column of its own, and not in the messages.
    """
    first = 1 if messages[0]["role"] in ("system", "developer") else 0
    if holds(row, "history"):
        earlier = _history(row["history"], where)
        if messages[first : first + len(earlier)] != earlier:
            messages = [*messages[:first], *earlier, *messages[first:]]
    for name in SYSTEM:
        if holds(row, name) and not first:
            messages, first = [*as_turns(row[name], "system", where, name), *messages], 1
    lost = [name for name in SYSTEM if holds(row, name) and not _within([row[name]], messages[:1])]
    lost += [name for name in BESIDE if holds(row, name) and not _within([row[name]], messages)]
    lost += [name for name in (*MEDIA, "functions") if holds(row, name)]
    if lost:
        what = "is not text" if lost[0] in MEDIA else "is no part of the messages made of this row"
        raise UserError(
            f"{where}: column '{lost[0]}' {what}: nothing would see it; put it into the messages, or say with "
            f"data.columns {{unused: {lost[0]}}} that it is not meant to be seen"
        )
    return messages


def _history(value: Any, where: str) -> list[Message]:
    """Earlier turns: Alpaca's [question, answer] pairs, or messages."""
    value = (_listed_text(value, of=list) or value) if isinstance(value, str) else value
    if isinstance(value, (list, tuple)) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value):
        roles = ("user", "assistant")
        value = [{"role": role, "content": text} for pair in value for role, text in zip(roles, pair, strict=True)]
    return as_turns(value, "", where, "history")


def _questions(value: Any, where: str, column: str) -> list[str]:
    """What is asked in a column; the answers may differ, as those sampled to the questions of a data set do."""
    try:
        return [turn["content"] for turn in as_turns(value, "user", where, column) if turn["role"] != "assistant"]
    except UserError:
        return [str(value)]


def _listed_text(text: str, of: type = dict) -> list[Any] | None:
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
    return value is not None and not (isinstance(value, (str, list, tuple, dict)) and not value)


def _within(values: Iterable[Any], messages: list[Message]) -> bool:
    """Whether all the text of some values occurs in messages; a short one by whole words."""
    texts = list(_strings([list(message.values()) for message in messages]))
    whole, words = "\n".join(texts), f" {_words(texts)} "
    for text in _strings(list(values)):
        own = _words([text])
        by_word = own and f" {own} " in words
        if not by_word and (text.strip() not in whole or (own and len(text) < LONG)):
            return False
    return True


def _words(texts: Iterable[str]) -> str:
    return " ".join(word for text in texts for word in re.findall(r"\w+", text))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):  # of a message its text, not its role
        yield from _strings([item for key, item in value.items() if key not in ("role", "from", "type")])
    elif value is not None:
        yield str(value)


def conversation_rows(data: DataConfig) -> list[Row]:
    """Rows to train on; `data.system` is put before conversations that have no system message."""
    rows = load_rows(data)
    return [_with_system(row, data.system) for row in rows] if data.system else rows


def _with_system(row: Row, system: str) -> Row:
    messages = read_messages(row, "data")
    if messages[0]["role"] in ("system", "developer"):
        return row
    return {**row, "messages": [{"role": "system", "content": system}, *messages]}
