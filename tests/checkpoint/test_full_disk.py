"""A disk that is full: a failed write leaves the last good checkpoint, and the run goes on or ends in one line."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from grpo.checkpoint import sealed
from grpo.checkpoint.sealed import damage, sealed_folder, write_tensors
from grpo.checkpoint.store import FORMAT, checkpoints, last_good
from grpo.errors import UserError
from grpo.system import files
from grpo.system.files import append_text, must_write, write_json
from support.files import limited_files, line_of, little_room
from support.runs import assert_same_run, checkpointed, config_of, run


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

    def guard(original, writes=lambda *_, **__: True):
        def guarded(*arguments, **options):
            path = next((a for a in arguments if isinstance(a, str | os.PathLike)), None)
            here = only is None or path is None or str(only) in str(path)
            if here and writes(*arguments, **options):
                disk.touch()
            return original(*arguments, **options)

        return guarded

    def opens_to_write(path, mode="r", *_, **__):
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
    def save(tensors, file):
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
        assert_same_run(out, tmp_path / "whole")
    assert seen == {"stopped", "done"}
    assert fail_at > 40


def test_a_checkpoint_that_cannot_be_written_is_a_warning(tiny_model_folder, tmp_path, caplog):
    config = config_of(checkpoint={"every": 2, "keep": 2})
    run(tiny_model_folder, tmp_path / "whole", config)
    with pytest.MonkeyPatch.context() as patch, caplog.at_level("WARNING", "grpo"):
        little_room(patch)
        run(tiny_model_folder, tmp_path / "full", config)
    line = line_of(caplog, "no checkpoint")
    assert line.startswith("no checkpoint at step 4: cannot write")
    needed = int(line.split(" bytes are needed")[0].split()[-1].replace(",", ""))
    size = sum(file.stat().st_size for file in checkpoints(tmp_path / "full" / "checkpoints")[0].iterdir())
    assert size < needed < size + 50_000  # never told to free too little
    assert f"1,000 are free, {needed - 1000:,} are missing" in line
    assert checkpointed(tmp_path / "full") == ["step-000002", "step-000006"]
    assert_same_run(tmp_path / "full", tmp_path / "whole")


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
    assert_same_run(tmp_path / "full", tmp_path / "whole")


def test_a_half_appended_line_is_taken_back(tmp_path):
    file = tmp_path / "m.jsonl"
    append_text(file, "one\n")
    with limited_files(6):  # two bytes more, then the kernel says no
        with pytest.raises(OSError, match="File too large"):
            append_text(file, "two\n")
        with pytest.raises(OSError, match="File too large"):
            write_tensors(tmp_path / "x.safetensors", {"w": torch.zeros(2)})
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
