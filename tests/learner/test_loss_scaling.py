"""float16 without a GPU: accelerate refuses it on a CPU, but torch has both its autocast and its loss scaling there.

So a real accelerator is told afterwards that it has float16. `tests/test_gpu.py` trains with it on a GPU.
"""

import copy
import math
from typing import Any

import pytest
import torch

from grpo.checkpoint.store import load_checkpoint, save_checkpoint
from grpo.config.engine import RuntimeConfig
from grpo.config.training import CheckpointConfig
from grpo.errors import UserError
from grpo.learner.gate import MISMATCH_LIMIT
from grpo.learner.make import make_accelerator
from grpo.model.loading.device import pick_device
from grpo.system.world import World
from grpo.types import TrainState
from support.runs import assert_equal, before
from support.updates import Trial, assert_untouched, constant, snapshot

SCALE = 1024.0
OVERFLOW = 2.0**26  # float16 ends at 65504


LIMIT = MISMATCH_LIMIT["float16"]


@pytest.fixture
def scaled(monkeypatch):
    """Makes a `Trial` in float16."""

    def accelerator_of(device: torch.device, runtime: RuntimeConfig) -> Any:
        accelerator = make_accelerator(device, runtime)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
        accelerator.native_amp = True
        monkeypatch.setitem(accelerator.state._shared_state, "_mixed_precision", "fp16")
        return accelerator

    def of(**settings: Any) -> Trial:
        with monkeypatch.context() as patched:
            patched.setattr("grpo.learner.make.make_accelerator", accelerator_of)
            return Trial(**settings)

    return of


def test_the_norm_and_the_clip_are_those_of_the_unscaled_gradient(scaled):
    """The gradient, scaled or not, is far above the limit, so that what was clipped shows."""
    stats = Trial(max_grad_norm=1e-3).update(limit=LIMIT)
    trial = scaled(max_grad_norm=1e-3)
    ours = trial.update(limit=LIMIT)
    assert ours["applied"] == 1.0
    assert ours["grad_norm"] == pytest.approx(stats["grad_norm"], rel=0.05)  # float16 has three digits
    moments = [state["exp_avg"].norm() for state in trial.learner.optimizer_state()["optimizer"]["state"].values()]
    assert torch.stack(moments).norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)  # (1 - beta1) * max_grad_norm


def test_gradients_are_summed_then_unscaled_then_clipped(scaled, monkeypatch):
    order: list[str] = []
    trial = scaled()
    for owner, name in (
        (World, "sum_gradients"),
        (torch.amp.GradScaler, "unscale_"),
        (trial.learner.accelerator, "_clip_grad_norm_dtensor_aware"),
        (trial.learner.optimizer, "step"),
    ):
        before(monkeypatch, owner, name, lambda *_, name=name, **__: order.append(name))
    trial.update(limit=LIMIT)
    assert order == ["sum_gradients", "unscale_", "_clip_grad_norm_dtensor_aware", "step"]


@pytest.mark.parametrize("steps", [0, 2], ids=["in the first step", "later"])
def test_an_overflow_moves_nothing_and_lowers_the_scale(scaled, steps):
    trial = scaled()
    scaler = trial.learner.accelerator.scaler
    for _ in range(steps):
        assert trial.update(limit=LIMIT)["applied"] == 1.0
    assert scaler.get_scale() == SCALE
    scaler._scale.fill_(OVERFLOW)
    was = snapshot(trial.learner)
    stats = trial.update(limit=LIMIT)
    assert stats["applied"] == 0.0
    assert not math.isfinite(stats["grad_norm"])
    assert_untouched(trial.learner, was)
    assert scaler.get_scale() == OVERFLOW / 2
    for _ in range(20):  # until the scale fits
        stats = trial.update(limit=LIMIT)
        if stats["applied"]:
            break
        assert_untouched(trial.learner, was)
    assert stats["applied"] == 1.0
    assert math.isfinite(stats["grad_norm"])
    with pytest.raises(AssertionError):
        assert_untouched(trial.learner, was)


def test_a_norm_beyond_float32_of_a_gradient_within_it_moves_nothing(scaled):
    """The scaler sees finite numbers only; AdamW's momentum would move the weights by a gradient clipped to 0."""
    trial = scaled()
    trial.update(limit=LIMIT)
    was = snapshot(trial.learner)
    rows = trial.rows()
    for parameter in trial.learner.model.parameters():
        parameter.grad = torch.full_like(parameter, 1e30 * SCALE)
    assert trial.update(rows, limit=LIMIT)["applied"] == 0.0
    assert_untouched(trial.learner, was)


def test_a_step_without_anything_to_train_leaves_the_scale(scaled):
    trial = scaled()
    start = copy.deepcopy(trial.learner.accelerator.scaler.state_dict())
    assert trial.update(trial.rows(constant), limit=LIMIT)["applied"] == 0.0
    assert trial.learner.accelerator.scaler.state_dict() == start
    assert trial.update(limit=LIMIT)["applied"] == 1.0


def test_a_checkpoint_keeps_the_scale(scaled, tmp_path):
    trial = scaled()
    trial.learner.accelerator.scaler._scale.fill_(OVERFLOW)
    while not trial.update(limit=LIMIT)["applied"]:
        pass
    saved = save_checkpoint(tmp_path, CheckpointConfig(every=1, keep=1), TrainState(step=1), trial.learner, None)
    kept = trial.learner.accelerator.scaler.state_dict()
    assert SCALE < kept["scale"] < OVERFLOW
    other = scaled()
    load_checkpoint(saved, other.learner, None)
    assert other.learner.accelerator.scaler.state_dict() == kept
    assert other.update(limit=LIMIT) == trial.update(limit=LIMIT)
    assert_equal(other.learner.tensors(), trial.learner.tensors())


def test_a_cpu_has_no_loss_scaling():
    with pytest.raises(UserError, match="float16 trains with loss scaling on a GPU only; on a CPU use bfloat16"):
        pick_device(RuntimeConfig(device="cpu", dtype="float16"))
