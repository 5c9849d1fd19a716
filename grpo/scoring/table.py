"""Reward functions applied to plain rows: a table of values, and an error for every value that could not be had."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo.errors import UserError
from grpo.scoring.calls import call_async, call_sync, is_async, select_arguments
from grpo.scoring.job import Job

GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")  # TRL's, and a column


@dataclass(frozen=True)
class Reward:
    """A reward function with its place in the sum.

    `columns` {solution: answer} passes the rows' `answer` under the name `solution`.
    """

    name: str
    fn: Callable[..., Any]
    weight: float = 1.0
    columns: Mapping[str, str] = field(default_factory=dict)
    path: str = ""  # what a config calls the function


@dataclass(frozen=True)
class TrainerState:
    """What reward functions may read as `trainer_state`; the names are those of transformers' TrainerState."""

    global_step: int = 0
    max_steps: int = 0


START = TrainerState()  # outside of training


@dataclass
class RewardTable:
    """Values and errors by reward name and row, and what the functions logged."""

    rows: int
    values: dict[str, list[float | None]] = field(default_factory=dict)
    errors: dict[tuple[int, str], str] = field(default_factory=dict)  # (row, name) -> text
    failed: set[tuple[int, str]] = field(default_factory=set)  # those errors that the function did not log itself
    metrics: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # reward -> name -> what log_metric got
    extra: dict[str, dict[str, list[Any]]] = field(default_factory=dict)  # reward -> column -> one JSON value a row

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
    groups: Sequence[Sequence[int]] | None = None,
    trainer_state: Any = START,
    timeout: float | None = None,
    max_failed: int | None = None,
) -> RewardTable:
    """Call every reward function on all rows; async ones run concurrently.

    `groups`: rows, by number, that a function may compare with each other (siblings); None: each row stands alone.

    `timeout` bounds each call. A sync function that hangs cannot be killed, only left behind in its thread; to keep
    the whole wait bounded, what is tried again in parts is given up when a reward has failed on more than `max_failed`
    rows, and a function is not called any more that has hung `HANGS` times in a row.

    Raises:
        UserError: two rewards share a name, a column is missing, or see `max_failed`.
    """
    check_names(rewards)
    table = RewardTable(rows=len(prompts))
    data = {**columns, "prompts": prompts, "completions": completions, "completion_ids": completion_ids}
    parts = [[row] for row in range(table.rows)] if groups is None else groups
    for reward in rewards:
        check_sources(reward, data)
    jobs = [Job(reward, data, trainer_state, table, parts, timeout, max_failed) for reward in rewards]
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


def check_arguments(rewards: Sequence[Reward], columns: Iterable[str]) -> None:
    """
    Raises:
        UserError: a function needs a column that is none of `columns`, those that `score` will offer.
    """
    given = dict.fromkeys((*columns, *GIVEN))
    for reward in rewards:
        check_sources(reward, given)
        select_arguments(reward.name, reward.fn, given | dict.fromkeys(reward.columns), {"log_error": None})


def check_sources(reward: Reward, columns: Collection[str]) -> None:
    """
    Raises:
        UserError: what is to be renamed is not there.
    """
    for source in reward.columns.values():
        if source not in columns:
            raise UserError(f"reward '{reward.name}': columns: the data has no column '{source}'")


def check_names(rewards: Sequence[Reward]) -> None:
    """
    Raises:
        UserError: two rewards share a name.
    """
    repeated = [name for name, count in Counter(reward.name for reward in rewards).items() if count > 1]
    if repeated:
        raise UserError(f"two rewards are named '{repeated[0]}': give one of them another `name`")
