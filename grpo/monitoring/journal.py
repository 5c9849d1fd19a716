"""What a run says of itself, step by step: metrics.jsonl, the console, alarms, a profile, batches to look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from grpo.learner.batching import rows_of
from grpo.model.flops import device_peak, mfu
from grpo.monitoring.alarms import Alarms, rl_alarms
from grpo.monitoring.health import count_nonfinite, report_nonfinite
from grpo.monitoring.metrics import MetricsWriter, rollout_metrics
from grpo.monitoring.profiling import Profiler, profiled
from grpo.run import Run
from grpo.system.clock import Clock
from grpo.system.progress import Bar, progress
from grpo.types import Group, TrainState


class Journal:
    """Told of every step as it ends."""

    def __init__(self, run: Run, bar: Bar, profiler: Profiler | None):
        self.run, self.bar, self.profiler = run, bar, profiler
        self.metrics = MetricsWriter(run.out / "metrics.jsonl", run.state.step)
        self.alarms = Alarms(rl_alarms)
        self.names = sorted({name for own in run.weights.values() for name in own})  # every row has the same keys
        self.peak = device_peak(run.policy.device, run.runtime.dtype, run.learner.world.size)

    def step(self, batch: list[Group], stats: dict[str, float | None]) -> None:
        """Count the step that was made on `batch` with these metrics, and write it down.

        Raises:
            UserError: the disk is full, or too many gradients in a row were not finite.
        """
        run = self.run
        row = advance(run.state, batch, self.names, stats, run.clock, run.source.take_tokens(), self.peak)
        self.metrics.write(row)
        if self.profiler is not None:
            self.profiler.step(row)
        rows = rows_of(batch, drop_truncated=run.config.truncated == "mask")
        report_nonfinite(run.out, run.state, stats["grad_norm"], rows, scaled=run.runtime.dtype == "float16")
        self.alarms.look(self.metrics.rows)
        self.bar.advance(1, f"reward {row['reward'] or 0:.3f}, {row['completion_length']:.0f} tokens")


@contextmanager
def journal(run: Run, label: str) -> Iterator[Journal]:
    """Around the loop. `label`: of the run, on the console."""
    tracing = profiled(run.out / "profile", run.runtime.profile, run.policy.device)
    with progress(label, run.config.steps, run.state.step) as bar, tracing as profiler:
        yield Journal(run, bar, profiler)


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
