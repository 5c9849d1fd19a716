"""Which prompts a rollout takes: seeded epochs over each task's data, shares between tasks, a state to checkpoint."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from grpo.errors import UserError
from grpo.scoring import Reward
from grpo.types import Prompt

GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, spread evenly: whose turn it is to be rounded up


@dataclass(frozen=True)
class Task:
    """Prompts and the rewards that judge them. `last_steps`: it joins only for the last N steps of the run."""

    prompts: Sequence[Prompt]
    rewards: Sequence[Reward]
    share: float = 1.0  # of the prompts of a rollout, relative to the other active tasks
    last_steps: int | None = None


class PromptSampler:
    """Draws each task's prompts epoch by epoch, every prompt once per epoch, in an order seeded by (seed, epoch)."""

    def __init__(self, tasks: Mapping[str, Task], steps: int, seed: int):
        for name, task in tasks.items():
            if not task.prompts:
                raise UserError(f"task '{name}': no prompts")
        self.tasks, self.steps, self.seed = tasks, steps, seed
        self.drawn = dict.fromkeys(tasks, 0)  # prompts drawn so far: the whole state
        self._orders: dict[tuple[str, int], list[int]] = {}

    def state(self) -> dict[str, int]:
        return dict(self.drawn)

    def load_state(self, state: Mapping[str, int]) -> None:
        self.drawn = {name: int(state[name]) for name in self.tasks}

    def next(self, count: int, step: int) -> list[Prompt]:
        """The prompts of a rollout that begins at `step` (0-based)."""
        active = {
            name: task.share
            for name, task in self.tasks.items()
            if task.last_steps is None or step >= self.steps - task.last_steps
        }
        drawn = [prompt for name, n in divide(count, active, step).items() for prompt in self._draw(name, n)]
        seen: dict[tuple[str, str], int] = {}
        for i, prompt in enumerate(drawn):  # a pool smaller than the rollout: equal ids would draw equal samples
            repeats = seen[prompt.task, prompt.id] = seen.get((prompt.task, prompt.id), -1) + 1
            if repeats:
                drawn[i] = replace(prompt, id=f"{prompt.id}@{repeats}")
        return drawn

    def _draw(self, task: str, count: int) -> list[Prompt]:
        pool = self.tasks[task].prompts
        chosen = []
        for index in range(self.drawn[task], self.drawn[task] + count):
            epoch, position = divmod(index, len(pool))
            chosen.append(pool[self._order(task, epoch)[position]])
        self.drawn[task] += count
        return chosen

    def _order(self, task: str, epoch: int) -> list[int]:
        if (task, epoch) not in self._orders:
            order = list(range(len(self.tasks[task].prompts)))
            random.Random(f"{self.seed}-{task}-{epoch}").shuffle(order)
            self._orders.pop((task, epoch - 1), None)
            self._orders[task, epoch] = order
        return self._orders[task, epoch]


def divide(count: int, shares: Mapping[str, float], turn: int) -> dict[str, int]:
    """Split `count` by shares: each gets its exact part rounded down or up, in turns, so that a small share is never
    rounded away for good (a tenth of four prompts is one prompt in two or three rollouts)."""
    total = sum(shares.values())
    parts, passed = {}, (turn + 0.5) * GOLDEN % 1
    for name, share in shares.items():
        before, passed = passed, passed + count * share / total
        parts[name] = int(passed) - int(before)
    return parts
