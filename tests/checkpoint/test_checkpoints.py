"""Checkpoints on a bad disk: every byte is checked, a failed write leaves the last good one, nothing is unpickled."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from grpo.checkpoint import sealed
from grpo.checkpoint.pack import pack, unpack
from grpo.checkpoint.sealed import damage, sealed_folder, write_tensors
from grpo.checkpoint.store import FORMAT, checkpoints, last_good, read_state
from grpo.config.training import SFTConfig
from grpo.engines.local.engine import LocalEngine
from grpo.errors import UserError
from grpo.learner.learner import make_learner
from grpo.model.policy import load_model, load_policy
from grpo.system import files
from grpo.system.files import append_text, must_write, write_json
from support.runs import (
    CPU,
    Killed,
    at_call,
    completions,
    config_of,
    digits,
    interrupt_at,
    rows_of,
    run,
    task_of,
    weights,
)

FILES = ["manifest.json", "model.safetensors", "optimizer.json", "optimizer.safetensors", "state.json"]
REFRESHED = {"loss": {"beta": 0.05}, "reference_every": 2}


@pytest.fixture(scope="module")
def killed(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(an uninterrupted run, one that died while it sampled step 5, with checkpoints of steps 2 and 4)."""
    folder = tmp_path_factory.mktemp("runs")
    config = config_of(**REFRESHED)
    run(tiny_model_folder, folder / "whole", config)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(Killed):
            run(tiny_model_folder, folder / "cut", config)
    return folder / "whole", folder / "cut"


def assert_same(ours: Path, theirs: Path) -> None:
    assert rows_of(ours) == rows_of(theirs)
    assert completions(ours) == completions(theirs)
    mine, other = weights(ours), weights(theirs)
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in other)


# ---- damage


def flip(file: Path, place: int = -2) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


DAMAGE: dict[str, Callable[[Path], None]] = {"flipped": flip, "truncated": cut_short, "deleted": Path.unlink}


def test_a_checkpoint_holds_what_it_should(killed):
    newest = killed[1] / "checkpoints" / "step-000004"
    assert sorted(file.name for file in newest.iterdir()) == sorted([*FILES, "reference.safetensors"])
    assert (newest.parent / "latest").read_text() == "step-000004\n"
    assert last_good(newest.parent) == newest
    state = json.loads((newest / "state.json").read_text())
    assert (state["step"], state["reference_step"], len(state["rng"])) == (4, 4, 1)
    identity = state["identity"]
    assert identity["optimizer.lr"] == 5e-3
    assert identity["machine.threads"] == torch.get_num_threads()
    assert identity["machine.processes"] == 1
    assert identity["machine.torch"] == torch.__version__
    assert identity["tasks.default.rewards.digits.fn"] == "digits"


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", [*FILES, "reference.safetensors"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    name, how, killed, tiny_model_folder, tmp_path, caplog
):
    whole, cut = killed
    shutil.copytree(cut, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    DAMAGE[how](folder / "step-000004" / name)
    with caplog.at_level("WARNING", "grpo"):
        assert last_good(folder) == folder / "step-000002"
    (line,) = [record.message for record in caplog.records if "damaged" in record.message]
    assert f"step-000004: '{name}'" in line
    assert line.endswith("step-000002")
    if how == "flipped":  # what follows is the same for all kinds of damage
        run(tiny_model_folder, tmp_path / "run", config_of(**REFRESHED))
        assert_same(tmp_path / "run", whole)
        assert last_good(folder) == folder / "step-000006"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", DAMAGE)
def test_without_a_good_checkpoint_nothing_begins_anew(name, how, killed, tiny_model_folder, tmp_path):
    shutil.copytree(killed[1], tmp_path / "run")
    for folder in (tmp_path / "run" / "checkpoints").glob("step-*"):
        DAMAGE[how](folder / name)
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=rf"no checkpoint .*step-000004: '{name}'.*; step-000002: '{name}'") as error:
        run(tiny_model_folder, tmp_path / "run", config_of(**REFRESHED))
    assert "\n" not in str(error.value)
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


def test_a_checkpoint_of_the_version_before_goes_on_and_an_older_one_is_named(killed, tiny_model_folder, tmp_path):
    """Format 3 is 4 without what waits, from when there was no `engine.ahead`."""
    shutil.copytree(killed[1], tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    for path in folder.glob("step-*"):
        state = json.loads((path / "state.json").read_text())
        del state["source"]["waiting"], state["identity"]["engine.ahead"]
        write_json(path / "state.json", state)
        (path / "manifest.json").unlink()
        sealed.seal(path, 2)
    with pytest.raises(UserError, match=r"step-000004: 'manifest.json': of an older version .*: use that version, or"):
        last_good(folder)
    for path in folder.glob("step-*"):
        (path / "manifest.json").unlink()
        sealed.seal(path, 3)
    run(tiny_model_folder, tmp_path / "run", config_of(**REFRESHED))
    assert_same(tmp_path / "run", killed[0])


def test_a_checkpoint_that_is_gone_is_missed(killed, tmp_path, caplog):
    shutil.copytree(killed[1], tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    shutil.rmtree(folder / "step-000004")
    with caplog.at_level("WARNING", "grpo"):
        assert last_good(folder) == folder / "step-000002"
    assert "step-000004: 'latest' names it, but it is gone" in caplog.text
    shutil.rmtree(folder / "step-000002")
    with pytest.raises(UserError, match="step-000004: 'latest' names it, but it is gone"):
        last_good(folder)


def test_a_folder_cut_short_by_a_kill_is_not_a_checkpoint(killed, tiny_model_folder, tmp_path):
    shutil.copytree(killed[1], tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "step-000004", folder / ".step-000006.partial")
    (folder / ".step-000006.partial" / "manifest.json").unlink()
    (folder / "latest").write_text("step-000002\n")  # killed between the rename and the pointer
    assert last_good(folder) == folder / "step-000004"
    run(tiny_model_folder, tmp_path / "run", config_of(**REFRESHED))
    assert_same(tmp_path / "run", killed[0])
    assert (folder / "latest").read_text() == "step-000006\n"
    assert not list(folder.glob(".*"))


def test_a_flipped_bit_in_any_byte_of_a_manifest_is_noticed(tmp_path):
    with sealed_folder(tmp_path / "f", FORMAT) as partial:
        write_json(partial / "a.json", 1)
    text = (tmp_path / "f" / "manifest.json").read_bytes()
    assert damage(tmp_path / "f", FORMAT) is None
    for place in range(len(text)):
        changed = bytearray(text)
        changed[place] ^= 1 << place % 8
        (tmp_path / "f" / "manifest.json").write_bytes(changed)
        assert "'manifest.json' was changed" in str(damage(tmp_path / "f", FORMAT)), place
    (tmp_path / "f" / "manifest.json").write_bytes(text)
    assert damage(tmp_path / "f", FORMAT + 1) == "'manifest.json': of an older version of this program"
    assert damage(tmp_path / "f", FORMAT - 1) == "'manifest.json': of a newer version of this program"


def test_old_checkpoints_go_only_after_a_new_one_is_whole(killed, tiny_model_folder, tmp_path, monkeypatch):
    """Also when the newest is damaged, and keep is 1: it is not counted among those to keep."""
    shutil.copytree(killed[1], tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    flip(folder / "step-000004" / "state.json")
    shutil.copytree(folder / "step-000004", folder / "step-000006")
    config = config_of(**REFRESHED, checkpoint={"every": 1, "keep": 1})
    interrupt_at(monkeypatch, 3)
    with pytest.raises(Killed):
        run(tiny_model_folder, tmp_path / "run", config)
    assert [path.name for path in folder.glob("step-*")] == ["step-000003"]
    assert last_good(folder) == folder / "step-000003"


def test_what_a_kill_left_undone_is_finished(killed, tiny_model_folder, tmp_path):
    """Killed after the rename of the last checkpoint: no step is left that would save another."""
    shutil.copytree(killed[0], tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    (folder / "latest").write_text("step-000004\n")
    (folder / ".step-000006.old").mkdir()
    (folder / "step-000002" / "manifest.json").unlink()  # killed while it was removed
    run(tiny_model_folder, tmp_path / "run", config_of(**REFRESHED, checkpoint={"every": 2, "keep": 2}))
    assert (folder / "latest").read_text() == "step-000006\n"
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-000004", "step-000006"]
    assert_same(tmp_path / "run", killed[0])


# ---- nothing is unpickled


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_in_a_checkpoint_is_not_executed(killed, tiny_model_folder, tmp_path):
    shutil.copytree(killed[1], tmp_path / "run")
    mark = tmp_path / "exploded"
    newest = tmp_path / "run" / "checkpoints" / "step-000004"
    for name in ("optimizer.pt", "model.bin", "pytorch_model.bin", "rng_state.pth"):
        (newest / name).write_bytes(pickle.dumps(Bomb(mark)))
    run(tiny_model_folder, tmp_path / "run", config_of(**REFRESHED))
    assert not mark.exists()
    assert_same(tmp_path / "run", killed[0])


@pytest.mark.parametrize("name", FILES[1:])
def test_a_pickle_in_the_place_of_a_file_is_not_executed(name, killed, tiny_model_folder, tmp_path):
    """Even with a manifest that vouches for it."""
    shutil.copytree(killed[1], tmp_path / "run")
    mark = tmp_path / "exploded"
    newest = tmp_path / "run" / "checkpoints" / "step-000004"
    (newest / name).write_bytes(pickle.dumps(Bomb(mark)))
    (newest / "manifest.json").unlink()
    sealed.seal(newest, FORMAT)
    with pytest.raises((ValueError, SafetensorError)):
        run(tiny_model_folder, tmp_path / "run", config_of(**REFRESHED))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_a_pickle_in_a_model_or_adapter_folder_is_not_executed(name, tiny_model_folder, tmp_path):
    shutil.copytree(tiny_model_folder, tmp_path / "model")
    mark = tmp_path / "exploded"
    (tmp_path / "model" / name).write_bytes(pickle.dumps(Bomb(mark)))
    if name.startswith("pytorch"):
        (tmp_path / "model" / "model.safetensors").unlink()
    else:
        adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": "x"}
        (tmp_path / "model" / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises((UserError, pickle.UnpicklingError)):
        load_model(str(tmp_path / "model"), torch.device("cpu"))
    assert not mark.exists()


def test_an_optimizer_as_tensors_and_json_is_the_same(tiny_model_folder):
    policy = load_policy(str(tiny_model_folder), CPU)
    learner = make_learner(policy, config_of(optimizer={"lr": 1e-3, "beta2": 0.95, "weight_decay": 0.1}), CPU)
    for parameter in policy.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    learner.optimizer.step()
    before = learner.optimizer_state()
    tensors, rest = pack(before)
    after = unpack(tensors, json.loads(json.dumps(rest)))
    assert after["optimizer"]["param_groups"] == before["optimizer"]["param_groups"]
    assert after["optimizer"]["state"].keys() == before["optimizer"]["state"].keys()
    for index, entry in before["optimizer"]["state"].items():
        assert {name: value.dtype for name, value in entry.items()} == {
            name: value.dtype for name, value in after["optimizer"]["state"][index].items()
        }
        assert all(torch.equal(value, after["optimizer"]["state"][index][name]) for name, value in entry.items())


# ---- a disk that is full


class Disk:
    """Counts what is written through Python and safetensors, and fails from the n-th time on."""

    def __init__(self, fail_at: int) -> None:
        self.count, self.fail_at = 0, fail_at

    def touch(self) -> None:
        self.count += 1
        if self.count >= self.fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def failing(fail_at: int, only: Path | None = None) -> Iterator[Disk]:
    """Opening for writing, flushing, renaming, making folders and writing tensors fail, below `only`."""
    disk = Disk(fail_at)

    def guard(original: Callable[..., Any], writes: Callable[..., bool] = lambda *_, **__: True) -> Callable[..., Any]:
        def guarded(*arguments: Any, **options: Any) -> Any:
            path = next((a for a in arguments if isinstance(a, str | os.PathLike)), None)
            here = only is None or path is None or str(only) in str(path)
            if here and writes(*arguments, **options):
                disk.touch()
            return original(*arguments, **options)

        return guarded

    def opens_to_write(path: Any, mode: str = "r", *_: Any, **__: Any) -> bool:
        return any(letter in mode for letter in "wax+")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", guard(os.fsync))
        patch.setattr(files.os, "replace", guard(os.replace))
        patch.setattr(sealed.os, "rename", guard(os.rename))
        patch.setattr(Path, "mkdir", guard(Path.mkdir))
        patch.setattr(Path, "open", guard(Path.open, opens_to_write))
        patch.setattr(sealed, "save_file", half_written(disk))
        yield disk


def half_written(disk: Disk) -> Callable[..., None]:
    from safetensors.torch import save_file

    def save(tensors: dict[str, torch.Tensor], file: Path) -> None:
        save_file(tensors, file)
        try:
            disk.touch()
        except OSError:
            os.truncate(file, file.stat().st_size // 2)
            raise

    return save


def test_a_full_disk_at_any_write_of_a_save_leaves_the_checkpoint_before(tmp_path):
    def save(value: float) -> None:
        with sealed_folder(tmp_path / "step-000002", FORMAT) as partial:
            write_tensors(partial / "model.safetensors", {"w": torch.full((3,), value)})
            write_json(partial / "state.json", value)

    save(1.0)
    before = {path.name: path.read_bytes() for path in (tmp_path / "step-000002").iterdir()}
    for fail_at in range(1, 100):
        with failing(fail_at) as disk:
            try:
                save(2.0)
            except OSError:
                pass
            else:
                break
        assert disk.count >= fail_at
        assert not list(tmp_path.glob(".*.partial"))
        there = tmp_path / "step-000002" if (tmp_path / "step-000002").exists() else tmp_path / ".step-000002.old"
        assert damage(there, FORMAT) is None
        found = {path.name: path.read_bytes() for path in there.iterdir()}
        if found != before:  # only the flush after the rename failed: the new one is there, whole
            assert json.loads((there / "state.json").read_text()) == 2.0
    assert fail_at > 10
    assert json.loads((tmp_path / "step-000002" / "state.json").read_text()) == 2.0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_full_disk_at_any_write_of_a_run(tiny_model_folder, tmp_path):
    """Checkpoints: a warning, and the run ends as if nothing had been. All else: one line, and it can go on."""
    config = config_of(steps=2, checkpoint={"every": 1, "keep": 2})
    run(tiny_model_folder, tmp_path / "whole", config)
    seen = set()
    for fail_at in range(1, 1000):
        out = tmp_path / "full"
        shutil.rmtree(out, ignore_errors=True)
        failed = None
        with failing(fail_at, out) as disk:
            try:
                run(tiny_model_folder, out, config)
            except UserError as error:
                failed = str(error)
                assert "No space left" in failed
                assert "bytes are needed" in failed
                assert "\n" not in failed
        seen.add("stopped" if failed else "done")
        if disk.count < fail_at:
            break
        if (out / "checkpoints").exists():
            last_good(out / "checkpoints")
        run(tiny_model_folder, out, config)
        assert_same(out, tmp_path / "whole")
    assert seen == {"stopped", "done"}
    assert fail_at > 40


def test_a_checkpoint_that_cannot_be_written_is_a_warning(tiny_model_folder, tmp_path, caplog):
    config = config_of(checkpoint={"every": 2, "keep": 2})
    run(tiny_model_folder, tmp_path / "whole", config)
    with pytest.MonkeyPatch.context() as patch, caplog.at_level("WARNING", "grpo"):
        free = iter([10**12, 1000, 1000, 10**12])  # the second time also for how much is missing
        patch.setattr("grpo.system.files.free_bytes", lambda folder: next(free))
        run(tiny_model_folder, tmp_path / "full", config)
    (line,) = [record.message for record in caplog.records if "no checkpoint" in record.message]
    assert line.startswith("no checkpoint at step 4: cannot write")
    needed = int(line.split(" bytes are needed")[0].split()[-1].replace(",", ""))
    size = sum(file.stat().st_size for file in checkpoints(tmp_path / "full" / "checkpoints")[0].iterdir())
    assert size < needed < size + 50_000  # never told to free too little
    assert f"1,000 are free, {needed - 1000:,} are missing" in line
    names = [path.name for path in checkpoints(tmp_path / "full" / "checkpoints")]
    assert names == ["step-000002", "step-000006"]
    assert_same(tmp_path / "full", tmp_path / "whole")


def test_metrics_that_cannot_be_written_stop_the_run_and_it_goes_on(tiny_model_folder, tmp_path):
    config = config_of()
    run(tiny_model_folder, tmp_path / "whole", config)

    def full(file: Path, text: str) -> None:
        if '"step": 4,' in text:
            with file.open("a") as out:
                out.write(text[:20])  # and the half of a line that an older version of this left behind
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append_text(file, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grpo.monitoring.metrics.append_text", full)
        with pytest.raises(UserError, match=r"metrics\.jsonl.*bytes are needed"):
            run(tiny_model_folder, tmp_path / "full", config)
    run(tiny_model_folder, tmp_path / "full", config)
    assert_same(tmp_path / "full", tmp_path / "whole")


def test_a_half_appended_line_is_taken_back(tmp_path):
    file = tmp_path / "m.jsonl"
    append_text(file, "one\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, limits[1]))  # two bytes more, then the kernel says no
    try:
        with pytest.raises(OSError, match="File too large"):
            append_text(file, "two\n")
        with pytest.raises(OSError, match="File too large"):
            write_tensors(tmp_path / "x.safetensors", {"w": torch.zeros(2)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    append_text(file, "three\n")
    assert file.read_text() == "one\nthree\n"


def test_what_must_be_written_says_how_much_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda folder: 40)
    with pytest.raises(UserError, match="100 bytes are needed, 40 are free, 60 are missing"), must_write(tmp_path, 100):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(UserError, match=r"Read-only file system; once"), must_write(tmp_path, 100):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    with pytest.raises(OSError, match="No such file"):
        write_tensors(tmp_path / "nowhere" / "x.safetensors", {"w": torch.zeros(2)})


# ---- the best one


def scripted(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
    """Good in the third and fourth step, and a little different for each completion."""
    good = trainer_state.global_step in (2, 3)
    return [float(good) + 0.1 * value for value in digits(completions)]


def test_the_best_checkpoint_stays_however_often_the_run_is_stopped(tiny_model_folder, tmp_path, monkeypatch):
    config = config_of(steps=9, checkpoint={"every": 2, "keep": 1, "best": "reward/scripted"})
    tasks = {"default": task_of(scripted)}
    run(tiny_model_folder, tmp_path / "whole", config, tasks)
    for rollouts in (4, 4):  # while the fourth one is drawn: after steps 3 and 6
        with monkeypatch.context() as patch:
            at_call(patch, LocalEngine, "generate", rollouts, lambda: os.kill(os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                run(tiny_model_folder, tmp_path / "cut", config, tasks)
    assert last_good(tmp_path / "cut" / "checkpoints") == tmp_path / "cut" / "checkpoints" / "step-000006"
    run(tiny_model_folder, tmp_path / "cut", config, tasks)
    assert_same(tmp_path / "cut", tmp_path / "whole")
    for name in ("whole", "cut"):
        folder = tmp_path / name / "checkpoints"
        assert sorted(path.name for path in folder.iterdir()) == ["best", "latest", "step-000004", "step-000008"]
        assert (folder / "best").read_text() == "step-000004\n"
        assert 1 < read_state(folder / "step-000004").score < 1.1
        assert read_state(folder / "step-000008").score < 0.1


def test_going_back_to_the_best_checkpoint(tiny_model_folder, tmp_path, caplog):
    config = config_of(steps=8, checkpoint={"every": 2, "keep": 1, "best": "reward"})
    run(tiny_model_folder, tmp_path, config, {"default": task_of(scripted)})
    shutil.move(tmp_path / "checkpoints" / "step-000008", tmp_path / "aside")
    with caplog.at_level("WARNING", "grpo"):
        run(tiny_model_folder, tmp_path, config, {"default": task_of(scripted)})
    assert "going on from step 4" in caplog.text
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(1, 9))


def test_a_best_of_what_is_not_there_is_refused(tiny_model_folder, tmp_path):
    config = config_of(checkpoint={"every": 2, "best": "reward/digit"})
    with pytest.raises(UserError, match=r"'checkpoint\.best': no reward 'reward/digit' \(did you mean 'reward/digits'"):
        run(tiny_model_folder, tmp_path, config)
    with pytest.raises(ValueError, match="'best' has no effect without 'every'"):
        config_of(checkpoint={"best": "reward"})
    with pytest.raises(ValueError, match="supervised training has no reward"):
        SFTConfig(
            steps=1,
            batch_size=1,
            max_tokens=9,
            optimizer={"lr": 1e-3},  # type: ignore[arg-type]
            checkpoint={"every": 1, "best": "reward"},  # type: ignore[arg-type]
        )
