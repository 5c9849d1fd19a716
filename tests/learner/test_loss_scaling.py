"""float16 without a GPU: accelerate refuses it on a CPU, but torch has both its autocast and its loss scaling there.

So a real accelerator is told afterwards that it has float16. `tests/test_gpu.py` trains with it on a GPU.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from grpo.checkpoint.store import load_checkpoint, save_checkpoint
from grpo.config.engine import RuntimeConfig
from grpo.config.training import CheckpointConfig, RLConfig
from grpo.errors import UserError
from grpo.learner.batching import rows_of
from grpo.learner.gate import MISMATCH_LIMIT
from grpo.learner.learner import Learner, make_accelerator
from grpo.learner.update import update
from grpo.model.policy import pick_device
from grpo.system.world import World
from grpo.types import TrainState
from support.updates import assert_untouched, constant, rollout_groups, setup, snapshot, update_config, varied

SCALE = 1024.0
OVERFLOW = 2.0**26  # float16 ends at 65504


@pytest.fixture
def scaled(monkeypatch):
    """As `setup`, in float16."""

    def accelerator_of(device: torch.device, runtime: RuntimeConfig) -> Any:
        accelerator = make_accelerator(device, runtime)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
        accelerator.native_amp = True
        monkeypatch.setitem(accelerator.state._shared_state, "_mixed_precision", "fp16")
        return accelerator

    def of(config: RLConfig) -> tuple[Any, Learner]:
        with monkeypatch.context() as patched:
            patched.setattr("grpo.learner.learner.make_accelerator", accelerator_of)
            return setup(config)

    return of


def step(policy: Any, learner: Learner, config: RLConfig, reward: Any = varied) -> dict[str, float | None]:
    return update(
        learner, rows_of(rollout_groups(policy, config, reward)), config, 1e-3, limit=MISMATCH_LIMIT["float16"]
    )


def clipped() -> RLConfig:
    """The gradient, scaled or not, is far above the limit, so that what was clipped shows."""
    config = update_config()
    return config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"max_grad_norm": 1e-3})})


def test_the_norm_and_the_clip_are_those_of_the_unscaled_gradient(scaled):
    config = clipped()
    plain, expected = setup(config)
    stats = step(plain, expected, config)
    policy, learner = scaled(config)
    ours = step(policy, learner, config)
    assert ours["applied"] == 1.0
    assert ours["grad_norm"] == pytest.approx(stats["grad_norm"], rel=0.05)  # float16 has three digits
    moments = [state["exp_avg"].norm() for state in learner.optimizer_state()["optimizer"]["state"].values()]
    assert torch.stack(moments).norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)  # (1 - beta1) * max_grad_norm


def test_gradients_are_summed_then_unscaled_then_clipped(scaled, monkeypatch):
    order: list[str] = []

    def note(owner: Any, name: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (order.append(name), original(*a, **k))[1])

    config = update_config()
    policy, learner = scaled(config)
    note(World, "sum_gradients")
    note(torch.amp.GradScaler, "unscale_")
    note(learner.accelerator, "_clip_grad_norm_dtensor_aware")
    note(learner.optimizer, "step")
    step(policy, learner, config)
    assert order == ["sum_gradients", "unscale_", "_clip_grad_norm_dtensor_aware", "step"]


@pytest.mark.parametrize("before", [0, 2], ids=["in the first step", "later"])
def test_an_overflow_moves_nothing_and_lowers_the_scale(scaled, before):
    config = update_config()
    policy, learner = scaled(config)
    scaler = learner.accelerator.scaler
    for _ in range(before):
        assert step(policy, learner, config)["applied"] == 1.0
    assert scaler.get_scale() == SCALE
    scaler._scale.fill_(OVERFLOW)
    was = snapshot(learner)
    stats = step(policy, learner, config)
    assert stats["applied"] == 0.0
    assert not math.isfinite(stats["grad_norm"])
    assert_untouched(learner, was)
    assert scaler.get_scale() == OVERFLOW / 2
    for _ in range(20):  # until the scale fits
        stats = step(policy, learner, config)
        if stats["applied"]:
            break
        assert_untouched(learner, was)
    assert stats["applied"] == 1.0
    assert math.isfinite(stats["grad_norm"])
    with pytest.raises(AssertionError):
        assert_untouched(learner, was)


def test_a_norm_beyond_float32_of_a_gradient_within_it_moves_nothing(scaled):
    """The scaler sees finite numbers only; AdamW's momentum would move the weights by a gradient clipped to 0."""
    config = update_config()
    policy, learner = scaled(config)
    step(policy, learner, config)
    was = snapshot(learner)
    rows = rows_of(rollout_groups(policy, config, varied))
    for parameter in learner.model.parameters():
        parameter.grad = torch.full_like(parameter, 1e30 * SCALE)
    stats = update(learner, rows, config, 1e-3, limit=MISMATCH_LIMIT["float16"])
    assert stats["applied"] == 0.0
    assert_untouched(learner, was)


def test_a_step_without_anything_to_train_leaves_the_scale(scaled):
    config = update_config()
    policy, learner = scaled(config)
    before = copy.deepcopy(learner.accelerator.scaler.state_dict())
    assert step(policy, learner, config, constant)["applied"] == 0.0
    assert learner.accelerator.scaler.state_dict() == before
    assert step(policy, learner, config)["applied"] == 1.0


def test_a_checkpoint_keeps_the_scale(scaled, tmp_path):
    config = update_config()
    policy, learner = scaled(config)
    learner.accelerator.scaler._scale.fill_(OVERFLOW)
    while not step(policy, learner, config)["applied"]:
        pass
    saved = save_checkpoint(tmp_path, CheckpointConfig(every=1, keep=1), TrainState(step=1), learner, None)
    kept = learner.accelerator.scaler.state_dict()
    assert SCALE < kept["scale"] < OVERFLOW
    other_policy, other = scaled(config)
    load_checkpoint(saved, other, None)
    assert other.accelerator.scaler.state_dict() == kept
    assert step(other_policy, other, config) == step(policy, learner, config)
    for name, tensor in other.tensors().items():
        assert torch.equal(tensor, learner.tensors()[name])


def test_a_cpu_has_no_loss_scaling():
    with pytest.raises(UserError, match="float16 trains with loss scaling on a GPU only; on a CPU use bfloat16"):
        pick_device(RuntimeConfig(device="cpu", dtype="float16"))
