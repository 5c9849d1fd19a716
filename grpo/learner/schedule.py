"""The learning rate as a pure function of the step."""

import math

from grpo.config.training import OptimizerConfig


def lr_factor(config: OptimizerConfig, step: int, total: int) -> float:
    """Factor on `lr` for update number `step` (from 0) of `total`: linear warm-up, then constant, linear or cosine.

    The first update has a rate above 0. With linear and cosine the last one has exactly `min_lr`, if at least two
    updates follow the warm-up; if one does, that has `lr`, and if none does, `lr` is never reached.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    floor = config.min_lr / config.lr
    progress = min(1.0, (step - config.warmup_steps) / max(1, total - 1 - config.warmup_steps))
    shape = 1.0 - progress if config.schedule == "linear" else (1.0 + math.cos(math.pi * progress)) / 2.0
    return floor + (1.0 - floor) * shape
