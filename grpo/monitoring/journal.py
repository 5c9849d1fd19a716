"""What a run says of itself, step by step: metrics.jsonl, the console, alarms, a profile, batches to look at."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

from grpo.config.stepwise import changing
from grpo.config.training import HELD_OUT, RLConfig, TrainConfig
from grpo.evaluation.curve import SECONDS, Curve
from grpo.learner.batching import rows_of
from grpo.learner.learner import Learner
from grpo.learner.stats import StepStats
from grpo.model.flops import device_peak, mfu
from grpo.monitoring.advice import right_reward
from grpo.monitoring.alarms import Alarms, rl_alarms
from grpo.monitoring.hacking import Said, hacking_alarms, voices_of
from grpo.monitoring.health import count_nonfinite, report_nonfinite
from grpo.monitoring.metrics import MetricsWriter, rollout_metrics
from grpo.monitoring.profiling import Profiler, profiled
from grpo.rollout.sampler import Task
from grpo.rollout.source import RolloutSource
from grpo.scoring.shaping import mean_token_kl
from grpo.system.clock import Clock
from grpo.system.progress import Bar, progress
from grpo.system.world import is_main
from grpo.types import Group, TrainState

log = logging.getLogger("grpo")


class Journal:
    """Told of every step as it ends."""

    def __init__(
        self,
        config: TrainConfig,
        source: RolloutSource,
        state: TrainState,
        peak: float | None,
        bar: Bar,
        profiler: Profiler | None,
        curve: Curve | None,
    ):
        self.config, self.source, self.state, self.peak = config, source, state, peak
        self.bar, self.profiler = bar, profiler
        self.blank = {} if curve is None else curve.blank  # of a step whose policy is not evaluated
        self.metrics = MetricsWriter(Path(config.out) / "metrics.jsonl", state.step)
        right = right_columns(source.tasks, config)
        self.said = Said(voices_of(source.tasks.values(), right))
        self.alarms = Alarms(lambda rows: rl_alarms(rows, right) | hacking_alarms(rows, self.said))
        self.names = sorted({name for weights in source.weights.values() for name in weights})  # the same in every row
        means = {f"reward/{name}" for name in self.names}
        # What rewards log themselves, as far as it is known: from its first row on it is in every row.
        self.logged = [key for key in self.metrics.last if key.startswith("reward/") and key not in means]

    def step(self, batch: list[Group], stats: dict[str, float | None], now: RLConfig) -> None:
        """Count the step that was made on `batch` with these metrics, and write it down. `now`: the config as the
        rollout had it.

        Raises:
            UserError: the disk is full, or too many gradients in a row were not finite.
        """
        config, source, state = self.config, self.source, self.state
        if now.loss.kl_in_reward:
            stats = {**stats, "kl": mean_token_kl(batch, now.loss)}
        stats = {**stats, **{f"setting/{name}": attrgetter(name)(now) for name in changing(config)}}
        self.logged = list(dict.fromkeys([*self.logged, *source.logged.values]))
        stats = {**stats, **dict.fromkeys(self.logged), **source.metrics}
        rollout = rollout_metrics(batch, self.names, source.weights, config.advantage.combine)
        row = advance(state, rollout, stats, source.clock, source.take_tokens(), self.peak)
        self.metrics.write(row | self.blank)
        if self.profiler is not None:
            self.profiler.step(row)
        rows = rows_of(batch, drop_truncated=config.truncated == "mask")
        scaled = config.runtime.dtype == "float16"
        report_nonfinite(Path(config.out), state, stats["grad_norm"], rows, scaled=scaled)
        self.said.add(batch)
        self.alarms.look(self.metrics.rows)
        self.bar.advance(1, f"reward {row['reward'] or 0:.3f}, {row['completion_length']:.0f} tokens")

    def evaluated(self, values: Mapping[str, Any]) -> None:
        """The policy as it is was evaluated: into the row of the step that made it. The model that the run starts from
        was made by none, and has a row 0, with nothing else in it.

        Raises:
            UserError: the disk is full.
        """
        row, step = self.metrics.last, self.state.step
        if step == 0 or row.get("step") != step:
            stats = {**StepStats().metrics(self.config), "grad_norm": None, "lr": None, "applied": None}
            stats |= {f"setting/{name}": None for name in changing(self.config)}
            row = dict.fromkeys(advance(TrainState(), rollout_metrics([], self.names), stats, Clock(), 0))
        self.metrics.write_again({**row, "step": step, **values})
        if is_main() and values[HELD_OUT] is not None:
            low, high = (100 * bound for bound in values[f"{HELD_OUT}_ci95"])
            text = "step %d: held-out pass@1 %.1f%% [%.0f, %.0f], %.0f s"
            log.info(text, step, 100 * values[HELD_OUT], low, high, values[SECONDS])


def right_columns(tasks: Mapping[str, Task], config: RLConfig) -> dict[str, float]:
    """The metrics of rewards that say what is right, each with its tasks' share of the prompts."""
    columns: dict[str, float] = {}
    for task in tasks.values():
        name = right_reward(((reward.name, reward.path, reward.weight) for reward in task.rewards), config)
        if name is not None:
            columns[f"reward/{name}"] = columns.get(f"reward/{name}", 0.0) + task.share
    return columns


@contextmanager
def journal(
    config: TrainConfig, source: RolloutSource, state: TrainState, learner: Learner, label: str, curve: Curve | None
) -> Iterator[Journal]:
    """Around the loop. `label`: of the run, on the console."""
    device = learner.accelerator.device
    tracing = profiled(Path(config.out) / "profile", config.runtime.profile, device)
    with progress(label, config.steps, state.step) as bar, tracing as profiler:
        peak = device_peak(device, config.runtime.dtype, learner.world.size)
        yield Journal(config, source, state, peak, bar, profiler, curve)


def advance(
    state: TrainState,
    rollout: Mapping[str, float | None],
    stats: dict[str, float | None],
    clock: Clock,
    sampled: int,
    peak: float | None = None,
) -> dict[str, Any]:
    """Count the step; its row of metrics.jsonl. `rollout`: what its groups say. A rollout's time and its `sampled`
    tokens fall to the first of its updates; the others have 0, and no rate. `peak`: FLOP/s of all devices, None when
    unknown."""
    phases = clock.lap()
    seconds = sum(phases.values())
    state.step += 1
    state.tokens += sampled
    state.seconds += seconds
    state.skipped += not stats["applied"]
    count_nonfinite(state, stats["grad_norm"])
    return {
        "step": state.step,
        **rollout,
        **stats,
        "skipped_steps": state.skipped,
        "nonfinite_steps": state.nonfinite,
        "seconds": seconds,
        **{f"seconds/{phase}": value for phase, value in phases.items()},
        "tokens_per_second": sampled / seconds if sampled else None,
        "mfu": mfu(stats["update_flops"], phases["update"], peak),
    }
