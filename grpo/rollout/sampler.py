"""Which prompts a rollout takes: seeded epochs over each task's data, shares between tasks, a state to checkpoint."""

import itertools
import logging
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from grpo.config.algorithm import DifficultyConfig
from grpo.errors import UserError
from grpo.rollout.difficulty import PassRates
from grpo.scoring.groups import column_names
from grpo.scoring.table import Reward
from grpo.types import Group, Prompt

log = logging.getLogger("grpo")

Drawn = dict[tuple[str, str], int]  # (task, id as drawn) -> the epoch it was drawn in
GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, spread evenly: whose turn it is to be rounded up


@dataclass(frozen=True)
class Task:
    """Prompts and the rewards that judge them. `last_steps`: it joins only for the last N steps of the run."""

    prompts: Sequence[Prompt]
    rewards: Sequence[Reward]
    share: float = 1.0  # of the prompts of a rollout, relative to the other active tasks
    last_steps: int | None = None

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """What its rewards are offered."""
        return column_names(self.prompts)


class PromptSampler:
    """Draws each task's prompts epoch by epoch, every prompt once per epoch, in an order seeded by (seed, epoch).

    With `difficulty`, prompts that are too easy or too hard sit out some epochs, and an epoch may begin with those
    nearest to a target pass rate.
    """

    def __init__(self, tasks: Mapping[str, Task], steps: int, seed: int, difficulty: DifficultyConfig | None = None):
        for name, task in tasks.items():
            if not task.prompts:
                raise UserError(f"task '{name}': no prompts")
        self.tasks, self.steps = tasks, steps
        self._epochs = {name: _Epochs(name, task.prompts, seed) for name, task in tasks.items()}
        self.rates: dict[str, PassRates] = {}
        if difficulty is not None:
            names = {name for name, task in tasks.items() if any(r.name == difficulty.reward for r in task.rewards)}
            self.rates = {name: PassRates(difficulty) for name in sorted(names)}
        self._drawn: dict[int, Drawn] = {}  # of the last two rollouts: one is judged while the next is sampled

    def state(self) -> dict[str, Any]:
        """What `load_state` needs to go on exactly here; JSON."""
        return {
            "epochs": {name: epochs.state() for name, epochs in self._epochs.items()},
            "rates": {name: rates.state() for name, rates in self.rates.items()},
        }

    def load_state(self, state: Mapping[str, Any], anew: Collection[str] = ()) -> None:
        """Go on from what `state` gave, but for the tasks in `anew`."""
        for name in self._epochs.keys() - anew:
            self._epochs[name].load_state(state["epochs"][name])
        for name in (self.rates.keys() & state["rates"].keys()) - set(anew):
            self.rates[name].load_state(state["rates"][name])

    def shares(self, count: int, step: int) -> dict[str, int]:
        """How many of a rollout's `count` prompts each active task gets, at `step` (0-based)."""
        active = {
            name: task.share
            for name, task in self.tasks.items()
            if task.last_steps is None or step >= self.steps - task.last_steps
        }
        return divide(count, active, step)

    def next(self, shares: Mapping[str, int], step: int) -> list[Prompt]:
        """So many prompts of each task, for the rollout that begins at `step`."""
        before = self._drawn.setdefault(step, {})
        for old in sorted(self._drawn)[:-2]:
            del self._drawn[old]
        drawn = []
        for name, count in shares.items():
            for prompt, epoch in self._epochs[name].draw(count, self.rates.get(name)):
                # A pool smaller than the rollout: equal ids would draw equal samples.
                repeats = itertools.chain([prompt.id], (f"{prompt.id}@{number}" for number in itertools.count(1)))
                own = next(own for own in repeats if (name, own) not in before)
                drawn.append(prompt if own == prompt.id else replace(prompt, id=own))
                before[name, own] = epoch
        return drawn

    def drawn(self, step: int) -> Drawn:
        """What `next` gave for this rollout."""
        return dict(self._drawn[step])

    def redraw(self, step: int, drawn: Drawn) -> None:
        """As if `next` had just given this, which `drawn` said: of a rollout that was sampled before a restart."""
        self._drawn[step] = dict(drawn)

    def give_back(self, drawn: Collection[tuple[str, str]]) -> None:
        """Have these (task, id as drawn), on which nothing was trained, drawn again before all others, in their order:
        in the epoch of now, also where the last one gave them."""
        for name, epochs in self._epochs.items():
            epochs.give_back([own for task, own in drawn if task == name])

    def observe(self, groups: Sequence[Group], step: int) -> None:
        """Take the rewards of groups of the rollout that began at `step` into the running pass rates."""
        for group in groups:
            task, name = group.prompt.task, group.prompt.id
            rates = self.rates.get(task)
            if rates is not None:
                rates.observe(self._epochs[task].own_id(name), group, self._drawn[step][task, name])

    def metrics(self) -> dict[str, float]:
        """Of each task with running pass rates, as ``pass_rate/<task>``, ``resting/<task>``, ..."""
        return {
            f"{key}/{task}": value
            for task, rates in self.rates.items()
            for key, value in rates.metrics(self._epochs[task].epoch).items()
        }


class _Epochs:
    """One task's prompts: whole passes, each shuffled anew, less those that rest."""

    def __init__(self, task: str, prompts: Sequence[Prompt], seed: int):
        self.task, self.prompts, self.seed = task, prompts, seed
        self.ids = {prompt.id for prompt in prompts}
        self.epoch = -1
        self._order: list[int] = []
        self._position = 0
        self._scarce = False  # whether it was said

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "rest": self._order[self._position :]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.epoch, self._order, self._position = int(state["epoch"]), [int(i) for i in state["rest"]], 0

    def own_id(self, drawn: str) -> str:
        """The data's id of a drawn prompt, whose repeats in a rollout are named id@1, id@2, ..."""
        return drawn if drawn in self.ids else drawn.rpartition("@")[0]

    def give_back(self, drawn: Iterable[str]) -> None:
        index = {prompt.id: place for place, prompt in enumerate(self.prompts)}
        self._order[: self._position] = [index[self.own_id(name)] for name in drawn]
        self._position = 0

    def draw(self, count: int, rates: PassRates | None) -> list[tuple[Prompt, int]]:
        """The next prompts, each with the epoch it belongs to."""
        if count > len(self.prompts) and not self._scarce:
            self._scarce = True
            text = f"{len(self.prompts)} prompts are fewer than the {count} of a rollout"
            log.warning("task '%s': %s: each is drawn again with other samples", self.task, text)
        chosen = []
        for _ in range(count):
            if self._position == len(self._order):
                self._begin(rates)
            chosen.append((self.prompts[self._order[self._position]], self.epoch))
            self._position += 1
        return chosen

    def _begin(self, rates: PassRates | None) -> None:
        self.epoch += 1
        order = list(range(len(self.prompts)))
        random.Random(f"{self.seed}-{self.task}-{self.epoch}").shuffle(order)
        if rates is not None:
            names = [self.prompts[index].id for index in order]
            order = [order[place] for place in rates.arrange(names, self.epoch)]
        self._order, self._position = order, 0


def divide(count: int, shares: Mapping[str, float], turn: int) -> dict[str, int]:
    """Split `count` by shares: each gets its exact part rounded down or up, in turns, so that a small share is never
    rounded away for good (a tenth of four prompts is one prompt in two or three rollouts)."""
    total = sum(shares.values())
    parts, passed = {}, (turn + 0.5) * GOLDEN % 1
    for name, share in shares.items():
        before, passed = passed, passed + count * share / total
        parts[name] = int(passed) - int(before)
    return parts
