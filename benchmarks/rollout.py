"""Tokens per second when sampling groups: the embedded engine, vLLM and transformers' `generate`, interleaved.

    python benchmarks/rollout.py [--rounds 5] [--threads 2] [--only short,grouped,tailed]

Random Qwen3 models and prompts, fp32, groups of 8 at temperature 1, all completions of a call at once:

- short: 32 prompts x 22 tokens, 22 tokens each, 0.75M parameters;
- grouped: 8 prompts x 160 tokens, 120 tokens each, 4.5M parameters;
- tailed: the same with natural end tokens, geometric lengths of mean 130 cut at 300.

In the first two the end token is never drawn, so every engine makes the same number of tokens. One warm-up call each;
the figure is the median of the rounds, with their range. What is not installed is left out, and said. Results go to
benchmarks/rollout.json, and the table to benchmarks/rollout.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.types import Completion, Group, PolicyWeights, Prompt, Rollout, RolloutEngine, Sampling

GROUP, END, VOCABULARY = 8, 1, 512
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """What is sampled, from which model."""

    prompts: int
    prompt_tokens: int
    max_tokens: int
    end: float  # probability of the end token at each position
    model: dict[str, int]


SMALL = {"hidden_size": 128, "intermediate_size": 288, "num_hidden_layers": 4, "num_attention_heads": 4}
LARGE = {"hidden_size": 256, "intermediate_size": 672, "num_hidden_layers": 6, "num_attention_heads": 8}
CASES = {
    "short": Case(32, 22, 22, 0.0, SMALL),
    "grouped": Case(8, 160, 120, 0.0, LARGE),
    "tailed": Case(8, 160, 300, 1 / 150, LARGE),
}


class Generate:
    """transformers' `generate` as a rollout engine: one call, its own cache, left-padded."""

    def __init__(self, model: Any):
        self.model = model

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, step: int) -> list[Group]:
        import torch

        torch.manual_seed(seed + step)
        ids = torch.tensor([prompt.token_ids for prompt in prompts], device=self.model.device)  # of one length
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=sampling.temperature,
            top_k=0,
            num_return_sequences=sampling.group_size,
            max_new_tokens=sampling.max_tokens,
        )
        rows = [completion(line) for line in out[:, ids.shape[1] :].tolist()]
        size = sampling.group_size
        return [Group(prompt, tuple(rows[i * size : (i + 1) * size])) for i, prompt in enumerate(prompts)]

    def sync(self, policy: PolicyWeights) -> None:
        """It has the policy's own model."""

    def close(self) -> None:
        """Nothing is held."""


def completion(ids: list[int]) -> Rollout:
    end = ids.index(END) + 1 if END in ids else len(ids)
    return Rollout(Completion(tuple(ids[:end]), (0.0,) * end, "stop" if END in ids else "length", ""))


def make_model(folder: Path, case: Case) -> str:
    """A random model whose end token has about the probability asked for, and its tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    vocabulary = {"<pad>": 0, "<eos>": END, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        num_key_value_heads=case.model["num_attention_heads"] // 2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=END,
        **case.model,
    )
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():  # one dimension is the same at every position: what the end token's logit is made of
        model.model.embed_tokens.weight[:, 0] = 1.0
        constant = model.model(torch.arange(2, 34)[None]).last_hidden_state[..., 0].mean()
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[END] = 0.0
        logit = math.log(case.end * VOCABULARY) if case.end else -1000.0
        model.lm_head.weight[END, 0] = logit / constant
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_prompts(case: Case) -> list[Prompt]:
    draw = random.Random(0)
    lines = [[draw.randrange(2, VOCABULARY) for _ in range(case.prompt_tokens)] for _ in range(case.prompts)]
    return [Prompt(f"p{i}", tuple(line), text=" ".join(f"w{t}" for t in line)) for i, line in enumerate(lines)]


def make_engines(folder: str, longest: int) -> dict[str, RolloutEngine]:
    from grpo.config.engine import EngineConfig, RuntimeConfig
    from grpo.engines.choose import training_engine
    from grpo.engines.vllm import vllm_is_there
    from grpo.model.policy import load_policy

    runtime = RuntimeConfig()
    policy = load_policy(folder, runtime)
    engines: dict[str, RolloutEngine] = {"generate": Generate(load_policy(folder, runtime).model)}
    kinds = {"embedded": "local", "vllm": "vllm"} if vllm_is_there() else {"embedded": "local"}
    for name, kind in kinds.items():
        config = EngineConfig.model_validate({"kind": kind, "vllm": {"sleep": False}})
        engines[name] = training_engine(config, policy, runtime, name=folder, longest=longest, model=policy.model)
    if "vllm" not in engines:
        print("vLLM is not installed: left out (make setup-vllm)")
    for engine in engines.values():
        engine.sync(policy)
    return engines


def measure(case: Case, rounds: int, folder: Path) -> dict[str, Any]:
    """Tokens per second of each engine: one warm-up call, then `rounds` calls, the engines taking turns."""
    engines = make_engines(make_model(folder, case), case.prompt_tokens + case.max_tokens)
    prompts = make_prompts(case)
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    lengths: dict[str, list[int]] = {name: [] for name in engines}
    for step in range(rounds + 1):
        for name, engine in engines.items():
            start = time.perf_counter()
            groups = engine.generate(prompts, Sampling(GROUP, case.max_tokens), seed=0, step=step)
            seconds = time.perf_counter() - start
            made = [len(rollout.completion.token_ids) for group in groups for rollout in group.rollouts]
            if step:
                speeds[name].append(sum(made) / seconds)
                lengths[name] += made
    for engine in engines.values():
        engine.close()
    return {
        name: {
            "tokens_per_second": statistics.median(values),
            "range": [min(values), max(values)],
            "mean_tokens": statistics.mean(lengths[name]),
            "max_tokens": max(lengths[name]),
        }
        for name, values in speeds.items()
    }


def table(results: dict[str, Any]) -> str:
    lines = ["| case | engine | tokens/s | range | mean length |", "|---|---|---:|---:|---:|"]
    for case, engines in results.items():
        for name, found in engines.items():
            low, high = found["range"]
            lines.append(
                f"| {case} | {name} | {found['tokens_per_second']:,.0f} | {low:,.0f} to {high:,.0f} |"
                f" {found['mean_tokens']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", default=",".join(CASES), help="cases, joined by commas")
    settings = parser.parse_args()

    import torch
    import transformers

    from grpo.system.runtime import keep_memory

    keep_memory()
    torch.set_num_threads(settings.threads)
    transformers.utils.logging.disable_progress_bar()
    results = {}
    for name in settings.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(CASES[name], settings.rounds, Path(folder))
    machine = {"threads": settings.threads, "machine": platform.processor() or platform.machine()}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    record = {**machine, **versions, "rounds": settings.rounds, "cases": results}
    (HERE / "rollout.json").write_text(json.dumps(record, indent=1) + "\n")
    (HERE / "rollout.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
