"""Conversations -> training examples: the model's own chat template, and only the assistant's tokens trained.

Each assistant turn is rendered twice: the messages before it with the generation prompt (what the engine will see) and
the messages up to and including it. What the second adds to the first, up to and including the end token, is trained;
the headers and whatever the template writes after the end token are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from grpo.config.data import DataConfig
from grpo.data.rows import Row, load_rows
from grpo.data.templates import render, turn_end
from grpo.errors import UserError
from grpo.types import Message

IGNORE = -100  # the label that no loss counts
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}  # ShareGPT's names
PAIRS = (("prompt", "completion"), ("prompt", "response"), ("instruction", "response"), ("instruction", "output"))


@dataclass(frozen=True)
class Example:
    """One sequence. `labels` repeats the id of a trained token and is -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


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


Draft = list[tuple[str, bool]]  # the text of one example, in pieces that are tokenised apart: (text, trained?)


def _drafts(messages: list[Message], tokenizer: Any, end: str, where: str) -> list[Draft]:
    """One draft for the conversation; one for each turn where the template rewrites history (strips thinking)."""
    drafts: list[Draft] = []
    written = ""  # the text of the last one
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(tokenizer, messages[:turn], open_answer=True, where=where)
        whole = render(tokenizer, messages[: turn + 1], open_answer=False, where=where)
        answer = _answer(prompt, whole, end, f"{where}, message {turn}")
        if not drafts or not prompt.startswith(written):
            drafts.append([])
            written = ""
        drafts[-1] += [(prompt[len(written) :], False), (answer, True)]
        written = prompt + answer
    return drafts


def _answer(prompt: str, whole: str, end: str, where: str) -> str:
    if not whole.startswith(prompt):
        raise UserError(
            f"{where}: the chat template does not render this answer after its own generation prompt "
            "(some remove the thinking, or open it); use a template that keeps the answer as it is"
        )
    answer, ended, rest = whole[len(prompt) :].partition(end)
    if not ended or rest.strip():
        problem = f"contains the end token {end}" if ended else "is not ended"
        raise UserError(f"{where}: the answer {problem}; remove it from the data or use another template")
    return answer + end


def build_examples(rows: Iterable[dict[str, Any]], tokenizer: Any, where: str = "data") -> list[Example]:
    """All rows as token ids and labels. A prompt is tokenised apart from its answer, exactly as for generation."""
    _, end = turn_end(tokenizer)
    drafts: list[Draft] = []
    for number, row in enumerate(rows):
        place = f"{where}, row {number}"
        drafts += _drafts(read_messages(row, place), tokenizer, end, place)
    if not drafts:
        raise UserError(f"{where}: no rows")
    texts = [text for draft in drafts for text, _ in draft]
    tokenised = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])  # the template has written its own BOS
    examples = []
    for draft in drafts:
        example = Example([], [])
        for _, trained in draft:
            ids = next(tokenised)
            example.input_ids.extend(ids)
            example.labels.extend(ids if trained else [IGNORE] * len(ids))
        examples.append(example)
    return examples


Part = Literal["answer", "response"]


def response_text(completion: Any, part: Part) -> str:
    """What a reward model reads of a completion (string or messages): the final answer only, or the whole response."""
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    return text.rpartition("</think>")[2].strip() if part == "answer" else text.strip()


def conversation_rows(data: DataConfig) -> list[Row]:
    """Rows to train on; `data.system` is put before conversations that have no system message."""
    rows = load_rows(data)
    return [_with_system(row, data.system) for row in rows] if data.system else rows


def _with_system(row: Row, system: str) -> Row:
    messages = read_messages(row, "data")
    if messages[0]["role"] == "system":
        return row
    return {**row, "messages": [{"role": "system", "content": system}, *messages]}
