"""Dynamic sampling (DAPO, arXiv 2503.14476 section 3.2): groups that teach something first, the surplus kept."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from grpo.types import Completion, Group, Prompt, Rollout

JUDGED = ("rewards", "reward", "excluded", "errors", "extra")  # what judging adds to a rollout


def teaches(group: Group, reward: str) -> bool:
    """Whether the named reward differs between the siblings that are not excluded."""
    values = [v for r in group.rollouts if r.reward is not None and (v := r.rewards.get(reward)) is not None]
    return bool(values) and min(values) < max(values)


class Pool:
    """The groups of one rollout as they come in, sorted by task and by whether they teach.

    `judged`: the tasks that have the named reward; the groups of the others are taken as they are.
    """

    def __init__(self, shares: Mapping[str, int], reward: str, judged: Collection[str], leftovers: Sequence[Group]):
        self.shares, self.reward, self.judged = shares, reward, judged
        self._kept: dict[str, list[Group]] = {task: [] for task in shares}
        self._spare: dict[str, list[Group]] = {task: [] for task in shares}
        for group in leftovers:
            self._kept.setdefault(group.prompt.task, []).append(group)
        self.draws = self.drawn = self.informative = 0

    def add(self, groups: Sequence[Group]) -> None:
        """What one draw gave."""
        self.draws += 1
        for group in groups:
            useful = group.prompt.task not in self.judged or teaches(group, self.reward)
            (self._kept if useful else self._spare)[group.prompt.task].append(group)
            self.drawn += 1
            self.informative += useful

    def missing(self) -> list[str]:
        """Tasks whose share is not full."""
        return [task for task, share in self.shares.items() if len(self._kept[task]) < share]

    def lacking(self) -> dict[str, int]:
        """What is drawn for them: their whole shares."""
        return {task: self.shares[task] for task in self.missing()}

    def metrics(self) -> dict[str, float | None]:
        share = self.informative / self.drawn if self.drawn else None
        return {"draws": float(self.draws), "informative_fraction": share}

    def take(self) -> tuple[list[Group], list[Group]]:
        """(the rollout's groups, the surplus that teaches)."""
        chosen = [group for task, n in self.shares.items() for group in (self._kept[task] + self._spare[task])[:n]]
        surplus = [group for task, kept in self._kept.items() for group in kept[self.shares.get(task, 0) :]]
        return chosen, surplus


def pack_group(group: Group) -> dict[str, Any]:
    """JSON of a judged group; its prompt by task and id."""
    rollouts = [{**vars(r.completion), **{name: getattr(r, name) for name in JUDGED}} for r in group.rollouts]
    return {"task": group.prompt.task, "prompt": group.prompt.id, "rollouts": rollouts}


def named_prompt(task: str, name: str, prompts: Mapping[tuple[str, str], Prompt]) -> Prompt:
    """A drawn prompt; `prompts` by (task, id). One drawn twice in a rollout was named id@1."""
    return prompts.get((task, name)) or replace(prompts[task, name.rpartition("@")[0]], id=name)


def unpack_group(packed: Mapping[str, Any], prompts: Mapping[tuple[str, str], Prompt]) -> Group:
    """The group again; `prompts` by (task, id)."""
    prompt = named_prompt(packed["task"], packed["prompt"], prompts)
    rollouts = []
    for row in packed["rollouts"]:
        fields = {key: value for key, value in row.items() if key not in JUDGED}
        completion = Completion(
            **{**fields, "token_ids": tuple(fields["token_ids"]), "logprobs": tuple(fields["logprobs"])}
        )
        rollouts.append(Rollout(completion, **{name: row[name] for name in JUDGED if name in row}))
    return Group(prompt, tuple(rollouts))
