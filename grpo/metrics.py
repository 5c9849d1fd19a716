"""metrics.jsonl: one JSON object a step, undefined values null."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.profiler import record_function

from grpo.config import OVERLONG
from grpo.parallel import is_main
from grpo.types import Group


def finite(value: Any) -> Any:
    """JSON has no NaN or infinity: such numbers become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class MetricsWriter:
    """Appends to `path`. On resume, rows after the `done` steps are dropped first: the run writes them again.

    Of several processes the main one writes.
    """

    def __init__(self, path: Path, done: int = 0):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.last: dict[str, Any] = {}  # the last row written, by this run or the one it goes on with
        kept = []
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:  # a line cut short by a kill: its step comes again
                    continue
                if row["step"] <= done:
                    kept.append(line + "\n")
                    self.last = row
        if not is_main():
            return
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)

    def write(self, row: Mapping[str, Any]) -> None:
        self.last = {key: finite(value) for key, value in row.items()}
        if not is_main():
            return
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(self.last) + "\n")


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def rollout_metrics(groups: list[Group], names: Sequence[str]) -> dict[str, float | None]:
    """What one update's groups say: rewards (each name over the rows it applies to), spread, lengths. `names`: of all
    rewards of the run, so that one whose task is not there is null."""
    rollouts = [r for group in groups for r in group.rollouts]
    stds, zero_variance = [], []
    for group in groups:
        judged = [r for r in group.rollouts if r.reward is not None]
        rewards = [r.reward for r in judged if r.reward is not None]
        if len(rewards) > 1:
            mean = sum(rewards) / len(rewards)
            stds.append(math.sqrt(sum((x - mean) ** 2 for x in rewards) / (len(rewards) - 1)))
            # Of what the reward functions gave: a KL or an over-long penalty taken from it nearly always differs.
            said = [{name: value for name, value in r.rewards.items() if name != OVERLONG} for r in judged]
            zero_variance.append(float(all(values == said[0] for values in said)))
    return {
        "reward": _mean([r.reward for r in rollouts if r.reward is not None]),
        **{f"reward/{name}": _mean([v for r in rollouts if (v := r.rewards.get(name)) is not None]) for name in names},
        "reward_std": _mean(stds),
        "frac_zero_variance": _mean(zero_variance),
        "excluded_fraction": _mean([float(r.reward is None) for r in rollouts]),
        "completion_length": _mean([float(len(r.completion.token_ids)) for r in rollouts]),
        "truncated_fraction": _mean([float(r.completion.finish_reason == "length") for r in rollouts]),
    }


class Clock:
    """Seconds by phase since the last lap."""

    PHASES = ("generate", "reward", "score", "update", "sync", "save")

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(self.PHASES, 0.0)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        with record_function(phase):  # its name in a profiler's trace
            yield
        self.seconds[phase] += time.perf_counter() - start

    def lap(self) -> dict[str, float]:
        seconds, self.seconds = self.seconds, dict.fromkeys(self.PHASES, 0.0)
        return seconds
