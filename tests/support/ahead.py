"""Runs one step ahead, with the engine of the second process inside this one."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
import torch

from grpo.config.engine import EngineConfig
from grpo.config.training import RLConfig
from grpo.engines.local.engine import LocalEngine
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.model.loading.weights import load_model
from grpo.trainer import TrainResult
from support.runs import config_of, run

AHEAD = EngineConfig(ahead=True)


def run_ahead(*arguments: Any, engine_config: EngineConfig = AHEAD, **options: Any) -> TrainResult:
    return run(*arguments, engine_config=engine_config, **options)


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
