"""Work of others inside of our own process, such as a chat template: the processor's seconds and the memory that it may
take are bounded. It is asked for with each rendering, so it makes few calls of the system (before: twice a rendering's
own time)."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

try:
    import resource
except ImportError:  # pragma: no cover  (not POSIX)
    resource = None  # type: ignore[assignment]

T = TypeVar("T")
_STATM = Path("/proc/self/statm")
_TELLS = resource is not None and _STATM.exists()
_FRESH = 0.1  # seconds for which it is taken to be known what the process has
_one = threading.RLock()  # the limit is the process's: of two at once, one would put back what the other had set
_held = (float("-inf"), 0)  # when that was read, and the bytes
_seconds = 0.0  # of what is computed now; 0: SIGPROF is not ours
_before: Any = None  # whose it is then


def limited(work: Callable[[], T], seconds: float, memory: int) -> T:
    """What the work gives. It may be done twice: what the process has may have grown since it was read.

    Raises:
        TimeoutError: it computed for longer; in the main thread alone, whose signals interrupt it.
        MemoryError: it asked for more bytes; where the kernel tells what a process has.
    """
    timed = resource is not None and threading.current_thread() is threading.main_thread()
    if not _TELLS:
        return _timed(work, seconds) if timed else work()
    with _one:
        try:
            return _bounded(work, seconds if timed else None, memory, _FRESH)
        except MemoryError:
            try:
                return _bounded(work, seconds if timed else None, memory, 0)
            except MemoryError:
                raise MemoryError(f"it takes more than {memory // 2**20} MiB") from None


def _bounded(work: Callable[[], T], seconds: float | None, memory: int, fresh: float) -> T:
    global _held
    if (now := time.monotonic()) - _held[0] >= fresh:
        _held = now, int(_STATM.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _held[1] + memory
    resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(most, soft), hard))
    try:
        return work() if seconds is None else _timed(work, seconds)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _timed(work: Callable[[], T], seconds: float) -> T:
    global _seconds, _before
    if _before is None:  # once: to set a handler takes longer than all of this
        _before = signal.signal(signal.SIGPROF, _up)
    _seconds, collects = seconds, gc.isenabled()
    gc.disable()  # what is raised inside of a finalizer is lost, but for a line on the terminal
    timer = signal.setitimer(signal.ITIMER_PROF, seconds, 0.1)  # again: who computes constants may catch it
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_PROF, *timer)
        _seconds = 0.0
        if collects:
            gc.enable()


def _up(*at: Any) -> None:
    if _seconds:
        raise TimeoutError(f"it computes for more than {_seconds:g} seconds")
    if callable(_before):
        _before(*at)
