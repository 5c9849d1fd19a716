"""Rewards for groups of completions: one broken reward function or one bad row never spoils the others.

`apply_rewards` works on plain lists (the command `grpo score` uses it), `score` on the types of the training loop.
What can go wrong with a reward function and what happens then (invariant 6 of the design):

- it raises, hangs past `timeout`, or returns something that is not a list of the right length: it is called again on
  each group, and on the rows of a group on which it fails; the rows on which it fails alone get an error, and their
  siblings, judged together without them, their values;
- a value is NaN, infinite or not a number: that row gets an error;
- a value is None: the reward does not apply to that row and adds nothing;
- a row with an error, or to which no reward applies, is excluded: its reward is None. Past the share `MAX_FAILED` of
  a task's rows in a rollout (`Exclusions`) the run stops with a `UserError`, since it would train on what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Protocol

from grpo.errors import UserError
from grpo.scoring.table import START, Reward, RewardTable, apply_rewards
from grpo.types import Group, Prompt, Rollout

MAX_FAILED = 0.1  # share of excluded rows past which training stops


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
    reason: tuple[str, str] | None  # (reward, why) of the first of them
    errors: dict[str, int]  # errors by reward name
    first_error: str | None
    failed: frozenset[tuple[int, str]]  # (row, reward name) of the errors that the function did not log itself
    metrics: dict[str, dict[str, list[float]]]  # reward -> name -> what it gave to log_metric


def score(
    groups: Sequence[Group],
    rewards: Sequence[Reward],
    *,
    columns: Iterable[str] | None = None,
    trainer_state: Any = START,
    timeout: float | None = None,
    max_failed: int | None = None,
) -> tuple[list[Group], ScoreStats]:
    """Fill in what every rollout earned: `rewards`, `reward`, `excluded`, `errors` and `extra`.

    Functions are offered `columns`, the `column_names` of all the prompts that these were taken from (None: of these
    alone): what a function finds must not depend on how the rows were drawn and cut over processes. `max_failed`: see
    `apply_rewards`.

    Raises:
        UserError: a function needs a missing column, or fails on more than `max_failed` rows.
    """
    pairs = [(group.prompt, rollout) for group in groups for rollout in group.rollouts]
    texts = [rollout.completion.text for _, rollout in pairs]
    table = apply_rewards(
        rewards,
        [prompt.text or "" if prompt.messages is None else prompt.messages for prompt, _ in pairs],
        [
            text if prompt.messages is None else [{"role": "assistant", "content": text}]
            for (prompt, _), text in zip(pairs, texts, strict=True)
        ],
        [list(rollout.completion.token_ids) for _, rollout in pairs],
        _columns([prompt for prompt, _ in pairs], columns),
        groups=_rows(groups),
        trainer_state=trainer_state,
        timeout=timeout,
        max_failed=max_failed,
    )
    totals = [table.total(row, rewards) for row in range(len(pairs))]
    why = [None if total is not None else _reason(table, rewards, row) for row, total in enumerate(totals)]

    def rewarded(row: int, rollout: Rollout) -> Rollout:
        values = {name: column[row] for name, column in table.values.items()}
        errors = {name: table.errors[row, name] for name in table.values if (row, name) in table.errors}
        extra = {name: {key: of[row] for key, of in logged.items()} for name, logged in table.extra.items() if logged}
        reason = ": ".join(cause) if (cause := why[row]) else None
        return replace(rollout, rewards=values, reward=totals[row], excluded=reason, errors=errors, extra=extra)

    numbered = zip(groups, _rows(groups), strict=True)
    scored = [replace(group, rollouts=tuple(map(rewarded, rows, group.rollouts))) for group, rows in numbered]
    return scored, ScoreStats(
        rows=table.rows,
        excluded=sum(total is None for total in totals),
        reason=next((cause for cause in why if cause is not None), None),
        errors=dict(Counter(name for _, name in table.errors)),
        first_error=next((f"{name}: {text}" for (_, name), text in table.errors.items()), None),
        failed=frozenset(table.failed),
        metrics=table.metrics,
    )


def _rows(groups: Sequence[Group]) -> list[range]:
    """The numbers of each group's rows."""
    ends = list(accumulate(len(group.rollouts) for group in groups))
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def column_names(prompts: Iterable[Prompt]) -> tuple[str, ...]:
    """What functions are offered besides TRL's own arguments: `answer` (the canonical gold), every column that one of
    the prompts has, and `prefill` (what the chat template already wrote of the completion)."""
    names = dict.fromkeys(["answer", *(name for prompt in prompts for name in prompt.columns), "prefill"])
    return tuple(name for name in names if name not in ("prompt", "completion", "completion_ids"))


def _columns(prompts: Sequence[Prompt], names: Iterable[str] | None) -> dict[str, list[Any]]:
    """Columns of all prompts; a row that lacks one has None there."""
    rows = [{"answer": prompt.answer, **prompt.columns, "prefill": prompt.prefill} for prompt in prompts]
    return {name: [row.get(name) for row in rows] for name in (column_names(prompts) if names is None else names)}


def _reason(table: RewardTable, rewards: Sequence[Reward], row: int) -> tuple[str, str]:
    """(reward, why) of a row that got no reward."""
    voters = [reward.name for reward in rewards if reward.weight != 0.0]
    failures = ((name, table.errors[row, name]) for name in voters if (row, name) in table.errors)
    return next(failures, (", ".join(sorted(voters)), "every reward is None: none applies"))


@dataclass
class Exclusions:
    """Rows of one rollout without a reward, by task, over all its draws and all processes."""

    rows: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, tuple[str, str]] = field(default_factory=dict)  # the first that this process saw

    def limit(self, task: str) -> int:
        """As many rows of the task may be excluded."""
        return int(MAX_FAILED * self.rows[task])

    def draw(self, groups: Iterable[Group]) -> None:
        """Count what is to be judged, everywhere."""
        for group in groups:
            self.rows[group.prompt.task] += len(group.rollouts)

    def judge(self, groups: Iterable[Group]) -> None:
        """Count what got no reward, everywhere."""
        for group in groups:
            self.excluded[group.prompt.task] += sum(rollout.reward is None for rollout in group.rollouts)

    def check(self, gather: Callable[[Any], list[Any]]) -> None:
        """The counts are the same in every process, so all come to the same end; why, only one of them may know.

        Raises:
            UserError: of a task, more than the share `MAX_FAILED` is excluded.
        """
        for task, excluded in self.excluded.items():
            if excluded > self.limit(task):
                name, text = next(reason for reason in gather(self.reasons.get(task)) if reason is not None)
                raise UserError(
                    f"task '{task}': no reward from '{name}' on {excluded} of {self.rows[task]} completions, more than "
                    f"{MAX_FAILED:.0%} of the rollout; first error: {text}"
                )
