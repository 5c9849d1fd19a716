"""Checks of the tokenizer by what comes back: prompts from their ids, and what is saved from transformers."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from grpo.errors import first_line
from grpo.model.loading.adapter import tokenizer_of
from grpo.model.loading.tokenizer import CONFIG, decoded, model_file, same_reading
from stages.check.prompts import Rendered
from stages.check.subject import BaseModel, Check, Subject, Warned

AROUND = 12  # characters shown before and after what has changed


def tokenizer_checks(subject: Subject) -> Iterator[Check]:
    """Of the base model's."""
    model, name = subject.model, subject.config.base.model
    if model is None:
        return
    yield "tokenizer as it will be saved", partial(saved, model)
    if name is not None and model_file(tokenizer_of(name), "chat_template.jinja") is not None:
        yield "two chat templates", partial(templates, tokenizer_of(name))


def read_back(rendered: Rendered) -> str:
    """What is lost between a prompt's text and its ids is lost to the model: blanks, capitals, unknown characters."""
    tokenizer, changed = rendered.model.tokenizer, []
    for number, prompt in zip(rendered.numbers, rendered.prompts, strict=True):
        text, ids = prompt.text or "", prompt.token_ids
        added = ids[0] == tokenizer.bos_token_id and not text.startswith(tokenizer.bos_token)
        if (back := decoded(tokenizer, ids[added:])) != text:
            changed.append((number, text, back))
    if changed:
        number, text, back = changed[0]
        raise Warned(
            f"the tokenizer changes {len(changed)} of {len(rendered.prompts)}, row {number}: {change(text, back)}"
        )
    return "each comes back from its ids"


def change(text: str, back: str) -> str:
    """The first place where a text came back otherwise; empty where it did not."""
    for kind, start, end, start_back, end_back in difflib.SequenceMatcher(None, text, back, False).get_opcodes():
        if kind != "equal":
            before = text[max(0, start - AROUND) : end + AROUND]
            return f"{before!r} comes back as {back[max(0, start_back - AROUND) : end_back + AROUND]!r}"
    return ""


def saved(model: BaseModel) -> str:
    """Others load what a stage leaves by AutoTokenizer, which picks a class by the model's type."""
    from transformers import AutoTokenizer

    tokenizer = model.tokenizer
    if not hasattr(tokenizer, "backend_tokenizer"):
        return f"by {type(tokenizer).__name__}"
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        model.settings.save_pretrained(folder)
        try:
            again: Any = AutoTokenizer.from_pretrained(folder)
            right = same_reading(folder, again, tokenizer.backend_tokenizer)
            reason = f"its {type(again).__name__} reads texts otherwise"
        except Exception as error:  # noqa: BLE001 - the class may not fit at all, or its package be missing
            right, reason = False, first_line(error)
    if not right:
        raise Warned(
            f"here it is what its tokenizer.json says, but AutoTokenizer cannot load it so for a model of type "
            f"'{model.settings.model_type}' ({reason}): load the trained model's by PreTrainedTokenizerFast"
        )
    return "AutoTokenizer reads it as we do"


def templates(name: str) -> str:
    """One file counts; another that says something else is a trap."""
    jinja, config = model_file(name, "chat_template.jinja"), model_file(name, CONFIG)
    other = json.loads(config.read_text("utf-8")).get("chat_template") if config is not None else None
    if jinja is not None and other is not None and other != jinja.read_text("utf-8"):
        raise Warned(f"chat_template.jinja counts; the one in {CONFIG} is another, which nothing here reads")
    return "there is one" if other is None else "they are the same"
