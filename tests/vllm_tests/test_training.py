"""Training with vLLM in this process; and every way in which its weights can silently be wrong, which must end the run
before the optimizer steps on what it sampled."""

from pathlib import Path
from typing import Any

import pytest
import torch

from grpo.config.engine import EngineConfig
from grpo.config.training import RLConfig
from grpo.engines.vllm.in_process import VllmEngine
from grpo.errors import UserError
from grpo.rollout.sampler import Task
from grpo.trainer import TrainResult
from support import runs
from support.runs import LEARNING, Killed, assert_learnt, before, interrupt_at, rows_of
from support.vllm_runs import tasks, vllm_config

pytestmark = pytest.mark.vllm

LORA = {"r": 4, "alpha": 8, "targets": "all-linear"}
BLOCK = 128  # tokens of a cache block on a CPU: only whole ones are kept for the next request


def run(folder: Path, out: Path, config: RLConfig, made: dict[str, Task] | None = None, **vllm: Any) -> TrainResult:
    engine = EngineConfig.model_validate({"kind": "vllm", "vllm": {"kv_cache_gib": 0.1, **vllm}})
    return runs.run(folder, out, config, made or tasks(), engine_config=engine)


@pytest.mark.parametrize(
    ("settings", "vllm"),
    [({}, {}), ({"lora": LORA}, {"lora": "merged"}), ({"lora": LORA}, {"lora": "adapter"})],
)
def test_it_learns_a_toy_reward(folder, tmp_path, settings, vllm):
    slower = {"steps": 25, "prompts_per_step": 6, "optimizer": {"lr": 1e-2 if not settings else 4e-2}}
    config = vllm_config(**LEARNING | slower | settings)
    run(folder, tmp_path, config, **vllm)
    assert_learnt(tmp_path, 0.7)
    rows = rows_of(tmp_path, timings=True)
    assert max(row["logprob_mismatch_max"] for row in rows) < 1e-4
    assert all(row["seconds/sync"] > 0 for row in rows)


def without_reload(engine: VllmEngine) -> None:
    """vLLM answers that it reloaded the weights, and did not."""
    engine.llm.collective_rpc = lambda method, **_: [None]


def cache_kept(engine: VllmEngine) -> None:
    """vLLM answers that its prefix cache is empty, and it is not."""
    engine.llm.reset_prefix_cache = lambda: True


def cache_stuck(engine: VllmEngine) -> None:
    engine.llm.reset_prefix_cache = lambda: False


def adapter_refused(engine: VllmEngine) -> None:
    engine.llm.llm_engine.add_lora = lambda request: False


def adapter_left_out(engine: VllmEngine) -> None:
    """The adapter is there, and no request uses it."""
    generate = engine.llm.generate
    engine.llm.generate = lambda *args, lora_request, **kwargs: generate(*args, **kwargs)


def old_adapter(engine: VllmEngine) -> None:
    """Requests go on with the adapter of the sync before."""
    generate, old = engine.llm.generate, engine.adapter
    engine.llm.generate = lambda *args, lora_request, **kwargs: generate(*args, lora_request=old, **kwargs)
    engine.llm.llm_engine.remove_lora = lambda number: True


DIFFER = "same tokens differ by"


@pytest.mark.parametrize(
    ("fault", "words", "settings", "deliver", "length"),
    [
        (without_reload, DIFFER, {}, "merged", 4),
        (cache_kept, DIFFER, {}, "merged", 2 * BLOCK),
        (cache_stuck, "did not empty its prefix cache", {}, "merged", 4),
        (adapter_refused, "did not take the adapter", {"lora": LORA}, "adapter", 4),
        (adapter_left_out, DIFFER, {"lora": LORA}, "adapter", 4),
        (old_adapter, DIFFER, {"lora": LORA}, "adapter", 4),
    ],
)
def test_a_fault_of_the_second_sync_ends_the_run(
    folder, tmp_path, monkeypatch, fault, words, settings, deliver, length
):
    """The first rollout is sound, and trains; nothing of the second one may."""
    steps: list[int] = []
    before(monkeypatch, VllmEngine, "sync", lambda self, _: self.version == 1 and fault(self))
    before(monkeypatch, torch.optim.AdamW, "step", lambda *_, **__: steps.append(1))
    with pytest.raises(UserError, match=words) as caught:
        run(folder, tmp_path, vllm_config(**settings), tasks(length), lora=deliver)
    assert "\n" not in str(caught.value)
    assert len(steps) == 1
    assert [row["step"] for row in rows_of(tmp_path)] == [1]
    assert not (tmp_path / "model").exists()


def test_a_sync_that_never_happens_ends_the_run(folder, tmp_path, monkeypatch):
    sync = VllmEngine.sync
    monkeypatch.setattr(VllmEngine, "sync", lambda self, policy: sync(self, policy) if self.version == 0 else None)
    with pytest.raises(UserError, match=DIFFER):
        run(folder, tmp_path, vllm_config())
    assert [row["step"] for row in rows_of(tmp_path)] == [1]


def test_a_resumed_run_ends_as_the_whole_one(folder, tmp_path, monkeypatch):
    """vLLM repeats itself on a CPU: same tokens, same weights."""
    config = vllm_config(steps=6, checkpoint={"every": 2})
    run(folder, tmp_path / "whole", config)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, VllmEngine)
        with pytest.raises(Killed):
            run(folder, tmp_path / "cut", config)
    run(folder, tmp_path / "cut", config)
    for name in ("completions/step-000005.jsonl", "completions/step-000006.jsonl", "model/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_fp8_samples_need_a_correction(folder, tmp_path):
    with pytest.raises(UserError, match="'correction'"):
        run(folder, tmp_path, vllm_config(), quantization="fp8")
