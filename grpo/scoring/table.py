"""Reward functions applied to plain rows: a table of values, and an error for every value that could not be had."""

from __future__ import annotations

import copy
import math
import numbers
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo.errors import UserError
from grpo.scoring.calls import CallFailed, Hung, call_async, call_sync, is_async, select_arguments


@dataclass(frozen=True)
class Reward:
    """A reward function with its place in the sum.

    `columns` {solution: answer} passes the rows' `answer` under the name `solution`.
    """

    name: str
    fn: Callable[..., Any]
    weight: float = 1.0
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainerState:
    """What reward functions may read as `trainer_state`; the names are those of transformers' TrainerState."""

    global_step: int = 0
    max_steps: int = 0


START = TrainerState()  # outside of training
HANGS = 3  # rows in a row on which a function may hang before the others are given up


@dataclass
class RewardTable:
    """Values and errors by reward name and row, and what the functions logged."""

    rows: int
    values: dict[str, list[float | None]] = field(default_factory=dict)
    errors: dict[tuple[int, str], str] = field(default_factory=dict)  # (row, name) -> text
    failed: set[tuple[int, str]] = field(default_factory=set)  # those errors that the function did not log itself
    metrics: dict[str, list[float]] = field(default_factory=dict)  # by log_metric
    extra: dict[str, list[Any]] = field(default_factory=dict)  # by log_extra: one value a row

    def total(self, row: int, rewards: Sequence[Reward]) -> float | None:
        """The weighted sum of one row; None when it is excluded. A reward of weight 0 only watches: it cannot."""
        voters = [reward for reward in rewards if reward.weight != 0.0]
        parts = [(reward.weight, self.values[reward.name][row]) for reward in voters]
        applying = [weight * value for weight, value in parts if value is not None]
        if not applying or any((row, reward.name) in self.errors for reward in voters):
            return None
        return math.fsum(applying)


def apply_rewards(
    rewards: Sequence[Reward],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[list[int]],
    columns: Mapping[str, Sequence[Any]],
    *,
    trainer_state: Any = START,
    timeout: float | None = None,
    max_failed: int | None = None,
) -> RewardTable:
    """Call every reward function on all rows; async ones run concurrently.

    `timeout` bounds each call. A sync function that hangs cannot be killed, only left behind in its thread; to keep
    the whole wait bounded, the row-by-row retry gives up when a reward has failed on more than `max_failed` rows, and
    does not call a function any more that has hung on `HANGS` rows in a row.

    Raises:
        UserError: two rewards share a name, a column is missing, or see `max_failed`.
    """
    repeated = [name for name, count in Counter(reward.name for reward in rewards).items() if count > 1]
    if repeated:
        raise UserError(f"two rewards are named '{repeated[0]}': give one of them another `name`")
    table = RewardTable(rows=len(prompts))
    data = {**columns, "prompts": prompts, "completions": completions, "completion_ids": completion_ids}
    jobs = [_Job(reward, data, trainer_state, table, timeout, max_failed) for reward in rewards]
    if table.rows:
        whole = [job.call(range(table.rows)) for job in jobs]  # a missing column is found before anything is computed
        concurrent = [(job, call) for job, call in zip(jobs, whole, strict=True) if is_async(job.reward.fn)]
        outcomes = call_async([(job.reward.fn, call.arguments) for job, call in concurrent], timeout)
        for (job, call), outcome in zip(concurrent, outcomes, strict=True):
            job.finish(call, outcome)
        for job, call in zip(jobs, whole, strict=True):
            if not is_async(job.reward.fn):
                job.finish(call, call_sync(job.reward.fn, call.arguments, timeout))
    return table


@dataclass
class _Call:
    """One call on some rows. What the function logs is kept here until the call proves good."""

    rows: Sequence[int]
    arguments: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, list[Any]] = field(default_factory=dict)
    metrics: list[tuple[str, float]] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        if len(values) != len(self.rows):
            raise ValueError(f"log_extra('{column}') got {len(values)} values for {len(self.rows)} rows")
        self.extra[column] = list(values)

    def log_metric(self, name: str, value: float) -> None:
        self.metrics.append((name, float(value)))

    def log_error(self, index: int, text: str) -> None:
        self.errors[self.rows[index]] = text


@dataclass
class _Job:
    """One reward function at work on one table."""

    reward: Reward
    data: Mapping[str, Sequence[Any]]
    trainer_state: Any
    table: RewardTable
    timeout: float | None
    max_failed: int | None
    failed: int = 0  # rows
    hangs: int = 0  # rows in a row

    def __post_init__(self) -> None:
        self.values: list[float | None] = [None] * self.table.rows
        self.table.values[self.reward.name] = self.values
        for source in self.reward.columns.values():
            if source not in self.data:
                raise UserError(f"reward '{self.reward.name}': columns: the data has no column '{source}'")
        self.data = {**self.data, **{wanted: self.data[source] for wanted, source in self.reward.columns.items()}}

    def call(self, rows: Sequence[int]) -> _Call:
        call = _Call(rows)
        standard: dict[str, Any] = {key: [_copied(values[row]) for row in rows] for key, values in self.data.items()}
        standard |= {"trainer_state": self.trainer_state, "log_extra": call.log_extra, "log_metric": call.log_metric}
        ours = {"log_error": call.log_error}
        call.arguments = select_arguments(self.reward.name, self.reward.fn, standard, ours)
        return call

    def attempt_alone(self, call: _Call) -> Any | CallFailed:
        if self.hangs == HANGS:
            return CallFailed(f"not called: it hung on the {HANGS} rows before")
        outcome = call_sync(self.reward.fn, call.arguments, self.timeout)
        self.hangs = self.hangs + 1 if isinstance(outcome, Hung) else 0
        return outcome

    def finish(self, call: _Call, outcome: Any | CallFailed) -> None:
        """Take the result of the call on all rows; when it is useless, try every row alone."""
        if self.record(call, outcome) is None:
            return
        singles = [self.call([row]) for row in call.rows]
        for single, alone in zip(singles, self.one_by_one(singles), strict=True):
            failure = self.record(single, alone)
            if failure is not None:
                self.fail(single.rows[0], str(failure))

    def one_by_one(self, calls: Sequence[_Call]) -> Iterable[Any]:
        if is_async(self.reward.fn):
            return call_async([(self.reward.fn, call.arguments) for call in calls], self.timeout)
        return (self.attempt_alone(call) for call in calls)  # lazy: `fail` may stop it

    def record(self, call: _Call, outcome: Any | CallFailed) -> CallFailed | None:
        """Put a call's values, errors and logs into the table; a useless outcome is handed back instead."""
        try:
            values = _as_list(outcome, len(call.rows))
        except CallFailed as failure:
            return failure
        for row, value in zip(call.rows, values, strict=True):
            try:
                self.values[row] = _as_number(value)
            except CallFailed as failure:
                self.fail(row, str(failure))
        for row, text in call.errors.items():
            self.fail(row, text, declined=True)
        for name, metric in call.metrics:
            self.table.metrics.setdefault(name, []).append(metric)
        for column, column_values in call.extra.items():
            target = self.table.extra.setdefault(column, [None] * self.table.rows)
            for row, value in zip(call.rows, column_values, strict=True):
                target[row] = value
        return None

    def fail(self, row: int, text: str, *, declined: bool = False) -> None:
        self.values[row] = None
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
    return copy.deepcopy(value) if isinstance(value, (list, dict)) else value


def _as_list(outcome: Any, length: int) -> list[Any]:
    if isinstance(outcome, CallFailed):
        raise outcome
    values = outcome.tolist() if hasattr(outcome, "tolist") else outcome  # numpy and torch
    if not isinstance(values, (list, tuple)):
        raise CallFailed(f"returned {type(outcome).__name__} instead of a list of numbers")
    if len(values) != length:
        raise CallFailed(f"returned {len(values)} values for {length} completions")
    return list(values)


def _as_number(value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = value.item() if hasattr(value, "item") else value  # a numpy or torch scalar
        if not isinstance(number, numbers.Real):
            raise CallFailed(f"returned {type(value).__name__} where a number or None is expected")
        result = float(number)
    except (ValueError, RuntimeError, OverflowError) as error:
        raise CallFailed(f"returned a value that is not one number: {error}") from error
    if not math.isfinite(result):
        raise CallFailed(f"returned {result}")
    return result
