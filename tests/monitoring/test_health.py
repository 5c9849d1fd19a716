"""Steps that are not finite, and the alarms over the metrics."""

import math
import random
from typing import Any

import pytest

from grpo.errors import UserError
from grpo.monitoring.alarms import CLEAR, Alarms, rl_alarms, sft_alarms
from grpo.monitoring.health import EXPECTED, NONFINITE_LIMIT, count_nonfinite, report_nonfinite
from grpo.monitoring.metrics import FIRST, RECENT, MetricsWriter
from grpo.types import TrainState


@pytest.mark.parametrize(("norms", "counts"), [
    ([math.nan, None, math.inf], (2, 2)),  # nothing to train is no sign of health
    ([math.nan, math.inf, 1.0, math.nan], (3, 1)),
])  # fmt: skip
def test_steps_that_are_not_finite_are_counted_in_a_row(norms, counts):
    state = TrainState()
    for norm in norms:
        count_nonfinite(state, norm)
    assert (state.nonfinite, state.nonfinite_run) == counts


def test_float16_finding_its_scale_leaves_no_batches_behind(tmp_path):
    state = TrainState(step=1, nonfinite_run=EXPECTED)
    report_nonfinite(tmp_path / "a", state, math.inf, [], scaled=True)
    assert not (tmp_path / "a").exists()
    state.nonfinite_run += 1
    report_nonfinite(tmp_path / "a", state, math.inf, [], scaled=True)
    assert (tmp_path / "a" / "nonfinite" / "step-000001.jsonl").is_file()
    state.nonfinite_run = NONFINITE_LIMIT
    with pytest.raises(UserError, match=r"lower optimizer\.lr"):
        report_nonfinite(tmp_path / "a", state, math.inf, [], scaled=True)


def test_a_batch_that_the_disk_does_not_take_ends_nothing(tmp_path, caplog):
    (tmp_path / "nonfinite").write_text("in the way")
    report_nonfinite(tmp_path, TrainState(step=3, nonfinite_run=1), math.nan, [], scaled=False)
    assert "cannot write" in caplog.text
    assert "step 3: the loss or gradient is not finite" in caplog.text


# ---- alarms


def series(count: int, seed: int = 0, **curves: Any) -> list[dict[str, Any]]:
    """Rows of a run that does well, but for the curves given: numbers, or functions of the part of it that is done."""
    rng = random.Random(seed)
    healthy: dict[str, Any] = {
        "reward": lambda x: 0.3 + 0.4 * x, "entropy": lambda x: 1.0 - 0.5 * x, "kl": lambda x: 0.1 * x,
        "completion_length": lambda x: 100 + 80 * x, "truncated_fraction": lambda x: 0.2 - 0.1 * x,
        "frac_zero_variance": lambda x: 0.2 + 0.3 * x,
    }  # fmt: skip
    rows = []
    for index in range(count):
        curve = {name: at(index / count) if callable(at) else at for name, at in {**healthy, **curves}.items()}
        rows.append({"step": index + 1, **{name: value * rng.uniform(0.9, 1.1) for name, value in curve.items()}})
    return rows


SICK: dict[str, dict[str, Any]] = {
    "reward does not rise": {"reward": 0.3},
    "reward collapses": {"reward": lambda x: 0.3 + 0.4 * x if x < 0.9 else 0.2},
    "entropy collapses": {"entropy": lambda x: 1.0 if x < 0.3 else 0.01},
    "KL runs away": {"kl": lambda x: 3 * x},
    "length explodes": {"completion_length": lambda x: 100 + 300 * x, "truncated_fraction": lambda x: 0.9 * x},
    "everything is truncated": {"truncated_fraction": 1.1},
}


@pytest.mark.parametrize("cause", SICK)
@pytest.mark.parametrize("seed", range(3))
def test_each_cause_and_no_other_is_named(cause, seed):
    assert list(rl_alarms(series(140, seed, **SICK[cause]))) == [cause]


@pytest.mark.parametrize("seed", range(20))
def test_a_run_that_does_well_is_left_alone(seed):
    rows = series(140, seed)
    assert [rl_alarms(rows[:count]) for count in range(1, len(rows) + 1)] == [{}] * len(rows)


@pytest.mark.parametrize("seed", range(10))
def test_noise_alone_never_collapses(seed):
    """Rewards of one prompt or two a step: 0, 0.5 or 1 by chance, rising slowly."""
    rng = random.Random(seed)
    rows = series(140, seed)
    for index, row in enumerate(rows):
        row["reward"] = sum(rng.random() < 0.3 + 0.3 * index / 140 for _ in range(2)) / 2
    assert all("reward collapses" not in rl_alarms(rows[:count]) for count in range(1, 141))


def test_a_learnt_task_may_lose_its_entropy():
    learnt = {"entropy": lambda x: 1.0 if x < 0.3 else 0.01, "frac_zero_variance": lambda x: min(1.0, 2 * x)}
    assert rl_alarms(series(140, **learnt)) == {}


def test_a_model_that_begins_sharp_has_no_entropy_to_lose():
    """As the tiny recipe's reasoning stage: 0.07 nats a token after the cold start, 0.007 in the end."""
    assert rl_alarms(series(140, entropy=lambda x: 0.07 - 0.065 * x)) == {}


def test_what_is_not_measured_is_not_judged():
    rows = [{"step": step, "reward": None, "kl": None, "entropy": None} for step in range(1, 140)]
    assert rl_alarms(rows) == {}
    assert sft_alarms(rows) == {}


@pytest.mark.parametrize(("last", "alarms"), [(2.9, 0), (3.0, 1), (4.0, 1)])
def test_the_loss_of_supervised_training_falls(last, alarms):
    rows = [{"step": step, "loss": 3.0 if step <= 50 else last} for step in range(1, 121)]
    assert len(sft_alarms(rows)) == alarms
    assert sft_alarms(rows[:99]) == {}


def test_an_alarm_is_said_once_until_it_has_been_gone_for_a_while(caplog):
    sick = {5, 6, 7, 8, 12, 8 + 4 + CLEAR + 1}
    alarms = Alarms(lambda rows: {"KL runs away": "lower it"} if rows[-1]["step"] in sick else {})
    with caplog.at_level("WARNING", "grpo"):
        for step in range(1, 60):
            alarms.look([{"step": step}])
    assert [record.message for record in caplog.records] == [
        "step 5: KL runs away: lower it",
        f"step {12 + CLEAR + 1}: KL runs away: lower it",
    ]


def test_the_metrics_keep_the_first_rows_and_the_latest(tmp_path):
    total = FIRST + RECENT + 30
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    for step in range(1, total + 1):
        writer.write({"step": step})
    expected = [*range(1, FIRST + 1), *range(total - RECENT + 1, total + 1)]
    assert [row["step"] for row in writer.rows] == expected
    assert [row["step"] for row in MetricsWriter(tmp_path / "metrics.jsonl", total).rows] == expected
