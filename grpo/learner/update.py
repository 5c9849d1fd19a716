"""One optimizer update: forward, loss and backward over the micro-batches, the gate, the step."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from grpo.config.training import RLConfig
from grpo.learner.batching import TrainRow, contributing, normaliser_of, tokens_by_prompt
from grpo.learner.gate import MISMATCH_LIMIT, check_mismatch, check_weights, measure_group
from grpo.learner.learner import Learner
from grpo.learner.memory import in_memory
from grpo.learner.stats import StepStats
from grpo.loss import LossTerms, grpo_loss
from grpo.model.policy import whole


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
    """One optimizer update on these sequences; the metrics of it.

    A step with nothing to train, without a gradient, or with one that is not finite leaves the weights and the
    optimizer as they are (AdamW's momentum would move them) and says `applied` 0.

    Args:
        rows: all sequences of the step; those without a gradient are skipped but stay in the denominators.
        version: updates behind the weights that drew the rollout; `step`: updates done so far.
        rollout: all its sequences, of which a group is compared with the engine when nothing fresh trains in its first
            update.
        measured: how the engine agreed on those that older weights drew (`grpo.rollout.ahead`).
        limit: of the mean difference between their log-probs (`grpo.learner.gate.mismatch_limit`).

    Raises:
        UserError: the engine did not sample from the policy, the weights are not finite, or not even one sequence fits
            in memory.
    """
    loss = partial(
        grpo_loss,
        config=config.loss,
        normaliser=normaliser_of(rows, config.sampling.max_tokens),
        correction=config.correction,
    )
    backward = partial(accumulate_gradients, learner, rows, config, loss, version=version, step=step)
    stats = in_memory(learner, rows, step, backward).over(learner.world)
    if step == version and not stats.fresh_tokens:
        stats.add_agreement(measure_group(learner, rows if rollout is None else rollout, version))
    check_mismatch(stats, limit, learner, version)
    if step == version and measured is not None:
        stats.add_agreement(measured)
    usable = math.isfinite(stats.loss)
    grad_norm = _step(learner, config.optimizer.max_grad_norm, lr, usable) if stats.tokens else None
    applied = grad_norm is not None and math.isfinite(grad_norm) and grad_norm > 0
    if applied:
        check_weights((p for p in learner.model.parameters() if p.requires_grad), step + 1, lr)
    return {**stats.metrics(config), "grad_norm": grad_norm, "lr": lr, "applied": float(applied)}


def accumulate_gradients(
    learner: Learner,
    rows: Sequence[TrainRow],
    config: RLConfig,
    loss: Callable[..., LossTerms],
    *,
    version: int = 0,
    step: int = 0,
) -> StepStats:
    """Forward, `loss` and backward over all micro-batches; gradients add up in the parameters' `.grad`.

    `loss`: `grpo_loss` with its settings and the step's normaliser bound; the rest as in `update`.
    """
    stats, bonus = StepStats(), config.loss.entropy_bonus > 0
    by_prompt = tokens_by_prompt(rows)
    scale = learner.world.size if learner.sharded else 1  # FSDP averages gradients over processes
    for batch_rows in learner.batches(contributing(rows, config.loss)):
        with learner.forwards(training=True):  # and backwards, which may make the forward again
            if not batch_rows:
                learner.accelerator.backward(learner.idle())
                continue
            batch = learner.collate(batch_rows)
            tokens = learner.token_logprobs(batch.rows, with_entropy=True, entropy_gradient=bonus)
            logprobs, entropy = batch.by_completion(tokens.logprobs), batch.by_completion(tokens.entropy)
            old = batch.old_logprobs
            if step == version and not learner.dropout:
                old = None  # the policy has not moved: pi_old of other batches would differ by rounding, in bf16 by 1%
            terms = loss(
                logprobs,
                old,
                batch.ref_logprobs,
                batch.gen_logprobs,
                batch.advantages,
                batch.mask,
                entropy=entropy,
                teacher_logprobs=batch.teacher_logprobs,
                prompt_tokens=batch.mask.new_tensor([by_prompt[row.prompt_ids] for row in batch_rows]),
            )
            learner.accelerator.backward(terms.loss * scale)
        current = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        stats.add(terms, entropy.detach(), batch.mask, step - batch.versions)
        stats.executed_tokens += batch.rows.token_ids.numel()
        stats.flops += learner.fit.size.of_update(batch.rows) if learner.fit.size is not None else 0.0
        fresh = batch.mask.bool() & (batch.versions == version).unsqueeze(-1)  # older leftovers tell nothing about it
        stats.compare(batch.gen_logprobs[fresh], current[fresh])
    return stats


def _step(learner: Learner, max_norm: float, lr: float, usable: bool) -> float:
    """The optimizer's step, unless the gradient is zero or not finite; its norm before clipping. `usable`: whether the
    loss was finite; without that there is no step either, and the norm is NaN."""
    parameters = [parameter for parameter in learner.model.parameters() if parameter.requires_grad]
    if not learner.sharded:
        learner.world.sum_gradients(parameters)
    norm = learner.accelerator.clip_grad_norm_(parameters, max_norm)
    grad_norm = float(whole(norm)) if usable else math.nan
    for group in learner.optimizer.param_groups:
        group["lr"] = lr
    scaler = learner.accelerator.scaler
    if math.isfinite(grad_norm) and grad_norm > 0:
        learner.optimizer.step()
    elif scaler is not None:  # it lowers its scale if that was too high, and may unscale the next gradient
        scaler.update()
    learner.optimizer.zero_grad(set_to_none=True)
    return grad_norm
