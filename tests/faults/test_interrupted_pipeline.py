"""A pipeline that is killed, or stopped, once in each stage ends as the one left alone: summary, metrics, models, data.

The recipe is that of `test_whole_run.py` with a few steps more. Every attempt is a forked process, so that the imports
are paid for once.
"""

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from faults.torture import before
from grpo import trainer
from grpo.engines.local.engine import LocalEngine
from grpo.supervised import checkpoints as hf_checkpoints
from grpo.supervised import training as hf_training
from grpo.system.records import SUM
from stages import rejection_sampling
from stages.cli import main
from stages.recipe import evaluation, runner
from stages.recipe.parts import Parts
from support.processes import end_of, fork
from support.recipe import SHORT

SMALL = [
    *SHORT,
    "base.steps=12",
    "base.pretrain.checkpoint.every=4",
    "cold_start.steps=8",
    "cold_start.checkpoint.every=3",
    "reasoning_rl.steps=5",
    "reasoning_rl.checkpoint.every=2",
    "rejection_sampling.steps=8",
    "rejection_sampling.checkpoint.every=3",
    "rejection_sampling.data.kwargs.n=40",
    "helpfulness_model.steps=6",
    "helpfulness_model.checkpoint.every=2",
    "safety_model.steps=6",
    "safety_model.checkpoint.every=2",
    "helpfulness_rl.steps=5",
    "helpfulness_rl.checkpoint.every=2",
    "helpfulness_rl.tasks.general.last_steps=3",
]
# (stage, what of it is interrupted, the how-manieth in that attempt)
MOMENTS = [
    ("0-base", "step", 7),
    ("0-base", "evaluation", 1),
    ("1-cold-start", "step", 5),
    ("2-reasoning-rl", "update", 4),
    ("3-rejection-sampling", "part", 2),
    ("3-rejection-sampling", "step", 7),
    ("reward-helpfulness", "step", 4),
    ("reward-safety", "save", 2),
    ("4-helpfulness-rl", "sampling", 4),
    ("4-helpfulness-rl", "evaluation", 1),
]
TIMED = ("seconds", "tokens_per_second", "mfu", "finished")


def interrupt(moment: tuple[str, str, int], number: int) -> None:
    """Send this process the signal when the moment comes. For good."""
    stage, name, left = moment
    current = ""

    def begins(planned: Any) -> str:
        nonlocal current
        current = planned.stage.folder
        return "begins"

    def event(happened: str) -> None:
        nonlocal left
        left -= (current, happened) == (stage, name)
        if left == 0 and (current, happened) == (stage, name):
            os.kill(os.getpid(), number)

    before(event, runner, "_begin", begins)
    before(event, hf_training.StepLog, "on_log", lambda *_, **__: "step")
    before(event, hf_checkpoints, "seal_as", lambda *_: "save")
    before(event, trainer, "update", lambda *_, **__: "update")
    before(event, LocalEngine, "generate", lambda *_, **__: "sampling")
    before(event, Parts, "add", lambda *_: "part")
    before(event, evaluation, "evaluate_stage", lambda *_: "evaluation")


def attempt(out: Path, moment: tuple[str, str, int] | None = None, number: int = 0) -> int:
    """One start of the command; its exit code, or minus the signal."""

    def work() -> int:
        torch.set_num_threads(1)
        rejection_sampling.PROMPTS_AT_A_TIME = 16
        if moment is not None:
            interrupt(moment, number)
        return main(["run", "tiny.yaml", "--out", str(out), *SMALL])

    return end_of(fork(out.with_suffix(".log"), work))


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if not key.startswith(TIMED) and key != SUM}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def left_in(run: Path) -> dict[str, Any]:
    """Name -> content of what a run leaves, without times and their checksums; of what is no JSON, its hash."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in run.rglob("*") if path.is_file() and "checkpoints" not in path.parts):
        name, data = str(file.relative_to(run)), file.read_bytes()
        if file.suffix in (".json", ".jsonl"):
            text = data.decode().replace(str(run), "RUN")
            lines = [text] if file.suffix == ".json" else text.split("\n")
            found[name] = [untimed(json.loads(line)) for line in lines if line]
        else:
            found[name] = hashlib.sha256(data).hexdigest()
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    run = tmp_path_factory.mktemp("alone") / "run"
    assert attempt(run) == 0, run.with_suffix(".log").read_text()[-3000:]
    return run


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_interrupted_once_in_each_stage_it_ends_as_the_one_left_alone(number, alone, tmp_path):
    run = tmp_path / "run"
    log = run.with_suffix(".log")
    for moment in MOMENTS:
        expected = -number if number == signal.SIGKILL else 128 + number
        assert attempt(run, moment, number) == expected, (moment, log.read_text()[-3000:])
        assert not (run / "summary.json").exists()
    assert attempt(run) == 0, log.read_text()[-3000:]
    assert "Traceback" not in log.read_text()
    ours, theirs = left_in(run), left_in(alone)
    assert ours["summary.json"] == theirs["summary.json"]
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name] != theirs[name]] == []
    for stage in ("0-base", "2-reasoning-rl", "reward-helpfulness"):
        names = {file.name for file in (alone / stage / "checkpoints").iterdir()}
        assert names == {file.name for file in (run / stage / "checkpoints").iterdir()} or number == signal.SIGTERM
