"""A .gguf file wherever a model is named: a run, one stage of it, an evaluation, a check, a training from Python."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import grpo
from grpo.config.data import DataConfig
from grpo.config.yaml import dump_yaml
from grpo.data.rows import write_jsonl
from grpo.model.loading.weights import load_model
from stages.cli import main
from stages.commands.run import stage_command
from support.command import refused
from support.gguf import packed

TEXT = {"template": "{prompt}"}
SAMPLED = {"max_tokens": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "grpo-gguf"


def rows(folder: Path) -> dict[str, Any]:
    write_jsonl(folder / "rows.jsonl", [{"question": f"{a}+{a}?", "answer": str(2 * a)} for a in range(2, 6)])
    return {"path": str(folder / "rows.jsonl"), **TEXT}


def recipe(folder: Path, model: Path) -> str:
    task = {"data": rows(folder), "rewards": [{"fn": "accuracy"}]}
    stage = {"steps": 1, "group_size": 2, "prompts_per_step": 2, "sampling": SAMPLED, "tasks": {"math": task}}
    content = {"base": {"model": str(model)}, "evaluation": {}, "reasoning_rl": stage}
    (folder / "recipe.yaml").write_text(dump_yaml(content))
    return str(folder / "recipe.yaml")


def test_a_run_begins_with_it_and_notices_another(tmp_path, capsys):
    file, model, _ = packed(tmp_path)
    config, run = recipe(tmp_path, file), tmp_path / "run"
    assert main(["check", config]) == 0, capsys.readouterr().out
    assert main(["run", config, "--out", str(run)]) == 0
    base = load_model(str(run / "0-base" / "model"), torch.device("cpu"))
    assert all(torch.equal(value, base.state_dict()[name]) for name, value in model.state_dict().items())
    moved = file.rename(tmp_path / "moved.gguf")
    assert main(["run", recipe(tmp_path, moved), "--out", str(run)]) == 0
    assert "finished" in json.loads((run / "2-reasoning-rl" / "manifest.json").read_text())["status"]
    other, *_ = packed(tmp_path / "other", seed=1)
    moved.write_bytes(other.read_bytes())
    capsys.readouterr()
    assert main(["run", config, "--out", str(run)]) == 2
    assert f"contents of {moved}" in refused(capsys, 2)


def test_one_stage_starts_from_it(tmp_path, capsys):
    file, *_ = packed(tmp_path)
    config, run = recipe(tmp_path, file), tmp_path / "run"
    assert stage_command("reasoning_rl", [config, "--out", str(run), "--init", str(file)]) == 0
    manifest = json.loads((run / "2-reasoning-rl" / "manifest.json").read_text())
    assert list(manifest["parents"]) == ["init"]
    other, *_ = packed(tmp_path / "other", seed=1)
    with pytest.raises(grpo.UserError, match="parent init"):
        stage_command("reasoning_rl", [config, "--out", str(run), "--init", str(other)])


def test_it_is_evaluated_and_trained_from_python(tmp_path, cache):
    file, *_ = packed(tmp_path)
    data = DataConfig(**rows(tmp_path))
    by_file = grpo.evaluate(file, data, max_tokens=4, samples=2).metrics
    by_folder = grpo.evaluate(next(path for path in cache.iterdir() if path.is_dir()), data, max_tokens=4, samples=2)
    changing = {"seconds", "model"}
    assert by_file["model"] == str(file)
    same = {key for key, value in by_folder.metrics.items() if value == by_file[key]}
    assert by_file.keys() - same <= {*changing, *(key for key in by_file if "second" in key)}
    config = {
        "model": str(file), "out": str(tmp_path / "out"),
        "steps": 1, "group_size": 2, "prompts_per_step": 2, "sampling": SAMPLED,
    }  # fmt: skip
    result = grpo.train(config, ["accuracy"], data)
    assert result.metrics["logprob_mismatch_max"] < 1e-4


def test_the_command_evaluates_it(tmp_path, capsys):
    file, *_ = packed(tmp_path)
    data = rows(tmp_path)["path"]
    assert main(["eval", str(file), "--data", data, "--max-tokens", "4", "--out", str(tmp_path / "e.json")]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["model"] == str(file)
    file.write_bytes(file.read_bytes()[:5000])
    capsys.readouterr()
    assert main(["eval", str(file), "--data", data]) == 2
    assert "damaged, cut short" in refused(capsys, 2)
    assert main(["check", recipe(tmp_path, file)]) == 2
