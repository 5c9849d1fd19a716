"""`evaluation.sets`: more problems than the main ones, after each stage or some."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

from grpo.config.file import read_config
from grpo.config.yaml import dump_yaml
from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from stages.check.settings import setting_checks
from stages.check.subject import Subject
from stages.cli import main
from stages.recipe.ahead import places
from stages.recipe.config import RecipeConfig
from stages.recipe.evaluation import evaluate_stage
from stages.recipe.leaks import LeakGuard
from stages.recipe.planning import plan_stage
from stages.recipe.summary import KEYS, print_table
from stages.recipe.table import STAGES
from stages.tiny_world import build_tokenizer, model_config
from stages.view.page import page
from stages.view.run_folder import open_run

FOLDERS = ["0-base", "1-cold-start", "2-reasoning-rl"]


@pytest.fixture
def public(tmp_path: Path) -> dict[str, Any]:
    write_jsonl(tmp_path / "svamp.jsonl", [{"question": "7+7", "answer": "14"}, {"question": "8+8", "answer": "16"}])
    return {"data": {"path": str(tmp_path / "svamp.jsonl")}, "max_tokens": 8}


def refusal(recipe: dict[str, Any], tmp_path: Path) -> str:
    (tmp_path / "r.yaml").write_text(dump_yaml(recipe))
    with pytest.raises(UserError) as caught:
        read_config(RecipeConfig, tmp_path / "r.yaml", [])
    return str(caught.value)


@pytest.mark.parametrize(("name", "more", "says"), [
    ("a/b", {}, "'sets': 'a/b' cannot be the name of a file"),
    (".hidden", {}, "cannot be the name of a file"),
    ("x" * 201, {}, "cannot be the name of a file"),
    ("math", {}, "give the set another name"),
    ("svamp", {"after": ["reasoning_rf"]}, "'reasoning_rf': no stage of this config .*did you mean 'reasoning_rl'"),
    ("svamp", {"after": ["helpfulness_rl"]}, r"'evaluation\.sets\.svamp\.after': 'helpfulness_rl': no stage"),
    ("svamp", {"after": []}, "after"),
    ("svamp", {"k": [4]}, r"evaluation\.sets\.svamp.*pass@k needs k"),
])  # fmt: skip
def test_what_is_no_set(recipe, public, tmp_path, name, more, says):
    recipe["evaluation"]["sets"] = {name: public | more}
    text = refusal(recipe, tmp_path)
    assert "\n" not in text
    assert re.search(says, text), text


def test_a_set_that_comes_later_is_all_that_is_evaluated(pipeline, public):
    """No stage is trained again, and no other evaluation repeated."""
    pipeline.go()
    assert all(set(row) == {"stage", "seconds", *KEYS} for row in summary_of(pipeline)["stages"])  # as ever without
    pipeline.recipe["evaluation"]["sets"] = {"svamp": public}
    for _ in range(2):
        summary = pipeline.go()
        assert pipeline.ran == ["base", "cold_start", "reasoning_rl"]
        assert pipeline.evaluated == [*FOLDERS, *(f"{folder} svamp" for folder in FOLDERS)]
    assert [row["sets"]["svamp"]["pass@1"] for row in summary["stages"]] == [0.5] * 3
    assert summary["stages"][0]["pass@1"] == 0.5
    pipeline.go("evaluation.sets.svamp.samples=4")
    assert pipeline.evaluated[6:] == [f"{folder} svamp" for folder in FOLDERS]
    pipeline.go("evaluation.math.samples=4", "evaluation.sets.svamp.samples=4")
    assert pipeline.evaluated[9:] == FOLDERS
    Path(public["data"]["path"]).write_text('{"question": "9+9", "answer": "18"}\n')
    pipeline.go("evaluation.math.samples=4", "evaluation.sets.svamp.samples=4")
    assert pipeline.evaluated[12:] == [f"{folder} svamp" for folder in FOLDERS]
    del pipeline.recipe["evaluation"]["sets"]
    assert all("sets" not in row for row in pipeline.go("evaluation.math.samples=4")["stages"])
    assert len(pipeline.evaluated) == 15


def summary_of(pipeline: Any) -> dict[str, Any]:
    return json.loads((pipeline.run / "summary.json").read_text())


def test_a_set_is_asked_after_the_stages_it_names(pipeline, public):
    pipeline.recipe["evaluation"]["sets"] = {"svamp": public | {"after": ["base", "reasoning_rl"]}}
    summary = pipeline.go()
    assert pipeline.evaluated == ["0-base", "0-base svamp", "1-cold-start", "2-reasoning-rl", "2-reasoning-rl svamp"]
    assert [list(row["sets"]) for row in summary["stages"]] == [["svamp"], [], ["svamp"]]
    pipeline.recipe["evaluation"]["sets"]["svamp"]["after"] = ["base"]
    assert [list(row["sets"]) for row in pipeline.go()["stages"]] == [["svamp"], [], []]
    assert len(pipeline.evaluated) == 5


def test_training_data_is_compared_with_every_set(recipe, public, tmp_path):
    recipe["evaluation"]["sets"] = {"svamp": public}
    guard = LeakGuard(RecipeConfig.model_validate(recipe))
    rows = [{"question": "1+1"}, {"question": "8+8"}, {"question": "4+4"}]
    copies = [str(leak) for leak in guard.leaks(rows)]
    assert copies == [
        "row 2 holds the evaluation problem '8+8' of the set 'svamp'", "row 3 holds the evaluation problem '4+4'",
    ]  # fmt: skip
    recipe["evaluation"]["decontaminate"] = {"ngram": 3}
    long = "A train leaves at 9 with 20 people in each of its 4 cars"
    write_jsonl(tmp_path / "svamp.jsonl", [{"question": long, "answer": "80"}])
    guard = LeakGuard(RecipeConfig.model_validate(recipe))
    assert "of the set 'svamp'" in str(guard.leaks([{"question": f"Well: {long}?"}])[0])
    del recipe["evaluation"]["math"]
    assert LeakGuard(RecipeConfig.model_validate(recipe)).leaks([{"question": long}])


def test_a_new_set_whose_problems_were_trained_on_is_refused(pipeline, public):
    """Before anything is computed, though no stage is to run."""
    pipeline.go()
    write_jsonl(Path(public["data"]["path"]), [{"question": "2 + 2", "answer": "4"}])
    pipeline.recipe["evaluation"]["sets"] = {"svamp": public}
    with pytest.raises(UserError, match=r"stage base is finished: .*'2 \+ 2' of the set 'svamp'.*--from"):
        pipeline.go()
    assert len(pipeline.evaluated) == 3


def test_what_is_dropped_for_a_set_is_a_setting_of_the_stage(recipe, public, tmp_path):
    config = RecipeConfig.model_validate(recipe)
    recipe["evaluation"]["sets"] = {"svamp": public}
    more = RecipeConfig.model_validate(recipe)
    stage = STAGES["cold_start"]
    assert plan_stage(config, stage, tmp_path).lineage.hash == plan_stage(more, stage, tmp_path).lineage.hash
    recipe["evaluation"]["decontaminate"] = {"action": "drop"}
    dropping = RecipeConfig.model_validate(recipe)
    assert "evaluation.sets.svamp.data.path" in plan_stage(dropping, stage, tmp_path).lineage.settings


@pytest.mark.parametrize(("width", "parts"), [(150, (1, 1)), (80, (2, 2)), (60, (4, 3))])
def test_the_tables_fit_the_columns(recipe, public, capsys, monkeypatch, width, parts):
    """Piped too. Columns that do not fit stand below, after the same names: nothing is cut."""
    monkeypatch.setenv("COLUMNS", str(width))
    recipe["evaluation"]["sets"] = {"svamp": public}
    config = RecipeConfig.model_validate(recipe)
    shares = ("pass@1", "pass@8", "general", "helpfulness", "safety")
    numbers = dict.fromkeys(KEYS) | {"n_problems": 300, "format_rate": 1.0, "over_refusal": 1.0}
    numbers |= dict.fromkeys(shares, 1.0) | {f"{name}_ci95": [0.98, 1.0] for name in shares}
    stages = [
        {"stage": stage.folder, "seconds": 12345.0, **numbers, "sets": {"[svamp]": numbers, "gsm8k": numbers}}
        for stage in STAGES.values()
        if stage.evaluated
    ]
    print_table({"config": "x.yaml", "seed": 0, "seconds": 1.0, "stages": stages}, config)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert text.count("100.0 [98, 100]") == (4 + 3 * 2) * len(stages)
    assert text.count("[svamp]") == text.count("gsm8k") == parts[1] * len(stages)
    assert text.count("3-rejection-sampling") == parts[0] + 3 * parts[1]
    for heading in ("seconds", "pass@1", "format", "language", "general", "helpful", "safe", "refusal"):
        assert heading in text


def test_checks_look_at_each_set(recipe, public):
    recipe["evaluation"]["sets"] = {"svamp": public}
    recipe["reasoning_rl"]["sampling"]["max_tokens"] = 64
    config = RecipeConfig.model_validate(recipe)
    names = [name for name, _ in setting_checks(Subject(config, Path("runs/x")))]
    assert {"size of evaluation.sets.svamp", "length of evaluation.sets.svamp"} <= set(names)
    assert [place.path for place in places(config)][:2] == ["evaluation.math", "evaluation.sets.svamp"]


def test_a_stage_is_evaluated_on_its_sets(recipe, public, tmp_path, capsys):
    """Files of each set, that `grpo compare` takes; the page has them."""
    folder = tmp_path / "run" / "1-cold-start"
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["What is 7+7?", "8+8 4+4"], 300)
    Qwen3ForCausalLM(model_config(len(tokenizer), hidden_size=32, layers=1)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    recipe["evaluation"]["sets"] = {"svamp": public | {"samples": 2, "k": [2]}, "v1.5": public}
    config = RecipeConfig.model_validate(recipe)
    found = evaluate_stage(config, folder, True, ["svamp", "v1.5"])
    assert list(found) == [None, "svamp", "v1.5"]
    assert found["svamp"].keys() >= {"pass@1", "pass@2", "pass@2_ci95"}
    assert found["svamp"]["n_problems"] == 2
    assert sorted(str(file.relative_to(folder)) for file in folder.glob("eval*/*")) == [
        f"eval/{name}{end}" for name in ("svamp", "v1.5") for end in (".completions.jsonl", ".json", ".problems.jsonl")
    ]
    before = (folder / "eval.json").read_text()
    evaluate_stage(config, folder, False, ["svamp"])
    assert (folder / "eval.json").read_text() == before
    capsys.readouterr()
    assert main(["compare", str(folder / "eval" / "svamp.json"), str(folder / "eval" / "svamp.json")]) == 0
    sets = {"<b>svamp": {"hash": "x", "metrics": found["svamp"]}}
    manifest = {"seconds": 1.0, "metrics": found[None], "sets": sets}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "stage.json").write_text("{}")
    run = str(folder.parent)
    html = page(run, open_run(run), [])
    assert "&lt;b&gt;svamp" in html
    assert "pass@2" in html
