"""One reward function at work on one table: called on all rows, and where that fails on what is smaller."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grpo.errors import UserError, without_password
from grpo.scoring.calls import CallFailed, Hung, call_async, call_sync, is_async, select_arguments

if TYPE_CHECKING:
    from grpo.scoring.table import Reward, RewardTable

HANGS = 3  # calls in a row on which a function may hang before it is not called any more
PLAIN = (str, bytes, int, float, complex, type(None))  # nobody can change these


@dataclass
class Call:
    """One call on some rows. What the function logs is kept here until the call proves good."""

    rows: Sequence[int]
    arguments: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, list[Any]] = field(default_factory=dict)
    metrics: list[tuple[str, float]] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)

    def log_extra(self, column: str, values: Iterable[Any]) -> None:
        """As in TRL, a column may be given bit by bit; how long it has become is looked at after the call."""
        self.extra.setdefault(str(column), []).extend(values)

    def log_metric(self, name: str, value: Any) -> None:
        try:
            self.metrics.append((str(name), as_float(value)))
        except CallFailed as error:
            raise TypeError(f"log_metric('{name}') got {type(value).__name__}, which is no number") from error

    def log_error(self, index: int, text: str) -> None:
        self.errors[self.rows[index]] = str(text)


@dataclass
class Job:
    """`groups`: rows whose values may depend on each other."""

    reward: Reward
    data: Mapping[str, Sequence[Any]]
    trainer_state: Any
    table: RewardTable
    groups: Sequence[Sequence[int]]
    timeout: float | None
    max_failed: int | None
    failed: int = 0  # rows
    hangs: int = 0  # calls in a row

    def __post_init__(self) -> None:
        self.values: list[float | None] = [None] * self.table.rows
        self.table.values[self.reward.name] = self.values
        self.data = {**self.data, **{wanted: self.data[source] for wanted, source in self.reward.columns.items()}}

    def call(self, rows: Sequence[int]) -> Call:
        call = Call(rows)
        standard: dict[str, Any] = {key: [_copied(values[row]) for row in rows] for key, values in self.data.items()}
        standard |= {"trainer_state": self.trainer_state, "log_extra": call.log_extra, "log_metric": call.log_metric}
        ours = {"log_error": call.log_error}
        call.arguments = select_arguments(self.reward.name, self.reward.fn, standard, ours)
        return call

    def finish(self, call: Call, outcome: Any | CallFailed) -> None:
        """Take the result of the call on all rows. When it is useless, each group is tried by itself, and of one that
        fails each row: what fails alone is bad, and its siblings' values come from a call without it. No value ever
        comes from a call on a part of a group's good rows: what a function gives a row may depend on its siblings."""
        if self.record(call, outcome) is None:
            return
        broken = [call.rows] if len(self.groups) == 1 and len(call.rows) > 1 else []
        for rows, failure in self.retried(self.groups if not broken else ()):
            if len(rows) == 1:
                self.fail(rows[0], str(failure))
            else:
                broken.append(rows)
        bad: set[int] = set()
        for alone, result in self.attempts([[row] for rows in broken for row in rows]):
            useless = values_of(alone, result)
            if isinstance(useless, CallFailed):
                self.fail(alone.rows[0], str(useless))
                bad.add(alone.rows[0])
        good = [[row for row in rows if row not in bad] for rows in broken]
        for rows, failure in self.retried([rows for rows in good if rows]):
            for row in rows:
                self.fail(row, str(failure))

    def retried(self, parts: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[int], CallFailed]]:
        """Take what calls on these give; the rows of those that are useless again, and why."""
        for call, outcome in self.attempts(parts):
            failure = self.record(call, outcome)
            if failure is not None:
                yield call.rows, failure

    def attempts(self, parts: Sequence[Sequence[int]]) -> Iterator[tuple[Call, Any]]:
        if is_async(self.reward.fn):
            calls = [self.call(rows) for rows in parts]
            yield from zip(calls, call_async([(self.reward.fn, c.arguments) for c in calls], self.timeout), strict=True)
            return
        for rows in parts:  # one after the other: `fail` may stop it
            call = self.call(rows)
            yield call, self.attempt(call)

    def attempt(self, call: Call) -> Any | CallFailed:
        if self.hangs == HANGS:
            return CallFailed(f"not called: it hung {HANGS} times in a row")
        outcome = call_sync(self.reward.fn, call.arguments, self.timeout)
        self.hangs = self.hangs + 1 if isinstance(outcome, Hung) else 0
        return outcome

    def record(self, call: Call, outcome: Any | CallFailed) -> CallFailed | None:
        """Put a call's values, errors and logs into the table; a useless outcome is handed back instead."""
        values = values_of(call, outcome)
        if isinstance(values, CallFailed):
            return values
        for row, value in zip(call.rows, values, strict=True):
            try:
                self.values[row] = as_number(value)
            except CallFailed as failure:
                self.fail(row, str(failure))
        for row, text in call.errors.items():
            self.fail(row, text, declined=True)
        metrics = self.table.metrics.setdefault(self.reward.name, {})
        for name, metric in call.metrics:
            metrics.setdefault(name, []).append(metric)
        extra = self.table.extra.setdefault(self.reward.name, {})
        for column, logged in call.extra.items():
            target = extra.setdefault(column, [None] * self.table.rows)
            for row, value in zip(call.rows, logged, strict=True):
                target[row] = as_json(value)
        return None

    def fail(self, row: int, text: str, *, declined: bool = False) -> None:
        self.values[row], text = None, without_password(text)  # it is written down with the completions
        if not declined:
            self.table.failed.add((row, self.reward.name))
        self.failed += (row, self.reward.name) not in self.table.errors
        self.table.errors.setdefault((row, self.reward.name), text)
        if self.max_failed is not None and self.reward.weight and self.failed > self.max_failed:
            raise UserError(
                f"reward '{self.reward.name}' failed on {self.failed} completions, where {self.max_failed} may; "
                f"the last error: {text}"
            )


def _copied(value: Any) -> Any:
    """A copy where the function could change what other functions, or the data set, will read."""
    return value if isinstance(value, PLAIN) else copy.deepcopy(value)


def values_of(call: Call, outcome: Any) -> list[Any] | CallFailed:
    """One value a row, of whatever type; or why the call is useless."""
    if isinstance(outcome, CallFailed):
        return outcome
    values = outcome.tolist() if hasattr(outcome, "tolist") else outcome  # numpy and torch
    if not isinstance(values, (list, tuple)):
        return CallFailed(f"returned {type(outcome).__name__} instead of a list of numbers")
    if len(values) != len(call.rows):
        return CallFailed(f"returned {len(values)} values for {len(call.rows)} completions")
    for column, logged in call.extra.items():
        if len(logged) != len(call.rows):
            return CallFailed(f"log_extra('{column}') got {len(logged)} values for {len(call.rows)} completions")
    return list(values)


LARGEST = 1e15  # advantages are computed in fp32, where squares of much larger ones have no number


def as_number(value: Any) -> float | None:
    """A finite number that can be computed with, or None.

    Raises:
        CallFailed: it is neither.
    """
    if value is None:
        return None
    number = as_float(value)
    if not math.isfinite(number) or abs(number) > LARGEST:
        raise CallFailed(f"returned {number}")
    return number


def as_float(value: Any) -> float:
    try:
        number = value.item() if hasattr(value, "item") else value  # a numpy or torch scalar
        if not hasattr(number, "__float__"):  # as bool and Decimal have it, and text has not
            raise CallFailed(f"returned {type(value).__name__} where a number or None is expected")
        return float(number)
    except (ValueError, RuntimeError, OverflowError) as error:
        raise CallFailed(f"returned a value that is not one number: {error}") from error


def as_json(value: Any) -> Any:
    """What log_extra was given, as a file can hold it; numbers that are not finite are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return as_json(value.tolist())
    return [as_json(item) for item in value] if isinstance(value, (list, tuple, set, frozenset)) else str(value)
