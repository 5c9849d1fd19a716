"""Alarms of a reward that is gamed: synthetic runs in which they must ring or must not, and the tiny recipe's own."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from grpo.monitoring.alarms import BEGIN, NOW, rl_alarms
from grpo.monitoring.hacking import ENOUGH, Said, Voices, hacking_alarms, spreading, voices_of
from grpo.rollout.sampler import Task
from grpo.scoring.table import Reward
from support.groups import prompt_of, texts_of

MODEL = Voices(("reward/helpful",), ("reward/accuracy", "reward/oracle"))
RULES = Voices(("reward",), ("reward/accuracy",), ("reward/format",))
TINY = Path(__file__).parent / "tiny"


def series(count=120, seed=0, late=0, **curves):
    """Rows of stage 4 that does well: the reward model and the rules rise; `late`: the steps before its task joins."""
    rng = random.Random(seed)
    healthy = {
        "reward": lambda x: 1 + x, "reward/helpful": lambda x: 0.5 + 2 * x, "reward/accuracy": lambda x: 0.9,
        "reward/oracle": lambda x: 0.5 + 0.3 * x, "reward/format": lambda x: 1.0, "completion_length": lambda x: 100.0,
    }  # fmt: skip
    rows = []
    for index in range(count):
        row = {name: at(index / count) * rng.uniform(0.85, 1.15) for name, at in {**healthy, **curves}.items()}
        joined = {name: None for name in ("reward/helpful", "reward/oracle") if index < late}
        rows.append({"step": index + 1, **row, **joined})
    return rows


def causes(rows, voices=MODEL, said=None):
    return list(hacking_alarms(rows, said or Said(voices)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("voices", [MODEL, RULES])
def test_a_run_that_does_well_is_left_alone(voices, seed):
    better = {"reward/accuracy": lambda x: 0.6 + 0.3 * x}
    rows = series(seed=seed, late=10, completion_length=lambda x: 100 + 80 * x, **better)
    assert all(causes(rows[:count], voices) == [] for count in range(len(rows) + 1)), seed


@pytest.mark.parametrize("stage", ["2-reasoning-rl", "4-helpfulness-rl"])
def test_the_tiny_recipe_is_left_alone(stage):
    """Seed 0 of the recipe as it ships."""
    rows = [json.loads(line) for line in (TINY / f"{stage}.jsonl").read_text().splitlines()]
    rules = ("reward/accuracy", "reward/language", "reward/format")
    learned = ("reward/helpfulness_model", "reward/safety_model")
    voices = Voices(learned, rules) if "helpful" in stage else Voices(("reward",), rules[:1], rules[1:])
    right = {"reward/accuracy": 1.0}
    for count in range(1, len(rows) + 1):
        assert causes(rows[:count], voices) == []
        assert rl_alarms(rows[:count], right).keys() <= {"few groups teach"}


def test_a_reward_model_that_rises_while_a_rule_falls():
    rows = series(**{"reward/oracle": lambda x: 0.8 - 0.4 * x})
    text = hacking_alarms(rows, Said(MODEL))["the reward is gamed"]
    assert text.startswith("'helpful' rose from ")
    assert "while 'oracle' fell from 0." in text
    assert "last_steps" in text
    assert causes(rows[: 2 * BEGIN - 1]) == []  # too few to tell
    flat = {"reward/helpful": lambda x: 0.5}
    assert causes(series(**flat, **{"reward/oracle": lambda x: 0.8 - 0.4 * x})) == []  # nothing was gained by it
    assert causes(series(**{"reward/oracle": lambda x: 0.80 - 0.03 * x})) == []  # next to nothing


def test_a_task_that_joins_late_is_compared_with_itself():
    """The mean of a rule over two tasks falls when the harder one joins: no answer got worse."""
    joins = {"reward/accuracy": lambda x: 0.9 if x < 0.5 else 0.5}
    assert causes(series(late=60, **joins)) == []
    assert causes(series(**joins)) == ["the reward is gamed"]


def test_rules_alone_can_be_gamed_too():
    rows = series(**{"reward/accuracy": lambda x: 0.6 - 0.3 * x})
    assert "'reward' rose" in hacking_alarms(rows, Said(RULES))["the reward is gamed"]
    assert causes(rows, Voices(("reward",), ())) == []  # a reward of one's own is its own rule


@pytest.mark.parametrize(("points", "rings"), [
    ([(0.7, 0.6, 0.8), (0.5, 0.4, 0.59)], True),
    ([(0.7, 0.6, 0.8), (0.5, 0.4, 0.61)], False),
    ([(0.5, 0.4, 0.6), (0.8, 0.7, 0.9), (0.5, 0.4, 0.6)], True),
    ([(0.5, 0.4, 0.6)], False),
])  # fmt: skip
def test_held_out_problems_are_a_judge(points, rings):
    rows = series()
    for place, (value, low, high) in enumerate(points, 1):
        row = rows[place * len(rows) // len(points) - 1]
        row |= {"eval/pass@1": value, "eval/pass@1_ci95": [low, high]}
    assert causes(rows, Voices(("reward",), ())) == ["the reward is gamed"] * rings


def test_length_that_grows_without_better_answers():
    longer = {"completion_length": lambda x: 100 + 100 * x}
    flat = {"reward/oracle": lambda x: 0.8 - 0.04 * x, "reward/accuracy": lambda x: 0.9 - 0.04 * x}
    assert causes(series(**longer, **flat)) == ["length drifts"]
    assert causes(series(**longer)) == []  # the rules rise with it
    assert causes(series(**flat)) == []
    growing = {**longer, "reward/format": lambda x: 0.5 + 0.5 * x, "reward/accuracy": lambda x: 0.9 - 0.04 * x}
    assert causes(series(**growing), RULES) == []  # it learns the form first
    assert causes(series(**longer, **flat), RULES) == ["length drifts"]
    assert causes(series(**longer, **flat), Voices(("reward",), ())) == []


def judged(rewards, *texts):
    group = texts_of(prompt_of([9]), *texts)
    return replace(group, rollouts=tuple(replace(rollout, rewards=rewards) for rollout in group.rollouts))


def said(share_before, share_now, voices=MODEL, per_step=4):
    """What a run said, with the phrase in these shares of its answers."""
    found, rng = Said(voices), random.Random(0)
    for step in range(BEGIN + NOW):
        share = share_before if step < BEGIN else share_now
        groups = []
        for number in range(per_step):
            phrase = "I hope this helps! " if (number + 0.5) / per_step < share else ""
            text = "".join(rng.choices("abcdefgh ", k=40)) + phrase
            groups.append(judged(dict.fromkeys(["helpful", "accuracy"], 1.0), text))
        found.add(groups)
    return found


FLAT = {"reward/oracle": lambda x: 0.8 - 0.04 * x, "reward/accuracy": lambda x: 0.9 - 0.04 * x}


def test_a_phrase_that_spreads():
    text = hacking_alarms(series(**FLAT), said(0.0, 0.75))["one phrase spreads"]
    assert "I hope this helps!' was in 0% of the answers and is in 75%" in text
    assert causes(series(), MODEL, said(0.0, 0.75)) == []  # the rules rise with it
    for before, now in ((0.75, 0.75), (0.25, 0.5), (0.0, 0.25)):
        assert causes(series(**FLAT), MODEL, said(before, now)) == []
    assert causes(series(119, **FLAT), MODEL, said(0.0, 0.75)) == []  # it looks at every 8th step
    few = said(0.0, 0.75, per_step=ENOUGH // NOW - 1)
    assert causes(series(**FLAT), MODEL, few) == []


def test_what_stands_in_the_prompt_is_no_phrase_of_the_answer():
    asked = [("Say: thank you very much.", "thank you very much.")] * ENOUGH
    assert spreading([("", "no")] * ENOUGH, asked) is None
    assert spreading([("", "no")] * ENOUGH, [("", text) for _, text in asked]) == ("thank you very much.", 0.0, 1.0)


def test_only_what_the_reward_model_judges_counts():
    found = Said(MODEL)
    found.add([judged({"accuracy": 1.0, "helpful": None}, "a text of another task")])
    assert found.first == []


def test_who_says_what():
    def reward(name, path, weight=1.0):
        return Reward(name, len, weight, {}, path)

    general = Task([], [reward("helpful", "reward_model"), reward("oracle", "mine.rule", 0.0)])
    math = Task([], [reward("accuracy", "accuracy"), reward("format", "format"), reward("held", "judge", 0.0)])
    learned = voices_of([math, general], ["reward/accuracy"])
    assert learned.optimised == ("reward/helpful",)
    assert set(learned.rules) == {"reward/accuracy", "reward/format", "reward/held", "reward/oracle"}
    rules = voices_of([math], ["reward/accuracy"])
    assert rules == Voices(("reward",), ("reward/accuracy", "reward/held"), ("reward/format",))
