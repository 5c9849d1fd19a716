"""GRPO as one loop over the project's own functions: `python examples/minimal.py`, a toy reward on a model made here.

`grpo.train` gives the same weights bit for bit (tests/test_minimal.py). What it has and this has not: resume, several
processes, vLLM, sampling one step ahead, dynamic sampling, LoRA's dropout, metrics, and a check of every setting.
"""

from __future__ import annotations

import string
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from grpo.advantages import assign_advantages
from grpo.config import TrainConfig
from grpo.config.data import DataConfig
from grpo.data import build_prompts
from grpo.engines.local.engine import LocalEngine
from grpo.learner.batching import rows_of, split_updates
from grpo.learner.logprobs import with_logprobs
from grpo.learner.make import make_learner
from grpo.learner.schedule import lr_factor
from grpo.learner.update import update
from grpo.model.policy import Policy, load_policy
from grpo.model.reference import Reference
from grpo.rollout.sampler import PromptSampler, Task
from grpo.scoring.groups import Reward, score

ROWS = [{"prompt": f"{a} and {b}: "} for a in "abcdefgh" for b in "xyz"]


def digits(completions: list[Any], **columns: Any) -> list[float]:
    """The share of digits among the characters."""
    texts = [completion[-1]["content"] for completion in completions]
    return [sum(character.isdigit() for character in text) / max(1, len(text)) for text in texts]


def make_model(folder: Path) -> None:
    """A random model of 70,000 parameters that knows printable characters, in Hugging Face format."""
    vocabulary = {token: index for index, token in enumerate(["<end>", *string.printable[:95]])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen3Config(vocab_size=len(vocabulary), num_key_value_heads=2, eos_token_id=0, pad_token_id=0, **sizes)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def learn(config: TrainConfig, rewards: list[Reward]) -> Policy:
    policy = load_policy(config.model, config.runtime, config.lora, config.seed)
    learner, reference = make_learner(policy, config, config.runtime), Reference.of(policy)
    engine = LocalEngine(learner.model, policy.tokenizer, config.engine.max_rows, shared=True)
    task = Task(build_prompts(ROWS, DataConfig(path="rows.jsonl"), policy.tokenizer), rewards)
    sampler, step = PromptSampler({"default": task}, config.steps, config.seed), 0
    while step < config.steps:
        start = step
        engine.sync(policy)
        prompts = sampler.next({"default": config.rollout_prompts or config.prompts_per_step}, start)
        groups = engine.generate(prompts, config.sample_settings(), seed=config.seed, step=start)
        groups, _ = score(groups, task.rewards)
        groups = assign_advantages(groups, config.advantage)
        groups = with_logprobs(learner, reference, groups, config)
        for batch in split_updates(groups, config.mini_batches, config.inner_epochs, config.seed, start):
            lr = config.optimizer.lr * lr_factor(config.optimizer, step, config.steps)
            stats = update(learner, rows_of(batch), config, lr, version=start, step=step)
            step += 1
        reward = mean(rollout.reward for group in groups for rollout in group.rollouts)
        print(f"step {step}: reward {reward:.3f}, kl {stats['kl']:.3f}")
    return policy


def settings(folder: Path, steps: int = 40) -> TrainConfig:
    algorithm = {"steps": steps, "group_size": 8, "prompts_per_step": 4, "rollout_prompts": 8, "loss": {"beta": 0.01}}
    algorithm |= {"sampling": {"max_tokens": 12}, "optimizer": {"lr": 2e-3}, "runtime": {"device": "cpu"}}
    return TrainConfig.model_validate({"model": str(folder / "start"), "out": str(folder / "train"), **algorithm})


if __name__ == "__main__":
    here = Path("runs/minimal")
    make_model(here / "start")
    learn(settings(here), [Reward("digits", digits)]).save(here / "model")
