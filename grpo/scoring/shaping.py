"""The KL as part of the reward: what a completion lost likelihood under the reference is taken from what it earned."""

from __future__ import annotations

from dataclasses import replace

import torch

from grpo.config.algorithm import LossConfig
from grpo.loss import kl_estimate
from grpo.types import Group, Rollout


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
    return [
        replace(
            group,
            rollouts=tuple(
                r
                if r.reward is None
                else replace(r, reward=r.reward - config.beta * completion_kl(r, config.kl.estimator))
                for r in group.rollouts
            ),
        )
        for group in groups
    ]


def mean_token_kl(groups: list[Group], config: LossConfig) -> float | None:
    """Per token, of the KL that was taken."""
    judged = [r for group in groups for r in group.rollouts if r.reward is not None]
    tokens = sum(len(r.completion.token_ids) for r in judged)
    return sum(completion_kl(r, config.kl.estimator) for r in judged) / tokens if tokens else None
