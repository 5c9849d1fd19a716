"""Rewards for groups of completions: one broken reward function or one bad row never spoils the others.

`apply_rewards` works on plain lists (the command `grpo score` uses it), `score` on the types of the training loop.
What can go wrong with a reward function and what happens then (invariant 6 of the design):

- it raises, hangs past `timeout`, or returns something that is not a list of the right length: it is called again row
  by row, and the rows on which it fails again get an error;
- a value is NaN, infinite or not a number: that row gets an error;
- a value is None: the reward does not apply to that row and adds nothing;
- a row with an error, or to which no reward applies, is excluded: its reward is None. Past the share `max_failed` of
  excluded rows the run stops with a `UserError`, since it would train on what is left.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from grpo.reward_table import START, Reward, RewardTable, TrainerState, apply_rewards, too_many
from grpo.types import Group, Prompt, Rollout

__all__ = ["Reward", "RewardFunction", "RewardTable", "ScoreStats", "TrainerState", "apply_rewards", "score"]


class RewardFunction(Protocol):
    """TRL's calling convention; everything is passed by keyword. A coroutine function is welcome too.

    A function that cannot judge a row may return None for it and say why through `log_error(row, text)`, which is
    passed to functions that name it: the row is then excluded and counted (TRL has no such argument).
    """

    def __call__(
        self, *, prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **columns: Any
    ) -> list[float | None]: ...


@dataclass(frozen=True)
class ScoreStats:
    """What `score` saw; the trainer puts it in its metrics."""

    rows: int
    excluded: int  # rows whose reward is None
    errors: dict[str, int]  # errors by reward name
    first_error: str | None
    metrics: dict[str, float]  # means of what functions gave to log_metric
    extra: dict[str, list[Any]]  # columns from log_extra, one value a row (groups in order, siblings in order)


def score(
    groups: Sequence[Group],
    rewards: Sequence[Reward],
    *,
    trainer_state: Any = START,
    timeout: float | None = None,
    max_failed: float = 0.1,
) -> tuple[list[Group], ScoreStats]:
    """Fill in `rewards` and `reward` of every rollout.

    Besides the prompt's own columns, functions are offered `answer` (the canonical gold) and `prefill` (what the
    chat template already wrote of the completion).

    Raises:
        UserError: more than the share `max_failed` of the rows is excluded, or a function needs a missing column.
    """
    pairs = [(group.prompt, rollout) for group in groups for rollout in group.rollouts]
    table = apply_rewards(
        rewards,
        [prompt.text or "" if prompt.messages is None else prompt.messages for prompt, _ in pairs],
        [_as_completion(prompt, rollout.completion.text) for prompt, rollout in pairs],
        [list(rollout.completion.token_ids) for _, rollout in pairs],
        _columns([prompt for prompt, _ in pairs]),
        trainer_state=trainer_state,
        timeout=timeout,
        max_failed=max_failed,
    )
    totals = [table.total(row, rewards) for row in range(len(pairs))]
    _check_share(table, rewards, totals, max_failed)
    rows = iter(range(len(pairs)))
    scored = [
        replace(group, rollouts=tuple(_rewarded(rollout, next(rows), table, totals) for rollout in group.rollouts))
        for group in groups
    ]
    return scored, _stats(table, totals)


def _check_share(table: RewardTable, rewards: Sequence[Reward], totals: list[float | None], limit: float) -> None:
    excluded = [row for row, total in enumerate(totals) if total is None]
    if len(excluded) <= limit * table.rows:
        return
    voters = {reward.name for reward in rewards if reward.weight != 0.0}
    failures = [(name, text) for (_, name), text in table.errors.items() if name in voters]
    name, text = failures[0] if failures else (", ".join(sorted(voters)), "every reward is None: none applies")
    raise too_many(f"no reward from '{name}'", len(excluded), table.rows, limit, text)


def _stats(table: RewardTable, totals: list[float | None]) -> ScoreStats:
    return ScoreStats(
        rows=table.rows,
        excluded=sum(total is None for total in totals),
        errors=dict(Counter(name for _, name in table.errors)),
        first_error=next((f"{name}: {text}" for (_, name), text in table.errors.items()), None),
        metrics={name: math.fsum(values) / len(values) for name, values in table.metrics.items()},
        extra=table.extra,
    )


def _rewarded(rollout: Rollout, row: int, table: RewardTable, totals: list[float | None]) -> Rollout:
    return replace(rollout, rewards={name: column[row] for name, column in table.values.items()}, reward=totals[row])


def _as_completion(prompt: Prompt, text: str) -> Any:
    return text if prompt.messages is None else [{"role": "assistant", "content": text}]


def _columns(prompts: Sequence[Prompt]) -> dict[str, list[Any]]:
    """Columns of all prompts; a row that lacks one has None there. TRL's own names are not columns."""
    rows = [{"answer": prompt.answer, **prompt.columns, "prefill": prompt.prefill} for prompt in prompts]
    names = {name: None for row in rows for name in row if name not in ("prompt", "completion", "completion_ids")}
    return {name: [row.get(name) for row in rows] for name in names}
