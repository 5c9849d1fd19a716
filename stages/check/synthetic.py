"""Completions made up to try rewards on: the gold in the required format, a wrong answer, nothing, rambling."""

from __future__ import annotations

import re
from collections.abc import Mapping

from grpo.errors import UserError
from grpo.model.loading.tokenizer import completion_text
from grpo.types import Completion, Prompt
from rewards.accuracy.extraction import read_golds
from rewards.accuracy.reward import gold_is_parseable
from rewards.turns import opening
from stages.check.prompts import Rendered, question_of
from stages.check.subject import BaseModel, Tags
from stages.recipe.ahead import Asked

GOLD, WRONG, EMPTY, RAMBLING = KINDS = ("gold", "wrong", "empty", "rambling")
OTHER_HEAD = "other head"  # the gold again, with the opening tag where the template writes it, without it where not
WRONG_ANSWER = "987654321"  # where the gold has no digits to change
OTHER_DIGITS = str.maketrans("0123456789", "9876543210")
THOUGHTS = 400  # characters of the question that serve as thoughts: they are in its language
CODE_COLUMNS = ("code", "canonical_solution")  # of a data row: a program that passes its tests


def gold_text(prompt: Prompt, asked: Asked) -> str | None:
    """The first acceptable answer of a row; None when it has none that can be read."""
    column = asked.accuracy.columns.get("answer") if asked.accuracy is not None else None
    golds = read_golds(prompt.columns.get(column) if column else prompt.answer)
    return next((text for text in golds if gold_is_parseable(text)), None)


def wrong_answer(gold: str | None) -> str:
    """The gold with other digits: as long as it, so that a reward of length gives both the same."""
    changed = (gold or "").translate(OTHER_DIGITS)
    return WRONG_ANSWER if gold is None or changed == gold else changed


def texts(rendered: Rendered, place: int, max_tokens: int) -> dict[str, str]:
    """The completion of each kind to the prompt at this place; no `gold` where there is none."""
    asked, tags, prompt = rendered.asked, rendered.tags, rendered.prompts[place]
    head = written_head(prompt, tags)
    code = next((prompt.columns[name] for name in CODE_COLUMNS if isinstance(prompt.columns.get(name), str)), None)
    gold = gold_text(prompt, asked)
    thoughts = re.sub(r"</?\w+>", "", question_of(prompt, asked.data))[:THOUGHTS]
    made = {}
    if gold is not None or code is not None:
        answers = [*([_program(prompt, code)] if code else []), *([_boxed(gold)] if gold else [])]
        made[GOLD] = _formatted("\n".join(answers), thoughts, tags, head)
    made[WRONG] = _formatted(_boxed(wrong_answer(gold)), thoughts, tags, head)
    made |= {EMPTY: "", RAMBLING: "and so on " * max_tokens}
    if GOLD in made:
        made[OTHER_HEAD] = head + made[GOLD] if head else made[GOLD].removeprefix(f"<{tags.think}>")
    return made


def written_head(prompt: Prompt, tags: Tags) -> str:
    """What the prompt already holds of the answer, from its thinking tag on."""
    return opening(prompt.prefill, prompt.text if prompt.messages is None else prompt.messages, tags.think)


def _boxed(answer: str) -> str:
    return rf"\boxed{{{answer}}}"


def _program(prompt: Prompt, code: str) -> str:
    """HumanEval's canonical solution is the body of the function that its prompt begins."""
    before = str(prompt.columns.get("prompt", "")) if code[:1].isspace() else ""
    return f"```python\n{before}{code.rstrip()}\n```"


def _formatted(answer: str, thoughts: str, tags: Tags, head: str) -> str:
    if tags.answer is not None:
        answer = f"<{tags.answer}>{answer}</{tags.answer}>"
    closed = f"</{tags.think}>"
    if closed in head:  # a template that switches thinking off
        return answer
    return ("" if head else f"<{tags.think}>") + f"\n{thoughts}\n{closed}\n{answer}"


def as_sampled(text: str, model: BaseModel, tags: Tags, max_tokens: int) -> Completion:
    """As the engine would hand it over: through the tokenizer, cut at the limit, without end and padding.

    Raises:
        UserError: a tag does not survive that.
    """
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    decoded = completion_text(model.tokenizer, ids, model.end_ids)
    names = [tags.think] if tags.answer is None else [tags.think, tags.answer]
    for tag in (f"<{slash}{name}>" for name in names for slash in ("", "/")):
        if tag in text and tag not in decoded:
            raise UserError(f"no reward would ever see {tag}: the tokenizer has no tokens to write it with")
    if len(ids) > max_tokens:
        decoded = completion_text(model.tokenizer, ids[:max_tokens], model.end_ids)
    kept = tuple(ids[:max_tokens])
    return Completion(kept, (0.0,) * len(kept), "length" if len(ids) > max_tokens else "stop", decoded)


def completions(rendered: Rendered, place: int) -> Mapping[str, Completion]:
    """One completion of each kind. A gold is not cut: it may be longer than a small limit."""
    limit = rendered.max_tokens
    return {
        kind: as_sampled(text, rendered.model, rendered.tags, limit if kind == RAMBLING else 10**9)
        for kind, text in texts(rendered, place, limit).items()
    }
