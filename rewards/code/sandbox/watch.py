"""How much time and memory a program and all that it has started take, seen from outside of it.

Its time is what it computes, of all processes together, and what it sleeps; not what it waits for a processor, so that
a verdict does not depend on what else the machine does.
"""

from __future__ import annotations

import mmap
import os
import resource
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple

_EVERY = 0.1  # seconds
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
DISK, FILES = 64 << 20, 4096  # bytes and entries of the program's folder, as on a memory disk


class Process(NamedTuple):  # a data class would take each guard 5 ms to import
    """A line of /proc/<pid>/stat."""

    pid: int
    parent: int
    state: str
    seconds: float
    children: float  # seconds of those of its children whose end it has heard of
    threads: int
    memory: int  # bytes


class Clock:
    """What the tester tells the watch: whose turn it is, and when the next test begins. Two bytes of shared memory."""

    def __init__(self) -> None:
        self.shared = mmap.mmap(-1, 2)

    def keep_from_children(self) -> None:
        """Whoever is forked off from now on does not have it."""
        self.shared.madvise(mmap.MADV_DONTFORK)

    def next_test(self) -> None:
        self.shared[1] = (self.shared[1] + 1) % 256

    def turn(self, of_program: bool) -> None:
        self.shared[0] = of_program


class Watch:
    """True when the program has had its `seconds` of this test, or has more memory, processes or files than it may."""

    def __init__(self, proc: int | None, seconds: float, memory: int, processes: int, folder: str | None) -> None:
        self.proc, self.seconds, self.memory, self.processes, self.folder = proc, seconds, memory, processes, folder
        self.test = 0
        self.begin()

    def begin(self, clock: Clock | None = None) -> None:
        """Nothing of the program has run yet; a `clock` tells of the tests within one run of it."""
        self.clock = clock
        self.last = time.monotonic()
        self.start = self.used = self.seen = self._reaped()
        self.asleep, self.living = 0.0, dict[int, float]()

    def __call__(self) -> bool:
        now = time.monotonic()
        if self.proc is None or now - self.last < _EVERY:
            return False
        elapsed, self.last, before = now - self.last, now, self.used
        found = list(descendants(self.proc))
        self.used = max(before, self._computed(found))
        if self.clock is not None and self.clock.shared[1] != self.test:
            self.test, self.start, self.asleep = self.clock.shared[1], self.used, 0.0
        elif (self.clock is None or self.clock.shared[0]) and not _any_runs(self.proc, found):
            self.asleep += max(0.0, min(elapsed, 2 * _EVERY) - (self.used - before))
        return (
            self.used - self.start + self.asleep > self.seconds
            or sum(process.memory for process in found) > self.memory
            or sum(process.threads for process in found) > self.processes
            or (self.folder is not None and _is_full(self.folder))
        )

    def _computed(self, found: list[Process]) -> float:
        """Seconds of all processes; of those whose end nobody wants to hear of, what was seen of them alive."""
        self.seen += sum(max(0.0, process.seconds - self.living.get(process.pid, 0.0)) for process in found)
        self.living = {process.pid: process.seconds for process in found}
        return max(self.seen, self._reaped() + sum(process.seconds + process.children for process in found))

    @staticmethod
    def _reaped() -> float:
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def open_proc() -> int | None:
    """The machine's /proc, for who is about to leave it behind; None where there is none."""
    try:
        return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None


def descendants(proc: int) -> Iterator[Process]:
    """All descendants of this process."""
    try:
        own = int(os.readlink("self", dir_fd=proc))
    except OSError:
        return
    processes = [process for name in os.listdir(proc) if name.isdigit() and (process := _read(proc, f"{name}/stat"))]
    found = {own}
    while more := {process.pid for process in processes if process.parent in found} - found:
        found |= more
    yield from (process for process in processes if process.pid in found and process.pid != own)


def _read(proc: int, path: str) -> Process | None:
    try:
        file = os.open(path, os.O_RDONLY, dir_fd=proc)
    except OSError:  # it ended meanwhile
        return None
    try:
        text = os.read(file, 4096)
    except OSError:
        return None
    finally:
        os.close(file)
    pid, _, rest = text.partition(b" ")
    fields = rest.rpartition(b")")[2].split()
    own, children = (sum(map(int, fields[first : first + 2])) / _TICKS for first in (11, 13))
    memory = int(fields[21]) * _PAGE
    return Process(int(pid), int(fields[1]), fields[0].decode(), own, children, int(fields[17]), memory)


def _any_runs(proc: int, processes: list[Process]) -> bool:
    """Whether any of them computes, waits for a processor to do so, or waits for a disk.

    A process that waits for the child it has just started (vfork) looks like one that waits for a disk.
    """
    parents = {process.parent for process in processes}
    for process in processes:
        if process.state == "R" or (process.state == "D" and process.pid not in parents):
            return True
        if process.threads > 1:
            try:
                tasks = os.open(f"{process.pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
            except OSError:
                continue
            try:
                states = [_read(tasks, f"{name}/stat") for name in os.listdir(tasks)]
            except OSError:
                continue
            finally:
                os.close(tasks)
            if any(thread is not None and thread.state == "R" for thread in states):
                return True
    return False


def _is_full(folder: str) -> bool:
    size, count, waiting = 0, 0, [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    count += 1
                    size += status.st_blocks * 512
                    if count > FILES or size > DISK:
                        return True
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(entry.path)
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError:  # a path too long to be looked into
            return True
    return False
