"""Asking a model that is here: in parts, every process its share, with a bar that moves as completions finish, and none
asked for twice that a stopped try has kept."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from grpo.evaluation.kept import Kept
from grpo.system.progress import progress
from grpo.system.world import World
from grpo.types import Completion, Group, Prompt, Rollout, RolloutEngine, Sampling

PARTS = 4  # times the rows that are decoded at a time


def ask(
    sampler: RolloutEngine,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    max_rows: int,
    label: str,
    kept: Kept | None = None,
) -> list[Group]:
    """A group of each prompt. A sample does not depend on what else is sampled, so of a prompt with all its answers
    `kept` none is asked for."""
    world, size = World.current(), sampling.group_size
    answers = world.main_finds(kept.read) if kept else {}
    groups = {place: group for place, prompt in enumerate(prompts) if (group := _group(prompt, size, answers))}
    missing = [place for place in range(len(prompts)) if place not in groups]
    part = max(1, PARTS * world.size * max_rows // size)
    if not missing:
        return list(groups.values())
    with progress(label, total=len(prompts) * size, done=len(groups) * size) as bar:
        for start in range(0, len(missing), part):
            places = missing[start : start + part]
            unheard = len(places) * size

            def heard(prompt: Prompt, sibling: int, rollout: Rollout) -> None:
                nonlocal unheard
                steps = min(world.size, unheard)  # the other processes are about as far
                unheard -= steps
                bar.advance(steps)
                if kept:
                    kept.add(_key(prompt, sibling), _answer(rollout.completion))

            draw = partial(sampler.generate, sampling=sampling, seed=seed, step=0, heard=heard)
            drawn = world.spread([prompts[place] for place in places], draw)
            groups |= dict(zip(places, drawn, strict=True))
            bar.advance(unheard)
    return [groups[place] for place in range(len(prompts))]


def _key(prompt: Prompt, sibling: int) -> tuple[str, int]:
    return f"{prompt.task}/{prompt.id}", sibling


def _answer(completion: Completion) -> dict[str, Any]:
    """What is kept of it: an evaluation has no use for its log-probs."""
    return asdict(replace(completion, logprobs=()))


def _group(prompt: Prompt, size: int, answers: Mapping[tuple[str, int], Mapping[str, Any]]) -> Group | None:
    """Of answers that were kept; None: not all of them were."""
    kept = [answers.get(_key(prompt, sibling)) for sibling in range(size)]
    if None in kept:
        return None
    completions = (
        Completion(**{**answer, "token_ids": tuple(answer["token_ids"]), "logprobs": ()}) for answer in kept if answer
    )
    return Group(prompt, tuple(map(Rollout, completions)))
