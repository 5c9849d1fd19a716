"""Memory: nothing grows with the syncs, and on a GPU it is given back while the trainer updates (order of calls only:
no GPU is needed for that)."""

from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from grpo.config.algorithm import LoraConfig
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.engines.choose import training_engine
from grpo.engines.vllm import in_process as engine_vllm
from grpo.engines.vllm.in_process import VllmEngine
from grpo.engines.vllm.start import ServedModel, lora_rank, settings
from grpo.model.policy import load_policy
from grpo.types import Sampling
from support.groups import random_prompts
from support.models import make_model, make_tokenizer

pytestmark = pytest.mark.vllm

CPU = RuntimeConfig(device="cpu")


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, alpha=8)])
def test_fifty_syncs_leave_no_memory_behind(tmp_path, lora):
    make_model(
        "qwen2", hidden_size=256, intermediate_size=1024, num_attention_heads=8, num_key_value_heads=2
    ).save_pretrained(tmp_path)  # 2.1M parameters: 8 MB
    make_tokenizer().save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path), CPU, lora)
    config = EngineConfig.model_validate({"kind": "vllm", "vllm": {"kv_cache_gib": 0.1, "lora": "adapter"}})
    engine = training_engine(config, policy, CPU, name=str(tmp_path), longest=40, model=policy.model, lora=lora)
    process = psutil.Process()

    def cycle() -> int:
        engine.sync(policy)
        engine.generate(random_prompts(4), Sampling(2, 8), seed=0, step=0)
        engine.release()
        return int(process.memory_info().rss)

    for _ in range(10):
        before = cycle()
    for _ in range(50):
        after = cycle()
    folder = engine.folder
    assert len(list(folder.iterdir())) <= 1  # the adapter in use
    engine.close()
    assert not folder.exists()
    assert after - before < 50e6  # a copy of the weights a sync would be 400 MB


class Recorded:
    """What vLLM is asked to do, in order."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: self.calls.append("shutdown")))

    def sleep(self, level: int) -> None:
        self.calls.append(("sleep", level))

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(("wake", *tags))

    def count(self, kind: str) -> int:
        return sum(call[0] == kind for call in self.calls)

    def collective_rpc(self, method: Any, **_: Any) -> None:
        if isinstance(method, str):  # a function looks for what only a CPU packs
            self.calls.append(method)

    def update_weight_version(self, version: str) -> None:
        self.calls.append(("version", version))

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset")
        return True

    def generate(self, *_: Any, **__: Any) -> list[Any]:
        self.calls.append("generate")
        return []


def test_on_a_gpu_it_sleeps_while_the_trainer_updates(monkeypatch):
    recorded = Recorded()
    monkeypatch.setattr(engine_vllm, "start", lambda *_: recorded)
    monkeypatch.setattr(VllmEngine, "_group", lambda *_: SimpleNamespace(tell=lambda heard: None))
    engine = VllmEngine(EngineConfig(kind="vllm"), ServedModel("m", None, (2,), 64, "cuda", "bfloat16"))
    policy: Any = SimpleNamespace(export=lambda: iter(()))
    prompts = random_prompts(1)
    monkeypatch.setattr(recorded, "generate", lambda *_, **__: [recorded.calls.append("generate")])
    engine.sync(policy)
    engine.generate(prompts, Sampling(2, 8), seed=0, step=0)
    engine.generate(prompts, Sampling(2, 8), seed=0, step=0)  # dynamic sampling: no sleep in between
    engine.release()
    engine.sync(policy)
    engine.generate(prompts, Sampling(2, 8), seed=0, step=1)
    sync = ["reload_weights", ("version", "1"), "reset"]
    again = [("wake", "weights"), "reload_weights", ("version", "2"), "reset", ("wake", "kv_cache"), "generate"]
    assert recorded.calls == [*sync, "generate", "generate", ("sleep", 2), *again]
    # A rollout without prompts for this process (three prompts, four GPUs): the trainer gets the memory all the same.
    for _ in range(2):
        engine.release()
        engine.release()
        engine.sync(policy)
        assert engine.generate([], Sampling(2, 8), seed=0, step=2) == []
    assert recorded.count("sleep") == 3
    assert [call for call in recorded.calls if call[0] == "wake"][2:] == [("wake", "weights")] * 2
    engine.close()
    assert recorded.calls[-2:] == [("wake", "kv_cache"), "shutdown"]  # what is not mapped cannot be freed


def test_settings_of_a_gpu():
    config = EngineConfig.model_validate(
        {"kind": "vllm", "max_rows": 64, "vllm": {"memory": 0.3, "tensor_parallel": 2, "quantization": "fp8"}}
    )
    lora = LoraConfig(r=20, alpha=8)
    chosen = settings(config, ServedModel("m", None, (2,), 4096, "cuda", "bfloat16", lora))
    expected = {
        "model": "m", "dtype": "bfloat16", "max_model_len": 4096, "max_num_seqs": 64, "tensor_parallel_size": 2,
        "quantization": "fp8", "enforce_eager": False, "gpu_memory_utilization": 0.3,
        "logprobs_mode": "processed_logprobs", "generation_config": "vllm",
    }  # fmt: skip
    assert chosen.items() >= expected.items()
    assert "enable_chunked_prefill" not in chosen
    assert "enable_lora" not in chosen  # merged weights
    assert lora_rank(20) == 32
