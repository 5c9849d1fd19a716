"""Which completions stand on the page: a few steps, and of each the prompts that say most about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import zip_longest

from stages.view.run_folder import Sample, SampleGroup, StageFolder
from stages.view.text import shorten

STEPS = 5  # first to last, evenly
PROMPTS = 6  # of a step
LONGEST_COMPLETION = 4000  # characters
LONGEST_PROMPT = 2000


@dataclass(frozen=True)
class Choice:
    """A prompt with its best and its worst completion, and why it was taken."""

    reason: str
    group: SampleGroup
    shown: tuple[tuple[str, Sample], ...]  # ("best", ...), ("worst", ...)


@dataclass(frozen=True)
class StepSamples:
    step: int
    choices: list[Choice]


def samples_of(stage: StageFolder) -> list[StepSamples]:
    """Of up to `STEPS` steps from the first to the last."""
    steps = stage.steps()
    last = len(steps) - 1
    places = sorted({round(last * part / (STEPS - 1)) for part in range(STEPS)}) if steps else []
    return [StepSamples(steps[place], choose(stage.groups(steps[place]))) for place in places]


def choose(groups: list[SampleGroup]) -> list[Choice]:
    """Of every task the prompt with the widest spread of reward, the one it does worst on and the best."""
    tasks = dict.fromkeys(group.task for group in groups)
    by_task = [_of_task([group for group in groups if group.task == task]) for task in tasks]
    in_turn = [choice for turn in zip_longest(*by_task) for choice in turn if choice is not None]
    return in_turn[:PROMPTS]


def _of_task(groups: list[SampleGroup]) -> list[Choice]:
    """Three different prompts as far as there are so many."""
    judged = [group for group in groups if any(sample.reward is not None for sample in group.samples)]
    left = judged or groups[:1]
    ranks: dict[str, Callable[[SampleGroup], float]] = {
        "widest spread": lambda group: max(_rewards(group)) - min(_rewards(group)),
        "lowest mean": lambda group: -_mean(group),
        "highest mean": _mean,
    }
    picked = []
    for reason, rank in ranks.items():
        if left:
            group = max(left, key=rank)  # the first of equals
            left = [other for other in left if other is not group]
            prompt = tuple((role, shorten(content, LONGEST_PROMPT)) for role, content in group.prompt)
            reason = reason if judged else "without a reward"
            picked.append(Choice(reason, replace(group, prompt=prompt), _extremes(group)))
    return picked


def _mean(group: SampleGroup) -> float:
    return sum(_rewards(group)) / len(_rewards(group))


def _rewards(group: SampleGroup) -> list[float]:
    return [sample.reward for sample in group.samples if sample.reward is not None] or [0.0]


def _extremes(group: SampleGroup) -> tuple[tuple[str, Sample], ...]:
    """Best and worst by reward, cut to length; one completion alone is both."""
    judged = [sample for sample in group.samples if sample.reward is not None] or group.samples
    ranked = sorted(judged, key=lambda sample: sample.reward or 0.0, reverse=True)
    ranked = [replace(sample, completion=shorten(sample.completion, LONGEST_COMPLETION)) for sample in ranked]
    if len(ranked) == 1:
        return (("only", ranked[0]),)
    names = ("equal", "equal") if ranked[0].reward == ranked[-1].reward else ("best", "worst")
    return (names[0], ranked[0]), (names[1], ranked[-1])
