"""Limits on a process, and ending everything it started."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable

from . import watch

PROCESSES = 64  # and threads, of one run
OPEN_FILES = 128
FILE_SIZE = 16 << 20  # bytes
_KILL_SECONDS = 5.0


def set_limits(cpu_seconds: int | None, memory: int, processes: int | None) -> None:
    """Hard limits of this process and those it starts; None leaves one."""
    limits = {
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    if cpu_seconds is not None:
        limits[resource.RLIMIT_CPU] = cpu_seconds
    if sys.platform == "linux":  # macOS refuses a limit below what is mapped already
        limits[resource.RLIMIT_AS] = memory
        if processes is not None:
            limits[resource.RLIMIT_NPROC] = processes
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def allow_seconds(seconds: float) -> None:
    """From now on this process may compute so long; then it gets SIGXCPU, once a second."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = math.ceil(used + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def wait_for(pid: int, give_up: Callable[[], bool]) -> int | None:
    """The exit status of a child, reaping others meanwhile; None when `give_up` says so."""
    pause = 0.0005
    while not give_up():
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
    proc, deadline = watch.open_proc(), time.monotonic() + _KILL_SECONDS
    try:
        while time.monotonic() < deadline:
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in _descendants(proc):
                    _signal(pid, number)
            while _reap(os.WNOHANG):
                pass
            if not _descendants(proc):
                return True
            time.sleep(0.002)
    finally:
        if proc is not None:
            os.close(proc)
    return False


def _descendants(proc: int | None) -> list[int]:
    return [] if proc is None else [process.pid for process in watch.descendants(proc)]


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
