"""One optimizer update: forward, loss and backward over the micro-batches, the gate, the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from grpo.batching import Row, collate, contributing, micro_batches, normaliser_of
from grpo.config import LossConfig, RLConfig
from grpo.errors import UserError
from grpo.loss import grpo_loss
from grpo.policy import token_scores

# Mean |log pi_gen - log pi_trainer| above which the two cannot be the same policy: rounding gives 1e-6 in fp32 and a
# few 1e-2 in bf16; weights stale by one update of lr 1e-5 give 2e-3, really stale ones 0.3 and more.
MISMATCH_LIMIT = {"no": 1e-3, "bf16": 0.2}


@dataclass
class Mismatch:
    """How far the engine's log-probs are from the trainer's, over the tokens seen so far."""

    total: float = 0.0
    largest: float = 0.0
    tokens: float = 0.0

    def add(self, gen: torch.Tensor, trainer: torch.Tensor, mask: torch.Tensor) -> None:
        difference = (gen - trainer).abs() * mask
        self.total += float(difference.double().sum())
        self.largest = max(self.largest, float(difference.max()))
        self.tokens += float(mask.sum())

    @property
    def mean(self) -> float:
        return self.total / self.tokens if self.tokens else math.nan

    def check(self, precision: str) -> None:
        """Stop before training on samples that another policy drew (stale sync, other temperature, wrong template)."""
        limit = MISMATCH_LIMIT[precision]
        if not self.mean <= limit:
            raise UserError(
                f"the engine's and the trainer's log-probs of the same tokens differ by {self.mean:.3g} on average "
                f"(limit {limit}): they do not hold the same weights or settings; nothing was trained on this rollout"
            )


@dataclass
class _Sums:
    """Sums over trained tokens, in float64, so that metrics do not depend on the cut into micro-batches."""

    tokens: float = 0.0
    loss: float = 0.0
    clipped: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    mismatch: Mismatch = field(default_factory=Mismatch)

    def mean(self, value: float) -> float | None:
        return value / self.tokens if self.tokens else None


@dataclass(frozen=True)
class Learner:
    """The trained model with its optimizer, behind accelerate."""

    model: Any
    optimizer: torch.optim.Optimizer
    accelerator: Any
    temperature: float
    micro_batch_size: int

    def score(self, rows: Sequence[Row], model: Any | None = None) -> list[tuple[float, ...]]:
        """Log-probs of the completion tokens of each row, without gradient, by the policy or another model."""
        found: dict[int, tuple[float, ...]] = {}
        for batch_rows in micro_batches(rows, self.micro_batch_size):
            batch = collate(batch_rows, self.accelerator.device)
            with torch.inference_mode():
                scores = token_scores(model or self.model, batch.token_ids, batch.completion_mask, self.temperature)
            for row, line in zip(batch_rows, scores.logprobs.tolist(), strict=True):
                found[id(row)] = tuple(line[len(row.prompt_ids) : row.length])
        return [found[id(row)] for row in rows]


def accumulate_gradients(learner: Learner, rows: Sequence[Row], config: LossConfig, max_tokens: int) -> _Sums:
    """Backward over all micro-batches. `rows` are all sequences of the step; those without a gradient are skipped but
    stay in the denominators. Gradients add up in the parameters' `.grad`."""
    normaliser = normaliser_of(rows, max_tokens)
    sums = _Sums()
    for batch_rows in micro_batches(contributing(rows, config.beta), learner.micro_batch_size):
        batch = collate(batch_rows, learner.accelerator.device)
        mask = batch.completion_mask
        scores = token_scores(learner.model, batch.token_ids, mask, learner.temperature, with_entropy=True)
        terms = grpo_loss(
            scores.logprobs, batch.old_logprobs, batch.ref_logprobs, batch.advantages, mask, config, normaliser
        )
        learner.accelerator.backward(terms.loss)
        current = scores.logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        sums.mismatch.add(batch.gen_logprobs, current, mask)
        sums.tokens += float(mask.sum())
        sums.loss += float(terms.loss.detach())
        sums.clipped += float(terms.clipped.sum())
        sums.entropy += float(scores.entropy.double().sum())
        if terms.kl is not None:
            sums.kl += float((terms.kl * mask).double().sum())
    return sums


def measure_group(learner: Learner, rows: Sequence[Row], mismatch: Mismatch) -> None:
    """Compare engine and trainer on the first group (the rows that share the first prompt), where nothing trains."""
    first = [row for row in rows if row.prompt_ids == rows[0].prompt_ids]
    for row, logprobs in zip(first, learner.score(first), strict=True):
        gen = torch.tensor(row.rollout.completion.logprobs)
        mismatch.add(gen, torch.tensor(logprobs), torch.ones_like(gen))


def update(
    learner: Learner,
    rows: Sequence[Row],
    config: RLConfig,
    lr: float,
    *,
    off_policy: bool = False,
) -> dict[str, float | None]:
    """One optimizer update on these sequences; the metrics of it. `off_policy`: not the rollout's first update.

    A step with nothing to train, or with a non-finite gradient, leaves the weights and the optimizer as they are
    (AdamW's momentum would move them) and says `applied` 0.
    """
    sums = accumulate_gradients(learner, rows, config.loss, config.sampling.max_tokens)
    if rows and not sums.tokens and not off_policy:
        measure_group(learner, rows, sums.mismatch)
    if sums.mismatch.tokens:
        sums.mismatch.check(learner.accelerator.mixed_precision)
    grad_norm: float | None = None
    applied = False
    if sums.tokens:
        limit = config.optimizer.max_grad_norm
        grad_norm = float(learner.accelerator.clip_grad_norm_(learner.model.parameters(), limit))
        applied = math.isfinite(grad_norm)
    if applied:
        for group in learner.optimizer.param_groups:
            group["lr"] = lr
        learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    return {
        "loss": sums.loss,
        "kl": sums.mean(sums.kl) if config.loss.beta > 0 else None,
        "clip_fraction": sums.mean(sums.clipped),
        "entropy": sums.mean(sums.entropy),
        "grad_norm": grad_norm,
        "lr": lr,
        "applied": float(applied),
        "trained_tokens": sums.tokens,
        "logprob_mismatch": sums.mismatch.mean,
        "logprob_mismatch_max": sums.mismatch.largest if sums.mismatch.tokens else None,
    }
