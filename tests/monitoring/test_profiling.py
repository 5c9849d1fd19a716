"""The profile of a run: which steps, what is in the trace, the table of phases."""

import gzip
import json
import logging
from typing import Any

import pytest

from grpo.config.engine import RuntimeConfig
from grpo.errors import UserError
from grpo.monitoring.profiling import phase_table
from stages.commands.run import run_command
from stages.recipe.lineage import stage_settings
from support.runs import config_of, rows_of, run

TWO = RuntimeConfig(device="cpu", profile=2)


def test_profile_of_a_run(tiny_model_folder, tmp_path, caplog):
    """A trace of the steps asked for, with the loop's phases in it, after a step that is not traced."""
    with caplog.at_level(logging.WARNING, "grpo"):
        run(tiny_model_folder, tmp_path, config_of(steps=4), runtime=TWO)
    folder, rows = tmp_path / "profile", rows_of(tmp_path, timings=True)
    trace = json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))
    names = [event.get("name") for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
    assert names.count("update") == 2
    assert {"generate", "reward", "score", "sync"} <= set(names)
    table = (folder / "table.txt").read_text()
    assert phase_table(rows[1:3]) in table
    assert "aten::" in table
    assert str(folder / "trace.json.gz") in caplog.text
    assert [row["mfu"] for row in rows] == [None] * 4  # a CPU's peak has no name
    assert all(row["executed_tokens"] > 0 and row["update_flops"] > 0 for row in rows if row["applied"])


def test_profile_of_a_run_too_short(tiny_model_folder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "grpo"):
        run(tiny_model_folder, tmp_path, config_of(steps=1), runtime=TWO)
    assert "nothing was profiled" in caplog.text
    assert not (tmp_path / "profile").exists()


def test_table_of_phases():
    idle = {f"seconds/{phase}": 0.0 for phase in ("reward", "score", "sync", "save")}
    table = phase_table([{"step": 3, "seconds": 4.0, "seconds/generate": 1.0, "seconds/update": 3.0} | idle])
    assert [line.split() for line in table.splitlines()] == [
        ["phase", "step", "3", "share"],
        ["generate", "1.000", "25.0%"],
        ["reward", "0.000", "0.0%"],
        ["score", "0.000", "0.0%"],
        ["update", "3.000", "75.0%"],
        ["sync", "0.000", "0.0%"],
        ["save", "0.000", "0.0%"],
        ["all", "4.000", "100.0%"],
    ]


def test_profile_option(tmp_path, monkeypatch):
    """It is the setting runtime.profile, and no part of what a stage is made from."""
    asked: list[Any] = []
    monkeypatch.setattr("stages.recipe.pipeline.run_pipeline", lambda config, *rest: asked.append(config))
    for option in ([], ["--profile", "3"]):
        run_command(["tiny.yaml", "--out", str(tmp_path), *option])
    plain, profiled = asked
    assert (plain.runtime.profile, profiled.runtime.profile) == (None, 3)
    assert stage_settings(plain, "reasoning_rl") == stage_settings(profiled, "reasoning_rl")
    with pytest.raises(UserError, match=r"runtime\.profile"):
        run_command(["tiny.yaml", "--out", str(tmp_path), "--profile", "0"])
