"""Runs one step ahead, with the engine of the second process inside this one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo.config.engine import EngineConfig
from grpo.config.training import RLConfig
from grpo.engines.local.engine import LocalEngine
from grpo.model.policy import load_model, load_tokenizer
from grpo.trainer import TrainResult
from support.runs import CPU, completions, config_of, rows_of, task_of, weights
from support.train import train

AHEAD = EngineConfig(ahead=True)


def run_ahead(
    folder: Path, out: Path, config: RLConfig, tasks: Any = None, engine: EngineConfig = AHEAD
) -> TrainResult:
    return train(str(folder), tasks or {"default": task_of()}, config, out, seed=1, runtime=CPU, engine_config=engine)


def ahead_of(**settings: Any) -> RLConfig:
    return config_of(**{"correction": {"high": 1.5}} | settings)


def at_once(work: Callable[[], Any]) -> Future[Any]:
    outcome: Future[Any] = Future()
    try:
        outcome.set_result(work())
    except BaseException as error:  # noqa: BLE001
        outcome.set_exception(error)
    return outcome


def put_inside(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("grpo.engines.choose.ProcessEngine", in_this_process)
    patch.setattr("grpo.rollout.ahead.in_background", at_once)


def in_this_process(name: str, *_: Any) -> LocalEngine:
    return LocalEngine(load_model(name, torch.device("cpu")), load_tokenizer(name), 64, shared=False)


def assert_same_run(one: Path, other: Path) -> None:
    assert rows_of(one) == rows_of(other)
    assert completions(one) == completions(other)
    mine, theirs = weights(one), weights(other)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
