"""The loop: prompts -> completions -> rewards -> advantages -> loss -> updates -> sync. Its parts: `grpo.run`."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from grpo.advantages import assign_advantages
from grpo.config.training import TrainConfig
from grpo.engines.draws import stream_key
from grpo.evaluation.curve import Curve
from grpo.learner.batching import rows_of, split_updates
from grpo.learner.learner import Learner
from grpo.learner.logprobs import with_kl_in_rewards, with_logprobs
from grpo.learner.schedule import lr_factor
from grpo.learner.update import update
from grpo.monitoring.health import warn_of_no_training
from grpo.monitoring.journal import Journal, journal
from grpo.rollout.sampler import Task
from grpo.rollout.source import RolloutSource
from grpo.run import Run, set_up
from grpo.system.lock import lock_run
from grpo.system.stopping import handled
from grpo.system.world import World
from grpo.types import Group


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: `model` is the folder of the trained model, `metrics` the last step's row, `applied_steps` how
    many of its steps changed the weights."""

    model: Path
    steps: int
    tokens: int
    seconds: float
    metrics: dict[str, Any]
    applied_steps: int


def train(
    config: TrainConfig,
    tasks: Mapping[str, Task],
    *,
    label: str = "GRPO",
    accept_changes: bool = False,
    curve: Curve | None = None,
) -> TrainResult:
    """Train `config.model` with GRPO into `config.out`; goes on from the last checkpoint there, if any.

    `accept_changes`: also when settings, data or rewards are not those it was made with (`grpo.checkpoint.identity`).
    `curve`: what the policy is evaluated on, on its way.
    SIGINT and SIGTERM save at a rollout boundary and end it, with a KeyboardInterrupt or SystemExit(143).

    Raises:
        UserError: one line on what is wrong with the settings, the checkpoints or the disk, or another run is there.
    """
    out = Path(config.out)
    with handled(), lock_run(out, World.current()) as lock, ExitStack() as closing:
        run = set_up(config, tasks, lock, closing, accept_changes, curve)
        with run.saver.stoppable(), journal(run.config, run.source, run.state, run.learner, label, curve) as diary:
            learn(run, diary)
            run.save_model()
            run.saver.finished()
    state = run.state
    warn_of_no_training(state)
    applied = state.step - state.skipped
    return TrainResult(out / "model", state.step, state.tokens, state.seconds, diary.metrics.last, applied)


def learn(run: Run, diary: Journal) -> None:
    """GRPO (DeepSeekMath, arXiv 2402.03300, Algorithm 1), from where `run.state` is to the last step."""
    learner, state, source = run.learner, run.state, run.source
    while run.boundary(diary.evaluated):
        start = state.step  # also the version of the weights that sample
        config = run.begin_rollout()
        groups = collect(source, start)  # prompts -> engine.generate -> rewards
        with source.clock("score"):
            groups = with_kl_in_rewards(learner, run.reference, groups, config)
            groups = assign_advantages(groups, config.advantage, source.weights)
            groups = with_logprobs(learner, run.reference, groups, config, run.teacher)  # of pi_old, pi_ref
        run.begin_updates(groups)
        rollout, only_whole = rows_of(groups), config.truncated == "mask"
        for batch in split_updates(groups, config.mini_batches, config.inner_epochs, config.seed, start):
            if state.step == config.steps:  # the last rollout may hold more than is left to do
                break
            with source.clock("update"):
                seed_dropout(learner, config.seed, state.step)
                lr = config.optimizer.lr * lr_factor(config.optimizer, state.step, config.steps)
                stats = update(  # the loss and its gradient, the gate, the optimizer's step
                    learner,
                    rows_of(batch, drop_truncated=only_whole),
                    config,
                    lr,
                    version=start,
                    step=state.step,
                    rollout=rollout,
                    measured=source.agreement,
                    limit=run.limit,
                )
            diary.step(batch, stats, config)
        run.sync()  # the engine samples from the new policy


def collect(source: RolloutSource, step: int) -> list[Group]:
    """The rewarded groups of the rollout that begins at `step`; `step` is also the version of the engine's weights.

    One step ahead (`engine.ahead`), what the next rollout needs begins to be sampled here. With dynamic sampling,
    groups that teach nothing are replaced by new ones, up to a bound; what is drawn beyond the need waits for the next
    rollout, and what is still missing is filled up with groups that teach nothing.
    """
    source.begin()
    if source.config.dynamic_sampling is None:
        groups = source.generate(source.shares(step), step)
        source.sample_ahead(step)  # before the rewards, which it need not wait for
        groups = source.reward(groups, step)
    else:
        pool = source.pool(step)
        while pool.missing() and pool.draws < source.config.dynamic_sampling.max_draws:
            groups = source.generate(pool.lacking(), step)
            pool.add(source.reward(groups, step))
        groups = source.take(pool, step)
        source.sample_ahead(step)
    source.engine.release()
    return groups


def seed_dropout(learner: Learner, seed: int, step: int) -> None:
    """The adapter's dropout follows from (seed, step, process), so that a resumed run drops what the whole one did."""
    if learner.dropout:
        torch.manual_seed(stream_key(seed, "dropout", step, learner.world.rank))
