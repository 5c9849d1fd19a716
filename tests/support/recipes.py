"""Configs for the tests of configs: `FULL` sets every setting there is, `SMALL` what it must; walks over them."""

import copy
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from grpo.config.file import apply_override, validate
from grpo.config.section import Section
from grpo.config.yaml import load_yaml
from grpo.errors import UserError
from grpo.evaluation.metrics import GENERAL_METRICS
from stages.recipe.config import RecipeConfig

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = sorted((REPOSITORY / "configs").glob("*.yaml"))

OPTIMIZER = {
    "lr": 1e-3, "weight_decay": 0.1, "beta1": 0.8, "beta2": 0.9, "warmup_steps": 2, "schedule": "cosine",
    "min_lr": 1e-4, "max_grad_norm": 0.5,
}  # fmt: skip
HUB = {
    "path": "owner/set", "split": "test", "subset": "main", "limit": 9, "system": "Be brief.", "suffix": "!",
    "max_prompt_tokens": 64, "overlong": "error", "columns": {"prompt": "task"},
}  # fmt: skip
FUNCTION = {"fn": "my.rows", "kwargs": {"n": 3}}
ACCURACY = {"fn": "accuracy", "name": "right", "weight": 2.0, "kwargs": {"strict": True}, "columns": {"gold": "answer"}}
SFT = {"batch_size": 8, "micro_batch_size": 4, "max_tokens": 64, "optimizer": OPTIMIZER}
RL: dict[str, Any] = {
    "preset": "deepseek_r1", "steps": 40, "group_size": 4, "prompts_per_step": 2, "rollout_prompts": 4,
    "inner_epochs": 2, "sampling": {"temperature": 0.9, "max_tokens": 32, "stop": ["END"]},
    "truncated": "penalise", "penalty_tokens": 8,
    "advantage": {"scale": "batch", "epsilon": 1e-3, "std_floor": 0.1, "combine": "normalise_then_sum"},
    "loss": {
        "ratio": "sequence", "clip": "ppo", "clip_low": 0.1, "clip_high": 0.3, "dual_clip": 3,
        "aggregation": "constant", "beta": 0.01, "kl": {"estimator": "k2", "placement": "loss", "weighted": True},
        "entropy_bonus": 0.01, "off_policy_mask": 0.5,
    },
    "correction": {"level": "sequence", "mode": "mask", "low": 0.5, "high": 3},
    "dynamic_sampling": {"reward": "right", "max_draws": 2},
    "difficulty": {"reward": "right", "low": 0.1, "high": 0.9, "rest_epochs": 2, "retire": 0.95, "target": 0.5},
    "lora": {"r": 4, "alpha": 8, "dropout": 0.1, "targets": ["q_proj"], "rank_stabilised": True, "bias": "all"},
    "optimizer": OPTIMIZER, "reference_every": 4, "micro_batch_tokens": 64, "gradient_checkpointing": True,
    "checkpoint": {"every": 4, "keep": 3, "best": "reward"},
}  # fmt: skip
DISTILL = {"model": "some-teacher", "urls": ["http://c:3"], "horizon": "completion", "reward_weight": 0.5}
PLAIN = {key: RL[key] for key in ("steps", "group_size", "prompts_per_step", "sampling", "optimizer")}
TASKS = {
    "math": {"data": HUB, "rewards": [ACCURACY, {"fn": "format"}]},
    "plain": {
        "data": {**FUNCTION, "template": "Q: {prompt}"}, "rewards": [{"fn": "language"}], "share": 2, "last_steps": 20,
    },
}  # fmt: skip
JUDGE = {"fn": "accuracy", "kwargs": {"strict": True}, "columns": {"gold": "answer"}}
FULL: dict[str, Any] = {
    "seed": 3,
    "engine": {
        "kind": "vllm-server", "max_rows": 64, "ahead": True,
        "vllm": {
            "memory": 0.5, "kv_cache_gib": 2.0, "tensor_parallel": 2, "lora": "adapter", "sleep": False,
            "quantization": "fp8", "eager": True,
        },
        "server": {
            "urls": ["http://a:1", "http://b:2"], "timeout": 5.0, "retries": 1, "start_timeout": 9.0,
            "transfer": "files", "folder": "/shared",
        },
    },
    "runtime": {
        "device": "cpu", "dtype": "bfloat16", "parallel": "fsdp", "threads": 1, "log_level": "error", "profile": 2,
        "grace": 9.0, "save_dtype": "float16",
    },
    "evaluation": {
        "math": {
            "data": HUB, "samples": 4, "temperature": 0.5, "top_p": 0.9, "max_tokens": 32, "k": [2, 4],
            "accuracy": JUDGE, "format": {"fn": "format"}, "language": {"fn": "language"},
        },
        "sets": {
            "public": {
                "data": HUB, "samples": 4, "temperature": 0.5, "top_p": 0.9, "max_tokens": 32, "k": [2, 4],
                "accuracy": JUDGE, "format": {"fn": "format"}, "language": {"fn": "language"}, "after": ["cold_start"],
            },
        },
        "general": {"data": FUNCTION, "max_tokens": 32, **dict.fromkeys(GENERAL_METRICS, JUDGE)},
        "every": {"steps": 8, "problems": 16, "samples": 2},
        "leak_check": "my.keys", "decontaminate": {"ngram": 8, "share": 0.4, "action": "drop"},
    },
    "base": {
        "steps": 40,
        "pretrain": {
            "corpus": FUNCTION, "vocab_size": 320, "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2,
            "intermediate_size": 64, "max_tokens": 64, "batch_size": 8, "micro_batch_size": 4, "optimizer": OPTIMIZER,
            "checkpoint": {"every": 4},
        },
    },
    "r1_zero": {
        **RL, "tasks": TASKS, "advantage": {}, "preset": "gspo",
        "loss": {"clip": "cispo", "beta": 0.1, "kl": {"placement": "reward"}},
        "truncated": "mask", "penalty_tokens": None, "reference_every": None,
    },
    "cold_start": {
        **SFT, "router_loss": 0.01, "steps": 9, "data": {**FUNCTION, "system": "Be brief."}, "checkpoint": {"every": 4},
    },
    "reasoning_rl": {**RL, "tasks": TASKS},
    "rejection_sampling": {
        **SFT, "epochs": 2, "data": HUB, "group_size": 4, "sampling": {"temperature": 1, "max_tokens": 32},
        "filters": [{"fn": "accuracy", "name": "right"}], "keep_per_prompt": 2, "general": FUNCTION,
    },
    "helpfulness_model": {**SFT, "steps": 9, "data": FUNCTION},
    "safety_model": {**SFT, "steps": 9, "data": FUNCTION},
    "helpfulness_rl": {
        **RL, "tasks": TASKS,
        "loss": {**RL["loss"], "ratio": "token", "off_policy_mask": None, "distill": DISTILL},
        "sampling": {**RL["sampling"], "temperature": 1.0},
    },
    "student_base": {"model": "some-student", "chat_template": "student.jinja", "template_kwargs": {"thinking": True}},
    "student": {**SFT, "steps": 9, "data": FUNCTION},
    "student_rl": {**PLAIN, "tasks": TASKS},
}  # fmt: skip
SMALL: dict[str, Any] = {
    "evaluation": {"math": {"data": {"path": "test.jsonl"}, "max_tokens": 8}},
    "base": {"model": "some-model"},
    "cold_start": {
        "data": {"path": "c.jsonl"}, "steps": 9, "batch_size": 4, "max_tokens": 8, "optimizer": {"lr": 1e-3},
    },
    "reasoning_rl": {
        "steps": 40, "group_size": 4, "prompts_per_step": 4, "sampling": {"max_tokens": 32}, "optimizer": {"lr": 1e-3},
        "tasks": {"math": {"data": {"path": "t.jsonl"}, "rewards": [{"fn": "accuracy"}, {"fn": "format"}]}},
    },
}  # fmt: skip

KeyPath = tuple[str | int, ...]


def changed(tree: dict[str, Any], overrides: str, below: str = "") -> dict[str, Any]:
    """A copy of the tree with overrides, `key.path=value key.path=value`, as the command line has them."""
    tree = copy.deepcopy(tree)
    for override in re.split(r" (?=[a-z_.0-9]+=)", overrides):
        apply_override(tree, below + override)
    return tree


def refused(tree: dict[str, Any], model: type[BaseModel] = RecipeConfig) -> str:
    """The one line about a wrong tree."""
    with pytest.raises(UserError) as caught:
        validate(model, tree, "config 'c.yaml'")
    line = str(caught.value)
    assert line.startswith("config 'c.yaml': ")
    assert "\n" not in line
    assert len(line) < 400
    return line


def settings_of(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, type[BaseModel]]]:
    """(key path, section it is a setting of) of every setting below `value`."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield (*path, name), type(value)
            yield from settings_of(getattr(value, name), (*path, name))
    elif isinstance(value, tuple | dict):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from settings_of(item, (*path, key))


def dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def sections(kind: type[Section] = Section) -> set[type[Section]]:
    """Every section of the project."""
    below = {section for child in kind.__subclasses__() for section in sections(child)}
    return below | {child for child in kind.__subclasses__() if child.__module__.split(".")[0] in ("grpo", "stages")}


def owner(kind: type[BaseModel], name: str) -> type[BaseModel]:
    """The class that a setting is written in."""
    return next(each for each in kind.__mro__ if name in inspect.get_annotations(each))


# Each with every setting in it, as a run's config.yaml has them.
TREES = {
    name: RecipeConfig.model_validate(tree).model_dump(mode="json")
    for name, tree in [*((file.stem, load_yaml(file.read_text(), file.name)) for file in SHIPPED), ("full", FULL)]
}
