"""Checks of the prompts as the model will get them: special tokens, lengths, repeats, evaluation problems."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from grpo.config.data import MOST_TOKENS, DataConfig
from grpo.config.training import SFTConfig
from grpo.data.conversations import build_examples
from grpo.data.layouts import PROMPT_COLUMNS, read_messages, read_prompt, unseen
from grpo.data.prompts import build_prompts, canonical_answer
from grpo.data.rows import Row, first_present
from grpo.errors import UserError
from grpo.model.loading.limits import fit, room
from grpo.types import Prompt
from rewards.accuracy.reward import gold_is_parseable
from stages.check.model import CHATML, is_one_token
from stages.check.subject import BaseModel, Skipped, Subject, Tags, Warned, listed, shortened
from stages.recipe.ahead import Asked
from stages.recipe.leaks import complaint, ranges

MEASURED = 10_000  # rows that are rendered and measured; of more, so many evenly spread ones
MEASURED_CONVERSATIONS = 2_000
LOOKED_AT = 100  # rows whose other columns are looked at
MANY = 0.1  # share of repeated, dropped or cut rows from which it is a warning


@dataclass(frozen=True)
class Rendered:
    """Prompts of one place, none left out for its length, and their row numbers."""

    asked: Asked
    tags: Tags
    model: BaseModel
    prompts: list[Prompt]
    numbers: list[int]
    total: int  # rows of the data

    @property
    def fitting(self) -> list[tuple[int, ...]]:
        """The prompts that are not too long."""
        limit = self.asked.data.max_prompt_tokens
        ids = [prompt.token_ids for prompt in self.prompts]
        return ids if limit is None else [one for one in ids if len(one) <= limit]

    @cached_property
    def max_tokens(self) -> int:
        """What may be sampled after each."""
        return self.asked.max_tokens or room(self.model.empty, self.fitting, MOST_TOKENS)

    @property
    def counted(self) -> str:
        return f"{self.total} rows" if len(self.prompts) == self.total else f"{len(self.prompts)} of {self.total} rows"


def spread(rows: Sequence[Any], most: int) -> list[int]:
    """Row numbers: all of them, or `most` evenly spread ones."""
    return list(range(len(rows))) if len(rows) <= most else [i * len(rows) // most for i in range(most)]


def render_prompts(subject: Subject, asked: Asked, rows: Sequence[Row]) -> Rendered:
    """The prompts of a place, with the too long ones.

    Raises:
        Skipped: there is no model.
        UserError: a row that is no prompt, or that the template refuses.
    """
    if subject.model is None:
        raise Skipped("needs the tokenizer")
    data = asked.data.model_copy(update={"max_prompt_tokens": None, "overlong": "drop"})
    key, numbers = data.model_dump_json(), spread(rows, MEASURED)
    for number, row in enumerate(rows) if len(numbers) < len(rows) else ():
        read_prompt(row, f"data '{data.path or data.fn}', row {number}", as_text=data.template is not None)
    if key not in subject.prompts:
        subject.prompts[key] = build_prompts([rows[number] for number in numbers], data, subject.model.tokenizer)
    return Rendered(asked, subject.tags(asked), subject.model, subject.prompts[key], numbers, len(rows))


def special_tokens(rendered: Rendered) -> str:
    """BOS once, where the model expects one; what the template puts around a question, in tokens."""
    tokenizer, prompt = rendered.model.tokenizer, rendered.prompts[0]
    bos, ids = tokenizer.bos_token_id, prompt.token_ids
    if bos is not None and ids[:2] == (bos, bos):
        written = "the template" if rendered.asked.data.template else "the chat template"
        raise UserError(f"the prompt starts with {tokenizer.bos_token} twice: {written} writes one too many")
    largest, rows = max(max(prompt.token_ids) for prompt in rendered.prompts), rendered.model.embeddings
    if largest >= rows:
        raise UserError(f"token {largest} occurs, but the model has {rows} embeddings: resize them and save it again")
    data = rendered.asked.data
    for mark in CHATML:
        if mark in f"{data.template}{data.suffix}{data.system}" and not is_one_token(tokenizer, mark):
            raise UserError(f"the config writes {mark} into the prompt, which is no token of this model: use its own")
    around = (prompt.text or "").partition(question_of(prompt, data))[::2]
    before, after = (len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in around)
    text = f"{len(ids)} tokens in row 0, {before} of the template before and {after} after the question"
    expected = bos is not None and tokenizer("")["input_ids"][:1] == [bos]
    if expected and ids[0] != bos:
        raise Warned(f"{text}; no {tokenizer.bos_token} at its start, which this tokenizer puts before other texts")
    opened = f"; opens the answer with {prompt.prefill!r}" if prompt.prefill else ""
    return f"{text}; {f'one {tokenizer.bos_token}' if ids[0] == bos else 'no BOS, as the model has it'}{opened}"


def question_of(prompt: Prompt, data: DataConfig) -> str:
    """What is asked, without the template, the suffix and the system message."""
    if prompt.messages is not None:
        return prompt.messages[-1]["content"].removesuffix(data.suffix)
    return str(first_present(prompt.columns, PROMPT_COLUMNS)[1])


def invisible(rendered: Rendered) -> str:
    """Characters that nobody sees and a model does: they come with copied text."""
    odd: dict[str, list[int]] = {}
    for number, prompt in zip(rendered.numbers, rendered.prompts, strict=True):
        for char in set(prompt.text or ""):
            if char != "\n" and char != "\t" and unicodedata.category(char) in ("Cc", "Cf", "Co", "Cn"):
                odd.setdefault(char, []).append(number)
    odd.pop("\u200c", None), odd.pop("\u200d", None)  # joiners that some scripts and emoji need
    if odd:
        char, numbers = next(iter(odd.items()))
        name = unicodedata.name(char, "a control character").lower()
        raise Warned(f"U+{ord(char):04X} ({name}) in {len(numbers)} prompts: {listed(numbers)}")
    return ""


def lengths(rendered: Rendered) -> str:
    """Against `max_prompt_tokens` and, with what may be sampled after it, the positions of the model."""
    counts = sorted(len(prompt.token_ids) for prompt in rendered.prompts)
    limit = rendered.asked.data.max_prompt_tokens
    over = sum(count > limit for count in counts) if limit is not None else 0
    median, p99 = counts[len(counts) // 2], counts[(len(counts) * 99 - 1) // 100]
    text = f"prompts of {median} (median), {p99} (p99), {counts[-1]} (most) tokens in {rendered.counted}"
    if limit is not None:
        text += f", {over} over max_prompt_tokens={limit}"
    if over == len(counts) or (over and rendered.asked.data.overlong == "error"):
        raise UserError(f"{text}; raise max_prompt_tokens{'' if over == len(counts) else ' or set overlong: drop'}")
    _, beyond = fit(rendered.model.empty, rendered.fitting, f"{text}; max_tokens", rendered.max_tokens)
    if beyond:
        raise Warned(beyond)
    if over >= MANY * len(counts):
        raise Warned(f"{text}: they are dropped")
    if rendered.asked.max_tokens is None and rendered.max_tokens < MOST_TOKENS:
        text += f"; max_tokens is {rendered.max_tokens}, all that the model has positions for after them"
    return text


def repeats(rendered: Rendered) -> str:
    """The same prompt twice: with two golds, one of them is wrong; in an evaluation, n is smaller than it looks."""
    again, torn = list[int](), list[int]()
    first: dict[str, Prompt] = {}
    for number, prompt in zip(rendered.numbers, rendered.prompts, strict=True):
        before = first.setdefault(prompt.text or "", prompt)
        if before is not prompt:
            again.append(number)
            if canonical_answer(prompt.columns) != canonical_answer(before.columns):
                torn.append(number)
    if torn:
        raise Warned(f"{len(torn)} prompts were there before with another gold: {listed(torn)}")
    text = f"{len(again)} of {rendered.counted} repeat an earlier prompt"
    if again and (rendered.asked.kind in ("evaluation", "general") or len(again) >= MANY * len(rendered.prompts)):
        raise Warned(f"{text}, e.g. {listed(again[:3])}")
    return text if again else f"{rendered.counted}, each once"


CHECKS = {"prompts": special_tokens, "characters": invisible, "lengths": lengths, "repeats": repeats}


def leaks(subject: Subject, path: str, rows: Sequence[Row]) -> str:
    """No evaluation problem among the rows that a stage trains on, by text and by `evaluation.leak_check`."""
    leaks = list(subject.guard.copies(rows))
    if leaks and subject.guard.drops and len(leaks) < len(rows):
        raise Warned(f"{len(leaks)} of {len(rows)} rows hold evaluation problems and are dropped, e.g. {leaks[0]}")
    if leaks:
        raise UserError(complaint(leaks, rows, path, subject.guard.drops))
    return f"no evaluation problem among {len(rows)} rows"


def near_copies(subject: Subject, rows: Sequence[Row]) -> str:
    """Every row that `evaluation.decontaminate` finds."""
    copies = list(subject.guard.near_copies(rows))
    if not copies:
        return f"none in {len(rows)} rows"
    text = f"{len(copies)} of {len(rows)} rows, e.g. {copies[0]}: rows {ranges([leak.row for leak in copies])}"
    if subject.guard.drops and len(copies) < len(rows):
        raise Warned(f"dropped: {text}")
    raise UserError(text)


def conversations(rows: list[Row], data: DataConfig, config: SFTConfig, model: BaseModel) -> str:
    """Demonstrations: rendered by the template, with the end token trained, and how many are too long."""
    numbers = spread(rows, MEASURED_CONVERSATIONS)
    aside: Counter[str] = Counter()
    for number, row in enumerate(rows):  # all of them: one that cannot be read stops the stage
        messages = read_messages(row, f"data '{data.path or data.fn}', row {number}")
        aside.update(unseen(row, messages) if number < LOOKED_AT else ())
    examples = build_examples([rows[number] for number in numbers], model.tokenizer, str(data.path or data.fn))
    counts = sorted(len(example.input_ids) for example in examples)
    over = sum(count > config.max_tokens for count in counts)
    text = (
        f"conversations of {counts[len(counts) // 2]} (median), {counts[-1]} (most) tokens in {len(numbers)} of "
        f"{len(rows)} rows, {over} over max_tokens={config.max_tokens}"
    )
    if aside:
        text += f"; not trained on: what is in {', '.join(aside)}"
    if over == len(counts):
        raise UserError(f"{text}: raise max_tokens")
    kept = [example.input_ids for example in examples if len(example.input_ids) <= config.max_tokens]
    fit(model.empty, kept, "a conversation")
    if over >= MANY * len(counts):
        raise Warned(f"{text}: they are dropped")
    return text


def golds(asked: Asked, rows: list[Row]) -> str:
    """Golds that cannot be read, by row."""
    column = asked.graded.columns.get("answer") if asked.graded is not None else None
    values = [row.get(column) if column else canonical_answer(row) for row in rows]
    if all(value is None for value in values):
        wanted = column or "answer | gold | solution"
        raise UserError(f"no column {wanted} to judge by (it has: {', '.join(rows[0])}); data.columns renames")
    bad = [number for number, value in enumerate(values) if not gold_is_parseable(value)]
    texts = [shortened(str(values[number])) for number in bad]
    if len(bad) == len(rows):
        raise UserError(f"none of {len(rows)} golds can be read, e.g. {listed(bad[:3], texts)}")
    if bad:
        share = 1 - len(bad) / len(rows)
        raise Warned(f"{len(bad)} of {len(rows)} golds cannot be read ({share:.2%} can): {listed(bad, texts)}")
    return f"all {len(rows)} can be read"
