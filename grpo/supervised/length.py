"""How long a supervised training is: steps, batches and passes over its rows, and what should be known of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from grpo.config.training import SFTConfig

MORE = 1.25  # passes for each one asked for, from which whole batches make a difference


@dataclass(frozen=True)
class Length:
    """`config` as it is trained with."""

    config: SFTConfig
    steps: int
    passes: float
    remarks: tuple[str, ...]  # for whoever asked for something else


def length_of(config: SFTConfig, rows: int, processes: int = 1) -> Length:
    """Batches are full, so a pass over few rows may be more than one; over fewer than a batch it is all of them a step.

    >>> length_of(SFTConfig(epochs=2, batch_size=16, max_tokens=8, optimizer={"lr": 1}), 3).steps
    2
    """
    asked, remarks = config, []
    few = f"{rows} rows are fewer than batch_size {config.batch_size}"
    if config.epochs and rows < config.batch_size:
        own = math.ceil(rows / processes)
        micro = max(size for size in range(1, min(config.micro_batch_size or own, own) + 1) if own % size == 0)
        config = config.model_copy(update={"batch_size": own * processes, "micro_batch_size": micro})
        remarks.append(f"{few}: each step trains on all of them once")
    steps = config.steps or max(1, math.ceil((config.epochs or 0) * rows / config.batch_size))
    passes = steps * config.batch_size / rows
    if config.steps and rows < config.batch_size:
        remarks.append(f"{few}: a step trains on each {config.batch_size / rows:.1f} times, {steps} steps {passes:.0f}")
    if config.epochs and passes > MORE * config.epochs:
        remarks.append(f"epochs: {asked.epochs:g} is {passes:.1f} passes: {steps} full batches of {rows} rows")
    if config.optimizer.warmup_steps >= steps:
        remarks.append(f"optimizer.warmup_steps={config.optimizer.warmup_steps} is not over in {steps} steps")
    return Length(config, steps, passes, tuple(remarks))
