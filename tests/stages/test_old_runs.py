"""Run folders from before the modules moved: their stages are still taken for what this program would make."""

import json

import pytest

from grpo.errors import UserError
from stages.recipe.config import EvaluationConfig, RecipeConfig
from stages.recipe.planning import evaluation_hash, plan_stage
from stages.recipe.table import STAGES

ONE_STEP = {"steps": 1, "batch_size": 2, "max_tokens": 16, "optimizer": {"lr": 1e-3}}
RL = {"steps": 1, "optimizer": {"lr": 1e-3}, "prompts_per_step": 2, "group_size": 2, "sampling": {"max_tokens": 8}}
ARITHMETIC = {"data": {"fn": "stages.tiny_world.arithmetic"}}
ORACLE = {"fn": "stages.tiny_world.general_oracle"}
TEST = {"fn": "stages.tiny_world.arithmetic", "kwargs": {"split": "test", "n": 8}}
CONFIG = RecipeConfig.model_validate(
    {
        "evaluation": {"math": {"data": TEST, "max_tokens": 8, "format": {"fn": "format"}}},
        "base": {"model": "some/base"},
        "cold_start": {"data": {"fn": "stages.tiny_world.cold_start"}, **ONE_STEP},
        "reasoning_rl": {**RL, "tasks": {"math": {**ARITHMETIC, "rewards": [{"fn": "accuracy"}, ORACLE]}}},
        "rejection_sampling": {
            **ARITHMETIC, "group_size": 2, "sampling": {"max_tokens": 8}, "filters": [{"fn": "accuracy"}], **ONE_STEP},
        "helpfulness_model": {"data": {"fn": "stages.tiny_world.preferences"}, **ONE_STEP},
        "safety_model": {"data": {"fn": "stages.tiny_world.safety_labels"}, **ONE_STEP},
        "helpfulness_rl": {**RL, "tasks": {"math": {**ARITHMETIC, "rewards": [{"fn": "accuracy"}]}}},
    }
)  # fmt: skip
RECORDED = {  # `hash` of the stages' stage.json and manifest.json, by version 0.1.0 whose core was flat files
    "base": "88134c84c2f6152f",
    "cold_start": "8e90be6116aa08c2",
    "reasoning_rl": "b72d170e4a50a454",
    "rejection_sampling": "a292a577fd454fad",
    "helpfulness_model": "85c7f7f8729260af",
    "safety_model": "087f686d467e50c1",
    "helpfulness_rl": "634b5725101c7958",
}


@pytest.mark.parametrize("key", RECORDED)
def test_a_stage_that_was_begun_before_goes_on(key, tmp_path):
    folder = tmp_path / STAGES[key].folder
    (folder / "model").mkdir(parents=True)
    record = {"stage": folder.name, "hash": RECORDED[key], "settings": {}, "inputs": {}, "parents": {}}
    (folder / "stage.json").write_text(json.dumps(record))
    assert plan_stage(CONFIG, STAGES[key], tmp_path).accepted == ()
    (folder / "manifest.json").write_text(json.dumps(record))
    assert plan_stage(CONFIG, STAGES[key], tmp_path).finished
    (folder / "stage.json").write_text(json.dumps({**record, "hash": "0123456789abcdef"}))
    with pytest.raises(UserError, match="was made from something else"):
        plan_stage(CONFIG, STAGES[key], tmp_path)


def test_its_evaluation_is_not_made_again():
    assert evaluation_hash(CONFIG.evaluation) == "70dd0c527eedb352"
    unset = EvaluationConfig.model_validate({"math": {"data": TEST}})  # 1024 was written there then
    assert evaluation_hash(unset) == "8825de10b0c20e01"
