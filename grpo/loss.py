"""The GRPO objective as pure functions. B sequences, T tokens; every [B, T] tensor is masked by `mask`.

Log-probs are those of the sampling temperature. The loss is what is minimised: minus the objective of DeepSeekMath
(arXiv 2402.03300) eq. 3, with the k3 KL of eq. 4 inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from grpo.config import LossConfig


@dataclass(frozen=True)
class Normaliser:
    """What the sums are divided by: counts over the whole optimizer step, however it is cut into micro-batches."""

    sequences: int
    tokens: int
    max_tokens: int  # the sampling limit: Dr. GRPO's constant


def clipped_objective(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, clip_low: float, clip_high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-token loss [B, T] and whether the clip was active [B, T] (DeepSeekMath eq. 3; PPO arXiv 1707.06347 eq. 7).

    min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) with rho = pi_theta / pi_old and A [B] per sequence. With
    clip_low >= 1 (R1 uses 10) there is no lower bound, and A < 0 is unbounded as rho grows, as in PPO.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    weight = advantages.unsqueeze(-1)
    unclipped = ratio * weight
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * weight
    active = ((ratio < 1 - clip_low) & (weight < 0)) | ((ratio > 1 + clip_high) & (weight > 0))
    return -torch.minimum(unclipped, clipped), active


def kl_k3(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Per-token estimate [B, T] of KL(pi_theta || pi_ref): pi_ref/pi - log(pi_ref/pi) - 1 (DeepSeekMath eq. 4)."""
    difference = ref_logprobs - logprobs
    return torch.expm1(difference) - difference


def aggregate(per_token: torch.Tensor, mask: torch.Tensor, aggregation: str, normaliser: Normaliser) -> torch.Tensor:
    """This micro-batch's share of the step's loss: a scalar; the shares of all micro-batches add up to the loss.

    "sequence": mean over each sequence's tokens, then over sequences (GRPO); "token": mean over all tokens (DAPO,
    arXiv 2503.14476 eq. 8); "constant": sum over sequences x the token limit (Dr. GRPO, arXiv 2503.20783).
    """
    summed = (per_token * mask).sum(-1)
    if aggregation == "sequence":
        return (summed / mask.sum(-1).clamp(min=1)).sum() / max(normaliser.sequences, 1)
    if aggregation == "token":
        return summed.sum() / max(normaliser.tokens, 1)
    return summed.sum() / max(normaliser.sequences * normaliser.max_tokens, 1)


@dataclass(frozen=True)
class LossTerms:
    loss: torch.Tensor  # scalar, with gradient: this micro-batch's share
    clipped: torch.Tensor  # [B, T] bool
    kl: torch.Tensor | None  # [B, T] detached, None when beta = 0


def grpo_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor | None,
    ref_logprobs: torch.Tensor | None,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    config: LossConfig,
    normaliser: Normaliser,
) -> LossTerms:
    """Clipped objective + beta x k3. `old_logprobs` None: one update a rollout, so pi_old is pi_theta detached."""
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    per_token, clipped = clipped_objective(logprobs, old, advantages, config.clip_low, config.clip_high)
    kl = None
    if config.beta > 0:
        if ref_logprobs is None:
            raise ValueError("beta > 0 needs ref_logprobs")
        kl = kl_k3(logprobs, ref_logprobs)
        per_token = per_token + config.beta * kl
    loss = aggregate(per_token, mask, config.aggregation, normaliser)
    return LossTerms(loss, clipped & mask.bool(), None if kl is None else kl.detach())
