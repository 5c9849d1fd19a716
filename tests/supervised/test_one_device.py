"""One process that sees several GPUs uses one: transformers would wrap the model in DataParallel."""

from __future__ import annotations

import logging

import pytest
import torch

from grpo.config.engine import RuntimeConfig
from grpo.config.training import OptimizerConfig, SFTConfig
from grpo.model.loading import device
from grpo.supervised import Training, training
from grpo.supervised.reward_model import Pairwise, Pointwise, train_reward_model
from grpo.supervised.sft import supervised
from support.models import save_model

SETTINGS = SFTConfig(steps=2, batch_size=4, micro_batch_size=2, max_tokens=99, optimizer=OptimizerConfig(lr=1e-3))
PROMPTS = [[{"role": "user", "content": f"{number}+1"}] for number in range(9)]
PAIRS = [{"prompt": p, "chosen": str(n), "rejected": "no"} for n, p in enumerate(PROMPTS)]
LABELS = [{"prompt": p, "completion": str(n), "label": n % 2} for n, p in enumerate(PROMPTS)]
TALKS = [{"messages": [*p, {"role": "assistant", "content": str(n)}]} for n, p in enumerate(PROMPTS)]


@pytest.fixture
def gpus(monkeypatch):
    """Two seem to be there; what is computed stays on the CPU."""
    arguments = training.trainer_arguments
    monkeypatch.setattr(training, "trainer_arguments", lambda *told: arguments(*told) | {"use_cpu": False})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def rows_at_once():
    """Of each forward of training."""
    counts: set[int] = set()

    def note(module, inputs):
        if isinstance(module, torch.nn.Embedding) and torch.is_grad_enabled():
            counts.add(len(inputs[0]))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    yield counts
    hook.remove()


@pytest.mark.parametrize("kind", ["sft", "pairs", "labels"])
def test_training_sees_one_device(kind, gpus, rows_at_once, tmp_path):
    model = str(save_model(tmp_path / "model"))
    told = Training(SETTINGS, tmp_path / "out", 0, RuntimeConfig(device="cpu"), kind)

    if kind == "sft":
        numbers = supervised(model, TALKS, told)
    elif kind == "pairs":
        numbers = train_reward_model(Pairwise, model, PAIRS, "response", told)
    else:
        numbers = train_reward_model(Pointwise, model, LABELS, "response", told)
    assert numbers["steps"] == 2
    assert rows_at_once == {4 if kind == "pairs" else 2}  # a pair is two rows


def test_it_is_said(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    device._say_one_of.cache_clear()
    with caplog.at_level(logging.WARNING, "grpo"):
        assert device.pick_device(RuntimeConfig()) == torch.device("cuda")
        device.pick_device(RuntimeConfig())
    assert [record.message for record in caplog.records] == [
        "4 GPUs are visible; this process computes on one of them (docs/processes.md: how to use all)"
    ]
