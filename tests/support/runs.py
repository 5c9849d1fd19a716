"""Trainings of a few steps on a toy reward, what they leave behind, and how they are killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo.config.data import DataConfig
from grpo.config.engine import RuntimeConfig
from grpo.config.training import RLConfig
from grpo.data.prompts import build_prompts
from grpo.data.rows import read_jsonl
from grpo.engines.local.engine import LocalEngine
from grpo.rollout.sampler import Task
from grpo.scoring.groups import Reward
from grpo.trainer import TrainResult
from support.models import make_tokenizer
from support.train import train

CPU = RuntimeConfig(device="cpu")

PLAIN = DataConfig(path="d", template="{prompt}=")


def digits(completions: list[str], **_: Any) -> list[float]:
    """Share of digits in the completion."""
    return [sum(c.isdigit() for c in text) / max(1, len(text)) for text in completions]


def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [len(ids) / 10 for ids in completion_ids]


def task_of(reward: Any = digits, count: int = 6, name: str = "default", **settings: Any) -> Task:
    rows = [{"prompt": f"{name}{i}", "id": str(i)} for i in range(count)]
    return Task(build_prompts(rows, PLAIN, make_tokenizer(), name), [Reward(reward.__name__, reward)], **settings)


def config_of(**settings: Any) -> RLConfig:
    base: dict[str, Any] = {
        "steps": 6,
        "group_size": 4,
        "prompts_per_step": 2,
        "sampling": {"max_tokens": 8},
        "optimizer": {"lr": 5e-3},
        "micro_batch_tokens": 60,
        "checkpoint": {"every": 2, "keep": 100},
    }
    return RLConfig.model_validate(base | settings)


def run(folder: Path, out: Path, config: RLConfig, tasks: dict[str, Task] | None = None, seed: int = 1) -> TrainResult:
    return train(str(folder), tasks or {"default": task_of()}, config, out, seed=seed, runtime=CPU)


def weights(out: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(out / "model" / "model.safetensors")


def rows_of(out: Path, *, timings: bool = False) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    if timings:
        return rows
    return [{k: v for k, v in r.items() if not k.startswith("seconds") and k != "tokens_per_second"} for r in rows]


def completions(out: Path) -> list[dict[str, Any]]:
    return [row for file in sorted((out / "completions").iterdir()) for row in read_jsonl(file)]


class Killed(BaseException):
    """What kill -9 looks like from the inside: nothing may catch it."""


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The process dies while it samples the rollout of this step."""
    original = LocalEngine.generate

    def dying(self: LocalEngine, *args: Any, step: int, **kwargs: Any) -> Any:
        if step >= dying.at:  # type: ignore[attr-defined]
            raise Killed
        return original(self, *args, step=step, **kwargs)

    dying.at = step  # type: ignore[attr-defined]
    monkeypatch.setattr(LocalEngine, "generate", dying)
