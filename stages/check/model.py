"""Checks of the base model and its chat template: end tokens, BOS, padding, vocabulary, LoRA targets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from grpo.data.conversations import build_examples
from grpo.data.encoding import IGNORE
from grpo.data.rendering import render
from grpo.data.templates import end_of_turn, render_chat
from grpo.errors import UserError
from grpo.model.loading.limits import check_special
from grpo.model.loading.tokenizer import decoded, shown_tokens
from grpo.types import Message
from stages.check.subject import BaseModel, Check, Subject, Warned, shortened
from stages.recipe.ahead import places
from stages.recipe.ends import SUPERVISED, remedy, unrepaired, unstopping

QUESTION = [{"role": "user", "content": "What is 2 + 3?"}]
ANSWER = {"role": "assistant", "content": "5"}
REASONED = {"role": "assistant", "content": "<think>\nI add them.\n</think>\n\n5"}
CHATML = ("<|im_start|>", "<|im_end|>")
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
        yield "chat template", partial(chat_template, subject, model)
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
    check_special(model.tokenizer, rows, model.end_ids)
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


def chat_template(subject: Subject, model: BaseModel) -> str:
    """How it opens an answer; and, where a stage trains on conversations, what of an answer it trains."""
    prompt, opened = render_chat(QUESTION, model.tokenizer)
    told = [f"it opens the answer with {opened!r}"]
    if supervised := [key for key in SUPERVISED if getattr(subject.config, key) is not None]:
        answers = {"an answer": ANSWER, "an answer with its reasoning": REASONED}
        trained = {name: _trained(answer, model) for name, answer in answers.items()}
        refused = [str(why) for why in trained.values() if isinstance(why, UserError)]
        if len(refused) == len(answers) or (refused and "rejection_sampling" in supervised):
            raise (UserError if len(refused) == len(answers) else Warned)(refused[0])
        told += [f"of {name} it trains {text!r}" for name, text in trained.items() if isinstance(text, str)]
    if not opened:
        rest = render(model.tokenizer, [*QUESTION, ANSWER], open_answer=False).rpartition(ANSWER["content"])[2]
        opens = prompt.rstrip().endswith(rest.rstrip()[-8:])
        raise Warned(
            f"after the assistant's last turn it writes {rest!r}: it opens another one there, as other tools may learn "
            "to do; nothing after the end token is trained here (a header belongs behind `if add_generation_prompt`)"
            if opens and rest.strip()
            else "it has no generation prompt: the model has to open its own turn (add_generation_prompt)"
        )
    return "; ".join(told)


def _trained(answer: Message, model: BaseModel) -> str | UserError:
    try:
        examples = build_examples([{"messages": [*QUESTION, answer]}], model.tokenizer, "a demonstration")
    except UserError as error:
        return error
    return decoded(model.tokenizer, [label for label in examples[0].labels if label != IGNORE])


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
    names = shown_tokens(model.tokenizer, model.end_ids)
    supervised = any(getattr(subject.config, key) is not None for key in SUPERVISED)
    try:
        end = end_of_turn(model.tokenizer)
    except UserError as error:
        if supervised:
            raise
        raise Warned(f"{error}; a completion ends with {names}") from error
    text = end.text
    if end.id in model.end_ids:
        return f"{names}; the chat template's {text} is among them"
    if all(asked.data.template is not None for asked in places(subject.config)):
        return f"{names}; the chat template's {text} is not, but no prompt is rendered with it"
    if not (end.written or supervised):
        own = f"only the next turn begins, with {text}"
        raise Warned(f"it writes no end token after an assistant turn ({own}); a completion ends with {names}")
    missing = unstopping(model.tokenizer, end, model.end_ids)
    unstopped = unrepaired(subject.config)
    if unstopped or not supervised:
        where = f" ({', '.join(unstopped)})" if unstopped else ""
        raise UserError(f"{missing}: {remedy(end)}{where}")
    raise Warned(f"{missing}; the first supervised stage adds it, until then every completion runs to max_tokens")


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
