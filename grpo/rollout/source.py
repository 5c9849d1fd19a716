"""Rollouts: prompts -> sampled groups -> rewards, spread over the processes."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from grpo.config.training import RLConfig
from grpo.learner.stats import StepStats
from grpo.rollout.ahead import Ahead, RolloutAhead, unpack_drawn, unpack_sampling
from grpo.rollout.dynamic import Pool, pack_group, unpack_group
from grpo.rollout.sampler import Drawn, PromptSampler, Task
from grpo.scoring.calls import REWARD_TIMEOUT
from grpo.scoring.faults import Faults, Logged
from grpo.scoring.groups import Exclusions, score
from grpo.scoring.shaping import penalise_overlong
from grpo.scoring.table import TrainerState
from grpo.system.clock import Clock
from grpo.system.world import World
from grpo.types import Group, PolicyWeights, Prompt, RolloutEngine

log = logging.getLogger("grpo")


@dataclass(frozen=True)
class SourceState:
    """A `RolloutSource` at a rollout boundary. Cheap to take; `pack` is for when it has to be written."""

    sampler: dict[str, Any]
    leftovers: tuple[Group, ...]
    waiting: RolloutAhead | None
    drawn: Drawn  # for what waits
    unfinished: bool  # see `RolloutSource.unfinished`

    def pack(self) -> dict[str, Any]:
        """JSON."""
        return {
            "sampler": self.sampler,
            "leftovers": [pack_group(group) for group in self.leftovers],
            "waiting": None if self.waiting is None else self.waiting.pack(self.drawn),
        }


@dataclass
class RolloutSource:
    """Draws, samples and judges the groups of a rollout; with `ahead`, what the next one needs is sampled meanwhile."""

    sampler: PromptSampler
    tasks: Mapping[str, Task]
    engine: RolloutEngine
    config: RLConfig
    world: World
    seed: int
    clock: Clock
    ahead: Ahead | None = None
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of each reward of each task
    leftovers: list[Group] = field(default_factory=list)  # of dynamic sampling: used first, next time
    waiting: RolloutAhead | None = None  # of the rollout to come
    agreement: StepStats | None = None  # of engine and trainer on what was sampled ahead
    tokens: int = 0  # sampled for the last rollout, also those of groups that were not used
    exclusions: Exclusions = field(default_factory=Exclusions)  # of the last rollout
    logged: Logged = field(default_factory=Logged)  # by its rewards
    faults: Faults = field(default_factory=Faults)  # of the rewards, so far
    _counts: Mapping[str, float | None] = field(default_factory=dict)  # of dynamic sampling, in the last rollout

    def begin(self) -> None:
        """A rollout begins: nothing is sampled for it yet."""
        self.tokens, self.exclusions, self.agreement, self._counts = 0, Exclusions(), None, {}
        self.logged = Logged()

    def shares(self, step: int) -> dict[str, int]:
        """How many prompts of each task the rollout has."""
        return self.sampler.shares(self.config.rollout_prompts or self.config.prompts_per_step, step)

    def generate(self, shares: Mapping[str, int], step: int) -> list[Group]:
        """What waits for this rollout, or what is drawn for it now: so many prompts of each task, sampled."""
        if self.waiting is not None and self.waiting.groups is not None:
            groups, self.agreement, self.waiting = list(self.waiting.groups), self.waiting.agreement, None
        else:
            with self.clock("generate"):
                prompts = self.sampler.next(shares, step)
                groups = self.world.spread(prompts, lambda share: self._sample(share, step))
        self.tokens += sum(len(r.completion.token_ids) for group in groups for r in group.rollouts)
        return groups

    def _sample(self, prompts: list[Prompt], step: int) -> list[Group]:
        return self.engine.generate(prompts, self.config.at(step).sample_settings(), seed=self.seed, step=step)

    def reward(self, groups: list[Group], step: int) -> list[Group]:
        """The groups judged by their tasks' rewards, the over-long penalty included.

        Raises:
            UserError: too many of them got no reward, or what a reward logs has the name of another.
        """
        with self.clock("reward"):
            state, logged = TrainerState(step, self.config.steps), Logged()
            self.exclusions.draw(groups)
            judged = self.world.spread(
                groups, lambda share: score_tasks(share, self.tasks, state, self.exclusions, logged)
            )
            for of_process in self.world.gather(logged):
                self.logged.add(of_process, {name for rewards in self.weights.values() for name in rewards})
            self.exclusions.judge(judged)
            self.faults.tell(judged, step)
            self.exclusions.check(self.world.gather)
            self.sampler.observe(judged, step)
            config = self.config.at(step)
            return penalise_overlong(judged, config.sampling.max_tokens, config.penalty_zone)

    def pool(self, step: int) -> Pool:
        """Dynamic sampling's, with what the last rollout left over."""
        assert self.config.dynamic_sampling is not None
        name = self.config.dynamic_sampling.reward
        judged = {task for task, own in self.tasks.items() if any(reward.name == name for reward in own.rewards)}
        return Pool(self.shares(step), name, judged, self.leftovers)

    def take(self, pool: Pool, step: int) -> list[Group]:
        """The rollout's groups; the surplus that teaches is left over for the next one. Where that is to sample
        otherwise, it is of no use, and its prompts are drawn again."""
        groups, self.leftovers = pool.take()
        after = self.config.at(step + self.config.updates_per_rollout)
        if after.sampling != self.config.at(step).sampling:
            self.sampler.give_back([(group.prompt.task, group.prompt.id) for group in self.leftovers])
            self.leftovers = []
        self._counts = {**pool.metrics(), "leftovers": float(len(self.leftovers))}
        return groups

    @property
    def metrics(self) -> dict[str, float | None]:
        """Of the last rollout: dynamic sampling's, the running pass rates, and what rewards logged."""
        return {**self._counts, **self.sampler.metrics(), **self.logged.means()}

    def sample_ahead(self, step: int) -> None:
        """With `ahead`: have the rollout after that of `step` sampled, with the weights that the engine has now."""
        after = step + self.config.updates_per_rollout
        if self.ahead is None or after >= self.config.steps:
            return
        shares = self._needed(after)
        if shares:  # else leftovers are enough
            prompts = self.sampler.next(shares, after)
            waiting = RolloutAhead(after, step, tuple(prompts), self.config.at(after).sample_settings())
            self.ahead.begin(waiting, lambda: self._sample(prompts, after))

    def _needed(self, step: int) -> Mapping[str, int]:
        """What a rollout draws first."""
        return self.shares(step) if self.config.dynamic_sampling is None else self.pool(step).lacking()

    def sync(self, policy: PolicyWeights) -> None:
        """Give the engine the policy's weights, once it is done with those it has. When the run is to stop that is not
        waited for, and the engine keeps them.

        Raises:
            UserError: they did not arrive, or the engine failed, or it does not sample from those it was given.
        """
        if self.ahead is not None:
            with self.clock("generate"):
                if self.unfinished:
                    self.waiting = self._again(self.ahead, policy)
                else:
                    self.waiting = self.ahead.finish() or self.waiting
            if self.unfinished:
                return
            if self.waiting is not None and self.waiting.agreement is None:
                with self.clock("score"):
                    self.waiting = self.ahead.checked(self.waiting)
        with self.clock("sync"):
            self.engine.sync(policy)
            if self.ahead is not None:
                self.ahead.synced()

    @property
    def unfinished(self) -> bool:
        """Whether a stop did not wait for what was begun ahead: the weights that draw it belong to the state."""
        return self.waiting is not None and self.waiting.groups is None

    def _again(self, ahead: Ahead, policy: PolicyWeights) -> RolloutAhead:
        assert self.waiting is not None
        prompts, step = list(self.waiting.prompts), self.waiting.step
        return ahead.again(self.waiting, lambda: self.engine.sync(policy), lambda: self._sample(prompts, step))

    def take_tokens(self) -> int:
        """How many were sampled for the rollout, when asked first; then 0: they fall to its first update."""
        tokens, self.tokens = self.tokens, 0
        return tokens

    def state(self) -> SourceState:
        """The sampler's state, the leftovers and what waits."""
        drawn = {} if self.waiting is None else self.sampler.drawn(self.waiting.step)
        return SourceState(self.sampler.state(), tuple(self.leftovers), self.waiting, drawn, self.unfinished)

    def load_state(self, state: Mapping[str, Any], anew: Collection[str] = ()) -> None:
        """Go on from what `state` packed; the tasks in `anew` have other data now, which begins at its first epoch."""
        self.sampler.load_state(state["sampler"], anew)
        prompts = {(name, prompt.id): prompt for name, task in self.tasks.items() for prompt in task.prompts}
        self.leftovers = [unpack_group(packed, prompts) for packed in state["leftovers"] if packed["task"] not in anew]
        packed = state.get("waiting")
        if packed is None:
            return
        drawn = unpack_drawn(packed)
        if self._fits(packed, drawn, anew):
            self.waiting = RolloutAhead.unpack(packed, prompts)
            self.sampler.redraw(self.waiting.step, drawn)
        else:
            log.warning(
                "what was sampled ahead of step %d is dropped: it does not fit the changed settings or data; its "
                "prompts are drawn again, but for those of changed data",
                packed["step"] + 1,
            )
            self.sampler.give_back([key for key in drawn if key[0] not in anew])

    def _fits(self, packed: Mapping[str, Any], drawn: Drawn, anew: Collection[str]) -> bool:
        """Whether it is what the rollout would have sampled ahead by the settings and data of now."""
        needed = {task: count for task, count in self._needed(packed["step"]).items() if count}
        return (
            Counter(task for task, _ in drawn) == needed
            and not any(task in anew for task in needed)
            and unpack_sampling(packed) == self.config.at(packed["step"]).sample_settings()
            and (packed["groups"] is not None or self.ahead is not None)
        )


def score_tasks(
    groups: list[Group], tasks: Mapping[str, Task], trainer_state: TrainerState, exclusions: Exclusions, logged: Logged
) -> list[Group]:
    """Each task's groups judged by the task's rewards; the order of the groups stays.

    A function that fails on more rows here than may fail everywhere is not tried any further.
    """
    scored: dict[int, Group] = {}
    for name, task in tasks.items():
        indices = [i for i, group in enumerate(groups) if group.prompt.task == name]
        if indices:
            done, stats = score(
                [groups[i] for i in indices],
                task.rewards,
                columns=task.columns,
                trainer_state=trainer_state,
                timeout=REWARD_TIMEOUT,
                max_failed=exclusions.limit(name),
            )
            if stats.reason:
                exclusions.reasons.setdefault(name, stats.reason)
            logged.take(stats.metrics)
            scored.update(zip(indices, done, strict=True))
    return [scored[i] for i in range(len(groups))]
