"""Work of others inside of our own process, such as a chat template: the processor's seconds and the memory that it may
take are bounded."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # pragma: no cover  (not POSIX)
    resource = None  # type: ignore[assignment]

_one = threading.RLock()  # the limit is the process's: of two at once, one would put back what the other had set


@contextmanager
def limited(seconds: float, memory: int) -> Iterator[None]:
    """
    Raises:
        TimeoutError: the block computed for longer; in the main thread alone, whose signals interrupt it.
        MemoryError: it asked for more bytes; where the kernel tells what a process has.
    """
    with _little_memory(memory):
        if resource is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def up(*_: Any) -> None:
            raise TimeoutError(f"it computes for more than {seconds:g} seconds")

        handler = signal.signal(signal.SIGPROF, up)
        timer = signal.setitimer(signal.ITIMER_PROF, seconds, 0.1)  # again: who computes constants may catch it
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, *timer)
            signal.signal(signal.SIGPROF, handler)


@contextmanager
def _little_memory(more: int) -> Iterator[None]:
    held = Path("/proc/self/statm")
    if resource is None or not held.exists():
        yield
        return
    with _one:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = int(held.read_text().split()[0]) * resource.getpagesize() + more
        bounds = [bound for bound in (most, soft, hard) if bound != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
        try:
            yield
        except MemoryError:
            raise MemoryError(f"it takes more than {more // 2**20} MiB") from None
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
