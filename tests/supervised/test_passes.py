"""An epoch is one pass, also of few rows; what is more or less than was asked for is said."""

import pytest

from grpo.config.training import OptimizerConfig, SFTConfig
from grpo.supervised.length import length_of

ONE = {"max_tokens": 8, "optimizer": OptimizerConfig(lr=1e-3)}


@pytest.mark.parametrize(("settings", "rows", "processes", "expected"), [
    ({"epochs": 1, "batch_size": 16}, 3, 1, (1, 3, 3, 1.0)),  # was 5.3 passes
    ({"epochs": 2, "batch_size": 16}, 3, 1, (2, 3, 3, 2.0)),
    ({"epochs": 1, "batch_size": 16, "micro_batch_size": 4}, 6, 1, (1, 6, 3, 1.0)),
    ({"epochs": 1, "batch_size": 16, "micro_batch_size": 2}, 3, 2, (1, 4, 2, 4 / 3)),
    ({"epochs": 1, "batch_size": 16}, 16, 1, (1, 16, None, 1.0)),
    ({"epochs": 1, "batch_size": 16, "micro_batch_size": 8}, 64, 2, (4, 16, 8, 1.0)),
    ({"epochs": 1, "batch_size": 16}, 17, 1, (2, 16, None, 32 / 17)),
    ({"steps": 4, "batch_size": 16}, 3, 1, (4, 16, None, 64 / 3)),
])  # fmt: skip
def test_steps_batches_and_passes(settings, rows, processes, expected):
    length = length_of(SFTConfig(**ONE, **settings), rows, processes)
    assert (length.steps, length.config.batch_size, length.config.micro_batch_size, length.passes) == expected


@pytest.mark.parametrize(("settings", "rows", "says"), [
    ({"epochs": 1, "batch_size": 16}, 3, "3 rows are fewer than batch_size 16: each step trains on all of them once"),
    ({"epochs": 1, "batch_size": 16}, 17, "epochs: 1 is 1.9 passes: 2 full batches of 17 rows"),
    ({"steps": 4, "batch_size": 16}, 3, "a step trains on each 5.3 times, 4 steps 21"),
    ({"steps": 4, "batch_size": 2, "optimizer": OptimizerConfig(lr=1, warmup_steps=4)}, 9,
     "optimizer.warmup_steps=4 is not over in 4 steps"),
    ({"epochs": 1, "batch_size": 16}, 160, None), ({"steps": 4, "batch_size": 16}, 160, None),
])  # fmt: skip
def test_what_is_said(settings, rows, says):
    remarks = length_of(SFTConfig(**{**ONE, **settings}), rows).remarks
    assert [remark for remark in remarks if not (says and says in remark)] == []
    assert len(remarks) == (says is not None)
