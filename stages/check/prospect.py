"""What drawn groups say of a stage: a column of numbers for each task and for all, and the sentence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from grpo.advantages import assign_advantages
from grpo.config.training import OVERLONG
from grpo.evaluation.statistics import mean_interval
from grpo.learner.batching import rows_of
from grpo.monitoring.advice import Prospect, advice, hopeless, is_form, right_reward
from grpo.rollout.dynamic import teaches
from grpo.system.console import SafeConsole, say
from grpo.system.numbers import mean
from grpo.types import Group, Rollout
from stages.recipe.config import RLStageConfig, TaskConfig
from stages.recipe.summary import percent, print_columns

ENOUGH = 8  # groups of a task of which something is said; of fewer, chance decides
Values = dict[str, set[float]]


@dataclass(frozen=True)
class Judged:
    """Groups of one task, or of all, and what the stage's own rules make of them."""

    name: str
    groups: list[Group]
    teaching: list[Group]  # with advantages that are trained on, and, where dynamic sampling judges them, by its reward
    formal: list[Group]  # of these, where form alone differs
    weighted: tuple[str, ...]  # the rewards that have a say
    right: dict[str, str]  # task -> the reward that says what is right
    redrawn: bool = False  # dynamic sampling judges them
    apart: bool = False  # drawn beyond the task's share, which was too small for any: not among all

    @cached_property
    def rollouts(self) -> list[Rollout]:
        return [rollout for group in self.groups for rollout in group.rollouts]

    @cached_property
    def tokens(self) -> list[int]:
        return sorted(len(rollout.completion.token_ids) for rollout in self.rollouts)

    @cached_property
    def shares(self) -> list[float]:
        """Of right completions in each group that can be judged so."""
        values = [
            [
                float(value >= 1.0)
                for r in group.rollouts
                if (value := r.rewards.get(self.right[group.prompt.task])) is not None
            ]
            for group in self.groups
            if group.prompt.task in self.right
        ]
        return [sum(group) / len(group) for group in values if group]

    @property
    def entropy(self) -> float | None:
        """Nats a token: the mean of -log p of what was drawn."""
        logprobs = [-value for rollout in self.rollouts for value in rollout.completion.logprobs]
        return mean(logprobs)

    @property
    def truncated(self) -> float:
        return sum(r.completion.finish_reason == "length" for r in self.rollouts) / len(self.rollouts)

    def prospect(self, dynamic: bool) -> Prospect:
        alike = not any(len(values) > 1 for values in different(self.rollouts, self.weighted).values())
        return Prospect(
            teaching=len(self.teaching) / len(self.groups),
            form=len(self.formal) / len(self.groups),
            right=mean(self.shares),
            entropy=self.entropy,
            truncated=self.truncated,
            constant=self.weighted if alike else (),
            dynamic=dynamic,
        )


def judged(groups: Sequence[Group], section: RLStageConfig, apart: Collection[str] = ()) -> list[Judged]:
    """The groups of each task. `apart`: the tasks whose groups are not among all."""
    weights = {name: {spec.label: spec.weight for spec in task.rewards} for name, task in section.tasks.items()}
    penalty = {OVERLONG: 1.0} if section.penalty_zone else {}
    weights = {name: of_task | penalty for name, of_task in weights.items()}
    advanced = assign_advantages(list(groups), section.advantage, weights)
    return [
        replace(_judged(name, task, [g for g in advanced if g.prompt.task == name], section), apart=name in apart)
        for name, task in section.tasks.items()
    ]


def _judged(name: str, task: TaskConfig, groups: list[Group], section: RLStageConfig) -> Judged:
    chosen = section.dynamic_sampling.reward if section.dynamic_sampling is not None else None
    redrawn = any(spec.label == chosen for spec in task.rewards)
    weighted = (*(s.label for s in task.rewards if s.weight), *([OVERLONG] if section.penalty_zone else []))
    formal = {spec.label for spec in task.rewards if is_form(spec.label, spec.fn)} | {OVERLONG}
    teaching, form = [], []
    for group in groups:
        rows = rows_of([group], drop_truncated=section.truncated == "mask")
        if rows and section.loss.distill is not None:  # each token teaches, whatever it earns
            teaching.append(group)
            continue
        if not any(row.rollout.advantage for row in rows) or (redrawn and chosen and not teaches(group, chosen)):
            continue
        teaching.append(group)
        values = different((row.rollout for row in rows), weighted)
        if {label for label, of in values.items() if len(of) > 1} <= formal:
            form.append(group)
    label = right_reward(((spec.label, spec.fn, spec.weight) for spec in task.rewards), section)
    return Judged(name, groups, teaching, form, weighted, {name: label} if label else {}, redrawn)


def different(rollouts: Iterable[Rollout], names: Sequence[str]) -> Values:
    """The different values of each reward among the completions that were judged."""
    found: Values = {name: set() for name in names}
    for rollout in rollouts:
        for name in names if rollout.reward is not None else ():
            value = rollout.rewards.get(name)
            if value is not None:
                found[name].add(value)
    return found


def together(tasks: Sequence[Judged]) -> Judged:
    """All of them that were drawn by their shares."""
    tasks = [task for task in tasks if not task.apart]
    return Judged(
        "all",
        [group for task in tasks for group in task.groups],
        [group for task in tasks for group in task.teaching],
        [group for task in tasks for group in task.formal],
        tuple(dict.fromkeys(name for task in tasks for name in task.weighted)),
        {name: label for task in tasks for name, label in task.right.items()},
    )


def sentence(tasks: Sequence[Judged], section: RLStageConfig) -> str:
    """What all of it teaches, and what ails the task that teaches least, of those with enough groups."""
    dynamic = section.dynamic_sampling is not None
    whole = together(tasks).prospect(dynamic)
    for task in sorted(tasks, key=lambda task: len(task.teaching) / len(task.groups)) if len(tasks) > 1 else ():
        wrong = hopeless(task.prospect(task.redrawn)) if len(task.groups) >= ENOUGH else None
        if wrong:
            return (
                f"task '{task.name}': {wrong}" if hopeless(whole) else f"{advice(whole)}; '{task.name}' can't: {wrong}"
            )
    return advice(whole)


def print_prospect(tasks: Sequence[Judged], section: RLStageConfig) -> None:
    """The table and the sentence."""
    columns = [*tasks, together(tasks)] if len(tasks) > 1 else tasks
    size = section.group_size
    rows: dict[str, Callable[[Judged], str]] = {
        "prompts": lambda of: str(len(of.groups)),
        "pass@1, %": lambda of: _estimate(of.shares),
        f"pass@{size}, %": lambda of: _estimate([float(share > 0) for share in of.shares]),
        "groups that teach, %": lambda of: percent(len(of.teaching) / len(of.groups)),
        "  by form alone, %": lambda of: percent(len(of.formal) / len(of.groups)),
        "reward": lambda of: _number(mean(rollout.reward for rollout in of.rollouts)),
    }
    for name in dict.fromkeys(name for task in tasks for name in task.groups[0].rollouts[0].rewards):
        rows[f"  {name}"] = partial(_reward, name)
    rows |= {
        "entropy, nats a token": lambda of: _number(of.entropy),
        "cut at the limit, %": lambda of: percent(of.truncated),
        "tokens: mean, p95, most": lambda of: f"{mean(map(float, of.tokens)):.0f}, {_p95(of.tokens)}, {of.tokens[-1]}",
        "prompt tokens": lambda of: f"{mean(float(len(group.prompt_ids)) for group in of.groups):.0f}",
        f"different ones of {size}": lambda of: _number(
            mean(float(len({r.completion.token_ids for r in group.rollouts})) for group in of.groups)
        ),
    }
    cells = [(column.name, [cell(column) for cell in rows.values()]) for column in columns]
    print_columns(SafeConsole(), None, [("", [*rows])], cells)
    say(sentence(tasks, section))


def _estimate(values: Sequence[float]) -> str:
    if not values:
        return "-"
    found = mean_interval(values)
    return percent(found.mean, [found.low, found.high])


def _reward(name: str, of: Judged) -> str:
    return _number(mean(rollout.rewards.get(name) for rollout in of.rollouts))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _p95(ordered: Sequence[int]) -> int:
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
