"""What reward functions say beside their values: metrics of theirs, and what went wrong, each kind of it once."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from grpo.errors import UserError
from grpo.types import Group

log = logging.getLogger("grpo")

KINDS = 5  # of one reward that are said: an error's text may be another one each time


@dataclass
class Logged:
    """What rewards gave to log_metric for one rollout, by the column of metrics.jsonl."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def take(self, metrics: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        """Add what `score` saw, by reward and name: `reward/<reward>/<name>`."""
        for reward, by_name in metrics.items():
            for name, values in by_name.items():
                self.values.setdefault(f"reward/{reward}/{name}", []).extend(values)

    def add(self, other: Logged, rewards: Collection[str]) -> None:
        """Add another process's. `rewards`: the names that have a column themselves.

        Raises:
            UserError: such a column would be taken for the mean of a reward.
        """
        for column, values in other.values.items():
            if column.removeprefix("reward/") in rewards:
                reward = column.removeprefix("reward/")
                raise UserError(f"log_metric would write '{column}', the mean of the reward '{reward}': rename either")
            self.values.setdefault(column, []).extend(values)

    def means(self) -> dict[str, float | None]:
        """As in TRL, over every value of every process; not defined where one of them is no number."""
        return {
            column: math.fsum(values) / len(values) if all(map(math.isfinite, values)) else None
            for column, values in sorted(self.values.items())
        }


@dataclass
class Faults:
    """Which kinds of errors of which reward were said."""

    said: dict[str, set[str]] = field(default_factory=dict)

    def tell(self, groups: Sequence[Group], step: int) -> None:
        """One line for each kind that is new in the judged groups of the rollout that began at `step`."""
        found: Counter[tuple[str, str]] = Counter()
        example: dict[tuple[str, str], str] = {}
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        for rollout in rollouts:
            errors = rollout.errors or ({"": rollout.excluded} if rollout.excluded is not None else {})
            for name, text in errors.items():
                kind = name, text.partition(":")[0]
                found[kind] += 1
                example.setdefault(kind, f"'{name}': {text}" if name else text)
        for kind, count in found.items():
            said = self.said.setdefault(kind[0], set())
            if kind[1] not in said and len(said) < KINDS:
                said.add(kind[1])
                text = "step %d: %d of %d completions were not judged by reward %s (said once; all are in completions/)"
                log.warning(text, step + 1, count, len(rollouts), example[kind])
