"""vLLM takes the policy of a mixture of experts, whose tensors have other names in a checkpoint than in memory."""

import pytest
import torch

from grpo.config.algorithm import LoraConfig
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.engines.choose import training_engine
from grpo.model.policy import load_policy
from grpo.types import Sampling
from support.groups import random_prompts
from support.mixtures import make_mixture
from support.models import farthest, make_tokenizer, move

pytestmark = pytest.mark.vllm

CPU = RuntimeConfig(device="cpu")


@pytest.mark.parametrize("adapter", [None, LoraConfig(r=4, alpha=8)])
def test_logprobs_are_the_trainers_after_every_sync(adapter, tmp_path):
    make_mixture("qwen3_moe", hidden_size=64, head_dim=32, moe_intermediate_size=32).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    torch.manual_seed(0)
    policy = load_policy(str(tmp_path), CPU, adapter, seed=0)
    config = EngineConfig.model_validate({"kind": "vllm", "vllm": {"kv_cache_gib": 0.1}})
    engine = training_engine(config, policy, CPU, name=str(tmp_path), longest=80, model=policy.model, lora=adapter)
    try:
        for updates in range(3):
            engine.sync(policy)
            groups = engine.generate(random_prompts(8), Sampling(4, 20, 1.0), seed=0, step=updates)
            assert farthest(groups, policy.model, 1.0) < 1e-4
            move(policy.model, 0.02 if adapter is None else 0.05)
        assert farthest(groups, policy.model, 1.0) > 1e-2  # the comparison tells weights apart
    finally:
        engine.close()
