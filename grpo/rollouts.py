"""Rollouts: prompts -> sampled groups -> rewards, spread over the processes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grpo.config import OVERLONG, RLConfig
from grpo.data import write_jsonl
from grpo.dynamic_sampling import Pool, pack_group, unpack_group
from grpo.files import must_write
from grpo.metrics import Clock
from grpo.parallel import World
from grpo.prompts import PromptSampler, Task
from grpo.reward_calls import REWARD_TIMEOUT
from grpo.scoring import Exclusions, TrainerState, score
from grpo.types import Group, Prompt, RolloutEngine


@dataclass
class RolloutSource:
    """Draws, samples and judges the groups of a rollout."""

    sampler: PromptSampler
    tasks: Mapping[str, Task]
    engine: RolloutEngine
    config: RLConfig
    world: World
    seed: int
    clock: Clock
    leftovers: list[Group] = field(default_factory=list)  # of dynamic sampling: used first, next time
    metrics: Mapping[str, float | None] = field(default_factory=dict)  # of the last rollout
    tokens: int = 0  # sampled for the last rollout, also those of groups that were not used
    exclusions: Exclusions = field(default_factory=Exclusions)  # of the last rollout

    def next(self, step: int) -> list[Group]:
        """The judged groups of the rollout that begins at `step`.

        With dynamic sampling, groups that teach nothing are replaced by new ones, up to the bound; what is drawn beyond
        the need waits for the next rollout, and what is still missing is filled up with groups that teach nothing.
        """
        self.tokens = 0
        self.exclusions = Exclusions()
        shares = self.sampler.shares(self.config.rollout_prompts or self.config.prompts_per_step, step)
        settings = self.config.dynamic_sampling
        if settings is None:
            groups = self._draw(shares, step)
            self.metrics = self.sampler.metrics()
            return groups
        judged = {name for name, task in self.tasks.items() if any(r.name == settings.reward for r in task.rewards)}
        pool = Pool(shares, settings.reward, judged, self.leftovers)
        draws = 0
        while pool.missing() and draws < settings.max_draws:
            pool.add(self._draw({task: shares[task] for task in pool.missing()}, step))
            draws += 1
        chosen, self.leftovers = pool.take()
        self.metrics = {
            "draws": float(draws),
            "informative_fraction": pool.informative / pool.drawn if pool.drawn else None,
            "leftovers": float(len(self.leftovers)),
            **self.sampler.metrics(),
        }
        return chosen

    def _draw(self, shares: Mapping[str, int], step: int) -> list[Group]:
        with self.clock("generate"):
            prompts = self.sampler.next(shares, step)
            groups = self.world.spread(prompts, lambda own: self._sample(own, step))
            self.tokens += sum(len(r.completion.token_ids) for group in groups for r in group.rollouts)
        with self.clock("reward"):
            judged = self._judge(groups, step)
            self.sampler.observe(judged)
            return penalise_overlong(judged, self.config.sampling.max_tokens, self.config.penalty_zone)

    def _sample(self, prompts: list[Prompt], step: int) -> list[Group]:
        return self.engine.generate(prompts, self.config.sample_settings(), seed=self.seed, step=step)

    def _judge(self, groups: list[Group], step: int) -> list[Group]:
        state = TrainerState(step, self.config.steps)
        self.exclusions.draw(groups)
        judged = self.world.spread(groups, lambda own: score_tasks(own, self.tasks, state, self.exclusions))
        self.exclusions.judge(judged)
        self.exclusions.check(self.world.gather)
        return judged

    def state(self) -> dict[str, Any]:
        """The sampler's state and the leftovers; JSON."""
        return {"sampler": self.sampler.state(), "leftovers": [pack_group(group) for group in self.leftovers]}

    def load_state(self, state: Mapping[str, Any], anew: Collection[str] = ()) -> None:
        """Go on from what `state` gave; the tasks in `anew` have other data now, which begins at its first epoch."""
        self.sampler.load_state(state["sampler"], anew)
        prompts = {(name, prompt.id): prompt for name, task in self.tasks.items() for prompt in task.prompts}
        self.leftovers = [unpack_group(packed, prompts) for packed in state["leftovers"] if packed["task"] not in anew]


def score_tasks(
    groups: list[Group], tasks: Mapping[str, Task], trainer_state: TrainerState, exclusions: Exclusions
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
            scored.update(zip(indices, done, strict=True))
    return [scored[i] for i in range(len(groups))]


def overlong_penalty(tokens: int, *, truncated: bool, limit: int, zone: int) -> float:
    """0 up to limit - zone tokens, then falling linearly to -1 at the limit (DAPO, arXiv 2503.14476 eq. 13)."""
    return -1.0 if truncated else min(0.0, (limit - zone - tokens) / zone)


def penalise_overlong(groups: list[Group], limit: int, zone: int | None) -> list[Group]:
    """The groups with the penalty added to every reward, under the name `overlong`; `zone` None: no penalty."""
    if zone is None:
        return groups
    penalised = []
    for group in groups:
        rollouts = []
        for rollout in group.rollouts:
            done = rollout.completion
            truncated = done.finish_reason == "length"
            penalty = overlong_penalty(len(done.token_ids), truncated=truncated, limit=limit, zone=zone)
            reward = None if rollout.reward is None else rollout.reward + penalty
            rollouts.append(replace(rollout, rewards={**rollout.rewards, OVERLONG: penalty}, reward=reward))
        penalised.append(replace(group, rollouts=tuple(rollouts)))
    return penalised


def save_completions(out: Path, step: int, groups: list[Group]) -> None:
    """What was sampled, with rewards: one line a completion."""
    rows = [
        {
            "step": step + 1,
            "task": group.prompt.task,
            "prompt_id": group.prompt.id,
            "prompt": group.prompt.text if group.prompt.messages is None else group.prompt.messages,
            "completion": rollout.completion.text,
            "finish_reason": rollout.completion.finish_reason,
            "rewards": rollout.rewards,
            "reward": rollout.reward,
            "advantage": rollout.advantage,
        }
        for group in groups
        for rollout in group.rollouts
    ]
    file = out / "completions" / f"step-{step + 1:06d}.jsonl"
    with must_write(file, sum(len(str(row)) for row in rows)):
        write_jsonl(file, rows)


def drop_completions(out: Path, done: int) -> None:
    """Remove what was sampled after the first `done` steps: a run that goes on from there samples it again."""
    for file in (out / "completions").glob("step-*.jsonl"):
        if file.stem > f"step-{done:06d}":
            file.unlink()
