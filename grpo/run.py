"""What the loop works with: model, optimizer, reference, engine, prompts, and the state it goes on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from grpo.checkpoint.identity import identify
from grpo.checkpoint.resume import resume
from grpo.checkpoint.saver import Saver
from grpo.config.inert import inert_engine_settings, inert_settings
from grpo.config.sections import OVERLONG, EngineConfig, RLConfig, RuntimeConfig
from grpo.data.prompts import longest_prompt
from grpo.engines.choose import engine_kind, training_engine
from grpo.errors import UserError
from grpo.learner.gate import mismatch_limit
from grpo.learner.learner import Learner, make_learner
from grpo.model.policy import Policy, load_policy
from grpo.model.reference import Reference
from grpo.rollout.ahead import Ahead
from grpo.rollout.ahead_check import check_ahead
from grpo.rollout.sampler import PromptSampler, Task
from grpo.rollout.source import RolloutSource
from grpo.system.clock import Clock
from grpo.system.lock import RunLock
from grpo.system.world import is_main
from grpo.types import RolloutEngine, TrainState

log = logging.getLogger("grpo")


@dataclass(frozen=True)
class Settings:
    """What a run was told."""

    model: str  # folder or hub name
    tasks: Mapping[str, Task]
    config: RLConfig
    out: Path
    seed: int
    engine: EngineConfig
    runtime: RuntimeConfig


@dataclass(frozen=True)
class Run:
    """One training, ready to begin or to go on."""

    config: RLConfig
    out: Path
    seed: int
    runtime: RuntimeConfig
    weights: Mapping[str, Mapping[str, float]]  # of each reward of each task
    lock: RunLock
    policy: Policy
    learner: Learner
    reference: Reference | None
    engine: RolloutEngine
    source: RolloutSource
    state: TrainState
    saver: Saver
    clock: Clock
    limit: float  # of the difference between the engine's log-probs and the trainer's


def set_up(settings: Settings, lock: RunLock, ends: ExitStack, accept_changes: bool) -> Run:
    """Everything loaded, the last checkpoint put back and the engine filled. `ends` closes what must not stay.

    Raises:
        UserError: these settings cannot be honoured, or the checkpoints are not of this run.
    """
    config, runtime, tasks = settings.config, settings.runtime, settings.tasks
    kind = engine_kind(settings.engine, runtime)
    weights = reward_weights(tasks, config)
    check_quantization(settings.engine, kind, config)
    check_ahead(settings.engine, kind, config.correction)
    policy = load_policy(settings.model, runtime, config.lora, settings.seed)
    beside = settings.engine.ahead and kind == "local"
    learner = make_learner(policy, config, runtime)
    reference = Reference.of(policy) if config.loss.beta > 0 else None
    # Every forward of a sharded model is a collective: the engine then has its own copy.
    shared = kind == "local" and not beside and not learner.sharded
    engine = training_engine(
        settings.engine,
        policy,
        runtime,
        name=settings.model,
        longest=longest_prompt(p for task in tasks.values() for p in task.prompts) + config.sampling.max_tokens,
        model=learner.model if shared else None,
        lora=config.lora,
    )
    ends.enter_context(closing(engine))
    warn_of_inert(settings, kind, shared, policy)
    clock, limit = Clock(), mismatch_limit(kind, settings.engine, runtime.dtype)
    sampler = PromptSampler(tasks, config.steps, settings.seed, config.difficulty)
    ahead = Ahead(policy, learner, limit) if settings.engine.ahead else None
    source = RolloutSource(sampler, tasks, engine, config, learner.world, settings.seed, clock, ahead)
    resolved = settings.engine.model_copy(update={"kind": kind})
    identity = {}
    if is_main():
        identity = identify(settings.model, tasks, config, settings.seed, resolved, runtime, learner.world)
    state = resume(settings.out, learner, reference, source, config.checkpoint, identity, accept_changes)
    if state.step < config.steps:
        source.sync(policy)
    saver = Saver(settings.out, state, learner, reference, source, config.checkpoint)
    return Run(
        config,
        settings.out,
        settings.seed,
        runtime,
        weights,
        lock,
        policy,
        learner,
        reference,
        engine,
        source,
        state,
        saver,
        clock,
        limit,
    )


def warn_of_inert(settings: Settings, kind: str, shared: bool, policy: Policy) -> None:
    """Say which settings do nothing. `shared`: the engine samples with the trainer's own weights."""
    lora, on_gpu = settings.config.lora is not None, policy.device.type == "cuda"
    said = inert_settings(settings.config, shared)
    for line in said + inert_engine_settings(settings.engine, kind, lora=lora, on_gpu=on_gpu):
        log.warning("this does nothing in this run: %s", line)


def reward_weights(tasks: Mapping[str, Task], config: RLConfig) -> dict[str, dict[str, float]]:
    """The weight of each reward of each task.

    Raises:
        UserError: an option names a reward that no task has.
    """
    weights = {name: {reward.name: reward.weight for reward in task.rewards} for name, task in tasks.items()}
    try:
        config.check_names({name for own in weights.values() for name in own})
    except ValueError as error:
        raise UserError(str(error)) from error
    penalty = {OVERLONG: 1.0} if config.penalty_zone else {}
    return {task: own | penalty for task, own in weights.items()}


def check_quantization(engine: EngineConfig, kind: str, config: RLConfig) -> None:
    """
    Raises:
        UserError: quantised weights would sample what is trained as if the policy had drawn it.
    """
    if engine.vllm.quantization and kind != "local" and config.correction is None:
        raise UserError(
            f"engine.vllm.quantization: {engine.vllm.quantization} samples with other weights than are trained: set "
            "'correction' of the RL stage, which weighs that"
        )
