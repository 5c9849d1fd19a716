"""Files on their way to another process, in a folder like /dev/shm that every user of the machine may write to."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "grpo-private-"


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, of a random name, of our user alone, gone after the block. What killed processes of
    ours have left there goes first: the kernel drops their locks with them.

    Raises:
        OSError: there is no such place, or no permission to write to it.
    """
    for left in parent.glob(f"{PREFIX}*"):
        if (handle := _lock(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(handle)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))  # with mode 0700
        if (handle := _lock(folder)) is not None:
            break  # else another process has just swept it
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def write_private(folder: Path, name: str, content: bytes) -> None:
    """A new file that nobody else may read; what lies there under this name, a link above all, is not followed."""
    handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(handle, "wb") as file:
        file.write(content)


def read_private(parent: Path, folder: str, name: str) -> bytes:
    """The file that `write_private` made in a `private_folder` of `parent`.

    Raises:
        ValueError: they have no such names, or are links or others' (also where they came from elsewhere by a link).
        OSError: they are not there.
    """
    if {folder, name} & {"", ".", ".."} or "/" in folder + name or not folder.startswith(PREFIX):
        raise ValueError(f"not a file that was written for us in {parent}: {folder}/{name}")
    return read_own(parent / folder, name)


def read_own(folder: Path, name: str) -> bytes:
    """A file of our user alone, in a folder of our user alone.

    Raises:
        ValueError: they are others' too (also where they came from elsewhere by a link).
        OSError: they are not there, or links.
    """
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place), "rb") as file:
            for state in (os.fstat(place), os.fstat(file.fileno())):
                if state.st_uid != os.geteuid() or state.st_mode & 0o077:
                    raise ValueError(f"{folder}: it is not of our user alone")
            return file.read()
    finally:
        os.close(place)


def _lock(folder: Path) -> int | None:
    """The locked folder; None: it is no folder of ours, in use, or gone."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        state, there = os.fstat(handle), os.stat(folder, follow_symlinks=False)
        if state.st_uid == os.geteuid() and (state.st_dev, state.st_ino) == (there.st_dev, there.st_ino):
            return handle
    os.close(handle)
    return None
