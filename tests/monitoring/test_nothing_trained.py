"""A run that teaches nothing, or destroys its model, says so: constant rewards, rates out of all proportion."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grpo.config.training import OptimizerConfig
from grpo.errors import UserError
from grpo.learner.gate import check_mismatch, check_weights, largest
from grpo.learner.stats import StepStats
from grpo.monitoring.alarms import CONSTANT, rl_alarms
from grpo.monitoring.metrics import rollout_metrics
from grpo.rollout.sampler import Task
from grpo.scoring.table import Reward
from grpo.types import Completion, Group, Rollout
from support.files import line_of
from support.groups import prompt_of
from support.runs import config_of, digits, rows_of, run, task_of, weights


def one(completions: list[str], **_: Any) -> list[float]:
    return [1.0] * len(completions)


def nothing(completions: list[str], **_: Any) -> list[float | None]:
    return [None] * len(completions)


def test_a_constant_reward_is_told_after_ten_steps_and_at_the_end(tiny_model_folder, tmp_path, caplog):
    """Also beside one that varies and has no say."""
    rewards = [Reward("one", one), Reward("digits", digits, 0.0)]
    with caplog.at_level("WARNING", "grpo"):
        done = run(tiny_model_folder, tmp_path, config_of(steps=12), {"default": Task(task_of().prompts, rewards)})
    assert done.applied_steps == 0
    assert {row["frac_zero_variance"] for row in rows_of(tmp_path)} == {1.0}
    line = line_of(caplog, "reward is constant")
    assert line.startswith(f"step {CONSTANT}: reward is constant: for {CONSTANT} steps every prompt's completions")
    line = line_of(caplog, "nothing was trained")
    assert line.startswith("nothing was trained: none of 12 steps changed the weights, since every prompt")
    before = weights(tiny_model_folder.parent, tiny_model_folder.name)
    assert all(torch.equal(before[name], value) for name, value in weights(tmp_path).items())


def test_a_run_that_trains_does_not_say_so(tiny_model_folder, tmp_path, caplog):
    with caplog.at_level("WARNING", "grpo"):
        done = run(tiny_model_folder, tmp_path, config_of(steps=2))
    assert done.applied_steps == 2
    assert "nothing was trained" not in caplog.text


def rows_with(count: int, alike: float, reward: Any) -> list[dict[str, Any]]:
    return [{"step": s + 1, "frac_zero_variance": alike, "reward": reward(s)} for s in range(count)]


@pytest.mark.parametrize(("count", "alike", "reward", "said"), [
    (CONSTANT, 1.0, lambda s: 0.5, True), (CONSTANT - 1, 1.0, lambda s: 0.5, False), (200, 1.0, lambda s: 0.5, True),
    (CONSTANT, 1.0, lambda s: s % 2, True),  # from prompt to prompt another one
    (CONSTANT, 0.99, lambda s: 0.5, None), (30, 1.0, lambda s: min(1.0, s / 20), False),  # learnt
])  # fmt: skip
def test_when_a_reward_is_constant(count, alike, reward, said):
    wanted = {True: ["reward is constant"], False: [], None: ["few groups teach"]}
    assert list(rl_alarms(rows_with(count, alike, reward))) == wanted[said]


def rewarded(*rows: dict[str, float | None]) -> Group:
    done = Completion((9,), (0.0,), "stop", "")
    totals = [None if all(v is None for v in row.values()) else 1.0 for row in rows]
    return Group(prompt_of([9]), tuple(Rollout(done, row, total) for row, total in zip(rows, totals, strict=True)))


@pytest.mark.parametrize(("group", "summed", "apart"), [
    (rewarded({"a": 1.0, "w": 0.0}, {"a": 1.0, "w": 5.0}), 1.0, 1.0),  # w has weight 0
    (rewarded({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 2.0}), 1.0, 0.0),  # 1 * 1 = 2 * 0.5: their sum is the same
    (rewarded({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.0}), 0.0, 0.0),
    (rewarded({"a": None}, {"a": 1.0}, {"a": None}), 1.0, 1.0),  # one alone is compared with nothing
    (rewarded({"a": None}, {"a": None}), 1.0, 1.0),
    (rewarded({"a": 1.0, "b": None}, {"a": 1.0, "b": 0.0}), 1.0, 1.0),
])  # fmt: skip
def test_what_teaches_nothing(group, summed, apart):
    told = {"default": {"a": 1.0, "b": 0.5, "w": 0.0, "overlong": 1.0}}
    assert rollout_metrics([group], [], told)["frac_zero_variance"] == summed
    assert rollout_metrics([group], [], told, "normalise_then_sum")["frac_zero_variance"] == apart


@pytest.mark.parametrize(("lr", "steps", "words"), [
    (1e30, 3, r"^step 1: the weights are not finite after this update: lower optimizer\.lr \(it was 1e\+30\)"),
    (1e30, 1, r"^step 1: the weights are not finite"),  # nothing is sampled after it
    (1e12, 3, r"^step 1: the weights have grown to 1e\+12 after this update: lower optimizer\.lr"),
    (1e12, 1, r"^step 1: the weights have grown to 1e\+12"),
])  # fmt: skip
def test_an_absurd_rate_is_named_and_no_model_is_left(lr, steps, words, tiny_model_folder, tmp_path):
    optimizer = OptimizerConfig(lr=lr, weight_decay=lr if lr == 1e30 else 0.0).model_dump()
    with pytest.raises(UserError, match=words) as error:
        run(tiny_model_folder, tmp_path, config_of(steps=steps, optimizer=optimizer, checkpoint={"every": 1}))
    assert "engine" not in str(error.value)
    assert not (tmp_path / "model").exists()


def test_which_weights_are_finite():
    good, bad = torch.tensor([1.0, -3.0]), torch.tensor([[math.nan, 0.0]])
    assert largest([good]) == 3.0
    check_weights([good], 1, 0.1)
    for wrong in (bad, torch.tensor([math.inf])):
        with pytest.raises(UserError, match="step 7: the weights are not finite"):
            check_weights([good, wrong], 7, 0.1)


def test_log_probs_that_are_no_numbers_are_not_the_engines_fault():
    sums = StepStats()
    sums.compare(torch.tensor([0.0]), torch.tensor([math.nan]))
    learner: Any = SimpleNamespace(model=torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match=r"^after step 3 the log-probs are not finite, the largest weight is \d"):
        check_mismatch(sums, 1e-4, learner, 3)
