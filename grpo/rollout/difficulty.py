"""Running pass rates of prompts: which rest because they teach nothing now, and in what order the others come."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from grpo.config.algorithm import DifficultyConfig
from grpo.types import Group

log = logging.getLogger("grpo")

NEW_WEIGHT = 0.5  # of the latest group in the running rate: the policy changes
FOR_GOOD = 2**31  # an epoch that no run reaches


class PassRates:
    """The mean of the named reward, by prompt, over its groups so far; the newer groups weigh more."""

    def __init__(self, config: DifficultyConfig):
        self.config = config
        self.rates: dict[str, float] = {}
        self.rests: dict[str, int] = {}  # prompt -> the last epoch it sits out

    def state(self) -> dict[str, Any]:
        return {"rates": dict(self.rates), "rests": dict(self.rests)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.rates, self.rests = dict(state["rates"]), {name: int(last) for name, last in state["rests"].items()}

    def observe(self, prompt: str, group: Group, epoch: int) -> None:
        """Take in a group that was drawn in this epoch; rollouts to which the reward does not apply say nothing."""
        values = [v for r in group.rollouts if (v := r.rewards.get(self.config.reward)) is not None]
        if not values:
            return
        latest = sum(values) / len(values)
        running = NEW_WEIGHT * latest + (1 - NEW_WEIGHT) * self.rates.get(prompt, latest)
        self.rates[prompt] = running
        config, retired = self.config, self.rests.get(prompt) == FOR_GOOD
        if retired or (config.retire is not None and latest >= config.retire):
            self.rests[prompt] = FOR_GOOD
            return
        low = -1.0 if config.low is None else config.low
        # The latest group as well: a running mean that was once in between never comes back to 0 or 1.
        if any(rate <= low or rate >= config.high for rate in (latest, running)):
            self.rests[prompt] = epoch + config.rest_epochs
        else:
            self.rests.pop(prompt, None)

    def arrange(self, prompts: Sequence[str], epoch: int) -> list[int]:
        """Places of the prompts that take part in this epoch, in the order they come; unknown ones count as on target.

        When all of them rest, all take part but the retired, and when all are retired, these: the run goes on.
        """
        until = [self.rests.get(prompt, -1) for prompt in prompts]
        places = [place for place, last in enumerate(until) if last < epoch]
        if not places:
            places = [place for place, last in enumerate(until) if last < FOR_GOOD]
            which = "is out of range" if places else f"was {self.config.retire:g} or more"
            log.warning("every prompt's pass rate on '%s' %s: none rests now", self.config.reward, which)
            places = places or list(range(len(prompts)))
        target = self.config.target
        if target is None:
            return places
        # In tenths, so that the shuffle still decides among prompts of like difficulty.
        return sorted(places, key=lambda place: round(abs(self.rates.get(prompts[place], target) - target), 1))

    def metrics(self, epoch: int) -> dict[str, float]:
        """The mean running rate, how many prompts sit out this epoch or a later one, and, of them, those for good."""
        known = list(self.rates.values())
        resting = sum(last >= epoch for last in self.rests.values())
        values = {"pass_rate": sum(known) / len(known) if known else float("nan"), "resting": float(resting)}
        retired = {"retired": float(sum(last == FOR_GOOD for last in self.rests.values()))}
        return values if self.config.retire is None else values | retired
