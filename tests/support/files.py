"""Files as they are, files that a bad disk has changed, and disks that take no more."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from grpo.checkpoint.sealed import seal


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below the folder."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts}


def flip(file: Path, place: int = -2) -> None:
    """Another bit in one byte."""
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def reseal(folder: Path, format_version: int) -> None:
    """A manifest that vouches for the folder as it is now."""
    (folder / "manifest.json").unlink()
    seal(folder, format_version)


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: the kernel says so."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def little_room(patch: pytest.MonkeyPatch) -> None:
    """1,000 bytes are free at the second save, which also asks for how much is missing."""
    free = iter([10**12, 1000, 1000, 10**12])
    patch.setattr("grpo.system.files.free_bytes", lambda folder: next(free))


def line_of(caplog: pytest.LogCaptureFixture, words: str) -> str:
    """The one line of the log with these words."""
    (line,) = [record.getMessage() for record in caplog.records if words in record.getMessage()]
    return line
