"""One run to a folder: the second is refused.

A POSIX record lock on `<folder>/.lock`: the kernel drops it when the process dies, whatever way, and children do not
inherit it, so there are no stale locks. Of several processes of a run the main one holds it.
"""

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from grpo.errors import UserError
from grpo.system.files import must_write
from grpo.system.world import World

try:
    import fcntl
except ImportError:  # pragma: no cover  (not POSIX)
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("grpo")

LOCK, MARK = ".lock", b"process "  # its name, and how its text begins
TAKEN = (errno.EACCES, errno.EAGAIN)
_held: set[Path] = set()  # by this process: a pipeline holds what its stages ask for again


@dataclass(frozen=True)
class RunLock:
    """Of a folder that is ours."""

    folder: Path
    identity: tuple[int, int] | None  # (device, inode); None: another process looks after it

    def check(self) -> None:
        """Is the folder still there, and the one that was locked?

        Raises:
            UserError: it was removed or replaced; to write on would leave a run without a beginning.
        """
        if self.identity is not None and _identity(self.folder) != self.identity:
            raise UserError(f"the run folder '{self.folder}' was removed or replaced while the run was writing to it")


@contextmanager
def lock_run(folder: Path, world: World, *, shared: bool = False) -> Iterator[RunLock]:
    """Hold the folder, which is made if need be, while the block runs. `shared`: others may hold it so too.

    Raises:
        UserError: another run holds it.
    """
    key = Path(os.path.realpath(folder))  # which is no error where links lead to themselves
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    taken: list[int] = []

    def take() -> None:  # noted here, not returned: it is let go also where the processes' exchange fails
        if key not in _held and fcntl is not None:
            taken.append(_take(folder, shared))

    try:
        world.main_finds(take)
        if taken:
            _held.add(key)
        yield RunLock(folder, None if world.rank else _identity(folder))
    finally:
        for handle in taken:
            _held.discard(key)
            _tidy(handle, folder, new)
            os.close(handle)


def _tidy(handle: int, folder: Path, new: list[Path]) -> None:
    """No lock file stays behind, and none of the `new` folders in which nothing was written."""
    with contextlib.suppress(OSError):
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while others share it
        (folder / LOCK).unlink()
        for path in new:
            path.rmdir()


def _take(folder: Path, shared: bool) -> int:
    """The open lock file.

    Raises:
        UserError: the lock was not granted.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        with must_write(folder / LOCK, 100):
            folder.mkdir(parents=True, exist_ok=True)
            handle = _open(folder / LOCK)
        try:
            fcntl.lockf(handle, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in TAKEN:
                log.warning("'%s' cannot be locked (%s): do not start a second run there", folder, error.strerror)
                return handle
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "of another process"
            os.close(handle)
            raise UserError(
                f"another run ({holder}) is writing to '{folder}': wait for its end, or give another folder"
            ) from error
        if _identity(folder / LOCK) == _identity(handle):
            break
        os.close(handle)  # it was removed, with the run that held it, before we had it
    with contextlib.suppress(OSError):  # a full disk: the lock holds, it only has no name
        os.truncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return handle


def _open(file: Path) -> int:
    """A lock file of ours: what it holds will be replaced.

    Raises:
        UserError: it is a link, also a hard one, or somebody's file.
    """
    with contextlib.suppress(FileExistsError):
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    refusal = UserError(f"'{file}' is not the lock of a run: remove it, or give another folder")
    try:
        handle = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return _open(file)  # the run that held it has just ended
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise refusal from error
        raise
    state = os.fstat(handle)
    alone = stat.S_ISREG(state.st_mode) and state.st_nlink <= 1  # 0: it has just been removed
    if alone and os.pread(handle, len(MARK), 0) == MARK[: state.st_size]:
        return handle
    os.close(handle)
    raise refusal


def _identity(file: Path | int) -> tuple[int, int] | None:
    try:
        state = os.stat(file)
    except FileNotFoundError:
        return None
    return state.st_dev, state.st_ino
