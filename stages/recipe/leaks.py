"""No evaluation problem may be in the training data of a stage: checked on the rows before anything trains on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from grpo.config.data import DataConfig
from grpo.data.layouts import read_messages
from grpo.data.prompts import PROMPT_COLUMNS
from grpo.data.rows import Row, load_rows
from grpo.errors import UserError, shorten
from grpo.system.imports import import_path
from grpo.types import Message
from stages.recipe.config import RecipeConfig, find
from stages.recipe.ngrams import Ngrams

log = logging.getLogger("grpo")

KeysOf = Callable[[Any], Iterable[Any]]
Wrap = tuple[str, str]  # what a config puts before and after a question
KEPT = (*PROMPT_COLUMNS, "text", "operation", "operands")


class LeakGuard:
    """The evaluation's problems, read once, and what training rows are compared with.

    `load` gives the rows of the evaluation's data; a caller that has read them already hands them out.

    Raises:
        UserError: the evaluation's data or `leak_check` cannot be loaded.
    """

    def __init__(self, config: RecipeConfig, load: Callable[[DataConfig], Sequence[Row]] = load_rows) -> None:
        evaluation = config.evaluation
        self.decontaminate = evaluation.decontaminate
        self.problems = load(evaluation.math.data)
        general = load(evaluation.general.data) if evaluation.general else []
        self.wraps = {wrap for _, data in find(config, DataConfig) for wrap in _wraps(data)}
        self.asked = {text for row in [*self.problems, *general] for text in question_texts(row, self.wraps)}
        path = evaluation.leak_check
        self.keys_of: KeysOf = import_path(path, "evaluation.leak_check") if path else lambda _: ()
        self.keys = {key for row in self.problems for key in self.keys_of(question_part(row))}

    def check(self, rows: Sequence[Row], file: Path) -> None:
        """Compare the training rows in `file` with the evaluation's problems.

        Raises:
            UserError: a training row holds an evaluation problem, by its text, by a key of `leak_check`, or by the
                n-grams of `decontaminate`.
        """
        self.check_copies(rows, file)
        for number, text, problem in self.near_copies(rows):
            raise UserError(
                f"training data '{file}', row {number} is nearly the evaluation problem {shorten(problem)!r}: "
                f"{shorten(text)!r}: take it out of the stage's data (grpo check lists all such rows), or set "
                "evaluation.decontaminate.share"
            )
        log.debug("no evaluation problem among the %d rows of %s", len(rows), file)

    def check_copies(self, rows: Sequence[Row], file: Path) -> None:
        """As `check`, but for copies only: by the text or by a key of `leak_check`."""
        for number, row in enumerate(rows, 1):
            copied = self.keys.intersection(self.keys_of(question_part(row)))
            copied = copied or self.asked & question_texts(row, self.wraps)
            if copied:
                raise UserError(
                    f"training data '{file}', row {number} holds the evaluation problem {min(map(str, copied))!r}: "
                    "take it out of the stage's data"
                )

    def near_copies(self, rows: Sequence[Row]) -> Iterator[tuple[int, str, str]]:
        """(row number from 1, its text, the evaluation problem) of every row that `evaluation.decontaminate` finds."""
        if self._grams is None:
            return
        for number, row in enumerate(rows, 1):
            for text in question_texts(row, self.wraps):
                problem = self._grams.copied(text)
                if problem is not None:
                    yield number, text, problem
                    break

    @cached_property
    def _grams(self) -> Ngrams | None:
        if self.decontaminate is None:
            return None
        texts = (text for row in self.problems for text in question_texts(row))
        return Ngrams(texts, self.decontaminate.ngram, self.decontaminate.share)


def question_part(row: Row) -> Row:
    """What a row asks, without what a model or a teacher answered: a sampled answer may name any numbers."""
    kept = {name: _asked(row[name]) for name in KEPT if row.get(name) is not None}
    turns = _conversation(row)
    return {**kept, "messages": turns} if turns else kept


def question_texts(row: Row, wraps: Iterable[Wrap] = ()) -> set[str]:
    """What a row asks, as two copies of it would share it: each user turn and prompt column, lower case and with
    single spaces, as it is and without what a config puts around a question."""
    columns = (_asked(row[name]) for name in PROMPT_COLUMNS if row.get(name) is not None)
    turns = [turn for column in columns if isinstance(column, list) for turn in column]
    texts = [row[name] for name in PROMPT_COLUMNS if isinstance(row.get(name), str)]
    texts += [turn["content"] for turn in [*turns, *_conversation(row)] if isinstance(turn.get("content"), str)]
    plain = {" ".join(text.casefold().split()) for text in texts}
    return (plain | {bare for text in plain for bare in _unwrapped(text, wraps)}) - {""}


def _asked(value: Any) -> Any:
    """A column; of messages only the user's."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [message for message in value if message.get("role") == "user"]
    return value


def _conversation(row: Row) -> list[Message]:
    """The user turns of a row that supervised training would read as a conversation, in any of its forms."""
    try:
        messages = read_messages(row, "row")
    except UserError:  # a prompt, or no conversation: whoever reads it says what is wrong with it
        return []
    return [message for message in messages if message["role"] == "user"]


def _wraps(data: DataConfig) -> Iterator[Wrap]:
    """What a prompt gets around it: by the suffix, by the template, by both."""
    before, _, after = (data.template or "").partition("{prompt}")
    for start, end in (("", data.suffix), (before, after), (before, data.suffix + after)):
        wrap = " ".join(start.casefold().split()), " ".join(end.casefold().split())
        if any(wrap):
            yield wrap


def _unwrapped(text: str, wraps: Iterable[Wrap]) -> Iterator[str]:
    for before, after in wraps:
        if text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after):
            yield text[len(before) : len(text) - len(after)].strip()
