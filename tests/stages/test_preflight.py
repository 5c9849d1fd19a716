"""What a later stage needs is checked before the first one runs, and nothing is written where it is wrong."""

from pathlib import Path

import pytest

from grpo.errors import UserError
from stages.recipe.ahead import Ahead
from stages.recipe.config import RecipeConfig
from stages.recipe.preflight import check_sections, in_run
from support.files import contents

MATH = "reasoning_rl.tasks.math"
REWARD_MODEL = f"{MATH}.rewards=[{{fn: reward_model, kwargs: "
MISTAKES = [
    (f"{MATH}.rewards.0.fn=acuracy", r"reasoning_rl\.tasks\.math\.rewards\.0: .*mean 'accuracy'"),
    (f"{MATH}.rewards.0.fn=no_such.module.f", r"rewards\.0: .*no module named 'no_such'"),
    (f"{MATH}.rewards.0.kwargs={{stict: true}}", r"rewards\.0: .*'stict'.*'strict'"),
    (f"{MATH}.rewards.0.kwargs={{strict: maybe}}", r"rewards\.0: .*'maybe'"),
    (f"{MATH}.rewards.0.kwargs.strict=[1]", r"rewards\.0: .*strict"),
    (f"{MATH}.rewards=[{{fn: language, kwargs: {{language: english}}}}]", r"unknown language code 'english'"),
    (REWARD_MODEL + "{model: ./no}}]", r"model '\./no': no such folder"),
    (REWARD_MODEL + "{model: a/b, part: al}}]", r"part 'al'"),
    (REWARD_MODEL + "{model: '{run}/1-cold/model'}}]",
     r"no earlier stage of this config makes '1-cold' \(did you mean '1-cold-start'"),
    (f"{MATH}.data={{path: missing.jsonl}}", r"tasks\.math\.data: data 'missing\.jsonl': no such file"),
    (f"{MATH}.data={{path: .}}", r"a folder"),
    (f"{MATH}.data={{path: ./missing.csv}}", r"no such file"),
    (f"{MATH}.data={{fn: stages.tiny_world.arithmetics}}", r"did you mean 'arithmetic'"),
    (f"{MATH}.data={{fn: stages.tiny_world.arithmetic, kwargs: {{splt: a}}}}", r"data: .*'splt'"),
    (f"{MATH}.data={{fn: stages.tiny_world.__name__}}", r"no function but str"),
    ("evaluation.math.accuracy.fn=acuracy", r"evaluation\.math\.accuracy: "),
    ("evaluation.math.format.kwargs={opened: perhaps}", r"evaluation\.math\.format: .*'perhaps'"),
    ("evaluation.math.language={fn: reward_model, kwargs: {model: '{run}/m'}}", r"only the rewards of RL tasks"),
    ("evaluation.math.data={path: missing.parquet}", r"evaluation\.math\.data: "),
    ("evaluation.leak_check=stages.tiny_world.problem_key", r"evaluation\.leak_check: .*did you mean 'problem_keys'"),
    ("base.model=./nowhere", r"base\.model: model '\./nowhere': no such folder"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "message"), MISTAKES)
def test_what_a_later_stage_needs_is_checked_first(pipeline, override, message):
    with pytest.raises(UserError, match=message):
        pipeline.go(override)
    assert not pipeline.run.exists()
    assert not pipeline.ran


def test_nothing_is_moved_aside_for_a_stage_that_cannot_run(pipeline):
    pipeline.go()
    before = contents(pipeline.run)
    with pytest.raises(UserError, match="acuracy"):
        pipeline.go(f"{MATH}.rewards.0.fn=acuracy", from_stage="reasoning_rl")
    assert contents(pipeline.run) == before


class Judge:
    """A reward that would load a model which is not there yet."""

    def __init__(self, model, names=None):
        pytest.fail("loaded before its stage")

    def __call__(self, completions):
        return [0.0] * len(completions)


def test_a_judge_made_by_the_run_is_not_loaded_early(pipeline, tmp_path):
    kwargs = {"model": "{run}/1-cold-start/model"}
    pipeline.recipe["reasoning_rl"]["tasks"]["math"]["rewards"] = [{"fn": f"{__name__}.Judge", "kwargs": kwargs}]
    pipeline.go(until="cold_start")
    pipeline.go()
    assert pipeline.ran == ["base", "cold_start", "reasoning_rl"]
    kwargs["modle"] = "x"
    pipeline.run = tmp_path / "other"
    with pytest.raises(UserError, match="modle"):
        pipeline.go()


def test_finished_stages_and_later_ones_are_not_checked(pipeline):
    wrong = f"{MATH}.rewards.0.fn=acuracy"
    pipeline.go(wrong, until="cold_start")
    with pytest.raises(UserError, match="acuracy"):
        pipeline.go(wrong)
    pipeline.go()
    with pytest.raises(UserError, match=r"evaluation\.math\.accuracy"):  # they would be evaluated again
        pipeline.go("evaluation.math.accuracy={fn: acuracy}")


def test_ahead_with_an_engine_that_turns_out_to_be_vllm_is_refused_before_anything_runs(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("grpo.engines.choose.engine_kind", lambda *_: "vllm")
    recipe["engine"] = {"kind": "auto", "ahead": True}
    with pytest.raises(UserError, match=r"^reasoning_rl: engine: 'ahead' needs an engine beside the trainer"):
        check_sections(RecipeConfig.model_validate(recipe), Ahead(tmp_path), ["reasoning_rl"])


def test_placeholders_in_lists_are_filled_in():
    assert in_run({"a": ["{run}/x", 1], "b": "y"}, Path("r")) == {"a": ["r/x", 1], "b": "y"}
