"""Metrics rows: by hand, undefined values null, none twice after a resume."""

import json
import math
from dataclasses import replace

import pytest

from grpo.monitoring.metrics import MetricsWriter, rollout_metrics
from grpo.system.clock import Clock
from support.groups import group_of, prompt_of


def test_rollout_metrics_by_hand():
    groups = [
        group_of(prompt_of([9]), [1.0, 0.0, None], [(9,), (9, 9), (9, 9, 9)]),
        group_of(prompt_of([9]), [0.5, 0.5, 0.5], [(9,) * 4] * 3),
    ]
    found = rollout_metrics(groups, ["r", "of another task"])
    assert found["reward/of another task"] is None
    assert found["reward"] == pytest.approx((1 + 0 + 1.5) / 5)
    assert found["reward/r"] == pytest.approx(0.5)
    assert found["reward_std"] == pytest.approx((math.sqrt(0.5) + 0) / 2)
    assert found["frac_zero_variance"] == 0.5
    assert found["excluded_fraction"] == pytest.approx(1 / 6)
    assert found["completion_length"] == 3.0
    assert found["truncated_fraction"] == 0.0


def test_a_penalty_or_a_kl_in_the_reward_does_not_hide_a_group_that_teaches_nothing():
    group = group_of(prompt_of([9]), [1.0, 1.0])
    first, second = group.rollouts
    taken = replace(second, reward=0.7, rewards={**second.rewards, "overlong": -0.3})
    kept = replace(first, rewards={**first.rewards, "overlong": 0.0})
    found = rollout_metrics([replace(group, rollouts=(kept, taken))], ["r"])
    assert found["frac_zero_variance"] == 1.0
    assert found["reward_std"] > 0


def test_values_that_are_no_numbers_become_null(tmp_path):
    writer = MetricsWriter(tmp_path / "m.jsonl")
    writer.write({"step": 1, "a": math.nan, "b": math.inf, "c": None, "d": 0.5})
    expected = {"step": 1, "a": None, "b": None, "c": None, "d": 0.5}
    assert json.loads((tmp_path / "m.jsonl").read_text()) == expected
    assert writer.last == expected  # it goes into the stage's manifest


def test_rows_after_the_checkpoint_are_dropped(tmp_path):
    file = tmp_path / "m.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    MetricsWriter(file, done=2).write({"step": 3})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3]


def test_the_clock_starts_anew_each_lap():
    clock = Clock()
    with clock("update"):
        pass
    with pytest.raises(ZeroDivisionError), clock("generate"):
        raise ZeroDivisionError
    first = clock.lap()
    assert first["update"] > 0
    assert set(clock.lap().values()) == {0.0}
