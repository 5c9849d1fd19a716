"""Messages -> text, by the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpo.data.rendering import apply_template
from grpo.errors import UserError
from grpo.types import Message

_MARK = "MARKER"  # stands for an answer when the template is probed


def render(tokenizer: Any, messages: Sequence[Message], *, open_answer: bool, where: str = "chat template") -> str:
    """The template's text; `open_answer` adds the generation prompt."""
    return apply_template(tokenizer, messages, where, add_generation_prompt=open_answer)


def render_chat(messages: list[Message], tokenizer: Any, where: str = "chat template") -> tuple[str, str]:
    """(full prompt text, what the template wrote to open the assistant's turn, ``<think>`` included if it opens it)."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "the model has no chat template: set data.template to a plain-text one such as 'Q: {prompt}\\nA:'"
        )
    text = render(tokenizer, messages, open_answer=True, where=where)
    without = render(tokenizer, messages, open_answer=False, where=where)
    return text, text[len(without) :] if text.startswith(without) else ""


def turn_end(tokenizer: Any) -> tuple[int, str]:
    """(id, text) of the token with which the template ends an assistant turn: what the model must learn to say."""
    probe = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
    text = render(tokenizer, probe, open_answer=False)
    _, mark, after = text.rpartition(_MARK)
    special = set(tokenizer.all_special_ids)
    special |= {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    for index in tokenizer(after, add_special_tokens=False)["input_ids"] if mark else ():
        if index in special:
            return index, str(tokenizer.convert_ids_to_tokens(index))
    raise UserError(
        f"the model's chat template writes no end token after an assistant turn (it writes {after!r}), "
        "so the end could not be learnt; use a template that ends each turn with a special token"
    )
