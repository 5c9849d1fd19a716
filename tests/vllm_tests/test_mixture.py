"""vLLM takes the policy of a mixture of experts, whose tensors have other names in a checkpoint than in memory."""

import pytest

from grpo.config.algorithm import LoraConfig
from grpo.config.engine import EngineConfig
from grpo.engines.choose import training_engine
from grpo.model.policy import Policy, load_policy
from grpo.types import RolloutEngine, Sampling
from support.groups import random_prompts
from support.mixtures import make_mixture
from support.models import farthest, make_tokenizer, move
from support.runs import CPU
from support.vllm_runs import config_for, serving

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "mixture"
    make_mixture("qwen3_moe", hidden_size=64, head_dim=32, moe_intermediate_size=32).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def follows(engine: RolloutEngine, policy: Policy) -> None:
    """After every sync its log-probs are the trainer's."""
    for updates in range(3):
        engine.sync(policy)
        groups = engine.generate(random_prompts(8), Sampling(4, 20, 1.0), seed=0, step=updates)
        assert farthest(groups, policy.model, 1.0) < 1e-4
        move(policy.model, 0.05)
    assert farthest(groups, policy.model, 1.0) > 1e-2  # the comparison tells weights apart


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, alpha=8)], ids=["full", "lora"])
def test_in_this_process(lora, mixture):
    policy = load_policy(str(mixture), CPU, lora, seed=0)
    config = EngineConfig.model_validate({"kind": "vllm", "vllm": {"kv_cache_gib": 0.1}})
    engine = training_engine(config, policy, CPU, name=str(mixture), longest=80, model=policy.model, lora=lora)
    try:
        follows(engine, policy)
    finally:
        engine.close()


def test_behind_a_server(mixture, tmp_path):
    policy = load_policy(str(mixture), CPU)
    with serving(mixture, tmp_path, 1) as served:
        config = config_for(served)
        engine = training_engine(config, policy, CPU, name=str(mixture), longest=80, model=policy.model)
        follows(engine, policy)
