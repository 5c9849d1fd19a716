"""Generated tasks where reasoning-gym, an optional package, is not installed; with it: tests/gym."""

import importlib.util
import json

import pytest

from grpo.errors import UserError
from rewards import gym
from rewards.gym import forms
from rewards.loader import load_reward
from stages.gym import _problem, rows

MISSING = r"reasoning-gym is not installed: pip install -c constraints.txt -e '.\[reasoning-gym\]'"


@pytest.fixture(autouse=True)
def _without(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_rows_say_what_to_install():
    with pytest.raises(UserError, match=f"^{MISSING}"):
        rows({"chain_sum": {}}, 3)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({}, f"^{MISSING}"),
        ({"threshold": 2}, "threshold is a score between 0 and 1, not 2"),
        ({"strict": True, "anywhere": True}, "reward 'gym': strict=True reads one place only"),
    ],
)
def test_the_reward_says_it_when_it_is_named(kwargs, said):
    with pytest.raises(UserError, match=said):
        load_reward({"fn": "gym", "kwargs": kwargs})


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        (r"\text{a knight}", "a knight"),
        (r"1{,}000", "1,000"),
        (r"\frac{1}{2}", "1/2"),
        (r"2 \times 3", "2 ×3"),
        (r"$5$", "5"),
        (r"90^\circ", "90"),
        ("[[1, 2]]", "[[1, 2]]"),
    ],
)
def test_the_latex_of_a_box_is_undone(answer, plain):
    assert forms(answer)[-1] == plain


def test_a_scorer_that_had_to_be_killed_says_nothing_of_the_gold(monkeypatch):
    """What is cached is a verdict; rows are not left out because a machine was busy."""
    entry = json.dumps({"answer": "4", "metadata": {}})
    where = ("a task of this test", "{}")
    monkeypatch.setattr(gym, "ask", lambda *_, **__: None)
    assert "did not answer in time" in gym.gold_problem(where, entry)
    monkeypatch.setattr(gym, "ask", lambda *_, answers, **__: [float(answer == "4") for answer in answers])
    assert gym.gold_problem(where, entry) == ""  # before: for the life of the process
    slow = ("another task", "{}")
    monkeypatch.setattr(gym, "ask", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"did not answer in time .* three times"):
        _problem(slow, entry)
