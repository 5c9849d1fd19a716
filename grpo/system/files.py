"""Files that appear whole or not at all and survive a power cut, and what is said when one cannot be written."""

import contextlib
import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from grpo.errors import UserError
from grpo.system.world import is_main

try:
    import fcntl
except ImportError:  # pragma: no cover  (not POSIX)
    fcntl = None  # type: ignore[assignment]

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or the user's share of it


def flush(path: Path) -> None:
    """What is in a file, or which names are in a folder, is on the disk when this returns."""
    if path.is_dir() and os.name != "posix":
        return  # elsewhere a folder cannot be opened, and a rename is durable by itself
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(folder: Path) -> None:
    """`flush` of every file below a folder, of the folders, and of its own name."""
    for path in sorted(folder.rglob("*")):
        flush(path)
    flush(folder)
    flush(folder.parent)


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Write beside the file, flush to the disk, rename: a crash leaves the old file or the new one.

    Of several processes the main one writes.
    """
    if not is_main():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    try:
        with _alone(partial) as out:
            out.writelines(lines)
            out.flush()
            os.fsync(out.fileno())
            os.replace(partial, file)
    except OSError as error:
        partial.unlink(missing_ok=True)  # on a full disk it would be in the way of the next try
        error.filename = str(file)  # which a failed write does not know
        raise
    flush(file.parent)  # the rename itself


def _alone(partial: Path) -> IO[str]:
    """The file, empty, for this process alone: two stages of one run write its config and its summary at once. A
    link in its place, through which another file would be written, is removed."""
    while True:
        if _is_link(partial):
            partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK, 0o666)
        out = os.fdopen(handle, "a", encoding="utf-8")
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a disk without locks
                fcntl.lockf(out, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(out.fileno()), os.stat(partial)):
                out.truncate(0)
                return out
        out.close()  # the other one was done first, and has renamed it


def _is_link(path: Path) -> bool:
    """Or anything else through which another file would be written; asked once, as another process may rename it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(found.st_mode) or found.st_nlink > 1


def write_text(file: Path, text: str) -> None:
    """`write_lines` of one text."""
    write_lines(file, [text])


def write_json(file: Path, value: Any) -> None:
    """`write_text` of indented JSON; NaN and infinity are a programming error, not a value."""
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def whole_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(line, object) of each whole line of a JSONL file that may be growing: what a kill has cut short, or a power cut
    filled with zeros, is passed over."""
    for content in file.read_bytes().split(b"\n"):
        try:
            line = content.decode()
            row = json.loads(line)
        except (ValueError, RecursionError):  # ValueError: also what is not UTF-8
            continue
        if isinstance(row, dict):
            yield line, row


def append_text(file: Path, text: str) -> None:
    """Add to the end of a file; when that fails nothing is added, not half of it. A link in its place, through which
    another file would be written, is refused; one that has another name besides becomes a file of its own."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | _NO_LINK, 0o666)
    with os.fdopen(handle, "ab", buffering=0) as out:
        size, data = os.fstat(handle).st_size, memoryview(text.encode())
        if os.fstat(handle).st_nlink > 1:
            write_text(file, file.read_text(encoding="utf-8") + text)
            return
        try:
            while data:
                data = data[out.write(data) :]
        except OSError:
            out.truncate(size)
            raise


def reason(error: OSError, folder: Path, needed: int) -> str:
    """What the system says of a failed write; of a full disk also how many bytes are missing."""
    said = error.strerror or str(error)
    if error.errno not in FULL:
        return said
    free = free_bytes(folder)
    if free >= needed and hasattr(os, "statvfs") and os.statvfs(_there(folder)).f_favail == 0:
        return f"{said}: the disk has room, but no inodes left: it holds too many files"
    return f"{said}: {needed:,} bytes are needed, {free:,} are free, {max(0, needed - free):,} are missing"


def as_os_error(error: Exception, file: Path) -> OSError:
    """A disk that does not take a file, as Python has it, also where a library in Rust or torch says so.

    Another error is raised."""
    if isinstance(error, OSError):
        return error
    code = re.search(r"os error (\d+)", str(error))
    if code is not None:
        return OSError(int(code[1]), os.strerror(int(code[1])), str(file))
    if isinstance(error, RuntimeError) and re.search("PytorchStreamWriter|inline_container", str(error)):
        return OSError(errno.EIO, "a file of it could not be written whole", str(file))
    raise error


def free_bytes(folder: Path) -> int:
    """Of the disk that this folder, or the nearest one above it that is there, lies on."""
    return shutil.disk_usage(_there(folder)).free


def _there(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def check_leads_somewhere(path: Path) -> None:
    """What a link leads to may lie on a disk that is not mounted now: all that is there is not nothing.

    Raises:
        UserError: so it is.
    """
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"'{path}' leads to '{os.readlink(path)}', which is not there: put it back (is its disk mounted?), or "
            "remove the link to begin without what it held"
        )


def check_room(folder: Path, needed: int) -> None:
    """Before anything is written.

    Raises:
        OSError: so many bytes do not fit, as a write would have found later.
    """
    if free_bytes(folder) < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


@contextmanager
def must_write(path: Path, needed: int | Callable[[], int]) -> Iterator[None]:
    """For what a run cannot do without: `path`, of about so many bytes, asked for where counting them costs something.

    Raises:
        UserError: it could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        size = needed if isinstance(needed, int) else needed()
        raise UserError(
            f"cannot write '{path}': {reason(as_os_error(error, path), path.parent, size)}; once that is mended, "
            "the same command goes on from the last checkpoint"
        ) from error
