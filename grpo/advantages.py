"""Group-normalised advantages: pure functions.

DeepSeekMath (arXiv 2402.03300) section 4.1: A_i = (r_i - mean(r)) / std(r) inside the group of one prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grpo.config.algorithm import AdvantageConfig
from grpo.errors import UserError
from grpo.types import Group, Rollout


def group_advantages(
    rewards: Float[Tensor, "P G"], valid: Bool[Tensor, "P G"], config: AdvantageConfig
) -> Float[Tensor, "P G"]:
    """Advantages of P prompts' groups of G rewards; entries where `valid` is False take no part and get 0.

    scale "group" divides by the group's standard deviation (ddof 1) + epsilon, as TRL does; "batch" by that of all
    valid rewards; "mean" by the group's mean reward (MaxRL, arXiv 2602.02710); "none" only subtracts the mean (Dr.
    GRPO, arXiv 2503.20783). No standard deviation below `std_floor` is divided by. A group whose valid rewards are all
    equal, or that has fewer than two, gets exactly 0: float error in the mean must not become a gradient.

    Raises:
        UserError: the mean reward is divided by, and a reward is negative.
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
        centred = centred / (std.clamp(min=config.std_floor) + config.epsilon)
    elif config.scale == "batch":
        everything = rewards[valid]
        std = everything.std() if everything.numel() > 1 else torch.zeros((), dtype=rewards.dtype)
        centred = centred / (std.clamp(min=config.std_floor) + config.epsilon)
    elif config.scale == "mean":
        if (kept < 0).any():
            raise UserError(
                f"advantage.scale: mean wants rewards of 0 or more, and one is {kept.min():.3g}; "
                "use another scale, or rewards (and weights) that are not negative"
            )
        centred = centred / torch.where(varied, mean, 1.0)
    return torch.where(varied, centred, torch.zeros_like(centred))


def assign_advantages(
    groups: list[Group], config: AdvantageConfig, weights: Mapping[str, Mapping[str, float]] | None = None
) -> list[Group]:
    """The same groups with every rollout's advantage set. Excluded rollouts (reward None) get 0.

    combine "sum_then_normalise": of the rewards' weighted sum. "normalise_then_sum": every reward is normalised by
    itself, over the rollouts it applies to, and the results are added with the `weights` of the group's task (GDPO,
    arXiv 2601.05242, without its last normalisation over the batch).
    """
    if config.combine == "sum_then_normalise":
        total = _advantages(groups, lambda rollout: rollout.reward, config)
    else:
        own = [(weights or {}).get(group.prompt.task, {}) for group in groups]
        total = torch.zeros(len(groups), max(len(group.rollouts) for group in groups), dtype=torch.float64)
        for name in dict.fromkeys(name for mine in own for name in mine):
            factor = torch.tensor([[mine.get(name, 0.0)] for mine in own], dtype=torch.float64)
            total = total + factor * _advantages(groups, partial(_part, name=name), config)
    return [
        replace(group, rollouts=tuple(replace(r, advantage=a) for r, a in zip(group.rollouts, row, strict=False)))
        for group, row in zip(groups, total.tolist(), strict=True)
    ]


def _part(rollout: Rollout, name: str) -> float | None:
    """One reward of a rollout; None too when the rollout is excluded."""
    return None if rollout.reward is None else rollout.rewards.get(name)


def _advantages(
    groups: list[Group], reward_of: Callable[[Rollout], float | None], config: AdvantageConfig
) -> Float[Tensor, "P G"]:
    width = max(len(group.rollouts) for group in groups)
    rewards = torch.zeros(len(groups), width, dtype=torch.float64)
    valid = torch.zeros(len(groups), width, dtype=torch.bool)
    for i, group in enumerate(groups):
        for j, rollout in enumerate(group.rollouts):
            reward = reward_of(rollout)
            if reward is not None:
                rewards[i, j], valid[i, j] = reward, True
    return group_advantages(rewards, valid, config)
