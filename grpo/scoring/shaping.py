"""What changes a reward after the functions gave it: the penalty of over-long completions, and the KL in the reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from grpo.config.algorithm import LossConfig
from grpo.config.training import OVERLONG
from grpo.loss import kl_estimate
from grpo.types import Group, Rollout


def overlong_penalty(tokens: int, *, truncated: bool, limit: int, zone: int) -> float:
    """0 up to limit - zone tokens, then falling linearly to -1 at the limit (DAPO, arXiv 2503.14476 eq. 13)."""
    return -1.0 if truncated else min(0.0, (limit - zone - tokens) / zone)


def penalise_overlong(groups: list[Group], limit: int, zone: int | None) -> list[Group]:
    """The groups with the penalty added to every reward, under the name `overlong`; `zone` None: no penalty."""

    def penalised(rollout: Rollout) -> Rollout:
        assert zone is not None
        truncated, tokens = rollout.completion.finish_reason == "length", len(rollout.completion.token_ids)
        penalty = overlong_penalty(tokens, truncated=truncated, limit=limit, zone=zone)
        reward = None if rollout.reward is None else rollout.reward + penalty
        return replace(rollout, rewards={**rollout.rewards, OVERLONG: penalty}, reward=reward)

    return groups if zone is None else _reshaped(groups, penalised)


def _reshaped(groups: list[Group], change: Callable[[Rollout], Rollout]) -> list[Group]:
    return [replace(group, rollouts=tuple(map(change, group.rollouts))) for group in groups]


def completion_kl(rollout: Rollout, estimator: str) -> float:
    """The KL estimate of the whole completion: a sum over its tokens, of pi_old to the reference."""
    if rollout.old_logprobs is None or rollout.ref_logprobs is None:
        raise ValueError("a KL in the reward needs old_logprobs and ref_logprobs")
    old, ref = (torch.tensor([v], dtype=torch.float64) for v in (rollout.old_logprobs, rollout.ref_logprobs))
    return float(kl_estimate(old, ref, estimator).sum())


def take_kl(groups: list[Group], config: LossConfig) -> list[Group]:
    """The groups with beta x the KL of each completion taken from its reward (InstructGPT, arXiv 2203.02155 eq. 2).

    With k1 the policy gradient of this reward is exactly that of beta x the reverse KL
    (tests/algorithm/test_kl_gradients.py).
    """

    def taken(rollout: Rollout) -> Rollout:
        if rollout.reward is None:
            return rollout
        return replace(rollout, reward=rollout.reward - config.beta * completion_kl(rollout, config.kl.estimator))

    return _reshaped(groups, taken)


def mean_token_kl(groups: list[Group], config: LossConfig) -> float | None:
    """Per token, of the KL that was taken."""
    judged = [r for group in groups for r in group.rollouts if r.reward is not None]
    tokens = sum(len(r.completion.token_ids) for r in judged)
    return sum(completion_kl(r, config.kl.estimator) for r in judged) / tokens if tokens else None
