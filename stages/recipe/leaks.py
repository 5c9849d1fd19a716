"""No evaluation problem may be in the training data of a stage: checked on the rows before anything trains on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

from grpo.config.data import DataConfig, EvalConfig
from grpo.data.layouts import PROMPT_COLUMNS, read_messages, read_prompt
from grpo.data.messages import as_turns
from grpo.data.preferences import read_pair
from grpo.data.rows import Row, load_rows, read_jsonl
from grpo.errors import UserError, shorten
from grpo.system.imports import import_path
from grpo.types import Message
from stages.recipe.config import RecipeConfig, find
from stages.recipe.ngrams import Ngrams

log = logging.getLogger("grpo")

LEAKS = ".leaks.jsonl"  # beside data/<name>.jsonl: the rows that hold evaluation problems
SAID = 3  # leaks that are said in words
KeysOf = Callable[[Any], Iterable[Any]]
Wrap = tuple[str, str]  # what a config puts before and after a question
KEPT = (*PROMPT_COLUMNS, "text", "operation", "operands")


@dataclass(frozen=True)
class Leak:
    """A training row that holds an evaluation problem."""

    row: int  # from 1, as lines of a file are counted
    problem: str
    text: str | None = None  # of the row, where it is not the problem's; None: a copy
    of: str | None = None  # which of `evaluation.sets` the problem is of; None: of the main ones

    def __str__(self) -> str:
        problem = f"the evaluation problem {shorten(self.problem)!r}" + (f" of the set '{self.of}'" if self.of else "")
        if self.text is None:
            return f"row {self.row} holds {problem}"
        return f"row {self.row} is nearly {problem}: {shorten(self.text)!r}"


class LeakGuard:
    """The evaluation's problems, read once, and what training rows are compared with.

    `load` gives the rows of the evaluation's data; a caller that has read them already hands them out.

    Raises:
        UserError: the evaluation's data or `leak_check` cannot be loaded.
    """

    def __init__(self, config: RecipeConfig, load: Callable[[DataConfig], Sequence[Row]] = load_rows) -> None:
        evaluation = config.evaluation
        self.decontaminate = evaluation.decontaminate
        sets: list[tuple[str | None, EvalConfig]] = [*evaluation.sets.items()]
        sets += [(None, evaluation.math)] if evaluation.math else []  # last: a problem that is in several is of that
        problems = {name: load(one.data) for name, one in sets}
        general = load(evaluation.general.data) if evaluation.general else []
        self.wraps = {wrap for _, data in find(config, DataConfig) for wrap in _wraps(data)}
        self.problems = [row for rows in problems.values() for row in rows]
        everything = [(name, row) for name, rows in problems.items() for row in rows] + [(None, row) for row in general]
        self.asked = {text: name for name, row in everything for text in question_texts(row, self.wraps)}
        path = evaluation.leak_check
        self.keys_of: KeysOf = import_path(path, "evaluation.leak_check") if path else lambda _: ()
        of_problems = ((name, row) for name, rows in problems.items() for row in rows)
        self.keys = {key: name for name, row in of_problems for key in self.keys_of(question_part(row))}

    @property
    def drops(self) -> bool:
        """Whether rows that hold a problem are left out; else they are refused."""
        return self.decontaminate is not None and self.decontaminate.action == "drop"

    def leaks(self, rows: Sequence[Row]) -> list[Leak]:
        """Every row that holds a problem, or nearly."""
        copies = list(self.copies(rows))
        return sorted([*copies, *self.near_copies(rows, {leak.row for leak in copies})], key=attrgetter("row"))

    def without(self, leaks: Sequence[Leak], rows: Sequence[Row], name: str) -> list[Row]:
        """The rows that may be trained on.

        Raises:
            UserError: rows of `name` leak and are not to be dropped, or every one does.
        """
        if leaks and (not self.drops or len(leaks) == len(rows)):
            raise UserError(complaint(leaks, rows, name, self.drops))
        if leaks:
            log.warning("%s: %d of %d rows hold evaluation problems: dropped", name, len(leaks), len(rows))
        leaked = {leak.row for leak in leaks}
        return [row for number, row in enumerate(rows, 1) if number not in leaked]

    def copies(self, rows: Sequence[Row]) -> Iterator[Leak]:
        """Every row that holds a problem by its text or by a key of `leak_check`."""
        for number, row in enumerate(rows, 1):
            known, copied = self.keys, self.keys.keys() & set(self.keys_of(question_part(row)))
            if not copied:
                known, copied = self.asked, self.asked.keys() & question_texts(row, self.wraps)
            if copied:
                problem = min(copied, key=str)
                yield Leak(number, str(problem), of=known[problem])

    def near_copies(self, rows: Sequence[Row], known: Collection[int] = ()) -> Iterator[Leak]:
        """Every row that `evaluation.decontaminate` finds by its n-grams, but those that are `known`."""
        if self._grams is None:
            return
        for number, row in enumerate(rows, 1):
            for text in question_texts(row, self.wraps) if number not in known else ():
                problem = self._grams.copied(text)
                if problem is not None:
                    yield Leak(number, problem, text, self.asked.get(problem))
                    break

    @cached_property
    def _grams(self) -> Ngrams | None:
        if self.decontaminate is None:
            return None
        texts = (text for row in self.problems for text in question_texts(row))
        return Ngrams(texts, self.decontaminate.ngram, self.decontaminate.share)


def complaint(leaks: Sequence[Leak], rows: Sequence[Row], name: str, drops: bool) -> str:
    """All of them in one line: the first few in words, the others by their numbers. `drops`: they would be left out,
    and are every row there is."""
    said = "; ".join(map(str, leaks[:SAID]))
    them = "it"
    if len(leaks) > 1:
        said, them = f"{said}; {len(leaks)} of {len(rows)} rows in all: {ranges([leak.row for leak in leaks])}", "them"
    way = f"take {them} out of the stage's data, or have {them} left out by evaluation.decontaminate.action=drop"
    if drops:
        way = "nothing would be left to train on"
    return f"training data '{name}', {said}: {way}"


def ranges(numbers: Sequence[int]) -> str:
    """Rising numbers, those in a row as one.

    >>> ranges([2, 7, 8, 9, 12])
    '2, 7-9, 12'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def left_out(data: Path) -> dict[str, int]:
    """How many rows each of the data sets in a stage's folder lost."""
    return {file.name.removesuffix(LEAKS): len(read_jsonl(file)) for file in sorted(data.glob(f"*{LEAKS}"))}


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
    """The user turns of a row, read as a conversation, as a prompt or as a preference, in any of their forms."""
    for read in (read_messages, lambda *row: read_prompt(*row)[1], lambda *row: read_pair(*row)["prompt"]):
        with suppress(UserError):  # whoever reads the row to train on it says what is wrong with it
            return [turn for turn in as_turns(read(row, "row"), "user", "row") if turn["role"] == "user"]
    return []


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
