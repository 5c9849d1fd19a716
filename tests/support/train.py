"""The trainer and its backward, told of each thing by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from grpo import trainer
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.config.training import RLConfig, TrainConfig
from grpo.evaluation.curve import Curve
from grpo.learner.batching import TrainRow, normaliser_of
from grpo.learner.learner import Learner
from grpo.learner.memory import in_memory
from grpo.learner.stats import StepStats
from grpo.learner.update import accumulate_gradients
from grpo.loss import grpo_loss
from grpo.rollout.sampler import Task
from grpo.trainer import TrainResult


def train(
    model: str,
    tasks: Mapping[str, Task],
    config: RLConfig,
    out: Path,
    *,
    seed: int = 0,
    engine_config: EngineConfig | None = None,
    runtime: RuntimeConfig | None = None,
    accept_changes: bool = False,
    curve: Curve | None = None,
) -> TrainResult:
    """`grpo.trainer.train` of these settings."""
    engine, runtime = engine_config or EngineConfig(), runtime or RuntimeConfig()
    settings = TrainConfig.of(config, model=model, out=str(out), seed=seed, engine=engine, runtime=runtime)
    return trainer.train(settings, tasks, accept_changes=accept_changes, curve=curve)


def backward(learner: Learner, rows: Sequence[TrainRow], config: RLConfig, step: int = 0) -> StepStats:
    """The gradients of an update's loss over these rows, left in `.grad`: no step is taken."""
    normaliser = normaliser_of(rows, config.sampling.max_tokens)
    loss = partial(grpo_loss, config=config.loss, normaliser=normaliser, correction=config.correction)
    return in_memory(learner, rows, 0, partial(accumulate_gradients, learner, rows, config, loss, step=step))
