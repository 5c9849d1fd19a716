"""One optimizer update: forward, loss and backward over the micro-batches, the gate, the step."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch

from grpo.config.sections import RLConfig
from grpo.errors import UserError
from grpo.learner.batching import TrainRow, contributing, normaliser_of
from grpo.learner.gate import MISMATCH_LIMIT, check_mismatch, measure_group
from grpo.learner.learner import Learner
from grpo.learner.stats import StepStats
from grpo.loss import grpo_loss

log = logging.getLogger("grpo")


def accumulate_gradients(
    learner: Learner, rows: Sequence[TrainRow], config: RLConfig, *, version: int = 0, step: int = 0
) -> StepStats:
    """Backward over all micro-batches; gradients add up in the parameters' `.grad`, over all processes.

    `rows` are all sequences of the step; those without a gradient are skipped but stay in the denominators. `version`:
    updates behind the weights that drew the rollout; `step`: updates done so far.
    """
    normaliser = normaliser_of(rows, config.sampling.max_tokens)
    sums = StepStats()
    scale = learner.world.size if learner.sharded else 1  # FSDP averages gradients over processes
    bonus = config.loss.entropy_bonus > 0
    for batch_rows in learner.batches(contributing(rows, config.loss)):
        with learner.forwards(training=True):  # and backwards, which may make the forward again
            if not batch_rows:
                learner.accelerator.backward(learner.idle())
                continue
            batch = learner.collate(batch_rows)
            scores = learner.token_logprobs(batch.rows, with_entropy=True, entropy_gradient=bonus)
            logprobs, entropy = batch.by_completion(scores.logprobs), batch.by_completion(scores.entropy)
            old = batch.old_logprobs
            if step == version and not learner.dropout:
                old = None  # the policy has not moved: pi_old of other batches would differ by rounding, in bf16 by 1%
            terms = grpo_loss(
                logprobs,
                old,
                batch.ref_logprobs,
                batch.gen_logprobs,
                batch.advantages,
                batch.mask,
                config.loss,
                normaliser,
                correction=config.correction,
                entropy=entropy,
            )
            learner.accelerator.backward(terms.loss * scale)
        current = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        sums.add(terms, entropy.detach(), batch.mask, step - batch.versions)
        sums.executed_tokens += batch.rows.token_ids.numel()
        sums.flops += learner.fit.size.of_update(batch.rows) if learner.fit.size is not None else 0.0
        fresh = batch.mask.bool() & (batch.versions == version).unsqueeze(-1)  # older leftovers tell nothing about it
        sums.compare(batch.gen_logprobs[fresh], current[fresh])
    return sums


def gradients_in_memory(
    learner: Learner, rows: Sequence[TrainRow], config: RLConfig, *, version: int, step: int
) -> StepStats:
    """`accumulate_gradients`, begun anew in micro-batches half as large as often as memory runs out.

    The gradient is the same, for its normalisers do not depend on the cut (but for an adapter's dropout, which is drawn
    by micro-batch). The smaller size stays: the next step is no smaller than this one.

    Raises:
        UserError: not even one row fits, or the weights are sharded, when a forward that fails leaves the other
            processes waiting in it.
    """
    while True:
        try:
            return accumulate_gradients(learner, rows, config, version=version, step=step)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Only here are the activations gone that the traceback held.
        learner.optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        budget = learner.micro_batch_tokens
        size = min(budget, sum(row.length for row in rows))  # a budget above all there is cuts nothing
        alone = size <= max(row.length for row in rows)  # each row by itself
        if alone or learner.sharded:
            advice = "lower sampling.max_tokens, train an adapter (lora) or shard weights" if alone else "lower it"
            raise UserError(f"step {step + 1}: out of memory with micro_batch_tokens {budget}: {advice}")
        log.warning(
            "step %d: out of memory with micro_batch_tokens %d: going on with %d, which gives the same gradient; "
            "set it to save the time of finding out",
            step + 1,
            budget,
            size // 2,
        )
        object.__setattr__(learner, "micro_batch_tokens", size // 2)  # all else about a learner stays as it is


def update(
    learner: Learner,
    rows: Sequence[TrainRow],
    config: RLConfig,
    lr: float,
    *,
    version: int = 0,
    step: int = 0,
    rollout: Sequence[TrainRow] | None = None,
    measured: StepStats | None = None,
    limit: float = MISMATCH_LIMIT["float32"],
) -> dict[str, float | None]:
    """One optimizer update on these sequences; the metrics of it. `version` and `step` as above; `rollout`: all of its
    sequences, of which a group is compared with the engine when nothing fresh trains in its first update. `measured`:
    how the engine agreed on those that older weights drew (`grpo.rollout.ahead`). `limit`: of the mean difference
    between their log-probs (`grpo.learner.gate.mismatch_limit`).

    A step with nothing to train, without a gradient, or with one that is not finite leaves the weights and the
    optimizer as they are (AdamW's momentum would move them) and says `applied` 0.
    """
    sums = gradients_in_memory(learner, rows, config, version=version, step=step).over(learner.world)
    if step == version and not sums.fresh_tokens:
        sums.add_agreement(measure_group(learner, rows if rollout is None else rollout, version))
    check_mismatch(sums, limit)
    if step == version and measured is not None:
        sums.add_agreement(measured)
    usable = math.isfinite(sums.loss)
    grad_norm = _step(learner, config.optimizer.max_grad_norm, lr, usable) if sums.tokens else None
    return {
        **sums.metrics(config),
        "grad_norm": grad_norm,
        "lr": lr,
        "applied": float(grad_norm is not None and math.isfinite(grad_norm) and grad_norm > 0),
    }


def _step(learner: Learner, max_norm: float, lr: float, usable: bool) -> float:
    """The optimizer's step, unless the gradient is zero or not finite; its norm before clipping. `usable`: whether the
    loss was finite; without that there is no step either, and the norm is NaN."""
    parameters = [parameter for parameter in learner.model.parameters() if parameter.requires_grad]
    if not learner.sharded:
        learner.world.sum_gradients(parameters)
    norm = learner.accelerator.clip_grad_norm_(parameters, max_norm)
    grad_norm = float(norm.full_tensor() if isinstance(norm, torch.distributed.tensor.DTensor) else norm)
    if not usable:
        grad_norm = math.nan
    for group in learner.optimizer.param_groups:
        group["lr"] = lr
    scaler = learner.accelerator.scaler
    if math.isfinite(grad_norm) and grad_norm > 0:
        learner.optimizer.step()
    elif scaler is not None:  # it lowers its scale if that was too high, and may unscale the next gradient
        scaler.update()
    learner.optimizer.zero_grad(set_to_none=True)
    return grad_norm


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: of a GPU, or of the CPU, where torch raises a plain RuntimeError."""
    from torch import OutOfMemoryError

    said = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "out of memory")
    return isinstance(error, (OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in said)
    )
