"""`truncated: penalise`: completions near the limit earn less."""

from __future__ import annotations

from dataclasses import replace

from grpo.config.training import OVERLONG
from grpo.types import Group


def overlong_penalty(tokens: int, *, truncated: bool, limit: int, zone: int) -> float:
    """0 up to limit - zone tokens, then falling linearly to -1 at the limit (DAPO, arXiv 2503.14476 eq. 13)."""
    return -1.0 if truncated else min(0.0, (limit - zone - tokens) / zone)


def penalise_overlong(groups: list[Group], limit: int, zone: int | None) -> list[Group]:
    """The groups with the penalty added to every reward, under the name `overlong`; `zone` None: no penalty."""
    if zone is None:
        return groups
    penalised = []
    for group in groups:
        rollouts = []
        for rollout in group.rollouts:
            done = rollout.completion
            truncated = done.finish_reason == "length"
            penalty = overlong_penalty(len(done.token_ids), truncated=truncated, limit=limit, zone=zone)
            reward = None if rollout.reward is None else rollout.reward + penalty
            rollouts.append(replace(rollout, rewards={**rollout.rewards, OVERLONG: penalty}, reward=reward))
        penalised.append(replace(group, rollouts=tuple(rollouts)))
    return penalised
