"""The shortest recipes: what may be left out, what may be written short, and what that stands for."""

import copy
from typing import Any

import pytest

from grpo.config.file import read_config, validate
from grpo.config.training import RLConfig
from grpo.config.yaml import load_yaml
from grpo.system.fingerprint import digest
from stages.recipe.config import RecipeConfig
from stages.recipe.lineage import stage_settings
from stages.recipe.table import active_stages
from support.recipes import SHIPPED, SMALL

SHORTEST = """\
base: some/model
reasoning_rl:
  steps: 100
  data: train.jsonl
  rewards: accuracy
"""
LONG = """\
seed: 0
engine: {kind: auto}
evaluation: {math: null}
base: {model: some/model}
reasoning_rl:
  steps: 100
  group_size: 8
  prompts_per_step: 16
  sampling: {temperature: 1.0, max_tokens: 1024}
  optimizer: {lr: 1e-6}
  tasks:
    default:
      data: {path: train.jsonl}
      rewards: [{fn: accuracy}]
"""


def recipe(text: str) -> RecipeConfig:
    return validate(RecipeConfig, load_yaml(text, "c.yaml"), "config 'c.yaml'")


def test_the_shortest_recipe_is_what_the_long_one_says():
    assert recipe(SHORTEST) == recipe(LONG)
    assert recipe(SHORTEST).reasoning_rl.model_dump(mode="json") == recipe(LONG).reasoning_rl.model_dump(mode="json")


def test_supervised_stages_need_their_data_alone():
    config = recipe("base: some/model\ncold_start: {data: a.jsonl}\nsafety_model: {data: b.jsonl}").cold_start
    assert (config.epochs, config.steps, config.batch_size, config.max_tokens) == (1, None, 16, 2048)
    assert config.optimizer.lr == 2e-5
    assert recipe("base: some/model\ncold_start: {data: a.jsonl, steps: 3}").cold_start.epochs is None


@pytest.mark.parametrize(("more", "rate"), [
    ({}, 1e-6), ({"lora": {"r": 2, "alpha": 4}}, 1e-5), ({"lora": None}, 1e-6), ({"optimizer": {"lr": 3e-4}}, 3e-4),
    ({"optimizer": {"warmup_steps": 3}}, 1e-6), ({"preset": "dapo"}, 1e-6),
])  # fmt: skip
def test_the_rate_where_none_is_given(more, rate):
    config = validate(RLConfig, {"steps": 3, **more}, "c")
    assert config.optimizer.lr == rate
    assert config.optimizer.warmup_steps == more.get("optimizer", {}).get("warmup_steps", 0)


@pytest.mark.parametrize(("short", "long"), [
    ("accuracy", [{"fn": "accuracy"}]), (["accuracy", "format"], [{"fn": "accuracy"}, {"fn": "format"}]),
    ({"fn": "accuracy", "weight": 2}, [{"fn": "accuracy", "weight": 2}]),
    (["accuracy", {"fn": "format", "weight": 0.5}], [{"fn": "accuracy"}, {"fn": "format", "weight": 0.5}]),
])  # fmt: skip
def test_rewards_by_their_names(short, long):
    tree: dict[str, Any] = {"base": "some/model", "reasoning_rl": {"steps": 1, "data": "a.jsonl", "rewards": short}}
    given = validate(RecipeConfig, tree, "c").reasoning_rl.tasks["default"].rewards
    assert [spec.model_dump(exclude_defaults=True) for spec in given] == long


def test_a_filter_by_its_name():
    config = recipe("base: some/model\nrejection_sampling: {data: a.jsonl, filters: accuracy}").rejection_sampling
    assert [spec.fn for spec in config.filters] == ["accuracy"]


def test_judges_by_their_names():
    tree = copy.deepcopy(SMALL)
    tree["evaluation"]["math"] |= {"data": "test.jsonl", "format": "format", "accuracy": "accuracy"}
    math = validate(RecipeConfig, tree, "c").evaluation.math
    assert (math.data.path, math.format.fn, math.accuracy.kwargs) == ("test.jsonl", "format", {})


def test_overrides_reach_into_short_forms(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(SHORTEST)

    def task(*overrides: str) -> Any:
        return read_config(RecipeConfig, file, overrides).reasoning_rl.tasks["default"]

    assert task("reasoning_rl.data.limit=5").data.model_dump(exclude_defaults=True) == {
        "path": "train.jsonl",
        "limit": 5,
    }
    assert task("reasoning_rl.tasks.default.data.limit=5").data.limit == 5
    assert task("reasoning_rl.rewards=[format]").rewards[0].fn == "format"
    assert read_config(RecipeConfig, file, ["base.model=other"]).base.model == "other"
    assert read_config(RecipeConfig, file, ["engine.max_rows=8"]).engine.kind == "auto"


UNCHANGED = {  # digests of what the stages of the configs shipped then depended on before anything could be left out
    "qwen-gsm8k.yaml": ("39208d190fed2577", "c32c17a47be80abe", "3645bc1ce1bd7ae0", "635d9802140c4f75"),
    "qwen-zero-dapo.yaml": ("fe6684f440603ff9", "21eb88296cfac08f"),
    "tiny-zero.yaml": ("9f8e5891afe8e73c", "ee83c9b664356a8b"),
    "tiny.yaml": (
        "b95f609e070777bb", "bac3d59af75d1542", "65936ae5f14e712d", "c936593998e20acd", "ba8796d6e06016b3",
        "77e251a3b56ea62f", "fb1d9c3991109ad7",
    ),
}  # fmt: skip

SINCE = {  # what was changed in them on purpose, as it was
    "tiny.yaml": (
        "rejection_sampling.general.kwargs={n: 3000}", "rejection_sampling.steps=360", "helpfulness_rl.steps=40",
        "safety_model.data.kwargs.n=1500", "safety_model.steps=60", "helpfulness_rl.tasks.general.last_steps=32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("file", [file for file in SHIPPED if file.name in UNCHANGED], ids=lambda file: file.name)
def test_stages_that_were_made_stay_what_they_are(file):
    config = read_config(RecipeConfig, file, SINCE.get(file.name, ()))
    assert tuple(digest(stage_settings(config, stage.key)) for stage in active_stages(config)) == UNCHANGED[file.name]
