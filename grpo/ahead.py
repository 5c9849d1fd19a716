"""One step ahead (`engine.ahead`): the engine samples the next rollout while the trainer works on this one.

Which weights draw a rollout never depends on the clock. With weights W_k at the beginning of rollout k, W_0 draws
rollouts 0 and 1, and W_k rollout k + 1: each is exactly one rollout old when it is trained, whoever was faster. (With
dynamic sampling, what has to be drawn again is drawn by the weights of the moment, and waited for.)

The log-probs of a stale rollout differ from those of the policy that trains on it, and lawfully so. So the gate of
`grpo.update` looks at it as soon as it is there, with the weights that drew it put back in the policy's place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from grpo.batching import Row
from grpo.dynamic_sampling import pack_group, unpack_group
from grpo.learner import Learner
from grpo.policy import Policy
from grpo.prompts import Drawn
from grpo.reference import Reference
from grpo.types import Group, Prompt
from grpo.update import check_mismatch, measure_group


@dataclass(frozen=True)
class Waiting:
    """What was sampled ahead of a rollout that has not begun: not judged yet, and never sampled again."""

    step: int  # at which the rollout begins
    groups: tuple[Group, ...]
    agreement: Mapping[str, float | None]  # metrics of engine and trainer, by the weights that drew it

    def pack(self, drawn: Drawn) -> dict[str, Any]:
        """JSON; `drawn`: what the sampler gave for it."""
        return {
            "step": self.step,
            "drawn": [[*key, epoch] for key, epoch in drawn.items()],
            "groups": [pack_group(group) for group in self.groups],
            "agreement": dict(self.agreement),
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, Any], prompts: Mapping[tuple[str, str], Prompt]) -> tuple[Waiting, Drawn]:
        groups = tuple(unpack_group(group, prompts) for group in packed["groups"])
        drawn = {(task, name): epoch for task, name, epoch in packed["drawn"]}
        return cls(packed["step"], groups, packed["agreement"]), drawn


class Ahead:
    """Samples in the background, one rollout at a time. `limit`: of the gate, see `grpo.update.check_mismatch`."""

    def __init__(self, policy: Policy, learner: Learner, limit: float):
        self.policy, self.learner, self.limit = policy, learner, limit
        self._behaviour = Reference.of(policy)  # the weights that the engine has
        self._sampling: tuple[int, Future[list[Group]]] | None = None

    def begin(self, step: int, sample: Callable[[], list[Group]]) -> None:
        """Start on what the rollout at `step` needs."""
        self._sampling = step, in_background(sample)

    def finish(self) -> Waiting | None:
        """Wait for it. None: nothing was begun.

        Raises:
            UserError: the engine failed, or samples from other weights than it was given.
        """
        if self._sampling is None:
            return None
        (step, sampled), self._sampling = self._sampling, None
        groups = sampled.result()
        return Waiting(step, tuple(groups), self.agreement(groups))

    def agreement(self, groups: Sequence[Group]) -> dict[str, float | None]:
        """Metrics of the first group, scored by the weights that drew it.

        Raises:
            UserError: engine and trainer do not hold the same.
        """
        rows = [Row(groups[0].prompt_ids, rollout) for rollout in groups[0].rollouts]
        with self._behaviour.active(self.learner.model):
            sums = measure_group(self.learner, rows, rows[0].rollout.completion.version)
        check_mismatch(sums, self.limit)
        return sums.agreement()

    def synced(self) -> None:
        """The engine has the policy's present weights."""
        self._behaviour.replace_by(self.policy)


def in_background(work: Callable[[], list[Group]]) -> Future[list[Group]]:
    """Its result, or what it raised. A thread of its own, and a daemon: a run that stops does not wait for it."""
    outcome: Future[list[Group]] = Future()

    def target() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            outcome.set_exception(error)

    threading.Thread(target=target, name="grpo-ahead", daemon=True).start()
    return outcome


def drawn_by(groups: Sequence[Group], version: int) -> list[Group]:
    """The groups, each completion marked with the updates behind the weights that drew it."""
    return [
        replace(
            group,
            rollouts=tuple(replace(r, completion=replace(r.completion, version=version)) for r in group.rollouts),
        )
        for group in groups
    ]
