"""The GRPO objective as pure functions. B sequences, T tokens; every [B, T] tensor is masked by `mask`.

Log-probs are those of the sampling temperature. The loss is what is minimised: minus the objective of DeepSeekMath
(arXiv 2402.03300) eq. 3, with the KL inside. docs/algorithm.md sets each equation beside its function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grpo.config.algorithm import CorrectionConfig, LossConfig
from grpo.distillation import teacher_advantages

Advantages = Float[Tensor, " B"] | Float[Tensor, "B T"]  # of whole sequences, or of each token


@dataclass(frozen=True)
class Normaliser:
    """What the sums are divided by: counts over the whole optimizer step, however it is cut into micro-batches."""

    sequences: int
    tokens: int
    max_tokens: int  # the sampling limit: Dr. GRPO's constant
    prompts: int  # that the sequences answer


def policy_ratio(
    logprobs: Float[Tensor, "B T"], old_logprobs: Float[Tensor, "B T"], mask: Float[Tensor, "B T"], level: str
) -> Float[Tensor, "B T"]:
    """rho = pi_theta / pi_old, differentiable.

    "token": of each token (DeepSeekMath eq. 3). "sequence": the geometric mean over the sequence's tokens, the same at
    each of them (GSPO, arXiv 2507.18071, eq. 7).
    """
    log_ratio = logprobs - old_logprobs
    if level == "sequence":
        mean = (log_ratio * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
        log_ratio = mean.expand_as(log_ratio)
    return torch.exp(log_ratio)


def clip_bounds(clip_low: float | None, clip_high: float) -> tuple[float, float]:
    """The allowed range of the ratio. A lower bound below 0 is none: a ratio is positive (R1's epsilon is 10)."""
    return 0.0 if clip_low is None else max(0.0, 1 - clip_low), 1 + clip_high


def by_token(advantages: Advantages) -> Float[Tensor, "B _"]:
    return advantages.unsqueeze(-1) if advantages.dim() == 1 else advantages


def ppo_objective(
    ratio: Float[Tensor, "B T"],
    advantages: Advantages,
    clip_low: float | None,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Per-token loss and whether the clip took its gradient (PPO arXiv 1707.06347 eq. 7; DeepSeekMath eq. 3).

    -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A). For A < 0 it is unbounded as rho grows, unless `dual_clip` c
    bounds it: max(min(..), c A) (arXiv 1912.09729 eq. 5).
    """
    low, high = clip_bounds(clip_low, clip_high)
    weight = by_token(advantages)
    objective = torch.minimum(ratio * weight, ratio.clamp(low, high) * weight)
    active = ((ratio < low) & (weight < 0)) | ((ratio > high) & (weight > 0))
    if dual_clip is not None:
        objective = torch.where(weight < 0, torch.maximum(objective, dual_clip * weight), objective)
        active = active | ((ratio > dual_clip) & (weight < 0))
    return -objective, active


def dppo_objective(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Advantages,
    clip_low: float | None,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Per-token loss and where the mask took its gradient (DPPO, arXiv 2602.04879, its binary total variation).

    -rho A, but for tokens that have already moved too far the way A pushes them, |pi_theta - pi_old| being the total
    variation between the two policies when all other tokens count as one: A > 0 and pi_theta - pi_old > clip_high, or
    A < 0 and pi_old - pi_theta > clip_low. `dual_clip` as in `ppo_objective`.
    """
    moved = logprobs.detach().exp() - old_logprobs.exp()
    weight = by_token(advantages)
    masked = (moved > clip_high) & (weight > 0)
    if clip_low is not None:
        masked = masked | ((moved < -clip_low) & (weight < 0))
    loss, active = ppo_objective(torch.exp(logprobs - old_logprobs), advantages, None, math.inf, dual_clip)
    return loss.masked_fill(masked, 0.0), active | masked


def cispo_objective(
    logprobs: Float[Tensor, "B T"],
    ratio: Float[Tensor, "B T"],
    advantages: Advantages,
    clip_low: float | None,
    clip_high: float,
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Per-token loss -stopgrad(clip(rho)) A log pi, and where rho was cut (MiniMax-M1, arXiv 2506.13585 eq. 4)."""
    low, high = clip_bounds(clip_low, clip_high)
    weight = ratio.detach()
    return -weight.clamp(low, high) * by_token(advantages) * logprobs, (weight < low) | (weight > high)


def kl_estimate(
    logprobs: Float[Tensor, "B T"], ref_logprobs: Float[Tensor, "B T"], estimator: str
) -> Float[Tensor, "B T"]:
    """Per-token estimate of KL(pi_theta || pi_ref), for tokens drawn from pi_theta.

    k1 = log(pi / pi_ref); k2 = k1^2 / 2; k3 = pi_ref / pi - log(pi_ref / pi) - 1 (DeepSeekMath eq. 4). k1 and k3 are
    unbiased. As for gradients, see `KLConfig` and tests/algorithm/test_kl_gradients.py.
    """
    difference = ref_logprobs - logprobs
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    return torch.expm1(difference) - difference


def correction_weights(
    old_logprobs: Float[Tensor, "B T"],
    gen_logprobs: Float[Tensor, "B T"],
    mask: Float[Tensor, "B T"],
    config: CorrectionConfig,
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """stopgrad(pi_old / pi_gen) and where it lay outside [low, high]: of each token, or for all of a sequence the
    product or the geometric mean over its tokens.

    There it is cut to the bound ("clip": truncated importance sampling) or 0 ("mask").
    """
    log_ratio = (old_logprobs - gen_logprobs).detach() * mask
    if config.level != "token":
        count = mask.sum(-1, keepdim=True).clamp(min=1) if config.level == "geometric" else 1
        log_ratio = (log_ratio.sum(-1, keepdim=True) / count).expand_as(log_ratio)
    weights = torch.exp(log_ratio)
    outside = (weights < config.low) | (weights > config.high)
    if config.mode == "clip":
        return weights.clamp(config.low, config.high), outside
    return weights.masked_fill(outside, 0.0), outside


def stale_sequences(
    logprobs: Float[Tensor, "B T"],
    gen_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    mask: Float[Tensor, "B T"],
    limit: float,
) -> Bool[Tensor, "B 1"]:
    """Sequences with A < 0 whose mean log(pi_gen / pi_theta) is above `limit` (DeepSeek-V3.2, arXiv 2512.02556).

    Measured from the engine's log-probs, so that drift by updates, staleness and engine mismatch all count.
    """
    moved = ((gen_logprobs - logprobs.detach()) * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    return ((advantages < 0) & (moved > limit)).unsqueeze(-1)


def aggregate(
    per_token: Float[Tensor, "B T"],
    mask: Float[Tensor, "B T"],
    aggregation: str,
    normaliser: Normaliser,
    prompt_tokens: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, ""]:
    """This micro-batch's share of the step's loss: a scalar; the shares of all micro-batches add up to the loss.

    "sequence": mean over each sequence's tokens, then over sequences (GRPO); "token": mean over all tokens (DAPO,
    arXiv 2503.14476 eq. 8); "prompt": mean over the tokens of all of a prompt's sequences, of which each row is told
    the count in `prompt_tokens`, then over prompts (ScaleRL, arXiv 2510.13786); "constant": sum over sequences x the
    token limit (Dr. GRPO, arXiv 2503.20783).
    """
    summed = (per_token * mask).sum(-1)
    if aggregation == "sequence":
        return (summed / mask.sum(-1).clamp(min=1)).sum() / max(normaliser.sequences, 1)
    if aggregation == "token":
        return summed.sum() / max(normaliser.tokens, 1)
    if aggregation == "prompt":
        if prompt_tokens is None:
            raise ValueError("aggregation 'prompt' needs prompt_tokens")
        return (summed / prompt_tokens.clamp(min=1)).sum() / max(normaliser.prompts, 1)
    return summed.sum() / max(normaliser.sequences * normaliser.max_tokens, 1)


@dataclass(frozen=True)
class LossTerms:
    """What the metrics are made of; all but `loss` detached."""

    loss: Float[Tensor, ""]  # with gradient: this micro-batch's share
    ratio: Float[Tensor, "B T"]  # pi_theta / pi_old
    clipped: Bool[Tensor, "B T"]
    dropped: Bool[Tensor, "B 1"]  # by the off-policy mask
    kl: Float[Tensor, "B T"] | None  # None when there is no KL in the loss
    correction: Float[Tensor, "B T"] | None  # pi_old / pi_gen as applied
    corrected: Bool[Tensor, "B T"] | None  # where it was cut
    teacher_kl: Float[Tensor, "B T"] | None = None  # log(pi_old / pi_teacher); None without a teacher


def grpo_loss(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"] | None,
    ref_logprobs: Float[Tensor, "B T"] | None,
    gen_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    mask: Float[Tensor, "B T"],
    config: LossConfig,
    normaliser: Normaliser,
    *,
    correction: CorrectionConfig | None = None,
    entropy: Float[Tensor, "B T"] | None = None,
    teacher_logprobs: Float[Tensor, "B T"] | None = None,
    prompt_tokens: Float[Tensor, " B"] | None = None,
) -> LossTerms:
    """Policy term, corrected and masked as configured, + beta x KL - bonus x entropy.

    `old_logprobs` None: one update a rollout, so pi_old is pi_theta detached. `entropy` needs its gradient when
    `config.entropy_bonus` is above 0.
    """
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    ratio = policy_ratio(logprobs, old, mask, config.ratio)
    dropped = torch.zeros_like(advantages, dtype=torch.bool).unsqueeze(-1)
    if config.distill is not None:
        if teacher_logprobs is None:
            raise ValueError("distill needs teacher_logprobs")
        gain = teacher_advantages(old, teacher_logprobs, mask, config.distill.horizon)
        advantages = config.distill.reward_weight * advantages.unsqueeze(-1) + gain
    if config.clip == "dppo":
        per_token, clipped = dppo_objective(
            logprobs, old, advantages, config.clip_low, config.clip_high, config.dual_clip
        )
    elif config.clip == "cispo":
        per_token, clipped = cispo_objective(logprobs, ratio, advantages, config.clip_low, config.clip_high)
    else:
        per_token, clipped = ppo_objective(ratio, advantages, config.clip_low, config.clip_high, config.dual_clip)
    if config.off_policy_mask is not None:
        dropped = stale_sequences(logprobs, gen_logprobs, advantages, mask, config.off_policy_mask)
        per_token = per_token * ~dropped
    weights = outside = None
    if correction is not None:
        weights, outside = correction_weights(old, gen_logprobs, mask, correction)
        per_token = per_token * weights
    kl = None
    if config.kl_in_loss:
        if ref_logprobs is None:
            raise ValueError("beta > 0 needs ref_logprobs")
        kl = kl_estimate(logprobs, ref_logprobs, config.kl.estimator)
        per_token = per_token + config.beta * (kl * ratio if config.kl.weighted else kl)
    loss = aggregate(per_token, mask, config.aggregation, normaliser, prompt_tokens)
    if config.entropy_bonus > 0:
        if entropy is None:
            raise ValueError("entropy_bonus > 0 needs the entropy")
        loss = loss - config.entropy_bonus * (entropy * mask).sum() / max(normaliser.tokens, 1)
    trained = mask.bool()
    return LossTerms(
        loss=loss,
        ratio=ratio.detach(),
        clipped=clipped & trained,
        dropped=dropped,
        kl=None if kl is None else kl.detach(),
        correction=weights,
        corrected=None if outside is None else outside & trained,
        teacher_kl=None if teacher_logprobs is None else (old - teacher_logprobs).detach(),
    )
