"""Which engine a run gets, and what is said of settings that this engine does not have."""

from typing import Any

import pytest
import torch

from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.config.inert import check_quantization, inert_engine_settings
from grpo.engines import choose as engines
from grpo.engines import vllm as optional
from grpo.engines.choose import engine_kind
from grpo.engines.local.engine import LocalEngine
from grpo.engines.vllm.in_process import VllmEngine
from grpo.engines.vllm.request import check_sampling
from grpo.engines.vllm.servers import ServerEngine
from grpo.errors import UserError
from grpo.learner.gate import MISMATCH_LIMIT, mismatch_limit
from grpo.types import Sampling
from support.groups import random_prompts
from support.models import make_model, make_tokenizer
from support.runs import config_of as rl_config_of
from support.runs import task_of
from support.train import train


@pytest.mark.parametrize(
    ("kind", "installed", "gpu", "device", "found"),
    [
        ("auto", True, True, "auto", "vllm"),
        ("auto", True, True, "cpu", "local"),
        ("auto", True, False, "auto", "local"),
        ("auto", False, True, "auto", "local"),
        ("local", True, True, "auto", "local"),
        ("vllm", True, False, "cpu", "vllm"),
        ("vllm-server", False, False, "cpu", "vllm-server"),
    ],
)
def test_auto_takes_vllm_where_it_and_a_gpu_are_there(monkeypatch, kind, installed, gpu, device, found):
    for module in (optional, engines):
        monkeypatch.setattr(module, "vllm_is_there", lambda: installed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    config, runtime = EngineConfig.model_validate(kind), RuntimeConfig.model_validate({"device": device})
    assert engine_kind(config, runtime) == found


def test_vllm_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(optional, "vllm_is_there", lambda: False)
    with pytest.raises(UserError, match="make setup-vllm"):
        engine_kind(EngineConfig(kind="vllm"), RuntimeConfig(device="cpu"))


@pytest.mark.parametrize(
    ("engine", "dtype", "limit"),
    [
        ("local", "float32", "float32"),
        ("vllm", "bfloat16", "bfloat16"),
        ({"kind": "vllm", "vllm": {"quantization": "fp8"}}, "bfloat16", "fp8"),
        ({"kind": "local", "vllm": {"quantization": "fp8"}}, "bfloat16", "bfloat16"),
        ({"kind": "vllm-server", "vllm": {"quantization": "fp8"}}, "float32", "fp8"),
    ],
)
def test_the_gate_follows_what_the_engine_computes_in(monkeypatch, engine, dtype, limit):
    monkeypatch.setattr(optional, "vllm_is_there", lambda: True)
    config = EngineConfig.model_validate(engine)
    kind = engine_kind(config, RuntimeConfig.model_validate({"device": "cpu", "dtype": dtype}))
    assert mismatch_limit(kind, config, dtype) == MISMATCH_LIMIT[limit]


@pytest.mark.parametrize(
    ("config", "kind", "lora", "said"),
    [
        ({"kind": "local"}, "local", False, []),
        ({"kind": "vllm-server", "vllm": {"sleep": False}}, "vllm-server", False, ["engine.vllm.sleep"]),
        ({"kind": "auto", "vllm": {"memory": 0.5, "sleep": False}}, "local", False, ["engine.vllm.memory", "sleep"]),
        ({"kind": "auto", "vllm": {"memory": 0.5}}, "vllm", False, []),
        ({"kind": "vllm", "server": {"timeout": 3.0}}, "vllm", False, ["engine.server.timeout"]),
        ({"kind": "vllm-server", "server": {"timeout": 3.0}, "vllm": {"eager": True}}, "vllm-server", False, []),
        ({"kind": "vllm", "vllm": {"lora": "adapter"}}, "vllm", False, ["engine.vllm.lora"]),
        ({"kind": "vllm", "vllm": {"lora": "adapter"}}, "vllm", True, []),
    ],
)
def test_settings_of_another_engine_are_said(config, kind, lora, said):
    lines = inert_engine_settings(EngineConfig.model_validate(config), kind, lora=lora, on_gpu=True)
    assert bool(lines) == bool(said)
    assert all(words in lines[0] for words in said)


def test_settings_of_a_gpu_are_said_on_a_cpu():
    config = EngineConfig.model_validate({"kind": "vllm", "vllm": {"memory": 0.5, "eager": True, "kv_cache_gib": 2.0}})
    assert inert_engine_settings(config, "vllm", lora=False, on_gpu=True) == []
    assert inert_engine_settings(config, "vllm", lora=False, on_gpu=False) == [
        "engine.vllm.memory, engine.vllm.eager: vLLM runs on a CPU"
    ]


def test_only_an_engine_with_quantised_weights_needs_a_correction():
    engine = EngineConfig.model_validate({"kind": "auto", "vllm": {"quantization": "fp8"}})
    check_quantization(engine, "local", None)
    with pytest.raises(UserError, match="'correction'"):
        check_quantization(engine, "vllm", None)


def test_an_engine_is_closed_when_a_run_cannot_begin(tiny_model_folder, tmp_path, monkeypatch):
    """vLLM's processes and files must not stay when the first sync fails."""
    closed: list[bool] = []

    def broken(*_: Any) -> None:
        raise UserError("no room")

    monkeypatch.setattr(LocalEngine, "sync", broken)
    monkeypatch.setattr(LocalEngine, "close", lambda _: closed.append(True))
    with pytest.raises(UserError, match="no room"):
        train(str(tiny_model_folder), {"default": task_of()}, rl_config_of(), tmp_path)
    assert closed == [True]


@pytest.mark.parametrize("engine", [VllmEngine, ServerEngine])
def test_vllm_refuses_temperatures_that_it_would_replace(engine):
    unbuilt = object.__new__(engine)
    with pytest.raises(UserError, match=r"temperature 0\.005: vLLM's lowest is 0\.01"):
        engine.generate(unbuilt, random_prompts(1), Sampling(1, 4, 0.005), seed=0, step=0)
    check_sampling(Sampling(1, 4, 0.0))
    check_sampling(Sampling(1, 4, 0.01))


def test_the_embedded_engine_refuses_stop_strings():
    engine = LocalEngine(make_model(), make_tokenizer(), 8)
    with pytest.raises(UserError, match=r"sampling\.stop"):
        engine.generate(random_prompts(1), Sampling(2, 4, stop=("</answer>",)), seed=0, step=0)
