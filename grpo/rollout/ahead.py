"""One step ahead (`engine.ahead`): the engine samples the next rollout while the trainer works on this one.

Which weights draw a rollout never depends on the clock. With weights W_k at the beginning of rollout k, W_0 draws
rollouts 0 and 1, and W_k rollout k + 1: each is exactly one rollout old when it is trained, whoever was faster. (With
dynamic sampling, what has to be drawn again is drawn by the weights of the moment, and waited for.)

The log-probs of a stale rollout differ from those of the policy that trains on it, and lawfully so. So the gate of
`grpo.learner.update` looks at all of it as soon as it is there, with the weights that drew it put back in the policy's
place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass, replace
from typing import Any

from grpo.learner.batching import TrainRow
from grpo.learner.gate import check_mismatch, measure
from grpo.learner.learner import Learner
from grpo.learner.stats import StepStats
from grpo.model.policy import Policy
from grpo.model.reference import Reference
from grpo.rollout.dynamic import named_prompt, pack_group, unpack_group
from grpo.rollout.sampler import Drawn
from grpo.system import stopping
from grpo.system.background import in_background
from grpo.types import Group, Prompt, Sampling

LOOK_SECONDS = 0.2  # between two looks whether the run is to stop


@dataclass(frozen=True)
class RolloutAhead:
    """What was begun ahead of a rollout that has not: not judged yet, and never sampled again once it is there."""

    step: int  # at which the rollout begins
    version: int  # updates behind the weights that draw it
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    groups: tuple[Group, ...] | None = None  # None: the run stopped first; the checkpoint has the weights to draw them
    agreement: StepStats | None = None  # of engine and trainer, by the weights that drew it

    def pack(self, drawn: Drawn) -> dict[str, Any]:
        """JSON; `drawn`: what the sampler gave for it."""
        return {
            "step": self.step,
            "version": self.version,
            "drawn": [[*key, epoch] for key, epoch in drawn.items()],
            "sampling": asdict(self.sampling),
            "groups": None if self.groups is None else [pack_group(group) for group in self.groups],
            "agreement": None if self.agreement is None else self.agreement.pack_agreement(),
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, Any], prompts: Mapping[tuple[str, str], Prompt]) -> RolloutAhead:
        groups, agreement = packed["groups"], packed["agreement"]
        return cls(
            packed["step"],
            packed["version"],
            tuple(named_prompt(task, name, prompts) for task, name in unpack_drawn(packed)),
            unpack_sampling(packed),
            None if groups is None else tuple(unpack_group(group, prompts) for group in groups),
            None if agreement is None else StepStats(**agreement),
        )


def unpack_drawn(packed: Mapping[str, Any]) -> Drawn:
    """What `RolloutAhead.pack` was given, in the order of drawing."""
    return {(task, name): epoch for task, name, epoch in packed["drawn"]}


def unpack_sampling(packed: Mapping[str, Any]) -> Sampling:
    settings = packed["sampling"]
    return Sampling(**{**settings, "stop": tuple(settings["stop"])})


class Ahead:
    """Samples in the background, one rollout at a time. `limit`: see `grpo.learner.gate.check_mismatch`."""

    def __init__(self, policy: Policy, learner: Learner, limit: float):
        self.policy, self.learner, self.limit = policy, learner, limit
        self.behaviour = Reference.of(policy)  # the weights that the engine has
        self._begun: tuple[RolloutAhead, Future[list[Group]]] | None = None

    def begin(self, waiting: RolloutAhead, sample: Callable[[], list[Group]]) -> None:
        """Start on what the rollout needs."""
        self._begun = waiting, in_background(sample)

    def finish(self) -> RolloutAhead | None:
        """Wait for it, but not once the run is to stop: it is then without groups. None: nothing was begun.

        Raises:
            UserError: the engine failed.
        """
        if self._begun is None:
            return None
        waiting, sampled = self._begun
        while not sampled.done() and not stopping.asked():
            wait([sampled], LOOK_SECONDS)
        if stopping.asked() and not (sampled.done() and sampled.exception() is None):
            return waiting
        self._begun = None
        return replace(waiting, groups=tuple(drawn_by(sampled.result(), waiting.version)))

    def again(self, waiting: RolloutAhead, sync: Callable[[], None], sample: Callable[[], list[Group]]) -> RolloutAhead:
        """What a stop did not wait for, after the restart: the engine gets the weights that draw it."""
        with self.behaviour.active(self.learner.model):
            sync()
        return replace(waiting, groups=tuple(drawn_by(sample(), waiting.version)))

    def checked(self, waiting: RolloutAhead) -> RolloutAhead:
        """With the agreement of engine and trainer on every token, by one forward of the weights that drew it.

        Raises:
            UserError: they do not hold the same.
        """
        rows = [TrainRow(group.prompt_ids, rollout) for group in waiting.groups or () for rollout in group.rollouts]
        self.learner.sampled_at(waiting.sampling.temperature)  # the next rollout's, which begins with it
        with self.behaviour.active(self.learner.model):
            sums = measure(self.learner, rows)
        check_mismatch(sums, self.limit, self.learner, waiting.version)
        return replace(waiting, agreement=sums)

    def synced(self) -> None:
        """The engine has the policy's present weights."""
        self.behaviour.replace_by(self.policy)


def drawn_by(groups: Sequence[Group], version: int) -> list[Group]:
    """The groups, each completion marked with the updates behind the weights that drew it."""
    return [
        replace(
            group,
            rollouts=tuple(replace(r, completion=replace(r.completion, version=version)) for r in group.rollouts),
        )
        for group in groups
    ]
