"""Seconds per GRPO step, ours against TRL's GRPOTrainer, interleaved in one run on the same model and prompts.

    python benchmarks/step_time.py [--rounds 3] [--steps 6] [--threads 2]

W1: 32 prompts x 8 completions, 22 prompt and 22 completion tokens, a random Qwen3 of 0.75M parameters, beta = 0 and
0.001, one update per rollout, fp32. A random model hardly ever ends early, so both sides make the same tokens. TRL
runs without gradient checkpointing and with the whole batch in one forward. The first two steps of a round are
warm-up; the figure is the median of the rest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPTS, GROUP, PROMPT_TOKENS, COMPLETION_TOKENS, WARM_UP = 32, 8, 22, 22, 2


def make_model(folder: Path) -> str:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    vocabulary = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, 512)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_rows(count: int) -> list[dict[str, str]]:
    return [{"prompt": " ".join(f"w{2 + (7 * i + 13 * j) % 510}" for j in range(PROMPT_TOKENS))} for i in range(count)]


def reward(completions: list[str], **columns: Any) -> list[float]:
    return [float(sum(map(ord, text)) % 7) for text in completions]


def ours(model: str, rows: list[dict[str, str]], steps: int, beta: float, out: Path) -> list[float]:
    import grpo
    from grpo.config import DataConfig

    config = {
        "model": model,
        "out": str(out),
        "steps": steps,
        "group_size": GROUP,
        "prompts_per_step": PROMPTS,
        "sampling": {"max_tokens": COMPLETION_TOKENS},
        "loss": {"beta": beta},
        "optimizer": {"lr": 1e-5},
    }
    file = out / "rows.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    grpo.train(config, rewards=[reward], dataset=DataConfig(path=str(file), template="{prompt}"))
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["seconds"] for line in lines][WARM_UP:]


def trl(model: str, rows: list[dict[str, str]], steps: int, beta: float, out: Path) -> list[float]:
    import datasets
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    times = [time.perf_counter()]

    class Stopwatch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times.append(time.perf_counter())

    config = GRPOConfig(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=PROMPTS * GROUP,
        num_generations=GROUP,
        max_completion_length=COMPLETION_TOKENS,
        beta=beta,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        model_init_kwargs={"dtype": "float32"},
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        callbacks=[Stopwatch()],
    )
    trainer.train()
    return [after - before for before, after in itertools.pairwise(times)][WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    settings = parser.parse_args()

    import torch
    import transformers

    torch.set_num_threads(settings.threads)
    transformers.utils.logging.disable_progress_bar()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model")
        rows = make_rows(PROMPTS * settings.steps)
        for beta in (0.0, 0.001):
            times: dict[str, list[float]] = {"ours": [], "trl": []}
            for number in range(settings.rounds):
                for name, side in (("ours", ours), ("trl", trl)):
                    times[name] += side(model, rows, settings.steps, beta, Path(folder) / f"{name}-{beta}-{number}")
            medians = {name: statistics.median(values) for name, values in times.items()}
            spread = {name: [min(values), max(values)] for name, values in times.items()}
            results[f"beta={beta}"] = {
                "median_seconds": medians,
                "min_max_seconds": spread,
                "trl/ours": medians["trl"] / medians["ours"],
            }
    json.dump(results, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
