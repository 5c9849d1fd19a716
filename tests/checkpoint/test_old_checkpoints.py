"""Checkpoints from before modules moved and rewards' texts changed: what they say they were made with is still this."""

import importlib.util
import inspect
import json
from pathlib import Path
from typing import Any

from grpo.checkpoint.identity import MOVED, differences, identify
from grpo.config.training import TrainConfig
from grpo.rollout.sampler import Task
from grpo.scoring.table import Reward
from grpo.system.fingerprint import digest
from grpo.system.imports import import_path
from grpo.system.world import World
from grpo.types import Prompt
from rewards.loader import REGISTRY, load_rewards
from stages import tiny_world

# `identity` in state.json of a run of version 0.1.0 whose core was flat files, without its machine.
RECORDED = json.loads("""{"steps": 6, "group_size": 4, "prompts_per_step": 2, "rollout_prompts": null,
"inner_epochs": 1, "sampling.temperature": 1.0, "sampling.max_tokens": 8, "sampling.stop": [], "truncated": "keep",
"penalty_tokens": null,
"advantage.scale": "group", "advantage.epsilon": 0.0001, "advantage.std_floor": 0.0,
"advantage.combine": "sum_then_normalise", "loss.ratio": "token", "loss.clip": "ppo", "loss.clip_low": 0.2,
"loss.clip_high": 0.2, "loss.dual_clip": null, "loss.aggregation": "sequence", "loss.beta": 0.0,
"loss.kl.estimator": "k3", "loss.kl.placement": "loss", "loss.kl.weighted": false, "loss.entropy_bonus": 0.0,
"loss.off_policy_mask": null, "correction": null, "dynamic_sampling": null, "difficulty": null, "lora": null,
"optimizer.lr": 0.001, "optimizer.weight_decay": 0.0, "optimizer.beta1": 0.9, "optimizer.beta2": 0.999,
"optimizer.warmup_steps": 0, "optimizer.schedule": "constant", "optimizer.min_lr": 0.0, "optimizer.max_grad_norm": 1.0,
"reference_every": null, "micro_batch_tokens": 60, "gradient_checkpointing": false, "seed": 1, "model": "hub/name",
"engine.kind": "local", "engine.max_rows": 512, "engine.ahead": false, "engine.vllm.memory": 0.4,
"engine.vllm.kv_cache_gib": null, "engine.vllm.tensor_parallel": 1, "engine.vllm.lora": "merged",
"engine.vllm.quantization": null, "engine.vllm.eager": false, "runtime.device": "cpu", "runtime.dtype": "float32",
"runtime.parallel": "data", "runtime.threads": null, "tasks.default.prompts": "939ade1870f72a15",
"tasks.default.share": 1.0, "tasks.default.last_steps": null, "tasks.default.rewards.accuracy.weight": 1.0,
"tasks.default.rewards.accuracy.columns": {}, "tasks.default.rewards.accuracy.kwargs.strict": true,
"tasks.default.rewards.accuracy.kwargs.anywhere": false, "tasks.default.rewards.accuracy.fn": "accuracy_reward",
"tasks.default.rewards.accuracy.source": "ed7ec81de9ecb81a", "tasks.default.rewards.language.weight": 1.0,
"tasks.default.rewards.language.columns": {}, "tasks.default.rewards.language.kwargs.think_tag": "think",
"tasks.default.rewards.language.kwargs.detect": false, "tasks.default.rewards.language.fn": "language_consistency",
"tasks.default.rewards.language.source": "da09ec348ae8bc2f", "tasks.default.rewards.format.weight": 0.5,
"tasks.default.rewards.format.columns": {}, "tasks.default.rewards.format.kwargs.think_tag": "think",
"tasks.default.rewards.format.kwargs.answer_tag": null, "tasks.default.rewards.format.kwargs.strict": true,
"tasks.default.rewards.format.kwargs.code": null, "tasks.default.rewards.format.kwargs.opened": "auto",
"tasks.default.rewards.format.fn": "format_reward", "tasks.default.rewards.format.source": "73819ac7bf107f2e",
"tasks.default.rewards.general_oracle.weight": 1.0, "tasks.default.rewards.general_oracle.columns": {},
"tasks.default.rewards.general_oracle.kwargs": {}, "tasks.default.rewards.general_oracle.fn": "general_oracle",
"tasks.default.rewards.general_oracle.source": "ebf5f228bca0fa33", "grpo": "0.1.0"}""")
SPECS = [
    {"fn": "accuracy", "kwargs": {"strict": True}}, {"fn": "language"}, {"fn": "format", "weight": 0.5},
    {"fn": "stages.tiny_world.general_oracle"},
]  # fmt: skip
SOURCE = "tasks.default.rewards.accuracy.source"


def identity(rewards: list[Reward]) -> dict[str, Any]:
    """What such a run has now, without its machine."""
    question = [{"role": "user", "content": "2+3"}]
    columns = {"question": "2+3", "answer": "5"}
    prompts = [Prompt("p0", (1, 2, 3), question, "2+3", columns, "5", prefill="<think>")]
    config = TrainConfig.model_validate(
        {
            "model": "hub/name", "out": "runs/x", "seed": 1, "engine": {"kind": "local"},
            "runtime": {"device": "cpu"}, "steps": 6, "group_size": 4, "prompts_per_step": 2,
            "sampling": {"max_tokens": 8}, "optimizer": {"lr": 1e-3}, "micro_batch_tokens": 60,
        }
    )  # fmt: skip
    whole = identify(config, {"default": Task(prompts, rewards)}, "local", World())
    return {key: value for key, value in whole.items() if not key.startswith("machine.")}


def matter(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    told = differences(old, new)
    assert told.rounding == []
    return told.matter


def test_an_old_checkpoint_goes_on():
    assert matter(RECORDED, identity(load_rewards(SPECS))) == []


def test_options_that_a_reward_has_got_since_are_as_they_were():
    now = identity(load_rewards([{"fn": "code"}]))
    place = "tasks.default.rewards.code."
    old = {
        key: value for key, value in now.items() if key not in (f"{place}kwargs.tolerance", f"{place}kwargs.unordered")
    }
    old[f"{place}source"] = "02658b87abfdb912"
    assert matter(old, now) == []
    asked = identity(load_rewards([{"fn": "code", "kwargs": {"unordered": True}}]))
    assert matter(old, asked) == [f"{place}kwargs.unordered: (not set) -> True"]


def test_the_texts_of_moved_rewards_are_those_of_now():
    """Who changes one of them decides whether old runs may go on with it, and writes its new text down."""
    rewards = [import_path(path, "reward") for path in REGISTRY.values()]
    rewards += [getattr(tiny_world, name) for name in dir(tiny_world) if name.endswith("_oracle")]
    now = {digest(inspect.getsource(reward)) for reward in rewards}
    assert set(MOVED.values()) <= now


def test_an_edited_or_another_reward_is_not_taken_for_the_moved_one():
    oracle = SOURCE.replace("accuracy", "general_oracle")
    now = identity(load_rewards(SPECS))
    assert matter({**now, SOURCE: "0123456789abcdef"}, now) == [f"{SOURCE}: 0123456789abcdef -> {now[SOURCE]}"]
    other = {**now, oracle: "0123456789abcdef"}
    assert matter(RECORDED, other) == [f"{oracle}: {MOVED[RECORDED[oracle]]} -> 0123456789abcdef"]


def test_another_version_of_this_program_is_not():
    assert matter({**RECORDED, "grpo": "0.0.9"}, identity(load_rewards(SPECS))) == ["grpo: 0.0.9 -> 0.1.0"]


def own_reward(file: Path, value: float) -> Reward:
    """A user's reward of the name of one of ours, in a module that could be taken for ours."""
    file.write_text(f"def accuracy_reward(completions, **_):\n    return [{value} for _ in completions]\n")
    spec = importlib.util.spec_from_file_location("rewards.mine", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Reward("accuracy", module.accuracy_reward)


def test_a_user_s_own_reward_is_known_by_its_text(tmp_path):
    first, edited = (identity([own_reward(tmp_path / name, value)]) for name, value in [("a.py", 1.0), ("b.py", 0.5)])
    assert matter(first, identity([own_reward(tmp_path / "c.py", 1.0)])) == []
    assert matter(first, edited) == [f"{SOURCE}: {first[SOURCE]} -> {edited[SOURCE]}"]
    assert any(line.startswith(f"{SOURCE}: ") for line in matter(identity(load_rewards(SPECS)), first))
