"""The loop: prompts -> rollouts -> rewards -> advantages -> updates -> sync. The rest of this file serves it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from grpo.advantages import assign_advantages
from grpo.alarms import Alarms, rl_alarms
from grpo.batching import contributing, rows_of, split_updates
from grpo.checkpoint import TrainState
from grpo.config import EngineConfig, RLConfig, RuntimeConfig
from grpo.engine import engine_kind, mismatch_limit, training_engine
from grpo.errors import UserError
from grpo.files import flush_folder, must_write
from grpo.flops import device_peak, mfu
from grpo.health import count_nonfinite, report_nonfinite
from grpo.inert import inert_engine_settings, inert_settings
from grpo.learner import Learner, make_learner, with_old_logprobs, with_ref_logprobs
from grpo.metrics import Clock, MetricsWriter, rollout_metrics
from grpo.parallel import World, is_main
from grpo.policy import Policy, load_policy
from grpo.profiling import profiled
from grpo.progress import progress
from grpo.prompts import PromptSampler, Task, longest_prompt
from grpo.reference import Reference
from grpo.resume import resume
from grpo.reward_kl import mean_token_kl, take_kl
from grpo.rollouts import OVERLONG, RolloutSource, save_completions
from grpo.run_identity import identify
from grpo.run_lock import RunLock, lock_run
from grpo.sampler_rng import stream_key
from grpo.saving import Saver
from grpo.schedule import lr_factor
from grpo.stopping import handled
from grpo.types import Group
from grpo.update import update

log = logging.getLogger("grpo")


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: `model` is the folder of the trained model, `metrics` the last step's row."""

    model: Path
    steps: int
    tokens: int
    seconds: float
    metrics: dict[str, Any]


def train(
    model: str,
    tasks: Mapping[str, Task],
    config: RLConfig,
    out: Path,
    *,
    seed: int = 0,
    engine_config: EngineConfig | None = None,
    runtime: RuntimeConfig | None = None,
    label: str = "GRPO",
    accept_changes: bool = False,
) -> TrainResult:
    """Train `model` (folder or hub name) with GRPO into `out`; goes on from the last checkpoint there, if any.

    `accept_changes`: also when the settings, data or rewards are not those it was made with (`grpo.run_identity`).
    SIGINT and SIGTERM save at a rollout boundary and end it, with a KeyboardInterrupt or SystemExit(143).

    Raises:
        UserError: one line on what is wrong with the settings, the checkpoints or the disk, or another run is there.
    """
    engine_config, runtime = engine_config or EngineConfig(), runtime or RuntimeConfig()
    with handled(), lock_run(out, World.current()) as lock, ExitStack() as ends:
        return _train(model, tasks, config, out, seed, engine_config, runtime, label, accept_changes, lock, ends)


def _train(
    model: str,
    tasks: Mapping[str, Task],
    config: RLConfig,
    out: Path,
    seed: int,
    engine_config: EngineConfig,
    runtime: RuntimeConfig,
    label: str,
    accept_changes: bool,
    lock: RunLock,
    ends: ExitStack,
) -> TrainResult:
    """`train`, in a folder that is ours; `ends` closes what must not stay, however it ends."""
    kind = engine_kind(engine_config, runtime)
    weights = reward_weights(tasks, config)
    check_quantization(engine_config, kind, config)
    policy = load_policy(model, runtime, config.lora, seed)
    learner = make_learner(policy, config, runtime)
    reference = Reference.of(policy) if config.loss.beta > 0 else None
    shared = not learner.sharded  # every forward of a sharded model is a collective: the engine has its own copy
    engine = training_engine(
        engine_config,
        policy,
        runtime,
        name=model,
        longest=longest_prompt(p for task in tasks.values() for p in task.prompts) + config.sampling.max_tokens,
        model=learner.model if shared else None,
        lora=config.lora,
    )
    ends.enter_context(closing(engine))
    shared = shared and kind == "local"
    on_gpu = policy.device.type == "cuda"
    inert = inert_engine_settings(engine_config, kind, lora=config.lora is not None, on_gpu=on_gpu)
    for line in inert_settings(config, shared) + inert:
        log.warning("this does nothing in this run: %s", line)
    limit = mismatch_limit(engine_config, runtime)
    clock = Clock()
    sampler = PromptSampler(tasks, config.steps, seed, config.difficulty)
    source = RolloutSource(sampler, tasks, engine, config, learner.world, seed, clock)
    resolved = engine_config.model_copy(update={"kind": kind})
    identity = identify(model, tasks, config, seed, resolved, runtime, learner.world) if is_main() else {}
    state = resume(out, learner, reference, source, config.checkpoint, identity, accept_changes)
    with clock("sync"):
        engine.sync(policy)
    saver = Saver(out, state, learner, reference, source, config.checkpoint)
    metrics = MetricsWriter(out / "metrics.jsonl", state.step)
    alarms = Alarms(rl_alarms)
    names = sorted({name for own in weights.values() for name in own})  # every row of the metrics has the same keys

    peak = device_peak(policy.device, runtime.dtype, learner.world.size)
    tracing = profiled(out / "profile", runtime.profile, policy.device)

    with saver.stoppable(), progress(label, config.steps, state.step) as bar, tracing as profiler:
        saver.boundary()
        while state.step < config.steps:
            version = state.step
            groups = source.next(version)
            engine.release()
            with clock("score"):
                groups = prepare(groups, learner, reference, config, weights)
            lock.check()
            with clock("save"):
                save_completions(out, version, groups)
            saver.updates()
            everything = rows_of(groups)
            batches = split_updates(groups, config.mini_batches, config.inner_epochs, seed, version)
            for index, batch in enumerate(batches):
                if state.step == config.steps:  # the last rollout may hold more than is left to do
                    break
                with clock("update"):
                    rows = rows_of(batch, drop_truncated=config.truncated == "mask")
                    lr = config.optimizer.lr * lr_factor(config.optimizer, state.step, config.steps)
                    seed_dropout(learner, seed, state.step)
                    stats = update(
                        learner, rows, config, lr, version=version, step=state.step, rollout=everything, limit=limit
                    )
                    if config.loss.kl_in_reward:
                        stats["kl"] = mean_token_kl(batch, config.loss)
                stats = {**stats, **source.metrics}
                row = advance(state, batch, names, stats, clock, source.tokens if index == 0 else 0, peak)
                metrics.write(row)
                if profiler is not None:
                    profiler.step(row)
                report_nonfinite(out, state, stats["grad_norm"], rows, scaled=runtime.dtype == "float16")
                alarms.look(metrics.rows)
                bar.advance(1, f"reward {row['reward'] or 0:.3f}, {row['completion_length']:.0f} tokens")
            with clock("sync"):
                engine.sync(policy)
            if reference is not None and config.reference_every:
                refresh(reference, policy, state, config.reference_every)
            with clock("save"):
                saver.boundary()
        save_model(policy, out / "model")
        learner.world.wait()  # whoever reads the model next finds it whole
        saver.finished()
    return TrainResult(out / "model", state.step, state.tokens, state.seconds, metrics.last)


def save_model(policy: Policy, folder: Path) -> None:
    """The trained model, on the disk when this returns.

    Raises:
        UserError: the disk did not take it; nothing half-written is left.
    """
    with must_write(folder, sum(parameter.nbytes for parameter in policy.model.parameters())):
        try:
            policy.save(folder)
            if is_main():
                flush_folder(folder)
        finally:
            if is_main():
                shutil.rmtree(folder.with_name(folder.name + ".partial"), ignore_errors=True)


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


def prepare(
    groups: list[Group],
    learner: Learner,
    reference: Reference | None,
    config: RLConfig,
    weights: Mapping[str, Mapping[str, float]],
) -> list[Group]:
    """The groups with advantages, and the log-probs that the loss needs of pi_old and pi_ref."""
    if reference is not None and config.loss.kl_in_reward:
        groups = with_old_logprobs(learner, groups, rows_of(groups))
        groups = with_ref_logprobs(learner, groups, rows_of(groups), reference)
        groups = take_kl(groups, config.loss)
    groups = assign_advantages(groups, config.advantage, weights)
    return with_logprobs(learner, reference, groups, config)


def with_logprobs(learner: Learner, reference: Reference | None, groups: list[Group], config: RLConfig) -> list[Group]:
    """log pi_old when several updates share the rollout or dropout is on, and log pi_ref when the KL is in the loss.

    Otherwise pi_old is pi_theta itself, and no forward is spent to learn it.
    """
    dropping = config.truncated == "mask"
    if config.updates_per_rollout > 1 or learner.dropout:
        rows = contributing(rows_of(groups, drop_truncated=dropping), config.loss)
        groups = with_old_logprobs(learner, groups, [row for row in rows if row.rollout.old_logprobs is None])
    if reference is not None and config.loss.kl_in_loss:
        groups = with_ref_logprobs(learner, groups, rows_of(groups, drop_truncated=dropping), reference)
    return groups


def seed_dropout(learner: Learner, seed: int, step: int) -> None:
    """The adapter's dropout follows from (seed, step, process), so that a resumed run drops what the whole one did."""
    if learner.dropout:
        torch.manual_seed(stream_key(seed, "dropout", step, learner.world.rank))


def refresh(reference: Reference, policy: Policy, state: TrainState, every: int) -> None:
    """R1 replaces the reference by the latest policy every 400 steps; here at the first rollout boundary after."""
    if state.step // every > state.reference_step // every:
        reference.replace_by(policy)
        state.reference_step = state.step


def advance(
    state: TrainState,
    groups: list[Group],
    names: list[str],
    stats: dict[str, float | None],
    clock: Clock,
    sampled: int,
    peak: float | None = None,
) -> dict[str, Any]:
    """Count the step; its row of metrics.jsonl. A rollout's time and its `sampled` tokens fall to the first of its
    updates; the others have 0, and no rate. `peak`: FLOP/s of all devices, None when unknown."""
    phases = clock.lap()
    seconds = sum(phases.values())
    state.step += 1
    state.tokens += sampled
    state.seconds += seconds
    state.skipped += not stats["applied"]
    count_nonfinite(state, stats["grad_norm"])
    return {
        "step": state.step,
        **rollout_metrics(groups, names),
        **stats,
        "skipped_steps": state.skipped,
        "nonfinite_steps": state.nonfinite,
        "seconds": seconds,
        **{f"seconds/{phase}": value for phase, value in phases.items()},
        "tokens_per_second": sampled / seconds if sampled else None,
        "mfu": mfu(stats["update_flops"], phases["update"], peak),
    }
