"""The sentence about what a stage lives on, at the edges of its numbers; and the alarm that says it during a run."""

import pytest

from grpo.config.data import RewardConfig
from grpo.monitoring.advice import CUT, EASY, FEW, HARD, SHARP, Prospect, advice, hopeless, right_reward
from grpo.monitoring.alarms import CLEAR, Alarms, rl_alarms
from grpo.monitoring.journal import right_columns
from grpo.rollout.sampler import Task
from rewards.loader import load_rewards
from support.runs import config_of

FINE = "this can learn: "
BELOW = 1e-6


@pytest.mark.parametrize(("numbers", "begins", "remedy"), [
    ({"teaching": FEW, "right": 0.5, "entropy": 0.01}, FINE, "30% of the groups teach"),
    ({"teaching": FEW - BELOW, "right": 0.5, "entropy": SHARP - BELOW}, "siblings are nearly alike", "fewer SFT steps"),
    ({"teaching": FEW - BELOW, "right": 0.5, "entropy": SHARP}, "30% of the groups teach: set", "dynamic_sampling"),
    ({"teaching": 0.1, "right": 0.5, "entropy": SHARP, "dynamic": True}, "10% of the groups", "now and then"),
    ({"teaching": 0.1, "right": EASY, "entropy": 0.01}, "nearly all is right already (95.0%)", "harder rows"),
    ({"teaching": 0.1, "right": EASY - BELOW, "entropy": 0.01}, "siblings", "though 95% of the completions are right"),
    ({"teaching": 0.1, "right": HARD, "entropy": 0.01}, "next to nothing is right (5.0%", "easier rows"),
    ({"teaching": 0.1, "right": HARD + BELOW, "entropy": 0.01}, "siblings", "sampling.temperature"),
    ({"teaching": FEW, "right": HARD}, FINE, ""),  # rare answers, but one in most groups
    ({"teaching": 0.9, "form": 0.8, "right": 0.0}, "next to nothing is right", "(80% by form alone)"),
    ({"teaching": 0.9, "form": 0.8, "right": 0.5}, FINE, "90% of the groups teach, 80% by form alone"),
    ({"teaching": 0.9, "form": 0.31, "right": 0.5}, FINE, "31% by form alone"),
    ({"teaching": 0.9, "right": 1.0}, FINE, ""),  # so is what else is rewarded
    ({"teaching": 0.9, "truncated": CUT}, "50% of the completions are cut", "sampling.max_tokens"),
    ({"teaching": 0.9, "truncated": CUT - BELOW}, FINE, ""),
    ({"teaching": 0.0, "right": 0.0, "truncated": 1.0}, "100% of the completions are cut", "end token"),
    ({"teaching": 0.0, "constant": ("mine", "format")}, "'mine' and 'format' gave every completion the same", "judges"),
    ({"teaching": 0.0, "constant": ("accuracy",), "right": 0.0}, "next to nothing is right", "cold start"),
    ({"teaching": 0.0, "constant": ("accuracy",), "right": 1.0}, "nearly all is right already", ""),
    ({"teaching": 0.1}, "10% of the groups teach: set dynamic_sampling", ""),
])  # fmt: skip
def test_one_sentence_of_what_is_wrong_and_what_helps(numbers, begins, remedy):
    text = advice(Prospect(**numbers))
    assert text.startswith(begins)
    assert remedy in text
    assert "\n" not in text
    assert (hopeless(Prospect(**numbers)) is None) == (begins == FINE)


def test_a_little_form_is_not_worth_a_word():
    assert advice(Prospect(teaching=0.9, form=0.3, right=0.5)) == "this can learn: 90% of the groups teach"


def rows(count: int, **values):
    row = {"reward": 0.5, "frac_zero_variance": 0.8, "entropy": 0.05, "truncated_fraction": 0.0, "reward/accuracy": 0.4}
    return [{"step": step, **row, **values} for step in range(1, count + 1)]


def few(found):
    return rl_alarms(found, {"reward/accuracy": 1.0}).get("few groups teach", "")


def test_a_run_of_which_few_groups_teach_says_the_same_sentence():
    assert few(rows(9)) == ""
    wanted = Prospect(teaching=0.2, right=0.4, entropy=0.05)
    assert few(rows(10)) == hopeless(wanted)
    assert few([*rows(10, frac_zero_variance=0.5), *rows(9)]) == ""
    assert few([*rows(9), *rows(1, frac_zero_variance=0.7)]) == ""  # 30% are enough
    assert few([*rows(9), *rows(1, frac_zero_variance=None)]) == ""  # nothing was measured


@pytest.mark.parametrize(("values", "begins"), [
    ({"reward/accuracy": 0.02}, "next to nothing is right"),
    ({"reward/accuracy": 0.98}, "nearly all is right"),
    ({"entropy": 1.0}, "20% of the groups teach: set dynamic_sampling"),
    ({"entropy": 1.0, "frac_zero_variance": 0.0, "informative_fraction": 0.2}, "20% of the groups teach, and each"),
    ({"frac_zero_variance": 0.8, "informative_fraction": 0.4}, ""),
    ({"truncated_fraction": 0.6}, "60% of the completions are cut"),
    ({"truncated_fraction": 1.0}, ""),  # an alarm of its own
    ({"frac_zero_variance": 1.0}, ""),  # likewise
    ({"reward": None, "reward/accuracy": None, "entropy": None}, "20% of the groups teach: set"),
])  # fmt: skip
def test_the_sentence_during_a_run_goes_by_its_metrics(values, begins):
    assert few(rows(12, **values)).startswith(begins)
    assert bool(few(rows(12, **values))) == bool(begins)


def test_a_run_that_has_learnt_may_have_few_groups_left():
    assert few([*rows(20, reward=0.2, frac_zero_variance=0.1), *rows(12, reward=0.9)]) == ""


@pytest.mark.parametrize(("specs", "settings", "right"), [
    ([{"fn": "gym", "kwargs": {"strict": True}}, {"fn": "format"}], {}, "gym"),
    ([{"fn": "format"}, {"fn": "gym", "name": "puzzles"}], {}, "puzzles"),
    ([{"fn": "rewards.gym.gym_reward", "name": "puzzles"}], {}, "puzzles"),
    ([{"fn": "support.runs.digits", "name": "my_accuracy"}], {}, "my_accuracy"),
    ([{"fn": "countdown", "weight": 0.0}, {"fn": "format"}], {}, None),
    ([{"fn": "support.runs.digits"}], {}, None),
    ([{"fn": "support.runs.digits"}], {"difficulty": {"reward": "digits"}}, "digits"),
    ([{"fn": "support.runs.digits"}], {"dynamic_sampling": {"reward": "digits"}}, "digits"),
])  # fmt: skip
def test_the_run_and_the_check_know_the_same_reward_of_what_is_right(specs, settings, right, monkeypatch):
    """Before: the run knew only names with "accuracy"."""
    monkeypatch.setattr("rewards.gym.check_installed", lambda: None)  # the package is optional
    config, configs = config_of(**settings), [RewardConfig.model_validate(spec) for spec in specs]
    assert right_reward([(spec.label, spec.fn, spec.weight) for spec in configs], config) == right
    tasks = {"a": Task([], load_rewards(configs), 0.25), "b": Task([], load_rewards(configs), 0.5)}
    assert right_columns(tasks, config) == ({f"reward/{right}": 0.75} if right else {})


@pytest.mark.parametrize(("values", "begins"), [
    ({"reward/gym": 0.0, "reward/code": 0.04}, "next to nothing is right (1.0%"),
    ({"reward/gym": 0.0, "reward/code": 0.4}, "siblings are nearly alike"),
    ({"reward/gym": 0.0, "reward/code": None}, "next to nothing is right (0.0%"),  # its task was not there
    ({"reward/gym": 3.0, "reward/code": None}, "siblings are nearly alike (0.05 nats a token) and 20% of the groups t"),
])  # fmt: skip
def test_what_is_right_in_a_run_goes_by_its_tasks_shares(values, begins):
    found = rl_alarms(rows(12, **values), {"reward/gym": 0.6, "reward/code": 0.2})["few groups teach"]
    assert found.startswith(begins)
    assert "though" not in found or values["reward/gym"] < 1


def test_it_is_said_once(caplog):
    alarms = Alarms(rl_alarms)
    with caplog.at_level("WARNING", "grpo"):
        for count in range(1, 3 * CLEAR):
            alarms.look(rows(count))
    assert [record.message.partition(":")[0] for record in caplog.records] == ["step 10"]
    assert "few groups teach: siblings are nearly alike" in caplog.text
