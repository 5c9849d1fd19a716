"""A reward that may compare siblings and fails: what it gave the others is what it gives them together."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from grpo.scoring.groups import score
from grpo.scoring.table import Reward, apply_rewards
from support.groups import prompt_of, texts_of


class Ranks:
    """The share of its siblings that each text is not shorter than: it says nothing of a text by itself."""

    def __init__(self, fails: Any = None) -> None:
        self.fails, self.calls = fails or (lambda calls, completions: False), 0

    def __call__(self, prompts: list[str], completions: list[str]) -> list[float]:
        self.calls += 1
        if self.fails(self.calls, completions):
            raise ValueError("not this time")
        siblings: dict[str, list[int]] = {}
        for prompt, text in zip(prompts, completions, strict=True):
            siblings.setdefault(prompt, []).append(len(text))
        return [
            sum(len(text) >= other for other in siblings[prompt]) / len(siblings[prompt])
            for prompt, text in zip(prompts, completions, strict=True)
        ]


class LaterRanks(Ranks):
    async def __call__(self, prompts: list[str], completions: list[str]) -> list[float]:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().__call__(prompts, completions)


GROUPS = [["a", "bb", "ccc"], ["dddd", "e", "ff"], ["g", "g", "hh"]]


def judged(reward: Any, groups: list[list[str]] = GROUPS) -> list[list[float | None]]:
    made = [texts_of(replace(prompt_of([9], f"p{i}"), text=f"p{i}"), *texts) for i, texts in enumerate(groups)]
    scored, _ = score(made, [Reward("r", reward)], timeout=10)
    return [[rollout.reward for rollout in group.rollouts] for group in scored]


WHOLE = judged(Ranks())


@pytest.mark.parametrize("kind", [Ranks, LaterRanks])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_that_fails_a_few_times_gives_the_same_values(kind, count):
    assert judged(kind(lambda calls, completions: calls <= count)) == WHOLE
    assert judged(kind(lambda calls, completions: calls <= 1), GROUPS[:1]) == WHOLE[:1]


@pytest.mark.parametrize("kind", [Ranks, LaterRanks])
def test_the_siblings_of_a_bad_row_are_compared_with_each_other(kind):
    found = judged(kind(lambda calls, completions: "ff" in completions))
    assert found == [WHOLE[0], [*judged(Ranks(), [["dddd", "e"]])[0], None], WHOLE[2]]
    alone = judged(kind(lambda calls, completions: "ff" in completions), GROUPS[1:2])
    assert alone == found[1:2]


def test_a_group_that_cannot_be_judged_together_is_excluded_whole():
    """Never by values of rows alone: alone each of them would be the longest."""
    found = judged(Ranks(lambda calls, completions: "g" in completions and len(completions) > 1))
    assert found == [*WHOLE[:2], [None] * 3]


def test_nothing_is_called_twice_without_need():
    reward = Ranks(lambda calls, completions: "ff" in completions)
    judged(reward)
    assert reward.calls == 1 + 3 + 3 + 1  # all, each group, the bad group's rows, its good rows


# ---- what a function may return and be given


def values(fn: Any, count: int = 3, **columns: Any) -> list[float | None]:
    texts = [f"c{i}" for i in range(count)]
    return apply_rewards([Reward("r", fn)], [""] * count, texts, [[1]] * count, columns, timeout=10).values["r"]


async def later(completions):
    return (float(i) for i in range(len(completions)))


def generated(completions):
    yield from range(len(completions))


@pytest.mark.parametrize("returned", [
    lambda completions: [Decimal(i) for i in range(len(completions))], lambda completions: np.arange(len(completions)),
    lambda completions: torch.arange(len(completions), dtype=torch.bfloat16, requires_grad=True),
    lambda completions: [np.float32(0), torch.tensor(1), True + 1][: len(completions)],
    lambda completions: map(float, range(len(completions))), generated, later,
])  # fmt: skip
def test_what_counts_as_numbers(returned):
    assert values(returned) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("returned", [
    lambda completions: dict.fromkeys(completions, 1.0), lambda completions: "1" * len(completions),
    lambda completions: {1.0}, lambda completions: ["1"] * len(completions),
    lambda completions: [Decimal("NaN")] * len(completions), lambda completions: [1j] * len(completions),
])  # fmt: skip
def test_what_does_not(returned):
    assert values(returned) == [None] * 3


def test_a_generator_that_breaks_on_a_row():
    assert values(lambda completions: (1 / (text != "c1") for text in completions)) == [1.0, None, 1.0]


def test_a_column_is_not_spoilt_for_the_next_reward():
    def vandal(completions, array, names):
        array[0][:] = 9
        names[0].add("spoilt")
        return [0.0]

    def honest(completions, array, names):
        return [float(array[0].sum()) + len(names[0])]

    columns = {"array": [np.zeros(2)], "names": [{"a"}]}
    found = apply_rewards([Reward("v", vandal), Reward("h", honest)], [""], ["x"], [[]], columns)
    assert found.values == {"v": [0.0], "h": [1.0]}
