"""The pure parts of the benchmarks: lengths of completions, ratios, tables, who reached the target."""

import pytest
from growth import powers
from step_time import compared, settings_of, table
from time_to_accuracy import count, verdict
from workloads import CPU_WORKLOADS, GPU_WORKLOADS, W2, WARM_UP, long_tailed


def test_long_tailed_lengths():
    lengths = long_tailed(64, 120, 300)
    assert sum(lengths) / 64 == pytest.approx(120, abs=1)
    assert max(lengths) == 300
    assert sorted(lengths)[32] < 110  # most are shorter than the mean
    assert min(lengths) >= 1


def test_lengths_of_steps_are_the_same_in_another_order():
    first, second = W2.lengths(1), W2.lengths(2)
    assert first != second
    assert sorted(first) == sorted(second)
    assert first == W2.lengths(1)
    assert CPU_WORKLOADS["W1"].lengths(1) == [22] * 256
    assert max(W2.lengths(0)) == WARM_UP < max(W2.lengths(1))


@pytest.mark.parametrize("work", [*CPU_WORKLOADS.values(), *GPU_WORKLOADS.values()], ids=lambda work: work.what)
def test_workloads_fit_trl(work):
    """A step is a whole number of its forwards."""
    assert (work.prompts * work.group) % work.trl_rows == 0
    assert {len(row["prompt"].split()) for row in work.rows()} == {work.prompt_tokens}


def test_ratios():
    ours = [{"seconds": s, "generation": 1.0, "cpu": 3.0, "peak": 100e6, "mfu": None} for s in (2.0, 2.0, 4.0)]
    trl = [
        {"seconds": s, "generation": 2.0, "cpu": 9.0, "peak": p} for s, p in ((6.0, 100e6), (8.0, 400e6), (8.0, 200e6))
    ]
    found = compared(ours, trl)
    assert found["ours"] == {"seconds": 2.0, "generation": 1.0, "update": 1.0, "cpu": 3.0, "peak_mb": 100.0}
    assert found["trl"] == {"seconds": 8.0, "generation": 2.0, "update": 6.0, "cpu": 9.0, "peak_mb": 400.0}
    assert found["trl/ours"]["seconds"] == {"ratio": 3.0, "quartiles": [2.5, 3.5]}  # of 3, 4 and 2
    assert found["trl/ours"]["generation"] == {"ratio": 2.0, "quartiles": [2.0, 2.0]}
    assert found["peak ours/trl"] == 0.25
    row = {
        "workload": "W2", "what": "GSM8K-like", "beta": 0.001, "parameters": 4_480_000, "completions": "8 x 8",
        "prompt_tokens": 160, "completion_tokens": {"mean": 120.1, "max": 300}, "trl_rows_per_forward": 16,
        "our_micro_batch_tokens": 4096, "counted": 3, **found,
    }  # fmt: skip
    lines = table([row]).splitlines()
    assert "**3.00×** (2.50 to 3.50)" in lines[-1]
    assert lines[-1].endswith("| 4.00× |")
    assert "(its fastest) W2: 16" in settings_of([row], 2)
    assert "W2: 4096" in settings_of([row], 2)


def test_growth_is_a_power_of_the_tokens():
    points = [{"tokens": 100, "seconds": 1.0}, {"tokens": 200, "seconds": 2.0}, {"tokens": 400, "seconds": 8.0}]
    assert powers(points) == [None, pytest.approx(1), pytest.approx(2)]
    assert powers([points[0], points[0] | {"seconds": 9.0}]) == [None, None]


def test_time_to_accuracy_counts_until_the_target():
    own = {"reached": False, "steps": 0, "seconds": 0.0, "generation": 0.0, "tokens": 0, "curve": []}
    for accuracy in (0.5, None, 0.8):
        step = {"seconds": 1.5, "generation": 0.5, "tokens": 10}
        count(own, step if accuracy is None else step | {"pass@1": accuracy}, 0.8)
    assert (own["steps"], own["seconds"], own["tokens"], own["reached"]) == (3, 4.5, 30, True)
    assert own["curve"] == [{"step": 1, "seconds": 1.5, "pass@1": 0.5}, {"step": 3, "seconds": 4.5, "pass@1": 0.8}]
    late = own | {"seconds": 9.0}
    assert "2.00 times" in verdict({0: {"ours": own, "trl": late}})
    assert "no ratio" in verdict({0: {"ours": own, "trl": late | {"reached": False}}})
