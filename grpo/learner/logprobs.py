"""The log-probs that the loss needs besides pi_theta's: of pi_old and of the reference, written into the groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from grpo.config.training import RLConfig
from grpo.learner.batching import TrainRow, contributing, rows_of
from grpo.learner.learner import Learner
from grpo.model.reference import Reference
from grpo.scoring.shaping import take_kl
from grpo.types import Group


def with_logprobs(learner: Learner, reference: Reference | None, groups: list[Group], config: RLConfig) -> list[Group]:
    """log pi_old when several updates share the rollout or dropout is on, and log pi_ref when the KL is in the loss.

    Otherwise pi_old is pi_theta itself, and no forward is spent to learn it.
    """
    rows = rows_of(groups, drop_truncated=config.truncated == "mask")
    if config.updates_per_rollout > 1 or learner.dropout:
        missing = [row for row in contributing(rows, config.loss) if row.rollout.old_logprobs is None]
        groups = with_old_logprobs(learner, groups, missing)
    if reference is not None and config.loss.kl_in_loss:
        rows = rows_of(groups, drop_truncated=config.truncated == "mask")
        groups = with_ref_logprobs(learner, groups, rows, reference)
    return groups


def with_kl_in_rewards(
    learner: Learner, reference: Reference | None, groups: list[Group], config: RLConfig
) -> list[Group]:
    """The KL of each completion taken from its reward (`grpo.scoring.shaping.take_kl`), where that is its place."""
    if reference is None or not config.loss.kl_in_reward:
        return groups
    groups = with_old_logprobs(learner, groups, rows_of(groups))
    groups = with_ref_logprobs(learner, groups, rows_of(groups), reference)
    return take_kl(groups, config.loss)


def with_old_logprobs(learner: Learner, groups: list[Group], chosen: Sequence[TrainRow]) -> list[Group]:
    """The groups with log pi_old of the `chosen` rows' tokens, by the policy as it is now."""
    return _with(groups, chosen, learner.logprobs(chosen), "old_logprobs")


def with_ref_logprobs(
    learner: Learner, groups: list[Group], chosen: Sequence[TrainRow], reference: Reference
) -> list[Group]:
    """The groups with log pi_ref of the `chosen` rows' tokens."""
    with reference.active(learner.model):
        return _with(groups, chosen, learner.logprobs(chosen), "ref_logprobs")


def _with(
    groups: list[Group], rows: Sequence[TrainRow], logprobs: Sequence[tuple[float, ...]], name: str
) -> list[Group]:
    by_rollout: dict[int, Any] = {id(row.rollout): values for row, values in zip(rows, logprobs, strict=True)}
    return [
        replace(
            group,
            rollouts=tuple(
                replace(r, **{name: by_rollout[id(r)]}) if id(r) in by_rollout else r for r in group.rollouts
            ),
        )
        for group in groups
    ]
