"""What is said at the start of a run of settings that do nothing in it."""

import logging
from typing import Any

import pytest

from grpo.config.engine import RuntimeConfig
from grpo.config.inert import inert_settings
from grpo.config.training import RLConfig
from grpo.rollout.sampler import Task
from grpo.scoring.table import Reward
from support.groups import random_prompts
from support.train import train


def config_of(**settings: Any) -> RLConfig:
    base: dict[str, Any] = {
        "steps": 4, "group_size": 2, "prompts_per_step": 2, "sampling": {"max_tokens": 4}, "optimizer": {"lr": 1e-3},
    }  # fmt: skip
    return RLConfig.model_validate(base | settings)


def names(shared_engine: bool = True, **settings: Any) -> list[str]:
    """The settings named, in order."""
    said = inert_settings(config_of(**settings), shared_engine)
    return [name for line in said for name in line.partition(":")[0].split(", ")]


CLIP = ["loss.clip_low", "loss.clip_high"]
TWICE = {"inner_epochs": 2}


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, []), ({"preset": "gspo"}, ["loss.ratio", *CLIP]), ({"preset": "gspo"} | TWICE, []),
    ({"preset": "gspo", "rollout_prompts": 4}, []), ({"preset": "deepseek_r1"}, CLIP),
    ({"preset": "cispo"}, ["loss.clip", *CLIP]), ({"preset": "dr_grpo"}, []),
    ({"preset": "dppo"}, ["loss.clip", *CLIP]), ({"preset": "maxrl"}, []),
    ({"preset": "scalerl"}, ["loss.clip", *CLIP]),
    ({"loss": {"dual_clip": 3}}, ["loss.dual_clip"]),
    ({"loss": {"ratio": "sequence", "beta": 0.1, "kl": {"weighted": True}}}, []),
    ({"loss": {"ratio": "sequence"}, "correction": {}}, ["correction"]),
    ({"loss": {"dual_clip": 3}, "lora": {"r": 2, "alpha": 2, "dropout": 0.1}}, []),
    ({"loss": {"dual_clip": 3}, "lora": {"r": 2, "alpha": 2}}, ["loss.dual_clip"]),
    ({"loss": {"off_policy_mask": 0.5}}, ["loss.off_policy_mask"]), ({"loss": {"off_policy_mask": 0.5}} | TWICE, []),
    ({"loss": {"off_policy_mask": 0.5}, "dynamic_sampling": {"reward": "r"}}, []),
    ({"correction": {}} | TWICE, ["correction"]),
    ({"correction": {}, "dynamic_sampling": {"reward": "r"}}, []),
    ({"optimizer": {"lr": 1e-3, "warmup_steps": 3}}, []),
    ({"optimizer": {"lr": 1e-3, "warmup_steps": 4}}, ["optimizer.lr"]),
    ({"optimizer": {"lr": 1e-3, "warmup_steps": 3, "schedule": "linear"}}, ["optimizer.schedule"]),
    ({"optimizer": {"lr": 1e-3, "warmup_steps": 2, "schedule": "linear"}}, []),
])  # fmt: skip
def test_settings_that_do_nothing_are_named(settings, expected):
    assert names(**settings) == expected


def test_an_engine_of_its_own_may_differ():
    assert names(False, correction={}, loss={"off_policy_mask": 0.5}) == []


def test_a_run_says_it_once(tiny_model_folder, tmp_path, caplog):
    tasks = {"default": Task(random_prompts(4), [Reward("r", lambda completions: [0.0] * len(completions))])}
    with caplog.at_level(logging.WARNING, "grpo"):
        train(str(tiny_model_folder), tasks, config_of(preset="gspo", steps=2), tmp_path, runtime=RuntimeConfig())
    (line,) = [record.getMessage() for record in caplog.records if "loss.ratio" in record.getMessage()]
    assert "loss.ratio, loss.clip_low, loss.clip_high: one update follows a rollout" in line
