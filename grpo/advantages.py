"""Group-normalised advantages: pure functions.

DeepSeekMath (arXiv 2402.03300) section 4.1: A_i = (r_i - mean(r)) / std(r) inside the group of one prompt.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from grpo.config import AdvantageConfig
from grpo.types import Group


def group_advantages(rewards: torch.Tensor, valid: torch.Tensor, config: AdvantageConfig) -> torch.Tensor:
    """Advantages [P, G] of rewards [P, G]; entries where `valid` [P, G] is False take no part and get 0.

    scale "group" divides by the group's standard deviation (ddof 1) + epsilon, as TRL does; "batch" by that of all
    valid rewards; "none" only subtracts the mean (Dr. GRPO, arXiv 2503.20783). A group whose valid rewards are all
    equal, or that has fewer than two, gets exactly 0: float error in the mean must not become a gradient.
    """
    counts = valid.sum(-1, keepdim=True)
    kept = torch.where(valid, rewards, torch.zeros_like(rewards))
    mean = kept.sum(-1, keepdim=True) / counts.clamp(min=1)
    centred = torch.where(valid, rewards - mean, torch.zeros_like(rewards))
    low = torch.where(valid, rewards, torch.full_like(rewards, torch.inf)).amin(-1, keepdim=True)
    high = torch.where(valid, rewards, torch.full_like(rewards, -torch.inf)).amax(-1, keepdim=True)
    varied = (high > low) & (counts >= 2)
    if config.scale == "group":
        std = (centred.square().sum(-1, keepdim=True) / (counts - 1).clamp(min=1)).sqrt()
        centred = centred / (std + config.epsilon)
    elif config.scale == "batch":
        everything = rewards[valid]
        std = everything.std() if everything.numel() > 1 else torch.zeros((), dtype=rewards.dtype)
        centred = centred / (std + config.epsilon)
    return torch.where(varied, centred, torch.zeros_like(centred))


def assign_advantages(groups: list[Group], config: AdvantageConfig) -> list[Group]:
    """The same groups with every rollout's advantage set. Excluded rollouts (reward None) get 0."""
    width = max(len(group.rollouts) for group in groups)
    rewards = torch.zeros(len(groups), width, dtype=torch.float64)
    valid = torch.zeros(len(groups), width, dtype=torch.bool)
    for i, group in enumerate(groups):
        for j, rollout in enumerate(group.rollouts):
            if rollout.reward is not None:
                rewards[i, j], valid[i, j] = rollout.reward, True
    advantages = group_advantages(rewards, valid, config).tolist()
    return [
        replace(group, rollouts=tuple(replace(r, advantage=a) for r, a in zip(group.rollouts, row, strict=False)))
        for group, row in zip(groups, advantages, strict=True)
    ]
