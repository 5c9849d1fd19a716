"""Trainings of a few steps on a toy reward, what they leave behind, and how they are killed."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from grpo.checkpoint.store import checkpoints
from grpo.config.data import DataConfig
from grpo.config.engine import RuntimeConfig
from grpo.config.training import RLConfig
from grpo.data.prompts import build_prompts
from grpo.data.rows import read_jsonl
from grpo.engines.local.engine import LocalEngine
from grpo.rollout.sampler import Task
from grpo.scoring.table import Reward
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


def task_of(reward: Any = digits, count: int = 6, name: str = "default", text: str = "", **settings: Any) -> Task:
    rows = [{"prompt": f"{text or name}{i}", "id": str(i)} for i in range(count)]
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


COSINE = {"lr": 5e-3, "schedule": "cosine", "warmup_steps": 2, "min_lr": 1e-4, "weight_decay": 0.1}
DIFFICULTY = {"difficulty": {"reward": "digits", "low": 0.05, "high": 0.4, "target": 0.2}}
POOLED = {"dynamic_sampling": {"reward": "digits", "max_draws": 3}, **DIFFICULTY}
CHANGING = {  # at step 2, and the length again at 4
    "sampling": {
        "max_tokens": [{"from_step": 0, "value": 4}, {"from_step": 2, "value": 8}, {"from_step": 4, "value": 6}],
        "temperature": [{"from_step": 0, "value": 1.0}, {"from_step": 2, "value": 0.7}],
    },
    "loss": {
        "aggregation": "constant",
        "beta": [{"from_step": 0, "value": 0.0}, {"from_step": 2, "value": 0.05}],
        "clip_high": [{"from_step": 0, "value": 0.2}, {"from_step": 2, "value": 0.01}],
    },
    "inner_epochs": 2,
    "steps": 8,
}
LEARNING: dict[str, Any] = {  # settings with which the digits are learnt
    "steps": 16,
    "group_size": 8,
    "prompts_per_step": 4,
    "optimizer": {"lr": 2e-2},
    "checkpoint": {},
    "loss": {"aggregation": "token"},
}


def run(folder: Path, out: Path, config: RLConfig, tasks: dict[str, Task] | None = None, **options: Any) -> TrainResult:
    """On the CPU with seed 1, unless the options of `train` say otherwise."""
    return train(str(folder), tasks or {"default": task_of()}, config, out, **{"seed": 1, "runtime": CPU} | options)


def weights(out: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(out / name / "model.safetensors")


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Bitwise."""
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def rows_of(out: Path, *, timings: bool = False) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    if timings:
        return rows
    return [{k: v for k, v in r.items() if not k.startswith("seconds") and k != "tokens_per_second"} for r in rows]


def completions(out: Path) -> list[dict[str, Any]]:
    return [row for file in sorted((out / "completions").iterdir()) for row in read_jsonl(file)]


def checkpointed(out: Path) -> list[str]:
    return [path.name for path in checkpoints(out / "checkpoints")]


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Bitwise: metrics, completions, weights."""
    assert rows_of(ours) == rows_of(theirs)
    assert completions(ours) == completions(theirs)
    assert_equal(weights(ours), weights(theirs))


def assert_learnt(out: Path, end: float = 0.85) -> None:
    """The reward rose from below 0.35 to above `end`."""
    rewards = [row["reward"] for row in rows_of(out)]
    assert sum(rewards[:3]) / 3 < 0.35
    assert sum(rewards[-3:]) / 3 > end


class Killed(BaseException):
    """What kill -9 looks like from the inside: nothing may catch it."""


def die(*_: Any, **__: Any) -> None:
    raise Killed


def before(patch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[..., Any]) -> None:
    """`act` is called, with the same arguments, before each call of `owner.name`."""
    original = getattr(owner, name)

    def acting(*arguments: Any, **options: Any) -> Any:
        act(*arguments, **options)
        return original(*arguments, **options)

    patch.setattr(owner, name, acting)


def at_call(patch: pytest.MonkeyPatch, owner: Any, name: str, count: int, act: Callable[[], Any]) -> None:
    """`act` at the `count`-th call, when half of the work, so to say, is done: before it, and it goes on after."""
    calls = itertools.count(1)
    before(patch, owner, name, lambda *_, **__: act() if next(calls) == count else None)


def interrupt_at(patch: pytest.MonkeyPatch, step: int, engine: type = LocalEngine) -> None:
    """The process dies while it samples the rollout of this step."""
    at = step
    before(patch, engine, "generate", lambda *_, step, **__: step >= at and die())


def broken(
    change: Callable[[pytest.MonkeyPatch], Any], *arguments: Any, end: type[BaseException] = Killed, **options: Any
) -> BaseException:
    """A run that comes to this end when `change` is made to the program."""
    with pytest.MonkeyPatch.context() as patch:
        change(patch)
        with pytest.raises(end) as raised:
            run(*arguments, **options)
    return raised.value


def killed_at(step: int, *arguments: Any, **options: Any) -> None:
    """A run that dies while it samples the rollout of this step."""
    broken(lambda patch: interrupt_at(patch, step), *arguments, **options)
