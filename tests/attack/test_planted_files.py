"""Files that somebody else has put where ours are written or read: links, names that lead elsewhere, modules."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from grpo.engines.vllm.weights import weight_files
from grpo.errors import UserError
from grpo.model.export.folder import whole_folder
from grpo.monitoring.metrics import MetricsWriter
from grpo.system.files import append_text, write_text
from grpo.system.imports import import_path
from grpo.system.lock import LOCK, lock_run
from grpo.system.private import PREFIX, private_folder, read_private, write_private
from grpo.system.world import World
from stages.commands.common import read_recipe
from support.processes import PATHS

TASK = "{data: {path: x.jsonl}, rewards: [accuracy]}"


def test_weights_are_of_our_user_alone_under_names_that_nobody_can_know(tmp_path):
    names = []
    for _ in range(2):
        with private_folder(tmp_path) as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            for part in weight_files(iter([("a", torch.ones(3))]), folder):
                file = tmp_path / part["name"]
                assert stat.S_IMODE(file.stat().st_mode) == 0o600
                assert read_private(tmp_path, *part["name"].split("/")) == file.read_bytes()
                names += part["name"].split("/")
        assert not list(tmp_path.iterdir())
    assert len(set(names)) == 4


def test_a_link_in_the_place_of_weights_is_not_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a").symlink_to(victim)
    os.link(victim, tmp_path / "b")
    for name in ("a", "b"):
        with pytest.raises(FileExistsError):
            write_private(tmp_path, name, b"weights")
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_what_lies_in_a_models_place_costs_no_trained_weights(kind, tmp_path):
    """Before: an error at the very end, and the finished weights were removed."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "mine").write_text("mine")
    if kind == "file":
        (tmp_path / "model").write_text("text")
    else:
        (tmp_path / "model").symlink_to(victim if kind == "link" else tmp_path / "nothing")
    with whole_folder(tmp_path / "model") as begun:
        (begun / "weights").write_text("trained")
    assert not (tmp_path / "model").is_symlink()
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["weights"]
    assert (victim / "mine").read_text() == "mine"


def test_weights_of_others_are_not_read(tmp_path):
    with private_folder(tmp_path) as folder:
        write_private(folder, "w", b"weights")
        (folder / "link").symlink_to(folder / "w")
        (tmp_path / f"{PREFIX}link").symlink_to(folder)
        for place, name in ((folder.name, "link"), (f"{PREFIX}link", "w")):
            with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
                read_private(tmp_path, place, name)
        for place, name in (("..", "w"), (folder.name, "../w"), ("", "w"), (folder.name, ""), ("other", "w")):
            with pytest.raises(ValueError, match="not a file that was written for us"):
                read_private(tmp_path, place, name)
        for open_to_others in (folder / "w", folder):
            before = stat.S_IMODE(open_to_others.stat().st_mode)
            open_to_others.chmod(before | 0o044)
            with pytest.raises(ValueError, match="not of our user alone"):
                read_private(tmp_path, folder.name, "w")
            open_to_others.chmod(before)


def test_what_a_killed_trainer_left_is_swept_and_what_another_uses_is_not(tmp_path):
    code = f"""
import pathlib, sys, time
from grpo.system.private import private_folder
with private_folder(pathlib.Path({str(tmp_path)!r})) as folder:
    (folder / "w").write_bytes(b"w")
    print(folder, flush=True)
    time.sleep(600)
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": PATHS}
    )
    assert other.stdout is not None
    left = Path(other.stdout.readline().strip())
    try:
        with private_folder(tmp_path):
            assert (left / "w").exists()
    finally:
        other.kill()
        other.wait()
    (tmp_path / "grpo-mine").mkdir()
    with private_folder(tmp_path):
        assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["grpo-mine"]


@pytest.mark.parametrize("kind", ["link", "dangling", "hard", "empty hard", "file", "folder", "fifo"])
def test_a_lock_file_that_is_none_is_left_alone(tmp_path, kind):
    """It was emptied, filled with the process's number, and deleted."""
    run, victim = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    victim.write_text("" if kind == "empty hard" else "mine")
    lock = run / LOCK
    if kind in ("link", "dangling"):
        lock.symlink_to(victim if kind == "link" else tmp_path / "nothing")
    elif "hard" in kind:
        os.link(victim, lock)
    elif kind == "file":
        lock.write_text("mine")
    elif kind == "fifo":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    start = time.monotonic()
    with pytest.raises(UserError, match="is not the lock of a run: remove it"), lock_run(run, World()):
        pass
    assert time.monotonic() - start < 5
    assert victim.read_text() == ("" if kind == "empty hard" else "mine")
    assert os.path.lexists(lock)
    assert not (tmp_path / "nothing").exists()


def test_the_lock_of_a_run_that_was_killed_is_taken(tmp_path):
    for left in ("", "process 1 on somewhere\n"):
        (tmp_path / LOCK).write_text(left)
        with lock_run(tmp_path, World()):
            assert str(os.getpid()) in (tmp_path / LOCK).read_text()
        assert not (tmp_path / LOCK).exists()


def test_no_file_is_written_through_a_link_beside_it(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for plant in (os.symlink, os.link, lambda _, file: os.mkfifo(file)):
        plant(victim, tmp_path / "a.json.partial")
        write_text(tmp_path / "a.json", "ours")
        assert (victim.read_text(), (tmp_path / "a.json").read_text()) == ("mine", "ours")
        assert not (tmp_path / "a.json").is_symlink()


def test_nothing_is_added_to_a_file_behind_a_link(tmp_path):
    """Before: rows of metrics and paid answers went through it."""
    victim, file = tmp_path / "victim", tmp_path / "metrics.jsonl"
    for target in (victim, tmp_path / "new"):
        file.symlink_to(target)
        with pytest.raises(OSError, match="symbolic link"):
            append_text(file, "ours")
        file.unlink()
    os.mkfifo(file)
    with pytest.raises(OSError, match="No such device"):
        append_text(file, "ours")
    file.unlink()
    victim.write_text("mine,")
    os.link(victim, file)  # as `cp -al` makes a copy of a run
    append_text(file, "ours")
    append_text(file, ",ours")
    assert (victim.read_text(), file.read_text()) == ("mine,", "mine,ours,ours")
    assert not (tmp_path / "new").exists()


def test_a_run_does_not_write_its_metrics_through_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer.write({"step": 1})
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to(victim)
    with pytest.raises(UserError, match=r"cannot write '.*metrics\.jsonl': Too many levels of symbolic links"):
        writer.write({"step": 2})
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["/abs/x", "../../x", "..", ".", "", " ", "a/b", "a\\b", ".hidden", "a\0b", "a\x1b[2Jb", "a\nb", "x" * 300]
)
def test_a_tasks_name_stays_in_the_run_folder(tmp_path, name):
    import json

    tree = {"base": "m", "reasoning_rl": {"steps": 1, "tasks": {name: {"data": "x.jsonl", "rewards": "accuracy"}}}}
    (tmp_path / "c.yaml").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"cannot be the name of a file|holds a zero") as refusal:
        read_recipe(str(tmp_path / "c.yaml"), [])
    assert str(refusal.value).isprintable()


def test_a_tasks_name_may_be_in_any_writing(tmp_path):
    (tmp_path / "c.yaml").write_text(
        f"base: m\nreasoning_rl: {{steps: 1, tasks: {{math-1: {TASK}, คณิต: {TASK}, v1.5 b: {TASK}}}}}\n",
        encoding="utf-8",
    )
    assert read_recipe(str(tmp_path / "c.yaml"), []).reasoning_rl is not None


def test_a_module_in_the_working_folder_replaces_no_installed_one(tmp_path):
    """Whatever is imported after a function of the user's own: in a new process, before anything else is."""
    for name in ("torch", "yaml", "regex"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('planted')\ndef f(): pass\n")
    (tmp_path / "own_rewards.py").write_text("import helpers_of_own\ndef f(): return 1\n")
    (tmp_path / "helpers_of_own.py").write_text("")
    code = "from grpo.system.imports import import_path\nassert import_path('own_rewards.f')() == 1\nimport regex\n"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": PATHS},  # an empty part of it would be the working folder
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_of_ones_own_with_an_installed_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    (tmp_path / "torch.py").write_text("def f(): pass\n")
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("def f(): pass\n")
    for name, shown in (("torch", "torch.py"), ("numpy", "numpy/")):
        with pytest.raises(UserError, match=rf"'{shown}' in .* the name is taken by '.*{name}.*': rename it"):
            import_path(f"{name}.f")
