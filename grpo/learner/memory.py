"""Running out of memory in an update: the same gradient in smaller micro-batches."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from grpo.errors import UserError
from grpo.learner.batching import TrainRow
from grpo.learner.learner import Learner

log = logging.getLogger("grpo")

ResultT = TypeVar("ResultT")


def in_memory(learner: Learner, rows: Sequence[TrainRow], step: int, work: Callable[[], ResultT]) -> ResultT:
    """What `work`, forwards and backwards of these rows, gives; begun anew in micro-batches half as large as often as
    memory runs out.

    The gradient is the same, for its normalisers do not depend on the cut (but for an adapter's dropout, which is drawn
    by micro-batch). The smaller size stays: the next step is no smaller than this one.

    Raises:
        UserError: not even one row fits, or the weights are sharded, when a forward that fails leaves the other
            processes waiting in it.
    """
    while True:
        try:
            return work()
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
        learner.micro_batch_tokens = size // 2


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: of a GPU, or of the CPU, where torch raises a plain RuntimeError."""
    phrases = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "out of memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)
    )
