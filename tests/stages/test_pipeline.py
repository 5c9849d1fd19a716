"""The run folder: lineage, what is skipped, refused, moved aside. The stages themselves are fakes."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from grpo.config.section import flatten
from grpo.config.yaml import load_yaml
from grpo.errors import UserError
from grpo.system.lock import LOCK
from stages.recipe import summary as summaries
from stages.recipe.config import RecipeConfig
from stages.recipe.lineage import Lineage, model_hash, stage_settings
from stages.recipe.planning import plan_stage
from stages.recipe.table import STAGES, active_parents
from support.files import contents, flip
from support.processes import held

ALL = ["base", "cold_start", "reasoning_rl"]


def test_a_run_leaves_manifests_with_lineage_and_a_summary(pipeline):
    summary = pipeline.go()
    assert pipeline.ran == ALL
    assert pipeline.contexts["cold_start"].init == str(pipeline.run / "0-base" / "model")
    assert pipeline.contexts["reasoning_rl"].models.keys() == {"base", "cold_start"}
    first, parent, last = map(pipeline.manifest, ALL)
    assert (last["stage"], last["status"], last["seed"], last["tokens"]) == ("2-reasoning-rl", "finished", 0, 7)
    assert last["parents"] == {"cold_start": parent["hash"]}
    assert last["parent_hash"] == parent["hash"]
    assert first["parent_hash"] is None
    assert last["config"]["steps"] == 2
    assert last["data_hashes"] == {"rows": "abc"}
    assert len(last["input_hashes"]) == 1
    assert last["versions"]["torch"]
    assert last["metrics"]["pass@1"] == 0.5
    assert json.loads((pipeline.run / "summary.json").read_text()) == summary
    assert [row["stage"] for row in summary["stages"]] == ["0-base", "1-cold-start", "2-reasoning-rl"]
    assert all(set(row) == {"stage", "seconds", *summaries.KEYS} for row in summary["stages"])
    assert saved_config(pipeline)["reasoning_rl"]["steps"] == 2


def saved_config(pipeline):
    return load_yaml((pipeline.run / "config.yaml").read_text(), "config.yaml")


def test_finished_stages_are_skipped(pipeline):
    pipeline.go(until="cold_start")
    assert pipeline.ran == ["base", "cold_start"]
    pipeline.go()
    assert pipeline.ran == ALL


def test_an_interrupted_stage_goes_on_in_its_folder(pipeline):
    pipeline.interrupted("cold_start")
    assert not (pipeline.run / "1-cold-start" / "manifest.json").exists()
    pipeline.go()
    assert pipeline.ran == ["base", "cold_start", "cold_start", "reasoning_rl"]


def test_an_interrupted_evaluation_repeats_no_training(pipeline):
    pipeline.interrupted("evaluation")
    pipeline.go()
    assert pipeline.ran == ALL


@pytest.fixture
def weighty(pipeline):
    """Models of one file of weights and one of settings."""
    plain = pipeline.stage

    def stage(context):
        numbers = plain(context)
        save_file({"weight": torch.ones(3)}, context.folder / "model" / "model.safetensors")
        (context.folder / "model" / "config.json").write_text("{}")
        return numbers

    pipeline.stage = stage
    return pipeline


@pytest.mark.parametrize(("spoil", "change"), [
    (lambda model: (model / "config.json").write_text('{"eos_token_id": 3}'), "'config.json' was changed"),
    (lambda model: flip(model / "model.safetensors", -1), "'model.safetensors' was changed"),
    (lambda model: (model / "model.safetensors").unlink(), "'model.safetensors' is gone"),
    (lambda model: (model / "adapter.safetensors").touch(), "'adapter.safetensors' was not there"),
], ids=["edited", "flipped", "emptied", "extended"])  # fmt: skip
def test_a_parent_that_is_no_longer_what_it_was_is_noticed(weighty, spoil, change):
    weighty.go(until="cold_start")
    spoil(weighty.run / "1-cold-start" / "model")
    with pytest.raises(UserError, match=rf"is not what stage cold_start left: {change}.*--from cold_start"):
        weighty.go()
    assert weighty.ran == ["base", "cold_start"]
    assert not (weighty.run / "2-reasoning-rl").exists()
    weighty.go(from_stage="cold_start")
    assert weighty.ran == ["base", "cold_start", "cold_start", "reasoning_rl"]


def test_a_manifest_is_not_written_over_a_model_that_changed(weighty):
    weighty.interrupted("evaluation")
    flip(weighty.run / "0-base" / "model" / "model.safetensors", -1)
    with pytest.raises(UserError, match="is not what stage base left"):
        weighty.go()
    assert not (weighty.run / "0-base" / "manifest.json").exists()


def test_a_model_that_is_not_whole_on_the_disk_gets_no_manifest(pipeline):
    plain = pipeline.stage

    def stage(context):
        numbers = plain(context)
        save_file({"weight": torch.ones(300)}, context.folder / "model" / "model.safetensors")
        os.truncate(context.folder / "model" / "model.safetensors", 200)
        return numbers

    pipeline.stage = stage
    with pytest.raises(UserError, match=r"model\.safetensors' cannot be read back"):
        pipeline.go()
    assert not (pipeline.run / "0-base" / "manifest.json").exists()


def test_what_a_signal_alone_saved_goes_when_the_stage_is_done(pipeline):
    pipeline.interrupted("cold_start")
    (pipeline.run / "1-cold-start" / "checkpoints" / "step-000001").mkdir(parents=True)
    pipeline.go()
    assert not (pipeline.run / "1-cold-start" / "checkpoints").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_config_is_refused(pipeline, finished):
    if finished:
        pipeline.go()
    else:
        pipeline.interrupted("cold_start")
    before = contents(pipeline.run)
    with pytest.raises(UserError) as caught:
        pipeline.go("cold_start.steps=5")
    message = str(caught.value)
    assert "cold_start.steps: 2 -> 5" in message
    assert "--from cold_start" in message
    assert "--out" in message
    assert contents(pipeline.run) == before


def test_an_unfinished_stage_goes_on_with_accepted_changes(pipeline):
    """They are in its manifest; a finished stage is what it is."""
    pipeline.interrupted("cold_start")
    with pytest.raises(UserError, match=r"cold_start\.steps: 2 -> 5.* --accept-changes"):
        pipeline.go("cold_start.steps=5")
    pipeline.go("cold_start.steps=5", accept_changes=True)
    assert pipeline.contexts["cold_start"].accept_changes
    assert pipeline.manifest("cold_start")["accepted_changes"] == ["cold_start.steps: 2 -> 5"]
    assert pipeline.manifest("base")["accepted_changes"] == []
    ran = list(pipeline.ran)
    pipeline.go("cold_start.steps=5")  # they are its own from then on
    assert pipeline.ran == ran
    with pytest.raises(UserError, match=r"cold_start\.steps: 5 -> 6") as caught:
        pipeline.go("cold_start.steps=6", accept_changes=True)
    assert "--accept-changes" not in str(caught.value)


def test_a_lock_that_a_kill_left_is_not_work_of_a_stage(pipeline):
    for folder in (pipeline.run, pipeline.run / "0-base", pipeline.run / "1-cold-start"):
        folder.mkdir()
        (folder / LOCK).write_text("process 1 on nowhere\n")
    pipeline.go()
    assert pipeline.ran == ALL
    assert not (pipeline.run / LOCK).exists()


def test_two_runs_into_one_folder(pipeline):
    with held(pipeline.run) as other:
        with pytest.raises(UserError, match=rf"another run \(process {other.pid} on"):
            pipeline.go()
        assert [path.name for path in pipeline.run.iterdir()] == [LOCK]
    pipeline.go()


def test_a_changed_input_is_refused(pipeline, tmp_path):
    pipeline.go()
    (tmp_path / "train.jsonl").write_text('{"question": "9+9", "answer": "18"}\n')
    with pytest.raises(UserError, match=r"contents of .*train\.jsonl"):
        pipeline.go()


def test_a_change_in_a_later_stage_only(pipeline):
    pipeline.go(until="cold_start")
    pipeline.go("reasoning_rl.steps=9")
    assert pipeline.ran == ALL
    assert saved_config(pipeline)["reasoning_rl"]["steps"] == 9


def test_settings_that_change_no_result_are_free(pipeline):
    pipeline.go()
    pipeline.go("runtime.threads=1", "runtime.log_level=error", "cold_start.checkpoint.every=5")
    assert pipeline.ran == ALL


def test_a_changed_evaluation_evaluates_again_and_retrains_nothing(pipeline):
    pipeline.go()
    for _ in range(2):
        pipeline.go("evaluation.math.samples=4")
        assert pipeline.ran == ALL
        assert len(pipeline.evaluated) == 6


def test_from_moves_aside_and_never_deletes(pipeline):
    run = pipeline.run
    pipeline.go()
    (run / "1-cold-start" / "mine.txt").write_text("keep")
    pipeline.go("cold_start.steps=5", from_stage="cold_start")
    assert pipeline.ran == [*ALL, "cold_start", "reasoning_rl"]
    (old,) = run.glob("old-*")
    assert {folder.name for folder in old.iterdir()} == {"1-cold-start", "2-reasoning-rl"}
    assert (old / "1-cold-start" / "mine.txt").read_text() == "keep"
    assert not (run / "1-cold-start" / "mine.txt").exists()
    pipeline.go("cold_start.steps=6", from_stage="cold_start", until="cold_start")
    assert len(list(run.glob("old-*"))) == 2
    assert not (run / "2-reasoning-rl").exists()  # its parent is another now


def test_the_size_of_a_micro_batch_is_free(pipeline):
    """Who runs out of memory lowers it and goes on."""
    pipeline.interrupted("reasoning_rl")
    pipeline.go("reasoning_rl.micro_batch_tokens=1", "cold_start.micro_batch_size=1")
    assert pipeline.ran == [*ALL, "reasoning_rl"]
    pretrained = {"corpus": {"path": "x"}, "vocab_size": 300, "hidden_size": 8, "layers": 1, "heads": 2, "kv_heads": 1}
    pretrained |= {"intermediate_size": 8, "max_tokens": 8, "batch_size": 4, "micro_batch_size": 2}
    base = {"steps": 1, "pretrain": {**pretrained, "optimizer": {"lr": 1e-3}}}
    settings = stage_settings(RecipeConfig.model_validate(pipeline.recipe | {"base": base}), "base")
    assert settings["base.pretrain.batch_size"] == 4
    assert not [key for key in settings if "micro_batch" in key]


def model_folder(folder, weights):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return str(folder)


def test_a_base_model_is_what_is_in_its_folder(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr("stages.recipe.runner.check_places", lambda *_, **__: None)  # its models have no tokenizer
    base = tmp_path / "base"
    pipeline.recipe["base"]["model"] = model_folder(base, "one")
    pipeline.go()
    pipeline.go(f"base.model={model_folder(tmp_path / 'copy', 'one')}")  # another path, the same weights
    assert pipeline.ran == ALL
    (base / "model.safetensors").write_text("other")
    with pytest.raises(UserError, match=r"contents of .*base"):
        pipeline.go()
    base.rename(tmp_path / "gone")
    pipeline.go()  # finished, and its own copy is in the run
    assert pipeline.ran == ALL
    with pytest.raises(UserError, match=r"base\.model"):
        pipeline.go("base.model=some/other")


@pytest.mark.parametrize("text", ["[1]", "not JSON", '{"hash": 1}', '{"name": "an app", "stage": "beta"}'])
def test_a_foreign_manifest_beside_a_model(tmp_path, text):
    folder = model_folder(tmp_path / "model", "one")
    (tmp_path / "manifest.json").write_text(text)
    before = model_hash(folder)
    (tmp_path / "manifest.json").unlink()
    assert model_hash(folder) == before


def test_from_with_a_changed_earlier_stage_is_refused(pipeline):
    pipeline.go()
    with pytest.raises(UserError, match=r"--from base"):
        pipeline.go("seed=1", from_stage="cold_start")
    assert not list(pipeline.run.glob("old-*"))


@pytest.mark.parametrize(("options", "message"), [
    ({"from_stage": "cold_strat"}, r"--from 'cold_strat'.*did you mean 'cold_start'"),
    ({"until": "helpfulness_rl"}, r"--until 'helpfulness_rl': no such stage"),
    ({"from_stage": "reasoning_rl", "until": "base"}, "nothing to run"),
])  # fmt: skip
def test_wrong_stage_names(pipeline, options, message):
    with pytest.raises(UserError, match=message):
        pipeline.go(**options)
    assert not pipeline.run.exists()


def test_a_folder_that_is_not_a_stages_is_left_alone(pipeline):
    (pipeline.run / "0-base").mkdir(parents=True)
    (pipeline.run / "0-base" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"not a stage's folder"):
        pipeline.go()


def test_a_model_that_went_missing_is_noticed(pipeline):
    pipeline.go()
    (pipeline.run / "0-base" / "model").rmdir()
    with pytest.raises(UserError, match=r"its model/ is gone"):
        pipeline.go()


def test_absent_stages_hand_on_their_parents(recipe):
    del recipe["cold_start"]
    config = RecipeConfig.model_validate(recipe)
    parents = {
        "reasoning_rl": ["base"], "helpfulness_rl": ["reasoning_rl"], "rejection_sampling": ["reasoning_rl", "base"],
        "base": [],
    }  # fmt: skip
    assert {key: active_parents(STAGES[key], config) for key in parents} == parents


def test_another_init_is_another_lineage(recipe, tmp_path):
    config, stage = RecipeConfig.model_validate(recipe), STAGES["reasoning_rl"]
    assert len({plan_stage(config, stage, tmp_path, init=init).lineage.hash for init in (None, "a/b", "c/d")}) == 3


def test_the_hash_does_not_depend_on_where_files_lie():
    one = Lineage({"seed": 0}, {"a/x.jsonl": "1", "a/y.jsonl": "2"}, {})
    two = Lineage({"seed": 0}, {"b/y.jsonl": "2", "b/x.jsonl": "1"}, {})
    assert one.hash == two.hash
    assert one.hash != Lineage({"seed": 1}, one.inputs, {}).hash


def test_settings_are_flat_key_paths(recipe):
    assert flatten({"a": {"b": 1, "c": [{}]}, "d": {}}, "x") == {"x.a.b": 1, "x.a.c": [{}], "x.d": {}}
    settings = stage_settings(RecipeConfig.model_validate(recipe), "cold_start")
    assert settings["cold_start.optimizer.lr"] == 1e-3
    assert settings["cold_start.data.path"] == "(file)"
    assert not [key for key in settings if "checkpoint" in key or "threads" in key]


def test_rl_stages_depend_on_engine_ahead_where_it_is_on(recipe):
    off, on = (RecipeConfig.model_validate(recipe | {"engine": {"ahead": ahead}}) for ahead in (False, True))
    assert stage_settings(on, "reasoning_rl") == stage_settings(off, "reasoning_rl") | {"engine.ahead": True}
    assert stage_settings(on, "cold_start") == stage_settings(off, "cold_start")
