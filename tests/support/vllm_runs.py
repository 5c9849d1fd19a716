"""Trainings with vLLM, and servers that `grpo serve` starts."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from grpo.config.engine import EngineConfig
from grpo.config.training import RLConfig
from grpo.rollout.sampler import Task
from support.models import CHARACTERS, EOS, IM_END, make_model, make_tokenizer
from support.processes import start
from support.runs import config_of, task_of
from support.servers import closed_port

SMALL = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}  # widths that vLLM computes on a CPU


def save_for_vllm(folder: Path, generation: dict[str, Any], **settings: Any) -> Path:
    """A tiny Qwen3 with two end tokens and this generation config."""
    settings = SMALL | {"head_dim": 32, "initializer_range": 0.1} | settings
    model = make_model("qwen3", end=[EOS, IM_END], **settings)
    vars(model.generation_config).update(generation)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def tasks(length: int = 4) -> dict[str, Task]:
    return {"default": task_of(text=(CHARACTERS[:10] * (length // 10 + 1))[:length])}


def vllm_config(**settings: Any) -> RLConfig:
    return config_of(**{"steps": 5, "group_size": 6, "prompts_per_step": 3, "checkpoint": {}} | settings)


ENGINE: dict[str, Any] = {"kind": "vllm-server", "max_rows": 64}


@dataclass
class Served:
    """A running `grpo serve`."""

    process: subprocess.Popen[str]
    urls: list[str]
    weights: Path
    errors: Path

    def tree(self, url: str | None = None) -> list[psutil.Process]:
        """The processes of one server, or of all."""
        own = psutil.Process(self.process.pid).children()
        if url is not None:
            own = [child for child in own if url.rpartition(":")[2] in child.cmdline()]
        return [process for child in own for process in (child, *child.children(recursive=True))]

    def signal(self, url: str, number: int) -> None:
        for process in self.tree(url):
            process.send_signal(number)


@contextmanager
def serving(folder: Path, tmp: Path, count: int) -> Iterator[Served]:
    tmp.mkdir(exist_ok=True)
    urls = [closed_port() for _ in range(count)]
    weights = tmp / "weights"
    weights.mkdir()
    tree = {
        "base": {"model": str(folder)},
        "engine": ENGINE | {"vllm": {"kv_cache_gib": 0.1}, "server": {"urls": urls, "folder": str(weights)}},
        "runtime": {"device": "cpu", "threads": 1},
        "evaluation": {"math": {"data": {"path": "x.jsonl"}, "max_tokens": 8}},
    }
    (tmp / "c.yaml").write_text(json.dumps(tree))
    with (tmp / "errors").open("w") as errors:
        process = start("-m", "stages.cli", "serve", tmp / "c.yaml", stderr=errors)
    served = Served(process, urls, weights, tmp / "errors")
    everything: list[psutil.Process] = []
    try:
        lines = [process.stdout.readline() for _ in urls]
        assert all("vLLM is ready" in line for line in lines), (lines, served.errors.read_text())
        everything = served.tree()
        yield served
    finally:
        process.terminate()
        process.wait(60)
        for left in everything:
            if left.is_running():
                left.kill()


def config_for(served: Served, urls: list[str] | None = None, **settings: Any) -> EngineConfig:
    server = {"urls": urls or served.urls, "folder": str(served.weights), "timeout": 120.0, **settings}
    return EngineConfig.model_validate(ENGINE | {"server": server})
