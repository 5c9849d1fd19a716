"""Which prompts a rollout takes: epochs, shares, repeats, difficulty, and a state that goes on where it was."""

import json
from typing import Any

import pytest

from grpo.errors import UserError
from grpo.rollout.sampler import PromptSampler, Task, divide
from support.groups import prompt_of


def task_of(count: int = 6, name: str = "default", **settings: Any) -> Task:
    return Task([prompt_of([9], str(i), name) for i in range(count)], [], **settings)


def sampled(sampler: PromptSampler, counts: list[int]) -> list[list[str]]:
    return [
        [f"{p.task}/{p.id}" for p in sampler.next(sampler.shares(count, step), step)]
        for step, count in enumerate(counts)
    ]


def test_every_prompt_once_an_epoch_in_a_new_order():
    tasks = {"default": task_of(count=6)}
    found = [name for part in sampled(PromptSampler(tasks, 9, seed=0), [4, 4, 4]) for name in part]
    assert sorted(found[:6]) == sorted(found[6:]) == [f"default/{i}" for i in range(6)]
    assert found[:6] != found[6:]
    assert found != [name for part in sampled(PromptSampler(tasks, 9, seed=1), [4, 4, 4]) for name in part]


def test_the_samplers_state_goes_on_where_it_was():
    tasks = {"default": task_of(count=5), "b": task_of(count=3, name="b")}
    whole = sampled(PromptSampler(tasks, 9, seed=0), [4] * 6)
    sampler = PromptSampler(tasks, 9, seed=0)
    sampled(sampler, [4] * 3)
    resumed = PromptSampler(tasks, 9, seed=0)
    resumed.load_state(json.loads(json.dumps(sampler.state())))
    assert sampled(resumed, [4] * 3) == whole[3:]


def test_a_rollout_larger_than_the_pool_has_no_equal_ids():
    (found,) = sampled(PromptSampler({"default": task_of(count=3)}, 9, seed=0), [8])
    assert len(set(found)) == 8


def test_a_late_task_joins_at_its_step_with_its_share():
    tasks = {"default": task_of(count=9), "late": task_of(count=9, name="late", last_steps=4, share=0.5)}
    sampler = PromptSampler(tasks, steps=10, seed=0)
    found = [[p.task for p in sampler.next(sampler.shares(6, step), step)] for step in range(10)]
    assert [names.count("late") for names in found] == [0] * 6 + [2] * 4
    assert all(len(names) == 6 for names in found)


def test_a_small_share_is_not_starved():
    """A tenth of four prompts is 0.4 a rollout: over ten rollouts that is about four prompts, not none."""
    tasks = {"default": task_of(count=9, share=0.9), "rare": task_of(count=9, name="rare", share=0.1)}
    sampler = PromptSampler(tasks, steps=10, seed=0)
    found = [[p.task for p in sampler.next(sampler.shares(4, step), step)].count("rare") for step in range(10)]
    assert set(found) == {0, 1}
    assert 3 <= sum(found) <= 5
    for stride in (1, 2, 16):  # steps go up by the updates of a rollout
        assert 390 <= sum(divide(4, {"a": 0.9, "b": 0.1}, stride * turn)["b"] for turn in range(1000)) <= 410


def test_divide_by_hand():
    shares = {"a": 0.31, "b": 0.23, "c": 0.46}
    for turn in range(50):
        assert divide(10, {"a": 1.0}, turn) == {"a": 10}
        assert divide(32, {"a": 3.0, "b": 1.0}, turn) == {"a": 24, "b": 8}  # exact where it can be
        assert sorted(divide(10, {"a": 1.0, "b": 1.0, "c": 1.0}, turn).values()) == [3, 3, 4]
        for count in range(20):
            found = divide(count, shares, turn)
            assert sum(found.values()) == count
            assert all(abs(found[name] - count * share) < 1 for name, share in shares.items())


def test_a_task_without_prompts_is_named():
    with pytest.raises(UserError, match="'empty': no prompts"):
        PromptSampler({"empty": Task([], [])}, 3, 0)
