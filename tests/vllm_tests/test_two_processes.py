"""vLLM in each of two processes: each samples its share, and what is trained is what one process would train."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grpo.config.data import DataConfig
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.config.training import RLConfig
from grpo.data.prompts import build_prompts
from grpo.rollout.sampler import Task
from grpo.scoring.table import Reward
from support.models import make_model, make_tokenizer
from support.processes import PATHS
from support.train import train

pytestmark = pytest.mark.vllm


def digits(completions: list[str], **_: Any) -> list[float]:
    return [sum(c.isdigit() for c in text) / max(1, len(text)) for text in completions]


def run(model: Path, out: Path, parallel: str) -> None:
    """Three prompts a rollout, so that two processes do not share them evenly."""
    settings = {
        "steps": 6, "group_size": 4, "prompts_per_step": 3, "sampling": {"max_tokens": 8}, "optimizer": {"lr": 5e-3},
    }  # fmt: skip
    rows = [{"prompt": f"q{i}", "id": str(i)} for i in range(7)]
    prompts = build_prompts(rows, DataConfig(path="d", template="{prompt}="), make_tokenizer())
    train(
        str(model),
        {"default": Task(prompts, [Reward("digits", digits)])},
        RLConfig.model_validate(settings),
        out,
        seed=1,
        engine_config=EngineConfig.model_validate({"kind": "vllm", "vllm": {"kv_cache_gib": 0.1}}),
        runtime=RuntimeConfig.model_validate({"device": "cpu", "parallel": parallel}),
    )


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_what_one_trains(tmp_path):
    """Twice in the same processes (a pipeline starts an engine in every stage), then with sharded weights."""
    model = tmp_path / "model"
    make_model(
        "qwen2", hidden_size=64, num_attention_heads=2, num_key_value_heads=1, initializer_range=0.08
    ).save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    run(model, tmp_path / "one", "data")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    done = subprocess.run(
        [*launch, str(model), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": PATHS},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one = rows_of(tmp_path / "one")
    for name in ("data", "data-again", "fsdp"):
        two = rows_of(tmp_path / name)
        for ours, theirs in zip(two, one, strict=True):
            assert ours["reward"] == pytest.approx(theirs["reward"], abs=1e-6), name
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4), name
            assert ours["logprob_mismatch_max"] < 1e-4


if __name__ == "__main__":
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    run(folder, out / "data", "data")
    run(folder, out / "data-again", "data")
    run(folder, out / "fsdp", "fsdp")
