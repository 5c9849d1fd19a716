"""The gate: would the trainer have sampled what the engine did? Asked of every rollout, before the optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from grpo.config.engine import EngineConfig
from grpo.errors import UserError
from grpo.learner.batching import TrainRow
from grpo.learner.learner import Learner
from grpo.learner.stats import StepStats

# Mean |log pi_gen - log pi_trainer| above which the two cannot be the same policy. Rounding gives 1e-6 in fp32, a few
# 1e-2 in half precision and up to 0.1 with fp8 weights; weights stale by one update of lr 1e-5 give 2e-3, really stale
# ones 0.3 and more.
MISMATCH_LIMIT = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.1, "fp8": 0.2}


def check_mismatch(sums: StepStats, limit: float) -> None:
    """Stop before training on samples that another policy drew (stale sync, other temperature, wrong template)."""
    if sums.fresh_tokens and not sums.mismatch / sums.fresh_tokens <= limit:
        raise UserError(
            f"the engine's and the trainer's log-probs of the same tokens differ by "
            f"{sums.mismatch / sums.fresh_tokens:.3g} on average (limit {limit}): they do not hold the same weights or "
            "settings; nothing was trained on this rollout"
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
