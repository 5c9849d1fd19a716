"""A stage that only makes data has no model of its own: the one that it was given passes through."""

import json
import shutil
from pathlib import Path

import pytest

from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from stages.check.sample import plan_sample
from stages.recipe.config import RecipeConfig
from stages.recipe.handover import given_model, handed_on
from stages.recipe.lineage import read_json
from stages.recipe.planning import plan_stage
from stages.recipe.runner import run_stage
from stages.recipe.table import STAGES, Stage
from support.pipeline import Pipeline

ALL = ["base", "cold_start", "reasoning_rl"]


@pytest.fixture
def made(pipeline, monkeypatch) -> Pipeline:
    """The pipeline with a second stage that makes data and no model."""
    monkeypatch.setitem(STAGES, "cold_start", Stage("cold_start", "1-cold-start", ("base",), leaves="data"))
    monkeypatch.setattr("stages.recipe.table.EVALUATED", ("base", "reasoning_rl"))
    plain = pipeline.stage

    def stage(context):
        numbers = plain(context)
        if context.key == "cold_start":
            (context.folder / "model").rmdir()
        else:
            (context.folder / "model" / "config.json").write_text("{}")
        return numbers

    pipeline.stage = stage
    return pipeline


def test_the_next_stage_begins_with_the_model_of_the_one_before(made):
    summary = made.go()
    assert made.ran == ALL
    base = str(made.run / "0-base" / "model")
    assert [made.contexts[key].init for key in ALL[1:]] == [base, base]
    assert str(made.contexts["reasoning_rl"].models["cold_start"]) == base
    first, data, last = map(made.manifest, ALL)
    assert last["parents"] == {"cold_start": data["hash"]}
    assert (data["model"], data["model_files"], list(data["data_files"])) == ("../0-base/model", None, ["rows.jsonl"])
    assert "data_files" not in first
    # No row of the table: it has nothing that could be evaluated.
    assert [row["stage"] for row in summary["stages"]] == ["0-base", "2-reasoning-rl"]
    assert made.evaluated == ["0-base", "2-reasoning-rl"]
    spent = sum(made.manifest(key)["seconds"] for key in ALL) + 2.0
    assert summary["seconds"] == pytest.approx(spent, abs=0.2)
    made.go()
    assert made.ran == ALL


def test_killed_it_goes_on_and_made_it_is_not_made_again(made):
    made.interrupted("cold_start")
    made.interrupted("reasoning_rl")
    made.go()
    assert made.ran == ["base", "cold_start", "cold_start", "reasoning_rl", "reasoning_rl"]


def test_it_runs_anew_from_there(made):
    made.go()
    made.go(from_stage="cold_start")
    assert made.ran == ALL + ALL[1:]
    assert made.contexts["reasoning_rl"].init == str(made.run / "0-base" / "model")


@pytest.mark.parametrize(("spoil", "change"), [
    (lambda data: (data / "rows.jsonl").write_text("{}\n"), "'rows.jsonl' was changed"),
    (lambda data: (data / "more.jsonl").write_text("{}\n"), "'more.jsonl' was not there"),
    (lambda data: (data / "rows.jsonl").rename(data.parent / "rows"), "'rows.jsonl' is gone"),
], ids=["edited", "more", "gone"])  # fmt: skip
def test_data_that_changed_since_is_noticed(made, spoil, change):
    made.go(until="cold_start")
    spoil(made.run / "1-cold-start" / "data")
    with pytest.raises(UserError, match=rf"data' is not what stage cold_start left: {change}.*--from cold_start$"):
        made.go()
    assert made.ran == ALL[:2]


def test_without_its_data_it_is_not_done(made):
    made.go()
    shutil.rmtree(made.run / "1-cold-start" / "data")
    with pytest.raises(UserError, match=r"its data/ is gone; rerun it with --from cold_start"):
        made.go()


def test_a_stage_that_makes_none_is_a_mistake_of_ours(made, monkeypatch):
    monkeypatch.setattr("support.pipeline.write_jsonl", lambda *_: None)
    with pytest.raises(RuntimeError, match="stage cold_start left no data"):
        made.go(until="cold_start")


def test_its_folder_stands_for_the_model_wherever_one_is_named(made, tmp_path, recipe):
    made.go()
    moved = tmp_path / "elsewhere"
    shutil.copytree(made.run, moved)  # a run may move
    model = str(moved / "0-base" / "model")
    assert given_model(str(moved / "1-cold-start")) == str(handed_on(moved / "1-cold-start")) == model
    for other in (model, "org/name", str(moved / "2-reasoning-rl"), str(tmp_path / "nothing")):
        assert given_model(other) == other
    config = RecipeConfig.model_validate(recipe)
    plan = plan_sample(config, tmp_path / "new", 4, "reasoning_rl", str(moved / "1-cold-start"))
    assert plan.context.init == model


@pytest.mark.parametrize("init", ["outside", "org/name"])
def test_a_model_given_to_it_is_the_one_it_hands_on(made, tmp_path, recipe, init):
    if init == "outside":
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "config.json").write_text("{}")
        init = str(tmp_path / "outside")
    config, stage = RecipeConfig.model_validate(recipe), STAGES["cold_start"]
    run_stage(config, plan_stage(config, stage, made.run, init=init), init=init)
    assert made.contexts["cold_start"].init == init
    assert str(handed_on(made.run / "1-cold-start")) == init
    assert read_json(made.run / "1-cold-start" / "manifest.json")["parents"].keys() == {"init"}


def test_a_manifest_names_what_it_is_of(made):
    """Nothing of it is new in a stage that trains."""
    made.go()
    assert json.loads((Path(made.run) / "0-base" / "manifest.json").read_text()).get("model", "none") == "none"
    write_jsonl(made.run / "0-base" / "data" / "rows.jsonl", [])  # nobody reads it again
    made.go()
