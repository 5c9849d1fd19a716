"""Group-normalised advantages: worked by hand, against float64 by hand, and their invariances."""

import itertools
import math
import random
import statistics
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grpo.advantages import assign_advantages, group_advantages
from grpo.config.algorithm import AdvantageConfig
from grpo.errors import UserError
from grpo.types import Group
from support.groups import group_of, prompt_of
from support.losses import double

GROUP, BATCH, NONE, MEAN = (AdvantageConfig(scale=scale) for scale in ("group", "batch", "none", "mean"))


def advantages(rewards: Tensor, config: AdvantageConfig, valid: Tensor | None = None) -> Tensor:
    """Of all rewards, unless some are not valid."""
    return group_advantages(rewards, torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid, config)


def test_group_scale_by_hand():
    # mean 1/4; deviations 3/4, -1/4, -1/4, -1/4; variance with ddof 1: (9 + 1 + 1 + 1)/16/3 = 1/4; std 1/2
    expected = [0.75 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001]
    assert advantages(double([[1.0, 0.0, 0.0, 0.0]]), GROUP)[0].tolist() == pytest.approx(expected, rel=1e-15)


def test_no_scale_by_hand():
    rewards = double([[3.0, 1.0, 2.0], [0.5, 0.0, 1.0]])
    assert advantages(rewards, NONE).tolist() == [[1.0, -1.0, 0.0], [0.0, -0.5, 0.5]]


def test_batch_scale_by_hand():
    # all: 0 2 4 2, mean 2, squares 4 + 0 + 4 + 0 = 8, ddof 1: 8/3. Group means 1 and 3, deviations -1 1 1 -1.
    one = 1 / (math.sqrt(8 / 3) + 1e-4)
    found = advantages(double([[0.0, 2.0], [4.0, 2.0]]), BATCH).flatten().tolist()
    assert found == pytest.approx([-one, one, one, -one], rel=1e-15)


def test_mean_scale_by_hand():
    # means 1/4 and 3/8: (1 - 1/4) / (1/4) = 3, -1; (1/2 - 3/8) / (3/8) = 1/3
    found = advantages(double([[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.0]]), MEAN)
    assert found[0].tolist() == [3.0, -1.0, -1.0, -1.0]
    assert found[1].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, -1.0], rel=1e-15)
    # excluded ones are in no mean; the scale of the rewards does not matter, however small they are
    valid = torch.tensor([[True, True, False, True]])
    assert advantages(double([[1.0, 0.0, -9.0, 0.0]]), MEAN, valid)[0].tolist() == pytest.approx([2.0, -1.0, 0.0, -1.0])
    assert advantages(double([[1e-9, 0.0, 0.0, 0.0]]), MEAN)[0].tolist() == pytest.approx([3.0, -1.0, -1.0, -1.0])


def test_the_mean_of_negative_rewards_is_not_divided_by():
    """Around 0 it would blow up, and below turn every advantage round."""
    for rewards in ([[1.0, -1.0]], [[-2.0, -1.0]], [[1.0, 1.0], [0.5, -0.1]]):
        with pytest.raises(UserError, match=r"advantage.scale: mean .* one is -"):
            advantages(double(rewards), MEAN)


def test_the_expected_gradient_of_mean_scale_is_that_of_the_likelihoods_first_terms():
    """MaxRL: all G-tuples of a three-token vocabulary, of which two tokens are right. Divided by the mean reward, the
    expected policy gradient is that of sum_k pass@k / k up to k = G - 1; log p, the likelihood of a right answer, is
    that sum without an end. (Up to G, as the paper has it, if groups without a right answer had their baseline's
    gradient; here equal rewards give none.)"""
    logits, size = double([0.4, -0.3, 0.1]).requires_grad_(), 3
    right, logprobs = double([0.0, 1.0, 1.0]), logits.log_softmax(-1)
    draws = torch.tensor(list(itertools.product(range(3), repeat=size)))
    weights = advantages(right[draws], MEAN)
    probability = logprobs.detach()[draws].sum(-1).exp()
    (found,) = torch.autograd.grad(
        (probability * (weights * logprobs[draws]).mean(-1)).sum(), logits, retain_graph=True
    )
    fail = 1 - (logprobs.exp() * right).sum()
    (expected,) = torch.autograd.grad(sum((1 - fail**k) / k for k in range(1, size)), logits)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_excluded_entries_take_no_part():
    rewards = double([[1.0, 0.0, 99.0, 0.0], [5.0, 7.0, -1e9, math.nan]])
    valid = torch.tensor([[True, True, False, True], [True, True, False, False]])
    # (1, 0, 0): mean 1/3, variance (4 + 1 + 1)/9/2 = 1/3.  (5, 7): mean 6, variance 2.
    third, two = math.sqrt(1 / 3) + 1e-4, math.sqrt(2) + 1e-4
    found = advantages(rewards, GROUP, valid)
    assert found[0].tolist() == pytest.approx([2 / 3 / third, -1 / 3 / third, 0.0, -1 / 3 / third], rel=1e-14)
    assert found[1].tolist() == pytest.approx([-1 / two, 1 / two, 0.0, 0.0], rel=1e-14)


def test_excluded_entries_take_no_part_in_the_batch_deviation():
    rewards = double([[0.0, 2.0, 1e6], [4.0, 2.0, math.nan]])
    valid = torch.tensor([[True, True, False], [True, True, False]])
    one = 1 / (math.sqrt(8 / 3) + 1e-4)
    assert advantages(rewards, BATCH, valid).flatten().tolist() == pytest.approx([-one, one, 0, one, -one, 0])


@pytest.mark.parametrize("config", [GROUP, BATCH, NONE, MEAN], ids=["group", "batch", "none", "mean"])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6 + 0.1, -0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_exactly_zero(config, value, dtype):
    """0.1 summed three times and divided by three is not 0.1: rounding must not become a gradient."""
    value = abs(value) if config is MEAN else value
    rewards = torch.tensor([[value] * 7, [0.0, 1.0, 0.0, 0.0, 0.3, 0.0, 0.0]], dtype=dtype)
    found = advantages(rewards, config)
    assert found[0].tolist() == [0.0] * 7
    assert found[1].abs().min() > 0


@pytest.mark.parametrize("config", [GROUP, BATCH, NONE, MEAN], ids=["group", "batch", "none", "mean"])
def test_fewer_than_two_valid_rewards_give_zero(config):
    valid = torch.tensor([[True, False], [False, False]])
    found = advantages(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), config, valid)
    assert found.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@given(
    st.lists(st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from(["group", "batch", "none"]),
)
@settings(max_examples=60, deadline=None)
def test_float64_reference(rows, scale):
    """The same formula with Python's exact-fraction statistics."""
    found = advantages(double(rows), AdvantageConfig(scale=scale))
    overall = statistics.stdev([r for row in rows for r in row])
    for row, line in zip(rows, found.tolist(), strict=True):
        if min(row) == max(row):
            assert line == [0.0] * 4
            continue
        divisor = {"group": statistics.stdev(row) + 1e-4, "batch": overall + 1e-4, "none": 1.0}[scale]
        mean = statistics.mean(row)
        assert line == pytest.approx([(r - mean) / divisor for r in row], rel=1e-9, abs=1e-9)


def test_a_shift_and_a_permutation_change_nothing():
    rng = random.Random(3)
    groups = [group_of(prompt_of([9], f"p{i}"), [rng.random() for _ in range(5)]) for i in range(6)]
    for config in (GROUP, BATCH, NONE, MEAN):
        straight = {g.prompt.id: [r.advantage for r in g.rollouts] for g in assign_advantages(groups, config)}
        shuffled = {g.prompt.id: [r.advantage for r in g.rollouts] for g in assign_advantages(groups[::-1], config)}
        for name, values in straight.items():
            assert shuffled[name] == pytest.approx(values, rel=1e-12)
    rewards = torch.rand(3, 8, dtype=torch.float64)
    torch.testing.assert_close(advantages(rewards + 5, GROUP), advantages(rewards, GROUP), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(advantages(rewards * 5, MEAN), advantages(rewards, MEAN), rtol=1e-12, atol=1e-14)
    order = torch.randperm(8)  # of the siblings
    torch.testing.assert_close(advantages(rewards[:, order], GROUP), advantages(rewards, GROUP)[:, order])


def test_assign_keeps_everything_else_and_takes_unequal_groups():
    groups = [group_of(prompt_of([9], "a"), [1.0, None, 0.0]), group_of(prompt_of([9], "b"), [2.0, 2.0])]
    found = assign_advantages(groups, NONE)
    assert [[r.advantage for r in g.rollouts] for g in found] == [[0.5, 0.0, -0.5], [0.0, 0.0]]
    assert [[r.reward for r in g.rollouts] for g in found] == [[1.0, None, 0.0], [2.0, 2.0]]
    assert [g.prompt for g in found] == [g.prompt for g in groups]
    assert [r.completion for r in found[0].rollouts] == [r.completion for r in groups[0].rollouts]
    assert groups[0].rollouts[0].advantage == 0.0  # the input is not changed


def test_the_floor_of_the_deviation_by_hand():
    """A solved group with one answer at 0.98 language consistency: almost as bad as a wrong answer without a floor."""
    rewards = double([[2.0] * 15 + [1.98]])
    mean = 2 - 0.02 / 16
    std = math.sqrt((15 * (2 - mean) ** 2 + (1.98 - mean) ** 2) / 15)
    plain = advantages(rewards, GROUP)[0, -1].item()
    assert plain == pytest.approx((1.98 - mean) / (std + 1e-4))
    assert plain == pytest.approx(-3.68, abs=0.01)
    floored = advantages(rewards, AdvantageConfig(std_floor=0.1))[0, -1].item()
    assert floored == pytest.approx((1.98 - mean) / (0.1 + 1e-4))
    # a group above the floor is as before
    wide = double([[1.0, 0.0]])
    assert torch.equal(advantages(wide, AdvantageConfig(std_floor=0.1)), advantages(wide, GROUP))
    batch = AdvantageConfig(scale="batch", std_floor=5.0)
    assert advantages(wide, batch)[0].tolist() == pytest.approx([0.5 / 5.0001, -0.5 / 5.0001])


def judged(rows: list[dict[str, float | None]], task: str = "default") -> Group:
    """A group with these rewards by name; the total is their sum, None when all are."""
    group = group_of(prompt_of([9], task=task), [0.0] * len(rows))
    rollouts = []
    for rollout, rewards in zip(group.rollouts, rows, strict=True):
        values = [value for value in rewards.values() if value is not None]
        rollouts.append(replace(rollout, rewards=rewards, reward=sum(values) if values else None))
    return replace(group, rollouts=tuple(rollouts))


def test_normalise_then_sum_by_hand():
    # a: (1, 0, 0, 0) -> std 1/2, as above; b: (0, 10, -, 10) over three: mean 20/3, std sqrt(100/3); weights 1 and 2
    rows = [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 10.0}, {"a": 0.0, "b": None}, {"a": 0.0, "b": 10.0}]
    config = AdvantageConfig(combine="normalise_then_sum")
    (found,) = assign_advantages([judged(rows)], config, {"default": {"a": 1.0, "b": 2.0}})
    std = math.sqrt(100 / 3) + 1e-4
    expected = [
        0.75 / 0.5001 - 2 * (20 / 3) / std,
        -0.25 / 0.5001 + 2 * (10 / 3) / std,
        -0.25 / 0.5001,
        -0.25 / 0.5001 + 2 * (10 / 3) / std,
    ]
    assert [r.advantage for r in found.rollouts] == pytest.approx(expected)


def test_normalise_then_sum_takes_the_weights_of_each_task():
    rows = [{"a": 1.0}, {"a": 0.0}]
    groups = [judged(rows, "x"), judged(rows, "y"), judged([{"a": 1.0}, {"a": None}], "y")]
    config = AdvantageConfig(combine="normalise_then_sum")
    found = assign_advantages(groups, config, {"x": {"a": 1.0}, "y": {"a": 3.0, "b": 1.0}})
    x, y, alone = ([r.advantage for r in group.rollouts] for group in found)
    assert y == pytest.approx([3 * value for value in x])
    assert alone == [0.0, 0.0]


def test_one_reward_of_weight_one_is_the_same_either_way():
    rows = [{"a": random.Random(i).random()} for i in range(5)]
    plain = assign_advantages([judged(rows)], AdvantageConfig())
    other = assign_advantages([judged(rows)], AdvantageConfig(combine="normalise_then_sum"), {"default": {"a": 1.0}})
    assert [r.advantage for r in plain[0].rollouts] == pytest.approx([r.advantage for r in other[0].rollouts])
