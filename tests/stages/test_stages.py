"""The run folder: lineage, what is skipped, refused, moved aside. The stages themselves are fakes."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from grpo.config.file import read_config
from grpo.config.section import flatten
from grpo.config.yaml import dump_yaml, load_yaml
from grpo.errors import UserError
from grpo.system.lock import LOCK
from stages.recipe import summary as summaries
from stages.recipe.config import RecipeConfig
from stages.recipe.leaks import LeakGuard
from stages.recipe.lineage import Lineage, model_hash, stage_settings
from stages.recipe.pipeline import run_pipeline
from stages.recipe.planning import plan_stage
from stages.recipe.preflight import check_sections, in_run
from stages.recipe.table import STAGES, StageContext, active_parents
from support.processes import hold

METRICS = {
    "n_problems": 4, "pass@1": 0.5, "pass@1_ci95": [0.2, 0.8], "format_rate": 1.0, "language_consistency": None,
    "general": None, "general_ci95": None, "helpfulness": None, "helpfulness_ci95": None, "safety": None,
    "safety_ci95": None, "over_refusal": None, "seconds": 1.0,
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """A small recipe on local files; base, cold start and reasoning RL only."""
    sets = {"train": ["2+2", "3+3"], "test": ["4+4"]}
    for name, questions in sets.items():
        rows = [json.dumps({"question": q, "answer": "4"}) for q in questions]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    data = {"path": str(tmp_path / "train.jsonl")}
    return {
        "evaluation": {
            "math": {"data": {"path": str(tmp_path / "test.jsonl")}, "max_tokens": 8, "format": {"fn": "format"}}
        },
        "base": {"model": "some/base"},
        "cold_start": {"data": data, "steps": 2, "batch_size": 2, "max_tokens": 16, "optimizer": {"lr": 1e-3}},
        "reasoning_rl": {
            "steps": 2,
            "group_size": 2,
            "prompts_per_step": 2,
            "sampling": {"max_tokens": 8},
            "optimizer": {"lr": 1e-3},
            "tasks": {"math": {"data": data, "rewards": [{"fn": "accuracy"}]}},
        },
    }


class Fakes:
    """Stage modules that leave a folder called model/ and remember their calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.contexts: dict[str, StageContext] = {}
        self.evaluated: list[str] = []
        self.fail: str | None = None
        for key in ("base", "cold_start", "reasoning_rl"):
            module = types.ModuleType(f"stages.{key}")
            module.run = self.run  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, f"stages.{key}", module)
        monkeypatch.setattr("stages.recipe.evaluation.evaluate_stage", self.evaluate)

    def run(self, context: StageContext) -> dict[str, Any]:
        self.ran.append(context.key)
        self.contexts[context.key] = context
        (context.folder / "seen").write_text("x")
        if self.fail == context.key:
            raise KeyboardInterrupt
        (context.folder / "model").mkdir(exist_ok=True)
        (context.folder / "data").mkdir(exist_ok=True)
        (context.folder / "data" / "rows.jsonl").write_text('{"question": "2 + 2"}\n')
        return {"tokens": 7, "data_hashes": {"rows": "abc"}, "loss": 0.1}

    def evaluate(self, config: RecipeConfig, folder: Path) -> dict[str, Any]:
        self.evaluated.append(folder.name)
        if self.fail == "evaluation":
            raise KeyboardInterrupt
        return METRICS


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return Fakes(monkeypatch)


def go(recipe: dict[str, Any], run: Path, *overrides: str, **options: Any) -> dict[str, Any]:
    file = run.parent / "recipe.yaml"
    file.write_text(dump_yaml(recipe))
    return run_pipeline(read_config(RecipeConfig, file, overrides), run, "recipe.yaml", **options)


def interrupted(recipe: dict[str, Any], run: Path, fakes: Fakes, at: str) -> None:
    """Ctrl-C in this stage, or in the evaluation of the first."""
    fakes.fail = at
    with pytest.raises(KeyboardInterrupt):
        go(recipe, run)
    fakes.fail = None


ALL = ["base", "cold_start", "reasoning_rl"]


def test_a_run_leaves_manifests_with_lineage_and_a_summary(recipe, fakes, tmp_path):
    run = tmp_path / "run"
    summary = go(recipe, run)
    assert fakes.ran == ALL
    assert fakes.contexts["cold_start"].init == str(run / "0-base" / "model")
    assert fakes.contexts["reasoning_rl"].models.keys() == {"base", "cold_start"}
    manifests = {key: json.loads((run / STAGES[key].folder / "manifest.json").read_text()) for key in ALL}
    last = manifests["reasoning_rl"]
    assert (last["stage"], last["status"], last["seed"], last["tokens"]) == ("2-reasoning-rl", "finished", 0, 7)
    assert last["parents"] == {"cold_start": manifests["cold_start"]["hash"]}
    assert last["parent_hash"] == manifests["cold_start"]["hash"]
    assert manifests["base"]["parent_hash"] is None
    assert last["config"]["steps"] == 2
    assert last["data_hashes"] == {"rows": "abc"}
    assert len(last["input_hashes"]) == 1
    assert last["versions"]["torch"]
    assert last["metrics"]["pass@1"] == 0.5
    assert json.loads((run / "summary.json").read_text()) == summary
    assert [row["stage"] for row in summary["stages"]] == ["0-base", "1-cold-start", "2-reasoning-rl"]
    assert all(set(row) == {"stage", "seconds", *summaries.KEYS} for row in summary["stages"])
    assert load_yaml((run / "config.yaml").read_text(), "yaml")["reasoning_rl"]["steps"] == 2


def test_finished_stages_are_skipped(recipe, fakes, tmp_path):
    run = tmp_path / "run"
    go(recipe, run, until="cold_start")
    assert fakes.ran == ["base", "cold_start"]
    go(recipe, run)
    assert fakes.ran == ALL


def test_an_interrupted_stage_goes_on_in_its_folder(recipe, fakes, tmp_path):
    run = tmp_path / "run"
    interrupted(recipe, run, fakes, "cold_start")
    assert not (run / "1-cold-start" / "manifest.json").exists()
    go(recipe, run)
    assert fakes.ran == ["base", "cold_start", "cold_start", "reasoning_rl"]


def test_an_interrupted_evaluation_repeats_no_training(recipe, fakes, tmp_path):
    run = tmp_path / "run"
    interrupted(recipe, run, fakes, "evaluation")
    go(recipe, run)
    assert fakes.ran == ALL


def weighty(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of one file of weights and one of settings."""

    def run(context: StageContext) -> dict[str, Any]:
        numbers = fakes.run(context)
        save_file({"weight": torch.ones(3)}, context.folder / "model" / "model.safetensors")
        (context.folder / "model" / "config.json").write_text("{}")
        return numbers

    for key in ALL:
        monkeypatch.setattr(sys.modules[f"stages.{key}"], "run", run)


def edited(model: Path) -> None:
    (model / "config.json").write_text('{"eos_token_id": 3}')


def flipped(model: Path) -> None:
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)


def emptied(model: Path) -> None:
    (model / "model.safetensors").unlink()


def extended(model: Path) -> None:
    (model / "adapter.safetensors").write_bytes(b"")


DAMAGE = [
    (edited, "'config.json' was changed"), (flipped, "'model.safetensors' was changed"),
    (emptied, "'model.safetensors' is gone"), (extended, "'adapter.safetensors' was not there"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "said"), DAMAGE)
def test_a_parent_that_is_no_longer_what_it_was_is_noticed(recipe, fakes, tmp_path, monkeypatch, spoil, said):
    weighty(fakes, monkeypatch)
    run = tmp_path / "run"
    go(recipe, run, until="cold_start")
    spoil(run / "1-cold-start" / "model")
    with pytest.raises(UserError, match=rf"is not what stage cold_start left: {said}.*--from cold_start"):
        go(recipe, run)
    assert fakes.ran == ["base", "cold_start"]
    assert not (run / "2-reasoning-rl").exists()
    go(recipe, run, from_stage="cold_start")
    assert fakes.ran == ["base", "cold_start", "cold_start", "reasoning_rl"]


def test_a_manifest_is_not_written_over_a_model_that_changed(recipe, fakes, tmp_path, monkeypatch):
    weighty(fakes, monkeypatch)
    run = tmp_path / "run"
    interrupted(recipe, run, fakes, "evaluation")
    flipped(run / "0-base" / "model")
    with pytest.raises(UserError, match="is not what stage base left"):
        go(recipe, run)
    assert not (run / "0-base" / "manifest.json").exists()


def test_a_model_that_is_not_whole_on_the_disk_gets_no_manifest(recipe, fakes, tmp_path, monkeypatch):
    def run(context: StageContext) -> dict[str, Any]:
        numbers = fakes.run(context)
        save_file({"weight": torch.ones(300)}, context.folder / "model" / "model.safetensors")
        os.truncate(context.folder / "model" / "model.safetensors", 200)
        return numbers

    monkeypatch.setattr(sys.modules["stages.base"], "run", run)
    with pytest.raises(UserError, match=r"model\.safetensors' cannot be read back"):
        go(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "0-base" / "manifest.json").exists()


def test_what_a_signal_alone_saved_goes_when_the_stage_is_done(recipe, fakes, tmp_path):
    run = tmp_path / "run"
    interrupted(recipe, run, fakes, "cold_start")
    (run / "1-cold-start" / "checkpoints" / "step-000001").mkdir(parents=True)
    go(recipe, run)
    assert not (run / "1-cold-start" / "checkpoints").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_config_is_refused(recipe, fakes, tmp_path, finished):
    run = tmp_path / "run"
    if finished:
        go(recipe, run)
    else:
        interrupted(recipe, run, fakes, "cold_start")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(UserError) as caught:
        go(recipe, run, "cold_start.steps=5")
    message = str(caught.value)
    assert "cold_start.steps: 2 -> 5" in message
    assert "--from cold_start" in message
    assert "--out" in message
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_an_unfinished_stage_goes_on_with_accepted_changes(recipe, fakes, tmp_path):
    """They are in its manifest; a finished stage is what it is."""
    run = tmp_path / "run"
    interrupted(recipe, run, fakes, "cold_start")
    with pytest.raises(UserError, match=r"cold_start\.steps: 2 -> 5.* --accept-changes"):
        go(recipe, run, "cold_start.steps=5")
    go(recipe, run, "cold_start.steps=5", accept_changes=True)
    assert fakes.contexts["cold_start"].accept_changes
    manifest = json.loads((run / "1-cold-start" / "manifest.json").read_text())
    assert manifest["accepted_changes"] == ["cold_start.steps: 2 -> 5"]
    assert json.loads((run / "0-base" / "manifest.json").read_text())["accepted_changes"] == []
    ran = list(fakes.ran)
    go(recipe, run, "cold_start.steps=5")  # they are its own from then on
    assert fakes.ran == ran
    with pytest.raises(UserError, match=r"cold_start\.steps: 5 -> 6") as caught:
        go(recipe, run, "cold_start.steps=6", accept_changes=True)
    assert "--accept-changes" not in str(caught.value)


def test_a_lock_that_a_kill_left_is_not_work_of_a_stage(recipe, fakes, tmp_path):
    run = tmp_path / "run"
    for folder in (run, run / "0-base", run / "1-cold-start"):
        folder.mkdir()
        (folder / LOCK).write_text("process 1 on nowhere\n")
    go(recipe, run)
    assert fakes.ran == ALL
    assert not (run / LOCK).exists()


def test_two_runs_into_one_folder(recipe, fakes, tmp_path):
    other = hold(tmp_path / "run")
    try:
        with pytest.raises(UserError, match=rf"another run \(process {other.pid} on"):
            go(recipe, tmp_path / "run")
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    finally:
        other.kill()
        other.wait()
    go(recipe, tmp_path / "run")


def test_a_changed_input_is_refused(recipe, fakes, tmp_path):
    go(recipe, tmp_path / "run")
    (tmp_path / "train.jsonl").write_text('{"question": "9+9", "answer": "18"}\n')
    with pytest.raises(UserError, match=r"contents of .*train\.jsonl"):
        go(recipe, tmp_path / "run")


def test_a_change_in_a_later_stage_only(recipe, fakes, tmp_path):
    run = tmp_path / "run"
    go(recipe, run, until="cold_start")
    go(recipe, run, "reasoning_rl.steps=9")
    assert fakes.ran == ALL
    assert load_yaml((run / "config.yaml").read_text(), "yaml")["reasoning_rl"]["steps"] == 9


def test_settings_that_change_no_result_are_free(recipe, fakes, tmp_path):
    go(recipe, tmp_path / "run")
    go(recipe, tmp_path / "run", "runtime.threads=1", "runtime.log_level=error", "cold_start.checkpoint.every=5")
    assert fakes.ran == ALL


def test_a_changed_evaluation_evaluates_again_and_retrains_nothing(recipe, fakes, tmp_path):
    go(recipe, tmp_path / "run")
    go(recipe, tmp_path / "run", "evaluation.math.samples=4")
    assert fakes.ran == ALL
    assert len(fakes.evaluated) == 6
    go(recipe, tmp_path / "run", "evaluation.math.samples=4")
    assert len(fakes.evaluated) == 6


def test_from_moves_aside_and_never_deletes(recipe, fakes, tmp_path):
    run = tmp_path / "run"
    go(recipe, run)
    (run / "1-cold-start" / "mine.txt").write_text("keep")
    go(recipe, run, "cold_start.steps=5", from_stage="cold_start")
    assert fakes.ran == [*ALL, "cold_start", "reasoning_rl"]
    (old,) = run.glob("old-*")
    assert {folder.name for folder in old.iterdir()} == {"1-cold-start", "2-reasoning-rl"}
    assert (old / "1-cold-start" / "mine.txt").read_text() == "keep"
    assert not (run / "1-cold-start" / "mine.txt").exists()
    go(recipe, run, "cold_start.steps=6", from_stage="cold_start", until="cold_start")
    assert len(list(run.glob("old-*"))) == 2
    assert not (run / "2-reasoning-rl").exists()  # its parent is another now


def test_the_size_of_a_micro_batch_is_free(recipe, fakes, tmp_path):
    """Who runs out of memory lowers it and goes on."""
    run = tmp_path / "run"
    interrupted(recipe, run, fakes, "reasoning_rl")
    go(recipe, run, "reasoning_rl.micro_batch_tokens=1", "cold_start.micro_batch_size=1")
    assert fakes.ran == [*ALL, "reasoning_rl"]
    pretrained = {"corpus": {"path": "x"}, "vocab_size": 300, "hidden_size": 8, "layers": 1, "heads": 2, "kv_heads": 1}
    pretrained |= {"intermediate_size": 8, "max_tokens": 8, "batch_size": 4, "micro_batch_size": 2}
    recipe["base"] = {"steps": 1, "pretrain": {**pretrained, "optimizer": {"lr": 1e-3}}}
    settings = stage_settings(RecipeConfig.model_validate(recipe), "base")
    assert settings["base.pretrain.batch_size"] == 4
    assert not [key for key in settings if "micro_batch" in key]


def model_folder(folder: Path, weights: str) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return str(folder)


def test_a_base_model_is_what_is_in_its_folder(recipe, fakes, tmp_path):
    run, base = tmp_path / "run", tmp_path / "base"
    recipe["base"]["model"] = model_folder(base, "one")
    go(recipe, run)
    go({**recipe, "base": {"model": model_folder(tmp_path / "copy", "one")}}, run)  # another path, the same weights
    assert fakes.ran == ALL
    (base / "model.safetensors").write_text("other")
    with pytest.raises(UserError, match=r"contents of .*base"):
        go(recipe, run)
    base.rename(tmp_path / "gone")
    go(recipe, run)  # finished, and its own copy is in the run
    assert fakes.ran == ALL
    with pytest.raises(UserError, match=r"base\.model"):
        go(recipe, run, "base.model=some/other")


@pytest.mark.parametrize("text", ["[1]", "not JSON", '{"hash": 1}', '{"name": "an app", "stage": "beta"}'])
def test_a_foreign_manifest_beside_a_model(tmp_path, text):
    folder = model_folder(tmp_path / "model", "one")
    (tmp_path / "manifest.json").write_text(text)
    before = model_hash(folder)
    (tmp_path / "manifest.json").unlink()
    assert model_hash(folder) == before


def test_from_with_a_changed_earlier_stage_is_refused(recipe, fakes, tmp_path):
    go(recipe, tmp_path / "run")
    with pytest.raises(UserError, match=r"--from base"):
        go(recipe, tmp_path / "run", "seed=1", from_stage="cold_start")
    assert not list((tmp_path / "run").glob("old-*"))


@pytest.mark.parametrize(("options", "message"), [
    ({"from_stage": "cold_strat"}, r"--from 'cold_strat'.*did you mean 'cold_start'"),
    ({"until": "helpfulness_rl"}, r"--until 'helpfulness_rl': no such stage"),
    ({"from_stage": "reasoning_rl", "until": "base"}, "nothing to run"),
])  # fmt: skip
def test_wrong_stage_names(recipe, fakes, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        go(recipe, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_not_a_stages_is_left_alone(recipe, fakes, tmp_path):
    (tmp_path / "run" / "0-base").mkdir(parents=True)
    (tmp_path / "run" / "0-base" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"not a stage's folder"):
        go(recipe, tmp_path / "run")


def test_a_model_that_went_missing_is_noticed(recipe, fakes, tmp_path):
    go(recipe, tmp_path / "run")
    (tmp_path / "run" / "0-base" / "model").rmdir()
    with pytest.raises(UserError, match=r"its model/ is gone"):
        go(recipe, tmp_path / "run")


def test_absent_stages_hand_on_their_parents(recipe):
    del recipe["cold_start"]
    config = RecipeConfig.model_validate(recipe)
    assert active_parents(STAGES["reasoning_rl"], config) == ["base"]
    assert active_parents(STAGES["helpfulness_rl"], config) == ["reasoning_rl"]
    assert active_parents(STAGES["rejection_sampling"], config) == ["reasoning_rl", "base"]
    assert active_parents(STAGES["base"], config) == []


def test_another_init_is_another_lineage(recipe, tmp_path):
    config = RecipeConfig.model_validate(recipe)
    stage = STAGES["reasoning_rl"]
    hashes = {plan_stage(config, stage, tmp_path, init=init).lineage.hash for init in (None, "a/b", "c/d")}
    assert len(hashes) == 3


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
    off = RecipeConfig.model_validate(recipe)
    recipe["engine"] = {"ahead": True}
    on = RecipeConfig.model_validate(recipe)
    assert stage_settings(on, "reasoning_rl") == stage_settings(off, "reasoning_rl") | {"engine.ahead": True}
    assert stage_settings(on, "cold_start") == stage_settings(off, "cold_start")


def test_ahead_with_an_engine_that_turns_out_to_be_vllm_is_refused_before_anything_runs(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("grpo.engines.choose.engine_kind", lambda *_: "vllm")
    recipe["engine"] = {"kind": "auto", "ahead": True}
    with pytest.raises(UserError, match=r"^reasoning_rl: engine: 'ahead' needs an engine beside the trainer"):
        check_sections(RecipeConfig.model_validate(recipe), tmp_path, ["reasoning_rl"])


def sum_keys(row: Any) -> set[str]:
    """Stands in for a world's `leak_check`."""
    return {"".join(str(row.get("question", "")).split())}


FILE = Path("data/a.jsonl")


def test_leaks_are_found_by_key(recipe):
    rows = [{"question": "1+1"}, {"question": "4 + 4"}]
    LeakGuard(RecipeConfig.model_validate(recipe)).check(rows, FILE)  # another text
    recipe["evaluation"]["leak_check"] = f"{__name__}.sum_keys"
    with pytest.raises(UserError, match=r"'data/a.jsonl', row 2 holds the evaluation problem '4\+4': take it out"):
        LeakGuard(RecipeConfig.model_validate(recipe)).check(rows, FILE)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize("row", [
    {"question": " 4+4"},
    {"prompt": [user("4+4")], "chosen": "8", "rejected": "9"}, {"messages": [user(" 4+4"), assistant("8")]},
    {"messages": [{"role": "system", "content": "be brief"}, user("Hi"), assistant("Hello"), user("4+4")]},
    {"messages": [user("Hi"), assistant("Hello"), user("4+4"), assistant("8")]},
    {"conversations": [{"from": "human", "value": "4+4"}, {"from": "gpt", "value": "8"}]},
    {"instruction": "4+4", "response": "8"}, {"instruction": "4+4", "input": "", "output": "8"},
    {"prompt": "4+4", "completion": "8"},
    {"messages": [user("4+4\nThink, then BOX it."), assistant("8")]},  # evaluation.math.data.suffix
    {"messages": [user("Q: 4+4\nA:"), assistant("8")]},  # the template of another section
    {"instruction": "Q: 4+4 !\nA:", "response": "8"},  # with its suffix
])  # fmt: skip
def test_leaks_are_found_in_every_form_of_a_row(recipe, row):
    recipe["evaluation"]["math"]["data"]["suffix"] = "\nThink, then box it."
    task = recipe["reasoning_rl"]["tasks"]["math"]
    task["data"] = {**task["data"], "template": "Q: {prompt}\nA:", "suffix": " !"}
    config = RecipeConfig.model_validate(recipe)
    with pytest.raises(UserError, match=r"row 2 holds the evaluation problem '.*4\+4.*'"):
        LeakGuard(config).check([{"question": "2+2"}, row], FILE)


def test_an_answer_is_no_leak(recipe):
    """What a model or a teacher wrote may name any problem; a row of another stage's form is that stage's to refuse."""
    rows: list[dict[str, Any]] = [
        {"messages": [user("Why?"), assistant("4+4")]}, {"instruction": "Why?", "response": "4+4"},
        {"text": "4+4 is 8"}, {"messages": "4-4"},
    ]  # fmt: skip
    LeakGuard(RecipeConfig.model_validate(recipe)).check(rows, FILE)


def test_leaks_by_key_are_found_in_conversations(recipe):
    rows = [{"conversations": [{"from": "human", "value": "4 +4"}, {"from": "gpt", "value": "8"}]}]
    recipe["evaluation"]["leak_check"] = f"{__name__}.message_keys"
    with pytest.raises(UserError, match=r"row 1 holds the evaluation problem '4\+4'"):
        LeakGuard(RecipeConfig.model_validate(recipe)).check(rows, FILE)


def message_keys(row: Any) -> set[str]:
    return sum_keys(row) - {""} | {sum_keys({"question": turn["content"]}).pop() for turn in row.get("messages", [])}


def test_a_stage_refuses_its_data_before_it_trains(recipe, tmp_path):
    config = RecipeConfig.model_validate(recipe)
    context = StageContext(config, "cold_start", tmp_path, "", "", {}, LeakGuard(config))
    with pytest.raises(UserError, match=r"sft\.jsonl"):
        context.write_data("sft", [{"question": "4+4"}])
    assert (tmp_path / "data" / "sft.jsonl").is_file()  # to look at


MISTAKES = [
    ("reasoning_rl.tasks.math.rewards.0.fn=acuracy", r"reasoning_rl\.tasks\.math\.rewards\.0: .*mean 'accuracy'"),
    ("reasoning_rl.tasks.math.rewards.0.fn=no_such.module.f", r"rewards\.0: .*no module named 'no_such'"),
    ("reasoning_rl.tasks.math.rewards.0.kwargs={stict: true}", r"rewards\.0: .*'stict'.*'strict'"),
    ("reasoning_rl.tasks.math.rewards.0.kwargs={strict: maybe}", r"rewards\.0: .*'maybe'"),
    ("reasoning_rl.tasks.math.rewards.0.kwargs.strict=[1]", r"rewards\.0: .*strict"),
    (
        "reasoning_rl.tasks.math.rewards=[{fn: language, kwargs: {language: english}}]",
        r"unknown language code 'english'",
    ),
    ("reasoning_rl.tasks.math.rewards=[{fn: reward_model, kwargs: {model: ./no}}]", r"model '\./no': no such folder"),
    ("reasoning_rl.tasks.math.rewards=[{fn: reward_model, kwargs: {model: a/b, part: al}}]", r"part 'al'"),
    (
        "reasoning_rl.tasks.math.rewards=[{fn: reward_model, kwargs: {model: '{run}/1-cold/model'}}]",
        r"no earlier stage of this config makes '1-cold' \(did you mean '1-cold-start'",
    ),
    ("reasoning_rl.tasks.math.data={path: missing.jsonl}", r"tasks\.math\.data: data 'missing\.jsonl': no such file"),
    ("reasoning_rl.tasks.math.data={path: .}", r"a folder"),
    ("reasoning_rl.tasks.math.data={path: ./missing.csv}", r"no such file"),
    ("reasoning_rl.tasks.math.data={fn: stages.tiny_world.arithmetics}", r"did you mean 'arithmetic'"),
    ("reasoning_rl.tasks.math.data={fn: stages.tiny_world.arithmetic, kwargs: {splt: a}}", r"data: .*'splt'"),
    ("reasoning_rl.tasks.math.data={fn: stages.tiny_world.__name__}", r"no function but str"),
    ("evaluation.math.accuracy.fn=acuracy", r"evaluation\.math\.accuracy: "),
    ("evaluation.math.format.kwargs={opened: perhaps}", r"evaluation\.math\.format: .*'perhaps'"),
    ("evaluation.math.language={fn: reward_model, kwargs: {model: '{run}/m'}}", r"only the rewards of RL tasks"),
    ("evaluation.math.data={path: missing.parquet}", r"evaluation\.math\.data: "),
    ("evaluation.leak_check=stages.tiny_world.problem_key", r"evaluation\.leak_check: .*did you mean 'problem_keys'"),
    ("base.model=./nowhere", r"base\.model: model '\./nowhere': no such folder"),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES)
def test_what_a_later_stage_needs_is_checked_first(recipe, fakes, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        go(recipe, tmp_path / "run", override)
    assert not (tmp_path / "run").exists()
    assert not fakes.ran


def test_nothing_is_moved_aside_for_a_stage_that_cannot_run(recipe, fakes, tmp_path):
    run = tmp_path / "run"
    go(recipe, run)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match="acuracy"):
        go(recipe, run, "reasoning_rl.tasks.math.rewards.0.fn=acuracy", from_stage="reasoning_rl")
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


class Judge:
    """A reward that would load a model which is not there yet."""

    def __init__(self, model: str, names: list[str] | None = None) -> None:
        pytest.fail("loaded before its stage")

    def __call__(self, completions: list[Any]) -> list[float]:
        return [0.0] * len(completions)


def test_a_judge_made_by_the_run_is_not_loaded_early(recipe, fakes, tmp_path):
    kwargs = {"model": "{run}/1-cold-start/model"}
    recipe["reasoning_rl"]["tasks"]["math"]["rewards"] = [{"fn": f"{__name__}.Judge", "kwargs": kwargs}]
    go(recipe, tmp_path / "run", until="cold_start")
    go(recipe, tmp_path / "run")
    assert fakes.ran == ALL
    recipe["reasoning_rl"]["tasks"]["math"]["rewards"][0]["kwargs"]["modle"] = "x"
    with pytest.raises(UserError, match="modle"):
        go(recipe, tmp_path / "other")


def test_finished_stages_and_later_ones_are_not_checked(recipe, fakes, tmp_path):
    run = tmp_path / "run"
    wrong = "reasoning_rl.tasks.math.rewards.0.fn=acuracy"
    go(recipe, run, wrong, until="cold_start")
    with pytest.raises(UserError, match="acuracy"):
        go(recipe, run, wrong)
    go(recipe, run)
    recipe["evaluation"]["math"]["accuracy"] = {"fn": "acuracy"}
    with pytest.raises(UserError, match=r"evaluation\.math\.accuracy"):  # they would be evaluated again
        go(recipe, run)


def test_placeholders_in_lists_are_filled_in():
    assert in_run({"a": ["{run}/x", 1], "b": "y"}, Path("r")) == {"a": ["r/x", 1], "b": "y"}
