"""The log-probs that the loss needs besides pi_theta's: of pi_old and of the reference, written into the groups."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from grpo.config.training import RLConfig
from grpo.learner.batching import TrainRow, contributing, rows_of
from grpo.learner.learner import Learner
from grpo.model.reference import Reference
from grpo.scoring.shaping import take_kl
from grpo.types import Group


class Scores(Protocol):
    """Log-probs of the completion tokens of each row, by some weights."""

    def logprobs(self, rows: Sequence[TrainRow]) -> list[tuple[float, ...]]: ...

    def sampled_at(self, temperature: float) -> None: ...


def with_logprobs(
    learner: Learner,
    reference: Reference | None,
    groups: list[Group],
    config: RLConfig,
    teacher: Scores | None = None,
) -> list[Group]:
    """log pi_old when several updates share the rollout or dropout is on, log pi_ref when the KL is in the loss, and
    log pi_teacher when there is one.

    Otherwise pi_old is pi_theta itself, and no forward is spent to learn it.
    """
    only_whole = config.truncated == "mask"
    if config.updates_per_rollout > 1 or learner.dropout:
        rows = contributing(rows_of(groups, drop_truncated=only_whole), config.loss)
        missing = [row for row in rows if row.rollout.old_logprobs is None]
        groups = _with(learner, groups, missing, "old_logprobs")
    if reference is not None and config.loss.kl_in_loss:
        groups = with_ref_logprobs(learner, groups, rows_of(groups, drop_truncated=only_whole), reference)
    if teacher is not None:
        groups = _with(teacher, groups, rows_of(groups, drop_truncated=only_whole), "teacher_logprobs")
    return groups


def with_kl_in_rewards(
    learner: Learner, reference: Reference | None, groups: list[Group], config: RLConfig
) -> list[Group]:
    """The KL of each completion taken from its reward (`grpo.scoring.shaping.take_kl`), where that is its place."""
    if reference is None or not config.loss.kl_in_reward:
        return groups
    groups = _with(learner, groups, rows_of(groups), "old_logprobs")
    groups = with_ref_logprobs(learner, groups, rows_of(groups), reference)
    return take_kl(groups, config.loss)


def with_ref_logprobs(
    learner: Learner, groups: list[Group], chosen: Sequence[TrainRow], reference: Reference
) -> list[Group]:
    """The groups with log pi_ref of the `chosen` rows' tokens."""
    with reference.active(learner.model):
        return _with(learner, groups, chosen, "ref_logprobs")


def _with(scores: Scores, groups: list[Group], chosen: Sequence[TrainRow], name: str) -> list[Group]:
    """The groups with the log-probs of the `chosen` rows' tokens, by the weights that the model has now."""
    logprobs = zip(chosen, scores.logprobs(chosen), strict=True)
    found: dict[int, dict[str, Any]] = {id(row.rollout): {name: values} for row, values in logprobs}
    return [
        replace(group, rollouts=tuple(replace(rollout, **found.get(id(rollout), {})) for rollout in group.rollouts))
        for group in groups
    ]
