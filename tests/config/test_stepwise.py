"""Numbers that change on the way: read, written again, asked at a step; what cannot be such a list is refused."""

import copy
from typing import Any

import pytest

from grpo.config.engine import EngineConfig
from grpo.config.file import validate
from grpo.config.inert import inert_settings
from grpo.config.stepwise import changing
from grpo.config.training import RLConfig, TrainConfig
from grpo.config.yaml import dump_yaml, load_yaml
from grpo.engines.vllm.request import check_temperatures
from grpo.errors import UserError
from stages.check.settings import _length
from stages.check.subject import Warned
from stages.recipe.config import RecipeConfig
from stages.recipe.lineage import stage_settings
from stages.recipe.machine import machine_checks
from support.recipes import FULL, PLAIN, SMALL, changed, refused

LENGTHS = [{"from_step": 0, "value": 16}, {"from_step": 8, "value": 32}, {"from_step": 30, "value": 8}]
HOT = [{"from_step": 0, "value": 1}, {"from_step": 20, "value": 0.5}]
BETAS = [{"from_step": 0, "value": 0}, {"from_step": 10, "value": 0.1}]
CLIPS = [{"from_step": 0, "value": 0.2}, {"from_step": 10, "value": 0.28}]
ALL = {"sampling": {"max_tokens": LENGTHS, "temperature": HOT}, "loss": {"beta": BETAS, "clip_high": CLIPS}}


def config_of(**settings: Any) -> RLConfig:
    return validate(RLConfig, PLAIN | ALL | settings, "c")


def test_each_step_has_its_value_and_room_is_for_the_largest():
    config = config_of()
    assert (int(config.sampling.max_tokens), float(config.loss.beta), f"{config.sampling.max_tokens}") == (
        32,
        0.1,
        "32",
    )
    found = {step: config.at(step) for step in (0, 7, 8, 10, 20, 29, 30, 999)}
    assert [one.sampling.max_tokens for one in found.values()] == [16, 16, 32, 32, 32, 32, 8, 8]
    assert [one.sampling.temperature for one in found.values()] == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]
    assert [one.loss.beta for one in found.values()] == [0, 0, 0, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert [one.loss.clip_high for one in found.values()] == [0.2] * 3 + [0.28] * 5
    assert [one.loss.kl_in_loss for one in found.values()] == [False] * 3 + [True] * 5
    assert config.loss.kl_in_loss  # there has to be a reference
    for one in found.values():
        assert type(one.sampling.max_tokens) is int
        assert {type(one.sampling.temperature), type(one.loss.beta), type(one.loss.clip_high)} == {float}
        assert changing(one) == {}
    assert [phase.sampling.max_tokens for phase in config.phases()] == [16, 32, 32, 32, 8]
    assert list(changing(config)) == ["sampling.temperature", "sampling.max_tokens", "loss.clip_high", "loss.beta"]


def test_a_config_without_changes_is_itself_at_every_step():
    config = validate(RLConfig, PLAIN, "c")
    assert config.at(0) is config
    assert config.at(99) is config
    assert config.phases() == [config]


def test_a_list_comes_back_as_it_was_written():
    for config in (config_of(), TrainConfig.of(config_of(), model="m", out="o", seed=1, engine=EngineConfig())):
        tree = config.model_dump(mode="json")
        assert tree["sampling"]["max_tokens"] == LENGTHS
        assert tree["loss"]["beta"] == BETAS
        again = validate(RLConfig, {k: v for k, v in load_yaml(dump_yaml(tree), "y").items() if k in PLAIN | ALL}, "y")
        assert again.sampling == config.sampling
        assert again.loss == config.loss
    other = copy.deepcopy(config_of())
    assert other == config_of()
    assert other.at(9) == config_of().at(9)
    assert config_of(sampling=config_of().sampling.model_dump()) == config_of()


def test_another_list_with_the_same_largest_value_is_another_config():
    other = [{"from_step": 0, "value": 16}, {"from_step": 9, "value": 32}]
    assert config_of().sampling != config_of(sampling={"max_tokens": other, "temperature": HOT}).sampling
    assert config_of().sampling != config_of(sampling={"max_tokens": 32, "temperature": HOT}).sampling
    plain, listed = (
        stage_settings(validate(RecipeConfig, changed(SMALL, override, "reasoning_rl."), "c"), "reasoning_rl")
        for override in ("sampling.max_tokens=32", "sampling.max_tokens=[{from_step: 0, value: 32}]")
    )
    assert plain == listed  # one value is a number


def test_a_list_by_an_override():
    lengths = "reasoning_rl.sampling.max_tokens=[{from_step: 0, value: 8}, {from_step: 2, value: 16}]"
    config = validate(RecipeConfig, changed(SMALL, lengths), "c")
    assert config.reasoning_rl is not None
    assert [config.reasoning_rl.at(step).sampling.max_tokens for step in (1, 2)] == [8, 16]
    assert stage_settings(config, "reasoning_rl")["reasoning_rl.sampling.max_tokens"][1] == {
        "from_step": 2,
        "value": 16,
    }


BAD = """
sampling.max_tokens=[] | sampling.max_tokens': must be a number, or a list of {from_step: N, value: V}
sampling.max_tokens=[8, 16] | sampling.max_tokens': must be a number, or a list of {from_step: N, value: V}
sampling.max_tokens=[{from_step: 0}] | sampling.max_tokens': must be a number, or a list of {from_step: N, value: V}
sampling.max_tokens=[{step: 0, value: 8}] | sampling.max_tokens': must be a number, or a list of {from_step
sampling.max_tokens=[{from_step: 5, value: 8}] | sampling.max_tokens': 'from_step' must be 0 in the first
sampling.max_tokens=[{from_step: true, value: 8}] | sampling.max_tokens': 'from_step' must be 0 in the first
loss.beta=[{from_step: 0, value: 0}, {from_step: 0, value: 1}] | loss.beta': 'from_step' must be 0 in the first
loss.beta=[{from_step: 0, value: 0}, {from_step: 1.5, value: 1}] | loss.beta': 'from_step' must be 0 in the first
loss.beta=[{from_step: 0, value: 0.1}, {from_step: 5, value: 0.1}] | loss.beta': from_step 5 has the value of before
loss.beta=[{from_step: 0, value: 0.1}, {from_step: 5, value: -1}] | loss.beta': Input should be greater
loss.clip_high=[{from_step: 0, value: 0.2}, {from_step: 5, value: 0}] | loss.clip_high': Input should be greater than 0
sampling.max_tokens=[{from_step: 0, value: 64}, {from_step: 5, value: 0}] | max_tokens': Input should be greater
sampling.max_tokens=[{from_step: 0, value: 64}, {from_step: 5, value: 8.5}] | max_tokens': Input should be
sampling.temperature=[{from_step: 0, value: true}] | sampling.temperature': must be a number
sampling.temperature=[{from_step: 0, value: 1}, {from_step: 2, value: hot}] | temperature': Input should be
sampling.max_tokens=[{from_step: 0, value: 100000000000}] | is beyond 1e+09, which no run can honour
loss.clip_low=[{from_step: 0, value: 0.1}, {from_step: 5, value: 0.2}] | loss.clip_low': Input should be
steps=[{from_step: 0, value: 5}] | steps': Input should be a valid integer
truncated=penalise penalty_tokens=9 sampling.max_tokens=[{from_step: 0, value: 16}, {from_step: 5, value: 8}] |
    'penalty_tokens' is more than 'sampling.max_tokens'
loss={clip: dppo, clip_high: [{from_step: 0, value: 0.2}, {from_step: 5, value: 1}]} | bound a difference of
"""


@pytest.mark.parametrize("case", BAD.strip().replace("|\n    ", "| ").splitlines(), ids=lambda case: case[:60])
def test_what_is_no_such_list_is_refused_in_one_line(case):
    overrides, _, words = case.rpartition(" | ")
    assert words in refused(changed(SMALL, overrides, "reasoning_rl."))


def test_a_stage_without_steps_takes_one_number():
    tree = changed(FULL, "rejection_sampling.sampling.max_tokens=[{from_step: 0, value: 8}, {from_step: 2, value: 16}]")
    assert "'max_tokens' cannot change here: the stage samples once; give one number" in refused(tree)


def test_a_change_that_no_rollout_reaches_is_said():
    config = config_of(steps=12, prompts_per_step=2, rollout_prompts=4)
    said = [line for line in inert_settings(config, True) if "from_step" in line]
    assert said == [
        "sampling.temperature: from_step 20, for the last rollout begins at step 10",
        "sampling.max_tokens: from_step 30, for the last rollout begins at step 10",
    ]
    assert not any("from_step" in line for line in inert_settings(config_of(steps=40), True))


def test_a_temperature_that_comes_later_is_checked_before():
    cold = [{"from_step": 0, "value": 1.0}, {"from_step": 5, "value": 0.001}]
    with pytest.raises(UserError, match=r"sampling temperature 0\.001: vLLM's lowest is 0\.01"):
        check_temperatures(config_of(sampling={"temperature": cold}))
    check_temperatures(config_of())
    tree = copy.deepcopy(SMALL)
    tree["engine"] = {"kind": "vllm-server"}
    tree["reasoning_rl"]["sampling"] = {"temperature": cold, "max_tokens": 8}
    config = validate(RecipeConfig, tree, "c")
    checks = [check for path, check in machine_checks(config, ["reasoning_rl"]) if path == "reasoning_rl"]
    (check,) = checks
    with pytest.raises(UserError, match=r"sampling temperature 0\.001"):
        check()


def test_the_evaluation_is_as_long_as_the_longest():
    tree = changed(
        SMALL, "sampling.max_tokens=[{from_step: 0, value: 4}, {from_step: 9, value: 4096}]", "reasoning_rl."
    )
    config = validate(RecipeConfig, tree, "c")
    math = config.evaluation.math
    assert math is not None
    with pytest.raises(Warned, match=r"reasoning_rl\.sampling\.max_tokens=4096: longer answers count as wrong"):
        _length(config, math)
