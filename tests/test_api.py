"""The library as two calls: what may be handed in, and what is refused before anything is computed."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import grpo
from grpo.config.engine import RuntimeConfig
from grpo.errors import UserError
from grpo.scoring.table import Reward
from grpo.system.runtime import apply_runtime

ROWS = [{"question": f"{a}+1", "answer": str(a + 1)} for a in range(4)]


@pytest.fixture(autouse=True)
def _settings_of_the_process():
    """They are the process's own: put back what a run has set."""
    logger, threads = logging.getLogger("grpo"), torch.get_num_threads()
    level = logger.level
    yield
    logger.setLevel(level)
    torch.set_num_threads(threads)


def config(model: Path, out: Path, **runtime: Any) -> dict[str, Any]:
    return {
        "model": str(model), "out": str(out), "steps": 1, "group_size": 2, "prompts_per_step": 1,
        "sampling": {"max_tokens": 3}, "optimizer": {"lr": 1e-4}, "runtime": {"device": "cpu", **runtime},
    }  # fmt: skip


def longer(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(messages[-1]["content"])) for messages in completions]


def data_file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_path_names_and_functions(tiny_model_folder, tmp_path):
    own = Reward("own", longer, weight=0.5)
    rewards = [longer, own, "accuracy", {"fn": "rewards.format.format_reward", "weight": 0}]
    result = grpo.train(config(tiny_model_folder, tmp_path / "run"), rewards, data_file(tmp_path, ROWS))
    assert {"reward/longer", "reward/own", "reward/accuracy", "reward/format_reward"} <= result.metrics.keys()
    assert (result.model / "config.json").is_file()
    # It is the function also after a submodule of its name could have taken its place.
    found = grpo.evaluate(result.model, data_file(tmp_path, ROWS), max_tokens=3)
    assert found["n_problems"] == 4


def test_rows_whose_gold_cannot_be_read_are_dropped(tiny_model_folder, tmp_path, caplog):
    rows = [*ROWS, {"question": "x", "answer": "forty two"}, {"question": "y"}]
    with caplog.at_level(logging.WARNING, "grpo"):
        grpo.train(config(tiny_model_folder, tmp_path / "run"), ["accuracy"], rows)
    assert "2 of 6 golds cannot be read: dropped" in caplog.text
    with pytest.raises(grpo.UserError, match="no row has a gold that can be read"):
        grpo.train(config(tiny_model_folder, tmp_path / "none"), ["accuracy"], rows[-2:])


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([5], "reward 5: give a function"),
        ([Reward("five", 5)], "reward 'five': int is not a function"),  # type: ignore[arg-type]
        (["acuracy"], "did you mean 'accuracy'"),
        ("accuracy", "give a list"),
        (longer, "give a list"),
        ([], "at least one"),
    ],
)
def test_rewards_that_are_none(tiny_model_folder, tmp_path, rewards, message):
    with pytest.raises(grpo.UserError, match=message):
        grpo.train(config(tiny_model_folder, tmp_path / "run"), rewards, ROWS)
    assert not (tmp_path / "run").exists()


def test_threads_and_log_level_are_taken(tiny_model_folder, tmp_path):
    grpo.train(config(tiny_model_folder, tmp_path / "run", threads=2, log_level="error"), [longer], ROWS)
    assert torch.get_num_threads() == 2
    assert logging.getLogger("grpo").level == logging.ERROR
    runtime = RuntimeConfig(device="cpu", threads=1, log_level="warning")
    grpo.evaluate(str(tiny_model_folder), ROWS, max_tokens=2, runtime=runtime)
    assert torch.get_num_threads() == 1
    assert logging.getLogger("grpo").level == logging.WARNING


def test_changed_settings_go_on_when_accepted(tiny_model_folder, tmp_path):
    settings = config(tiny_model_folder, tmp_path / "run") | {"checkpoint": {"every": 1}}
    data = data_file(tmp_path, ROWS)
    grpo.train(settings, [longer], data)
    with pytest.raises(UserError, match=r"\(steps: 1 -> 2\).*accept_changes=True"):
        grpo.train(settings | {"steps": 2}, [longer], data)
    assert grpo.train(settings | {"steps": 2}, [longer], data, accept_changes=True).steps == 2


def test_held_out_rows_on_the_way(tiny_model_folder, tmp_path):
    held = [{"question": f"{a}+3", "answer": str(a + 3)} for a in range(3)]
    settings = config(tiny_model_folder, tmp_path / "run")
    evaluation = {"data": held, "every": {"steps": 1, "problems": 2}, "samples": 2, "k": [2], "temperature": 1.0}
    result = grpo.train(settings, [longer], ROWS, evaluation=evaluation)
    assert {"eval/pass@1", "eval/pass@2", "eval/no_answer_rate"} <= result.metrics.keys()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["eval/pass@1"] is not None) for row in rows] == [(0, True), (1, True)]
    of_file = {"data": data_file(tmp_path, held), "every": 1, "accuracy": one}
    assert grpo.train(config(tiny_model_folder, tmp_path / "own"), [longer], ROWS, evaluation=of_file).metrics[
        "eval/pass@1"
    ] == 1.0  # fmt: skip


def one(completions: list[Any], **_: Any) -> list[float]:
    return [1.0] * len(completions)


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"every": 5}, r'evaluation: give \{"data": held-out rows or a file of them, "every": steps\}'),
        ("held.jsonl", r'evaluation: give \{"data"'),
        ({"data": ROWS}, "evaluation: 'every' is missing"),
        ({"data": ROWS, "evry": 5}, "unknown key 'evry'.*did you mean 'every'"),
        ({"data": [], "every": 5}, "evaluation: no problems"),
        ({"data": [{"question": "1+1"}], "every": 5}, "no column answer"),
        ({"data": ROWS, "every": 5, "format": "format"}, "'format' is of a recipe"),
        ({"data": ROWS, "every": {"steps": 5, "samples": 2}, "temperature": 0}, "'every.samples' must be 1"),
        ({"data": ROWS, "every": 5, "accuracy": "acuracy"}, "did you mean 'accuracy'"),
    ],
)
def test_an_evaluation_that_is_none(tiny_model_folder, tmp_path, evaluation, message):
    with pytest.raises(grpo.UserError, match=message):
        grpo.train(config(tiny_model_folder, tmp_path / "run"), [longer], ROWS, evaluation=evaluation)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_accelerate_is_told_how_many_threads_a_process_has(monkeypatch):
    """Without the variable it gives each process of a launch all cores of a CPU, whatever `runtime.threads` says."""
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    apply_runtime(RuntimeConfig(threads=3), 0)
    assert os.environ["OMP_NUM_THREADS"] == ""
    monkeypatch.setenv("WORLD_SIZE", "2")
    apply_runtime(RuntimeConfig(threads=3), 0)
    assert (os.environ["OMP_NUM_THREADS"], torch.get_num_threads()) == ("3", 3)
