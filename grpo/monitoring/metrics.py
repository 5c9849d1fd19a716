"""metrics.jsonl: one JSON object a step, undefined values null."""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo.config.training import OVERLONG
from grpo.system.files import append_text, must_write, whole_rows, write_text
from grpo.system.numbers import mean
from grpo.system.world import is_main
from grpo.types import Group

log = logging.getLogger("grpo")

FIRST, RECENT = 16, 128  # rows that are kept in memory


def finite(value: Any) -> Any:
    """JSON has no NaN or infinity: such numbers become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class MetricsWriter:
    """Appends to `path`. On resume, rows after the `done` steps are dropped first: the run writes them again. Row 0, of
    the model that the run starts from, is no step's.

    Of several processes the main one writes.

    Raises:
        UserError: the disk does not take it.
    """

    def __init__(self, path: Path, done: int = 0):
        self.path = path
        kept = {row["step"]: (line, row) for line, row in read_rows(path) if done and row["step"] <= done}
        lines = [kept[step] for step in sorted(kept)]
        rows = [row for _, row in lines if row["step"]]
        self.rows = rows[:FIRST] + rows[FIRST:][-RECENT:]  # the first few of the run and the latest, in order
        self.last: dict[str, Any] = rows[-1] if rows else {}  # of this run, or of what it goes on
        if is_main() and done > len(rows):
            log.warning("'%s' has lost the rows of %d earlier steps", path, done - len(rows))
        text = "".join(f"{line}\n" for line, _ in lines)
        with must_write(path, len(text)):
            write_text(path, text)

    def write(self, row: Mapping[str, Any]) -> None:
        self.last = {key: finite(value) for key, value in row.items()}
        self.rows.append(self.last)
        if len(self.rows) > FIRST + RECENT:
            del self.rows[FIRST]
        if not is_main():
            return
        line = json.dumps(self.last) + "\n"
        with must_write(self.path, len(line)):
            if not self.path.exists():
                log.warning("'%s' was removed while the run wrote to it: its earlier rows are lost", self.path)
            append_text(self.path, line)

    def write_again(self, row: Mapping[str, Any]) -> None:
        """This row in the place of the last one, which may be of the same step; the file is whole at every moment."""
        self.last = {key: finite(value) for key, value in row.items()}
        if self.rows and self.rows[-1]["step"] == row["step"]:
            self.rows[-1] = self.last
        if is_main():
            lines = [line for line, earlier in read_rows(self.path) if earlier["step"] < row["step"]]
            text = "".join(f"{line}\n" for line in [*lines, json.dumps(self.last)])
            with must_write(self.path, len(text)):
                write_text(self.path, text)


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(line, row) of each whole row; a kill may have cut the last one short, a power cut left zeros."""
    if not path.is_file():
        return
    for line, row in whole_rows(path):  # the step of another comes again
        if isinstance(row.get("step"), int):
            yield line, row


Weights = Mapping[str, Mapping[str, float]]  # of each reward of each task


def rollout_metrics(
    groups: list[Group], names: Sequence[str], weights: Weights | None = None, combine: str = "sum_then_normalise"
) -> dict[str, float | None]:
    """What one update's groups say: rewards (each name over the rows it applies to), spread, lengths. `names`: of all
    rewards of the run, so that one whose task is not there is null."""
    rollouts = [r for group in groups for r in group.rollouts]
    alike = [float(teaches_nothing(group, (weights or {}).get(group.prompt.task), combine)) for group in groups]
    stds = []
    for group in groups:
        rewards = [r.reward for r in group.rollouts if r.reward is not None]
        if len(rewards) > 1:
            center = sum(rewards) / len(rewards)
            stds.append(math.sqrt(sum((x - center) ** 2 for x in rewards) / (len(rewards) - 1)))
    return {
        "reward": mean(r.reward for r in rollouts),
        **{f"reward/{name}": mean(r.rewards.get(name) for r in rollouts) for name in names},
        "reward_std": mean(stds),
        "frac_zero_variance": mean(alike),
        "excluded_fraction": mean(float(r.reward is None) for r in rollouts),
        "completion_length": mean(float(len(r.completion.token_ids)) for r in rollouts),
        "truncated_fraction": mean(float(r.completion.finish_reason == "length") for r in rollouts),
    }


def teaches_nothing(group: Group, weights: Mapping[str, float] | None, combine: str) -> bool:
    """Whether the reward functions leave every advantage 0: a reward of weight 0 gives none, and a KL or an over-long
    penalty, which nearly always differs, teaches nothing of the task. `weights` None: all 1."""
    judged = [rollout.rewards for rollout in group.rollouts if rollout.reward is not None]
    parts = [
        {
            name: factor * value
            for name, value in rewards.items()
            if value is not None and name != OVERLONG and (factor := 1.0 if weights is None else weights.get(name, 0.0))
        }
        for rewards in judged
    ]
    if combine == "sum_then_normalise":
        parts = [{"sum": math.fsum(part.values())} for part in parts]
    return all(len({part[name] for part in parts if name in part}) < 2 for name in {n for part in parts for n in part})
