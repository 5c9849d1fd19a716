"""The loop: prompts -> rollouts -> rewards -> advantages -> updates -> sync. What it works with: `grpo.run`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from grpo.advantages import assign_advantages
from grpo.config.sections import EngineConfig, RLConfig, RuntimeConfig
from grpo.engines.draws import stream_key
from grpo.learner.batching import contributing, rows_of, split_updates
from grpo.learner.learner import Learner, with_old_logprobs, with_ref_logprobs
from grpo.learner.schedule import lr_factor
from grpo.learner.update import update
from grpo.model.policy import Policy
from grpo.model.reference import Reference
from grpo.monitoring.journal import Journal, journal
from grpo.rollout.completions import save_completions
from grpo.rollout.sampler import Task
from grpo.run import Run, Settings, set_up
from grpo.scoring.shaping import mean_token_kl, take_kl
from grpo.system.files import flush_folder, must_write
from grpo.system.lock import lock_run
from grpo.system.stopping import handled
from grpo.system.world import World, is_main
from grpo.types import Group, TrainState


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

    `accept_changes`: also when the settings, data or rewards are not those it was made with
    (`grpo.checkpoint.identity`). SIGINT and SIGTERM save at a rollout boundary and end it, with a KeyboardInterrupt or
    SystemExit(143).

    Raises:
        UserError: one line on what is wrong with the settings, the checkpoints or the disk, or another run is there.
    """
    settings = Settings(model, tasks, config, out, seed, engine_config or EngineConfig(), runtime or RuntimeConfig())
    with handled(), lock_run(out, World.current()) as lock, ExitStack() as ends:
        run = set_up(settings, lock, ends, accept_changes)
        with run.saver.stoppable(), journal(run, label) as told:
            learn(run, told)
            save_model(run.policy, out / "model")
            run.learner.world.wait()  # whoever reads the model next finds it whole
            run.saver.finished()
    return TrainResult(out / "model", run.state.step, run.state.tokens, run.state.seconds, told.metrics.last)


def learn(run: Run, told: Journal) -> None:
    """All rollouts that are left, and the updates of each."""
    config, state = run.config, run.state
    run.saver.boundary()
    while state.step < config.steps:
        start = state.step
        groups = run.source.next(start)
        run.engine.release()
        with run.clock("score"):
            groups = prepare(groups, run.learner, run.reference, config, run.weights)
        run.lock.check()
        with run.clock("save"):
            save_completions(run.out, start, groups)
        run.saver.updates()
        for batch in split_updates(groups, config.mini_batches, config.inner_epochs, run.seed, start):
            if state.step == config.steps:  # the last rollout may hold more than is left to do
                break
            told.step(batch, train_on(batch, run, groups, start))
        if state.step < config.steps:
            run.source.sync(run.policy)
        if run.reference is not None and config.reference_every:
            refresh(run.reference, run.policy, state, config.reference_every)
        with run.clock("save"):
            run.saver.boundary()


def train_on(batch: list[Group], run: Run, rollout: list[Group], start: int) -> dict[str, float | None]:
    """One update of those that follow a rollout, which began at step `start`; its metrics."""
    config, step = run.config, run.state.step
    with run.clock("update"):
        seed_dropout(run.learner, run.seed, step)
        stats = update(
            run.learner,
            rows_of(batch, drop_truncated=config.truncated == "mask"),
            config,
            config.optimizer.lr * lr_factor(config.optimizer, step, config.steps),
            version=start,
            step=step,
            rollout=rows_of(rollout),
            measured=run.source.agreement,
            limit=run.limit,
        )
        if config.loss.kl_in_reward:
            stats["kl"] = mean_token_kl(batch, config.loss)
    return {**stats, **run.source.metrics}


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
