"""Seconds per phase and peak memory of a GRPO step at a real size on a GPU: Qwen2.5 shapes with random weights, bf16.

    python benchmarks/gpu_step.py [--size 0.5b|1.5b] [--steps 4] [--max-tokens 512]

8 prompts x 16 completions, 160 prompt tokens, completions that run to the limit (random weights hardly ever end), beta 0
and 0.001. fp32 masters under autocast, the embedded engine, no gradient checkpointing. The first step is warm-up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

PROMPTS, GROUP, PROMPT_TOKENS = 8, 16, 160
SHAPES = {
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
}


def make_model(size: str, folder: Path) -> str:
    import torch
    from step_time import make_model as make_tokenizer
    from transformers import Qwen2Config, Qwen2ForCausalLM

    make_tokenizer(folder)  # its tokenizer stays; the model is replaced
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151936,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        **SHAPES[size],
    )
    with torch.device("cuda"):
        model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return str(folder)


def measure(model: str, beta: float, settings: argparse.Namespace, out: Path) -> dict[str, Any]:
    import torch
    from step_time import reward

    from grpo.config import RLConfig, RuntimeConfig
    from grpo.prompts import Task
    from grpo.scoring import Reward
    from grpo.trainer import train
    from grpo.types import Prompt

    prompts = [
        Prompt(f"p{i}", tuple(2 + (7 * i + 13 * j) % 510 for j in range(PROMPT_TOKENS)), text="")
        for i in range(PROMPTS * settings.steps)
    ]
    config = RLConfig.model_validate(
        {
            "steps": settings.steps,
            "group_size": GROUP,
            "prompts_per_step": PROMPTS,
            "sampling": {"max_tokens": settings.max_tokens},
            "optimizer": {"lr": 1e-6},
            "loss": {"beta": beta},
            "micro_batch_size": settings.micro_batch_size,
        }
    )
    torch.cuda.reset_peak_memory_stats()
    runtime = RuntimeConfig(device="cuda", dtype="bfloat16")
    train(model, {"default": Task(prompts, [Reward("length", reward)])}, config, out, runtime=runtime)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][1:]
    phases = [key for key in rows[0] if key.startswith("seconds")]
    return {
        **{key: round(statistics.median(row[key] for row in rows), 3) for key in phases},
        "tokens_per_second": round(statistics.median(row["tokens_per_second"] for row in rows)),
        "completion_length": rows[-1]["completion_length"],
        "logprob_mismatch": max(row["logprob_mismatch"] for row in rows),
        "logprob_mismatch_max": max(row["logprob_mismatch_max"] for row in rows),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SHAPES), default="0.5b")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--micro-batch-size", type=int, default=16)
    settings = parser.parse_args()

    import torch

    results: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, **vars(settings)}
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(settings.size, Path(folder) / "model")
        for beta in (0.0, 0.001):
            results[f"beta={beta}"] = measure(model, beta, settings, Path(folder) / f"beta-{beta}")
    json.dump(results, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
