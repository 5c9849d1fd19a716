"""Input that no one would write, and environments that no one meant: one line, exit 2, no traceback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from grpo.config.data import DataConfig
from grpo.config.file import validate
from grpo.config.yaml import load_yaml
from grpo.data.rows import load_rows
from grpo.errors import UserError
from grpo.scoring.calls import CallFailed
from grpo.scoring.job import as_number
from grpo.system import world
from stages.cli import main
from stages.recipe.config import RecipeConfig
from support.command import refused
from support.processes import PATHS, ROOT
from support.recipes import SMALL, changed

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)
TEXTS = {
    "aliases": (BOMB, "aliases stand for more than 100,000 values"),
    "deep": ("a: " + "[" * 100_000 + "]" * 100_000, "not valid YAML"),
    "rather deep": ("seed: " + "{a: " * 150 + "1" + "}" * 150, "line 1: more than 64 sections or lists in each other"),
    "digits": ("seed: " + "9" * 5000, "not valid YAML"),
    "a seed": ("seed: " + "9" * 400, "'seed': is beyond 9.22e+18"),
    "a surrogate": ('base: "\\ud800"', "c.yaml"),
    "zeros": ('base: "a\\0b"', "c.yaml"),
    "control": ("base: a\x07b", "c.yaml"),
    "anchors": ("a: *nothing", "c.yaml"),
    "itself": ("a: &a [*a]", "what contains itself"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_config_that_no_one_would_write(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text, words = TEXTS[name]
    Path("c.yaml").write_bytes(text.encode())
    code = main(["run", "c.yaml"])
    line = refused(capsys, code)
    assert words in line
    assert len(line) < 600


def test_aliases_that_are_few_are_read():
    assert load_yaml("a: &a {x: 1}\nb: [*a, *a]", "c") == {"a": {"x": 1}, "b": [{"x": 1}, {"x": 1}]}


@pytest.mark.parametrize("setting", [
    "runtime.threads=1000000", "cold_start.steps=99999999999999999999", "cold_start.batch_size=99999999999",
    "cold_start.optimizer.lr=1e300", "reasoning_rl.loss.beta=1e300", "reasoning_rl.loss.clip_high=1e300",
    "reasoning_rl.group_size=10000000000", "seed=99999999999999999999", "reasoning_rl.sampling.temperature=1e300",
    f"seed={'9' * 5000}",
])  # fmt: skip
def test_absurd_numbers_are_refused(setting):
    """Before: threads=1,000,000 was a SIGSEGV, beta=1e300 a loss that is no number."""
    with pytest.raises(UserError) as caught:
        validate(RecipeConfig, changed(SMALL, setting), "config 'c.yaml'")
    assert "\n" not in str(caught.value)


LAUNCHES = [
    ({"RANK": "x"}, "RANK=x is not a number of a process"), ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE=2.0"),
    ({"LOCAL_RANK": "first"}, "LOCAL_RANK=first"), ({"RANK": "-1"}, "RANK=-1"), ({"RANK": "1" * 30}, "RANK=1"),
    ({"RANK": "1"}, "RANK=1 is none of WORLD_SIZE=1 processes"), ({"WORLD_SIZE": "0"}, "none of WORLD_SIZE=0"),
    ({"WORLD_SIZE": "-2"}, "WORLD_SIZE=-2"), ({"WORLD_SIZE": "2"}, "RANK and MASTER_ADDR and MASTER_PORT are not set"),
    ({"WORLD_SIZE": "2", "RANK": "5", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK=5 is none of WORLD_SIZE=2"),
    ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "x"}, "MASTER_PORT=x is no port"),
]  # fmt: skip


@pytest.mark.parametrize(("environment", "words"), LAUNCHES)
def test_odd_ranks(environment, words, monkeypatch, capsys):
    """Before: tracebacks, and RANK=1 alone did all the work and wrote nothing."""
    for name in (*world.LAUNCH, "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert words in refused(capsys, main(["--help"]))


def test_processes_that_cannot_meet(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        assert f"the other processes cannot be met at 127.0.0.1:{port}: " in refused(capsys, main(["--help"]))


@pytest.mark.parametrize("empty", [{"RANK": ""}, {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "3"}])
def test_ranks_of_one_process(empty, monkeypatch, capsys):
    for name, value in empty.items():
        monkeypatch.setenv(name, value)
    assert main(["--help"]) == 0
    assert not world.launched()


def command(words, **streams):
    environment = os.environ | {"PYTHONPATH": PATHS}
    line = f"{sys.executable} -m stages.cli {words}"
    return subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment, text=True, capture_output=True, timeout=200,
                          check=False, **streams)  # fmt: skip


@pytest.mark.parametrize(("words", "code"), [
    ("--help >&-", 0), ("nothing >&-", 2), ("--help 2>&-", 0), ("nothing 2>&-", 2), ("--help <&- >&- 2>&-", 0),
    ("--help >/dev/full", 2), ("nothing 2>/dev/full", 2), ("--help | true; exit ${PIPESTATUS[0]}", 141),
    ("nothing 2>&1 | true; exit ${PIPESTATUS[0]}", 2),
])  # fmt: skip
def test_closed_and_full_streams(words, code):
    done = command(words)
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("words", [
    ["check", "loop"], ["run", "c.yaml", "--out", "loop"], ["run", "c.yaml", "--out", "loop/x"], ["view", "loop"],
    ["run", "c.yaml", "--out", "new", "base=./loop"], ["score", "loop", "--reward", "accuracy"],
    ["compare", "loop", "loop"], ["eval", "loop", "--data", "t.jsonl"], ["view", "round", "--html", "loop"],
])  # fmt: skip
def test_links_that_lead_to_themselves(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    Path("round").mkdir()
    os.symlink("..", "round/up")
    Path("t.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}))
    Path("c.yaml").write_text("base: ./none\ncold_start: {data: t.jsonl, steps: 1}\n")
    code = main(words)
    assert refused(capsys, code)
    for path in ("loop", "round", "*/up/*/*.jsonl"):
        with pytest.raises(UserError, match="data '"):
            load_rows(DataConfig(path=f"./{path}"))


@pytest.mark.parametrize("value", [1e200, -1e200, 10**40, float("inf"), float("nan")])
def test_a_reward_that_no_advantage_can_be_made_of_is_none(value):
    """Before: two of them 1e200 apart gave advantages of 0, or none that is a number."""
    with pytest.raises(CallFailed, match="returned"):
        as_number(value)
    assert as_number(1e9) == 1e9
