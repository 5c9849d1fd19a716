"""The gate: would the trainer have sampled what the engine did? Asked of every rollout, before the optimizer steps."""

import math
from collections.abc import Iterable, Sequence

import torch

from grpo.config.engine import EngineConfig
from grpo.errors import UserError
from grpo.learner.batching import TrainRow
from grpo.learner.learner import Learner
from grpo.learner.stats import StepStats
from grpo.model.policy import whole

# Mean |log pi_gen - log pi_trainer| above which the two cannot be the same policy. Rounding gives 1e-6 in fp32, a few
# 1e-2 in half precision and up to 0.1 with fp8 weights; weights stale by one update of lr 1e-5 give 2e-3, really stale
# ones 0.3 and more.
MISMATCH_LIMIT = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.1, "fp8": 0.2}

TOO_LARGE = 1e6  # no model has such weights: the largest known are some thousands


def check_mismatch(sums: StepStats, limit: float, learner: Learner | None = None, step: int = 0) -> None:
    """Stop before training on samples that another policy drew (stale sync, other temperature, wrong template), or on
    those of a `learner` whose weights, after `step` updates, give no log-probs."""
    if learner is not None and not math.isfinite(sums.mismatch):
        weight = largest(p for p in learner.model.parameters() if p.requires_grad)
        raise UserError(
            f"after step {step} the log-probs are not finite, the largest weight is {weight:.3g}: lower optimizer.lr, "
            "or go back to a checkpoint"
        )
    if sums.fresh_tokens and not sums.mismatch / sums.fresh_tokens <= limit:
        raise UserError(
            f"the engine's and the trainer's log-probs of the same tokens differ by "
            f"{sums.mismatch / sums.fresh_tokens:.3g} on average (limit {limit}): they do not hold the same weights or "
            "settings; nothing was trained on this rollout"
        )


def largest(parameters: Iterable[torch.Tensor]) -> float:
    """The largest absolute value among them; not finite when one of them is not."""
    return float(whole(torch.nn.utils.get_total_norm([parameter.detach() for parameter in parameters], math.inf)))


def check_weights(parameters: Iterable[torch.Tensor], step: int, lr: float) -> None:
    """Stop after the `step`-th update if its weights are not finite, or nothing can be computed with them."""
    weight = largest(parameters)
    if not weight <= TOO_LARGE:
        grown = f"have grown to {weight:.3g}" if math.isfinite(weight) else "are not finite"
        raise UserError(
            f"step {step}: the weights {grown} after this update: lower optimizer.lr (it was {lr:.3g}), or go back to "
            "a checkpoint"
        )


def measure_group(learner: Learner, rows: Sequence[TrainRow], version: int) -> StepStats:
    """Compare engine and trainer on one fresh group (the rows that share a prompt)."""
    fresh = [row for row in rows if row.rollout.completion.version == version]
    return measure(learner, [row for row in fresh if row.prompt_ids == fresh[0].prompt_ids])


def measure(learner: Learner, rows: Sequence[TrainRow]) -> StepStats:
    """Compare engine and trainer on these rows, which the learner's present weights drew."""
    sums = StepStats()
    for row, logprobs in zip(rows, learner.logprobs(rows), strict=True):
        sums.compare(torch.tensor(row.rollout.completion.logprobs), torch.tensor(logprobs))
    return sums


def mismatch_limit(kind: str, config: EngineConfig, dtype: str) -> float:
    """How far the engine's log-probs may be from the trainer's, on average, before a rollout is refused.

    `kind`: of the engine, resolved. `dtype`: of the trainer, as runtime.dtype says.
    """
    quantised = config.vllm.quantization if kind != "local" else None
    return MISMATCH_LIMIT[quantised or dtype]
