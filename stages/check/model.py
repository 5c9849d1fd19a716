"""Checks of the base model and its chat template: end tokens, BOS, padding, vocabulary, LoRA targets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from grpo.data.templates import render, render_chat, turn_end
from grpo.errors import UserError
from stages.check.subject import BaseModel, Check, Subject, Warned, shortened
from stages.recipe.config import RLStageConfig
from stages.recipe.table import STAGES, active_parents

QUESTION = [{"role": "user", "content": "What is 2 + 3?"}]
ANSWER = {"role": "assistant", "content": "5"}
CHATML = ("<|im_start|>", "<|im_end|>")
SUPERVISED = ("cold_start", "rejection_sampling")
_MARKS = re.compile(r"<\|[^|<>\s]{1,40}\|>|<(?:start|end)_of_turn>|</?s>")


def model_checks(subject: Subject) -> Iterator[Check]:
    """Everything that needs no data."""
    name = subject.config.base.model or "the base stage"
    yield f"tokenizer of {name}", lambda: load(subject)
    model = subject.model
    if model is None:
        return
    yield "vocabulary", partial(vocabulary, model)
    if getattr(model.tokenizer, "chat_template", None):
        yield "chat template", partial(chat_template, model.tokenizer)
        yield "tokens of the chat template", partial(template_tokens, model.tokenizer)
        yield "end tokens", partial(end_tokens, subject, model)
    else:
        yield "end tokens", lambda: shown_tokens(model.tokenizer, model.end_ids)
    yield "padding", partial(padding, model.tokenizer)


def load(subject: Subject) -> str:
    model = subject.load_model() if subject.model is None else subject.model
    template = "a chat template" if getattr(model.tokenizer, "chat_template", None) else "no chat template"
    made = "" if subject.config.base.model is not None else ", as the base stage will make it"
    return f"{len(model.tokenizer)} tokens, {template}{made}"


def vocabulary(model: BaseModel) -> str:
    """Tokens that were added without resizing the embeddings have no weights."""
    rows = model.embeddings
    beyond = {token: index for token, index in model.tokenizer.get_vocab().items() if index >= rows}
    if not beyond:
        return f"{len(model.tokenizer)} tokens in {rows} embeddings"
    used = {model.tokenizer.convert_ids_to_tokens(index) for index in _used(model)}
    first = min(beyond, key=lambda token: (token not in used, beyond[token]))
    text = f"{len(beyond)} tokens have no embedding, e.g. {first!r} with id {beyond[first]}: the model has {rows} rows"
    if first not in used:
        raise Warned(f"{text}; the chat template does not use it, but data may")
    raise UserError(f"{text}; call model.resize_token_embeddings(len(tokenizer)) and save it again")


def _used(model: BaseModel) -> set[int]:
    """What every conversation holds."""
    if not getattr(model.tokenizer, "chat_template", None):
        return set(model.end_ids)
    text = render(model.tokenizer, [*QUESTION, ANSWER], open_answer=False)
    text += render(model.tokenizer, QUESTION, open_answer=True)
    return {*model.end_ids, *model.tokenizer(text, add_special_tokens=False)["input_ids"]}


def chat_template(tokenizer: Any) -> str:
    """SFT and RL must see the same text, and nothing may follow the assistant's last turn."""
    prompt, opened = render_chat(QUESTION, tokenizer)
    full = render(tokenizer, [*QUESTION, ANSWER], open_answer=False)
    rest = full.rpartition(ANSWER["content"])[2].partition(turn_end(tokenizer)[1])[2]
    if rest.strip():
        raise UserError(
            f"after the assistant's last turn it writes {rest!r}: SFT would teach the model to go on there "
            "(a header belongs behind `if add_generation_prompt`)"
        )
    if not opened:
        raise Warned("it has no generation prompt: the model has to open its own turn (add_generation_prompt)")
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, full)]
    if ids[1][: len(ids[0])] != ids[0]:
        raise Warned("the prompt is not a prefix of the whole conversation: SFT and RL see different templates")
    return f"the prompt is a prefix of the conversation; it opens the answer with {opened!r}"


def template_tokens(tokenizer: Any) -> str:
    """What looks like a special token in the template must be one of this tokenizer."""
    text = render(tokenizer, [*QUESTION, ANSWER], open_answer=False)
    marks = list(dict.fromkeys(_MARKS.findall(text)))
    broken = [mark for mark in marks if not is_one_token(tokenizer, mark)]
    problem = f"it writes {', '.join(broken)}, which this tokenizer splits into pieces"
    if set(broken) & set(CHATML):
        raise UserError(f"{problem}: a ChatML template on a model that has other tokens; use the model's own")
    if broken:
        raise Warned(f"{problem}: as intended for a few models, a mistake for most")
    return " ".join(marks)


def is_one_token(tokenizer: Any, mark: str) -> bool:
    ids = tokenizer(mark, add_special_tokens=False)["input_ids"]
    return len(ids) == 1 and ids[0] != tokenizer.unk_token_id


def end_tokens(subject: Subject, model: BaseModel) -> str:
    """What the template ends a turn with must stop a completion, or every one runs to the limit."""
    end, text = turn_end(model.tokenizer)
    names = shown_tokens(model.tokenizer, model.end_ids)
    if end in model.end_ids:
        return f"{names}; the chat template's {text} is among them"
    if all(asked.data.template is not None for asked in subject.asked()):
        return f"{names}; the chat template's {text} is not, but no prompt is rendered with it"
    missing = f"the chat template ends a turn with {text}, which does not stop a completion ({names} do)"
    if unrepaired := list(_unrepaired(subject)):
        raise UserError(f"{missing}: add {end} to eos_token_id in generation_config.json ({', '.join(unrepaired)})")
    if not any(getattr(subject.config, key) is not None for key in SUPERVISED):
        raise UserError(f"{missing}: add {end} to eos_token_id in generation_config.json")
    raise Warned(f"{missing}; the first supervised stage adds it, until then every completion runs to max_tokens")


def _unrepaired(subject: Subject) -> Iterator[str]:
    """The RL stages that render with the chat template and come before any supervised one, which adds its end token."""
    for key, section in subject.config:
        if isinstance(section, RLStageConfig) and any(task.data.template is None for task in section.tasks.values()):
            before = key
            while before not in ("base", *SUPERVISED):
                before = active_parents(STAGES[before], subject.config)[0]
            if before == "base":
                yield key


def shown_tokens(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return ", ".join(f"{tokenizer.convert_ids_to_tokens(index)} ({index})" for index in ids)


def padding(tokenizer: Any) -> str:
    """Ours masks by position; other tools mask by the token, and then the end is never learnt."""
    if tokenizer.eos_token_id is None:
        raise Warned("the tokenizer has no end token: set eos_token in tokenizer_config.json")
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        token = tokenizer.eos_token
        raise Warned(f"pad token and end token are the same ({token!r}); other tools may never learn to stop")
    if tokenizer.pad_token_id is None:
        return "no pad token, none is needed"
    return f"{shortened(tokenizer.pad_token)}, not the end token"
