"""Runs of what the shortest recipes leave open: no evaluation, and whatever engine there is."""

import logging
from pathlib import Path

import pytest

from grpo.config.yaml import load_yaml
from grpo.data.rows import write_jsonl
from grpo.engines import choose
from grpo.errors import UserError
from grpo.evaluation.metrics import GENERAL_METRICS
from stages.recipe import summary as summaries

ALL = ["base", "cold_start", "reasoning_rl"]


def test_without_an_evaluation_the_cells_are_empty_and_one_line_says_so(pipeline, capsys):
    del pipeline.recipe["evaluation"]
    summary = pipeline.go()
    assert pipeline.evaluated == []
    assert [row["stage"] for row in summary["stages"]] == ["0-base", "1-cold-start", "2-reasoning-rl"]
    for row in summary["stages"]:
        assert set(row) == {"stage", "seconds", *summaries.KEYS}
        assert all(row[key] is None for key in summaries.KEYS)
    assert "No pass@1: the config has no evaluation.math" in capsys.readouterr().out
    assert pipeline.manifest("base")["metrics"] == {}
    pipeline.go()
    assert pipeline.ran == ALL


def test_general_prompts_need_no_problems_beside_them(pipeline, capsys):
    test = pipeline.recipe.pop("evaluation")["math"]["data"]
    rules = dict.fromkeys(GENERAL_METRICS, "format")
    pipeline.recipe["evaluation"] = {"general": {"data": test, "max_tokens": 4, **rules}}
    pipeline.go()
    assert pipeline.evaluated == ["0-base", "1-cold-start", "2-reasoning-rl"]
    assert "No pass@1: the config has no evaluation.math" in capsys.readouterr().out
    write_jsonl(Path(test["path"]), [{"question": "2+2"}])  # what is trained on
    with pytest.raises(UserError, match="row 1 holds the evaluation problem '2\\+2'"):
        pipeline.go(from_stage="base")


def test_an_evaluation_that_comes_later_is_made_and_one_that_goes_away_leaves_its_numbers(pipeline):
    evaluation = pipeline.recipe.pop("evaluation")
    pipeline.go()
    pipeline.recipe["evaluation"] = evaluation
    assert pipeline.go()["stages"][0]["pass@1"] == 0.5
    assert len(pipeline.evaluated) == 3
    del pipeline.recipe["evaluation"]
    assert pipeline.go()["stages"][0]["pass@1"] == 0.5
    assert len(pipeline.evaluated) == 3
    assert pipeline.ran == ALL


@pytest.mark.parametrize("kind", ["local", "vllm-server"])
def test_a_run_goes_on_with_the_engine_it_was_begun_with(pipeline, kind):
    """`local` was the default before `auto` was."""
    pipeline.go(f"engine={kind}", until="base")
    pipeline.recipe["engine"] = kind
    pipeline.interrupted("cold_start")
    del pipeline.recipe["engine"]
    pipeline.go()
    assert pipeline.ran == ["base", "cold_start", "cold_start", "reasoning_rl"]
    kinds = {key: context.config.engine.kind for key, context in pipeline.contexts.items()}
    assert kinds == {"base": kind, "cold_start": kind, "reasoning_rl": "auto"}


def test_what_auto_is_here_is_said_and_changes_no_hash(pipeline, monkeypatch, caplog):
    with caplog.at_level(logging.INFO, "grpo"):
        pipeline.go()
    assert "engine: auto is 'local' here, for the run is on cpu" in caplog.text
    assert pipeline.manifest("reasoning_rl")["engine"] == "local"
    monkeypatch.setattr(choose, "chosen", lambda _: ("vllm", "it is installed"))
    pipeline.go()  # on another machine
    assert pipeline.ran == ALL
    assert load_yaml((pipeline.run / "config.yaml").read_text(), "c")["engine"]["kind"] == "auto"
