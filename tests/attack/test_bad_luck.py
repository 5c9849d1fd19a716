"""Kills, races and hang-ups at bad moments: nothing is lost, and the same command goes on."""

import errno
import fcntl
import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest

from grpo.errors import UserError
from grpo.system.files import must_write, write_json, write_text
from stages.recipe.pipeline import BEGUN
from support.processes import PATHS, finish, start


def test_killed_while_the_first_record_of_a_stage_is_written(pipeline):
    """Before: "not a stage's folder" for ever."""
    pipeline.folder("base").mkdir(parents=True)
    (pipeline.folder("base") / "stage.json.partial").write_text('{"stage": "0-b')
    pipeline.go()
    assert pipeline.ran == ["base", "cold_start", "reasoning_rl"]
    assert not list(pipeline.run.rglob("*.partial"))


WRITE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from grpo.system.files import write_text
for number in range(60):
    write_text(Path(sys.argv[1]), sys.argv[2] * 5000)
"""


def test_two_processes_write_the_same_file(tmp_path):
    """Two stage scripts in one run folder write its config.yaml and summary.json. Before: 6 of 10 pairs lost one."""
    file = tmp_path / "config.yaml"
    both = [start("-c", WRITE, file, letter) for letter in "ab"]
    for process in both:
        done = finish(process)
        assert done.returncode == 0, done.stderr
    assert file.read_text() in ("a" * 5000, "b" * 5000)
    assert os.listdir(tmp_path) == ["config.yaml"]


PAIR = """\
base: {model}
helpfulness_model: {{data: {{fn: stages.tiny_world.preferences, kwargs: {{n: 8}}}}, steps: 2, batch_size: 2}}
safety_model: {{data: {{fn: stages.tiny_world.safety_labels, kwargs: {{n: 8}}}}, steps: 2, batch_size: 2}}
"""


@pytest.mark.slow
def test_two_stage_scripts_are_started_at_once_in_one_run_folder(tiny_model_folder, tmp_path):
    """Before: 6 of 10 pairs, one died."""
    (tmp_path / "pair.yaml").write_text(PAIR.format(model=tiny_model_folder))
    for number in range(10):
        run = tmp_path / f"run-{number}"
        words = (tmp_path / "pair.yaml", "--out", run, "--init", tiny_model_folder)
        for process in [start(f"stages/{stage}_model.py", *words) for stage in ("helpfulness", "safety")]:
            done = finish(process)
            assert done.returncode == 0, done.stderr
        for stage in ("helpfulness", "safety"):
            assert (run / f"reward-{stage}" / "manifest.json").is_file()
            assert (run / f"reward-{stage}" / "model" / "model.safetensors").is_file()
        assert (run / "config.yaml").is_file()
        assert json.loads((run / "summary.json").read_text())["seconds"] > 0
        assert not [path for path in run.rglob("*") if path.name.endswith(".partial") or path.name == ".lock"]


def test_a_partial_file_that_a_kill_left_is_in_nobodys_way(tmp_path):
    (tmp_path / "f.partial").write_text("half" * 100)
    write_text(tmp_path / "f", "whole")
    assert (tmp_path / "f").read_text() == "whole"
    assert os.listdir(tmp_path) == ["f"]


def test_a_stage_that_ends_while_the_summary_is_made_is_in_it(pipeline, monkeypatch):
    pipeline.go()
    manifest = pipeline.folder("reasoning_rl") / "manifest.json"
    aside = manifest.rename(manifest.with_suffix(".aside"))

    def other_ends(file, value):
        write_json(file, value)
        if aside.exists():
            aside.rename(manifest)

    monkeypatch.setattr("stages.recipe.summary.write_json", other_ends)
    pipeline.go(until="cold_start")
    summary = json.loads((pipeline.run / "summary.json").read_text())
    assert [row["stage"] for row in summary["stages"]] == ["0-base", "1-cold-start", "2-reasoning-rl"]


def test_from_that_was_stopped_goes_on_with_the_same_command(pipeline, caplog):
    """Before: it said so, and began anew, as often as it was stopped."""
    pipeline.go()
    for stop in ("cold_start", "reasoning_rl"):
        pipeline.fail = stop
        with pytest.raises(KeyboardInterrupt):
            pipeline.go(from_stage="cold_start")
    pipeline.fail = None
    pipeline.go(from_stage="cold_start")
    assert pipeline.ran[3:] == ["cold_start", "cold_start", "reasoning_rl", "reasoning_rl"]
    assert len(list(pipeline.run.glob("old-*"))) == 1
    assert "--from cold_start: going on with what this command began" in caplog.text
    assert not (pipeline.run / BEGUN).exists()
    pipeline.go(from_stage="cold_start")  # once it was done, the same words begin anew
    assert pipeline.ran[7:] == ["cold_start", "reasoning_rl"]
    assert len(list(pipeline.run.glob("old-*"))) == 2


@pytest.mark.parametrize("other", [{"from_stage": "reasoning_rl"}, {"from_stage": "cold_start", "until": "cold_start"},
                                   {"from_stage": "cold_start", "set": "cold_start.steps=3"}])  # fmt: skip
def test_from_of_another_command_begins_anew(pipeline, other):
    pipeline.go()
    pipeline.fail = "reasoning_rl"
    with pytest.raises(KeyboardInterrupt):
        pipeline.go(from_stage="cold_start")
    pipeline.fail = None
    options = dict(other)
    words = [options.pop("set")] if "set" in options else []
    pipeline.go(*words, **options)
    assert len(list(pipeline.run.glob("old-*"))) == 2


def test_killed_while_the_old_stages_are_moved_aside(pipeline, monkeypatch):
    """Nothing finished is taken for what `--from` was to make."""
    pipeline.go()
    plain = Path.rename

    def killed(self, target):
        if self.name == "1-cold-start":
            raise KeyboardInterrupt
        return plain(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.go(from_stage="cold_start")
    pipeline.go(from_stage="cold_start")
    assert pipeline.ran[3:] == ["cold_start", "reasoning_rl"]


HUNG_UP = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from grpo.system import stopping
with stopping.handled(ends=True):
    try:
        with stopping.later():
            print("ready", flush=True)
            while not stopping.asked():
                time.sleep(0.01)
            for _ in range(30):
                print("step", flush=True)
                print("step", file=sys.stderr, flush=True)
                time.sleep(0.01)
            Path(sys.argv[1]).write_text("saved")
    except stopping.Stopped as stopped:
        sys.exit(128 + stopped.signal)
"""


def test_a_terminal_that_is_closed_is_as_a_sigterm(tmp_path):
    """Before: the steps since the last checkpoint were lost. What is printed afterwards is no error either."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", HUNG_UP, str(tmp_path / "saved")],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), env=os.environ | {"PYTHONPATH": PATHS},
    )  # fmt: skip
    os.close(theirs)
    assert os.read(ours, 5) == b"ready"
    os.close(ours)
    assert process.wait(60) == 129
    assert (tmp_path / "saved").read_text() == "saved"


@pytest.mark.parametrize("make", ["os.open", "pathlib.Path.mkdir"])
def test_no_inodes_left(tmp_path, monkeypatch, make):
    """`df` shows free bytes, and no file can be made: the line says so, what was there stays, and it goes on after."""
    file = tmp_path / "new" / "state.json"
    if make == "os.open":
        write_text(file, "before")

    def none_left(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    with monkeypatch.context() as patch:
        patch.setattr(make, none_left)
        patch.setattr("os.statvfs", lambda _: SimpleNamespace(f_favail=0, f_frsize=1, f_bavail=10**12, f_blocks=10**13))
        patch.setattr("grpo.system.files.free_bytes", lambda _: 10**12)
        words = "cannot write.*no inodes left: it holds too many files; once that is mended"
        with pytest.raises(UserError, match=words), must_write(file, 100):
            write_text(file, "after")
    assert [entry.read_text() for entry in tmp_path.rglob("*.json")] == (["before"] if make == "os.open" else [])
    write_text(file, "after")
    assert os.listdir(file.parent) == ["state.json"]
