"""Limits on a process, and ending everything it started."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable

PROCESSES = 64  # and threads, of one run
OPEN_FILES = 128
FILE_SIZE = 16 << 20  # bytes
_KILL_SECONDS = 5.0


def set_limits(cpu_seconds: int, memory: int, processes: int | None) -> None:
    """Hard limits of this process and those it starts; `processes` None leaves that one."""
    limits = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    if sys.platform == "linux":  # macOS refuses a limit below what is mapped already
        limits[resource.RLIMIT_AS] = memory
        if processes is not None:
            limits[resource.RLIMIT_NPROC] = processes
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def wait_for(pid: int, seconds: float, give_up: Callable[[], bool]) -> int | None:
    """The exit status of a child, reaping others meanwhile; None after `seconds` or when `give_up` says so."""
    deadline, pause = time.monotonic() + seconds, 0.0005
    while time.monotonic() < deadline and not give_up():
        try:
            found, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if found == pid:
            return status
        if found == 0:
            time.sleep(pause)
            pause = min(2 * pause, 0.01)
    return None


def kill_rest() -> bool:
    """End all other processes of this process namespace, or all descendants; whether none is left.

    In a namespace one signal reaches all of them at once. Elsewhere a descendant may start another one while it is
    being ended, so this repeats, stopping all of them first.
    """
    if os.getpid() == 1:
        _signal(-1, signal.SIGKILL)
        while _reap(0):
            pass
        return True
    deadline = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < deadline:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in descendants():
                _signal(pid, number)
        while _reap(os.WNOHANG):
            pass
        if not descendants():
            return True
        time.sleep(0.002)
    return False


def descendants() -> list[int]:
    """Process ids of all descendants of this process; empty where there is no /proc."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:  # it ended meanwhile
                continue
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {os.getpid()})


def resident_memory() -> int:
    """Bytes that all descendants hold in memory; 0 where there is no /proc."""
    pages = 0
    for pid in descendants():
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                pages += int(file.read().split()[1])
        except (OSError, IndexError):
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def tasks_of_user() -> int:
    """How many processes and threads this user has: the kernel counts all of them against the limit."""
    user, count = os.getuid(), 0
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return count


def _reap(flags: int) -> bool:
    try:
        return os.waitpid(-1, flags)[0] != 0
    except ChildProcessError:
        return False


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
