"""The learning rate: by hand, and within bounds whatever the settings."""

from typing import Any

import pytest

from grpo.config.training import OptimizerConfig
from grpo.learner.schedule import lr_factor


def optimizer(**settings: Any) -> OptimizerConfig:
    return OptimizerConfig.model_validate({"lr": 2.0} | settings)


def factors(config: OptimizerConfig, total: int) -> list[float]:
    return [lr_factor(config, step, total) for step in range(total)]


def test_the_schedules_by_hand():
    assert factors(optimizer(), 3) == [1.0, 1.0, 1.0]
    assert factors(optimizer(warmup_steps=3), 5) == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors(optimizer(schedule="linear"), 5) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert factors(optimizer(schedule="linear", min_lr=1.0), 5) == [1.0, 0.875, 0.75, 0.625, 0.5]
    assert factors(optimizer(schedule="linear", min_lr=1.0, warmup_steps=3), 5) == [0.25, 0.5, 0.75, 1.0, 0.5]
    assert factors(optimizer(schedule="linear", min_lr=1.0, warmup_steps=4), 5) == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert factors(optimizer(schedule="linear", min_lr=1.0, warmup_steps=4), 3) == [0.2, 0.4, 0.6]
    # cosine of 0, 60, 120, 180 degrees: (1 + cos) / 2 = 1, 3/4, 1/4, 0; floor 1/2
    assert factors(optimizer(schedule="cosine", min_lr=1.0), 4) == pytest.approx([1.0, 0.875, 0.625, 0.5])
    assert factors(optimizer(schedule="cosine", warmup_steps=1), 5) == pytest.approx([0.5, 1.0, 0.75, 0.25, 0.0])
    both = factors(optimizer(schedule="cosine", min_lr=0.2, warmup_steps=1), 6)
    assert both == pytest.approx([0.5, 1.0, 0.868198, 0.55, 0.231802, 0.1], abs=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 5, 50])
@pytest.mark.parametrize("total", [1, 2, 10])
def test_every_rate_is_within_bounds(schedule, warmup, total):
    found = factors(
        optimizer(schedule=schedule, warmup_steps=warmup, min_lr=0.0 if schedule == "constant" else 0.02), total
    )
    assert all(0 < factor <= 1 for factor in found)
    if total > warmup + 1 and schedule != "constant":
        assert found[-1] == pytest.approx(0.01)
        assert found[warmup:] == sorted(found[warmup:], reverse=True)
