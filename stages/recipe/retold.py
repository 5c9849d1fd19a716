"""What one model wrote as a conversation that any other model's chat template can write."""

from __future__ import annotations

from typing import Any

from grpo.data.prompts import chat_text
from grpo.data.rows import Row
from grpo.data.said import CLOSE, OPEN, VERBATIM
from grpo.errors import UserError


def retold(row: Row, writer: Any, reader: Any, where: str) -> Row:
    """The row for the tokenizer `reader`. Where its template is the `writer`'s the row stays; else an answer that was
    kept as it was sampled becomes a message, with the `<think>` that its prompt had opened.

    Raises:
        UserError: it holds a token of the writer's own form (a channel, a tag), which `reader` would spell out.
    """
    messages = row.get("messages")
    if not messages or not messages[-1].get(VERBATIM):
        return row
    *asked, answer = messages
    _, opened = chat_text(asked, row, writer, where)
    content = opened[opened.find(OPEN) :] * (OPEN in opened) + answer["content"]
    known = {OPEN, CLOSE, *reader.get_vocab()}
    for token in map(str, writer.added_tokens_decoder.values()):
        if token in content and token.strip() and token not in known:
            raise UserError(
                f"{where}: the answer holds {token}, a token of the model that wrote it, which the student's tokenizer "
                "does not have: give the student's data by student.data, in a form that it knows"
            )
    if writer.chat_template == reader.chat_template:
        return row
    return {**row, "messages": [*asked, {"role": "assistant", "content": content}]}
