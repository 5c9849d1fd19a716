"""A small recipe, and a run folder whose stages are fakes."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from grpo.config.file import read_config
from grpo.config.yaml import dump_yaml
from grpo.data.rows import write_jsonl
from stages.recipe.config import RecipeConfig
from stages.recipe.pipeline import run_pipeline
from stages.recipe.table import STAGES, StageContext

METRICS = {
    "n_problems": 4, "pass@1": 0.5, "pass@1_ci95": [0.2, 0.8], "format_rate": 1.0, "language_consistency": None,
    "general": None, "general_ci95": None, "helpfulness": None, "helpfulness_ci95": None, "safety": None,
    "safety_ci95": None, "over_refusal": None, "seconds": 1.0,
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """On local files; base, cold start and reasoning RL only."""
    for name, questions in {"train": ["2+2", "3+3"], "test": ["4+4"]}.items():
        write_jsonl(tmp_path / f"{name}.jsonl", [{"question": text, "answer": "4"} for text in questions])
    train, test = ({"path": str(tmp_path / f"{name}.jsonl")} for name in ("train", "test"))
    return {
        "evaluation": {"math": {"data": test, "max_tokens": 8, "format": {"fn": "format"}}},
        "base": {"model": "some/base"},
        "cold_start": {"data": train, "steps": 2, "batch_size": 2, "max_tokens": 16, "optimizer": {"lr": 1e-3}},
        "reasoning_rl": {
            "steps": 2, "group_size": 2, "prompts_per_step": 2, "sampling": {"max_tokens": 8},
            "optimizer": {"lr": 1e-3}, "tasks": {"math": {"data": train, "rewards": [{"fn": "accuracy"}]}},
        },
    }  # fmt: skip


class Pipeline:
    """`grpo run` into the folder `run`, of stages that leave a folder called model/ and remember their calls."""

    def __init__(self, recipe: dict[str, Any], folder: Path) -> None:
        self.recipe, self.run = recipe, folder / "run"
        self.ran: list[str] = []
        self.contexts: dict[str, StageContext] = {}
        self.evaluated: list[str] = []
        self.fail: str | None = None

    def go(self, *overrides: str, **options: Any) -> dict[str, Any]:
        file = self.run.parent / "recipe.yaml"
        file.write_text(dump_yaml(self.recipe))
        return run_pipeline(read_config(RecipeConfig, file, overrides), self.run, "recipe.yaml", **options)

    def interrupted(self, at: str) -> None:
        """Ctrl-C in this stage, or in the evaluation of the first."""
        self.fail = at
        with pytest.raises(KeyboardInterrupt):
            self.go()
        self.fail = None

    def folder(self, key: str) -> Path:
        return self.run / STAGES[key].folder

    def manifest(self, key: str) -> dict[str, Any]:
        return json.loads((self.folder(key) / "manifest.json").read_text())

    def stage(self, context: StageContext) -> dict[str, Any]:
        self.ran.append(context.key)
        self.contexts[context.key] = context
        (context.folder / "seen").write_text("x")
        if self.fail == context.key:
            raise KeyboardInterrupt
        (context.folder / "model").mkdir(exist_ok=True)
        write_jsonl(context.folder / "data" / "rows.jsonl", [{"question": "2 + 2"}])
        return {"tokens": 7, "data_hashes": {"rows": "abc"}, "loss": 0.1}

    def evaluate(self, config: RecipeConfig, folder: Path, main: bool, sets: list[str]) -> dict[str | None, Any]:
        self.evaluated += [folder.name] * main + [f"{folder.name} {name}" for name in sets]
        if self.fail == "evaluation":
            raise KeyboardInterrupt
        return dict.fromkeys([None] * main + sets, METRICS)


@pytest.fixture
def pipeline(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    fake = Pipeline(recipe, tmp_path)
    for key in ("base", "cold_start", "reasoning_rl"):
        module = types.ModuleType(f"stages.{key}")
        module.run = lambda context: fake.stage(context)  # a test may put another in its place
        monkeypatch.setitem(sys.modules, f"stages.{key}", module)
    monkeypatch.setattr("stages.recipe.evaluation.evaluate_stage", fake.evaluate)
    monkeypatch.setattr("grpo.model.loading.weights.examine", lambda model: None)  # its models are names
    return fake
