"""The workers that judge untrusted text: processes that can be killed, a few of a kind, shared by all threads.

Works in threads, in forked and spawned processes and in async code: no signals, no event loop, one request at a time
to each worker. Every verdict that a worker gave is cached; that it died is none, and never cached: whatever killed it,
the same comparison later may live.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import os
import queue
import selectors
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

log = logging.getLogger("grpo.rewards")
MATH = Path(__file__).with_name("worker.py")
# Seconds of CPU time, so that a busy machine does not change a score: to see whether a gold can be read, and to compare
# an answer with it. On an idle machine a verdict comes within 2 s.
GOLD_SECONDS, SECONDS = 0.6, 1.3
WALL_SECONDS = 60.0  # of waiting for either
START_SECONDS = 60.0  # importing sympy on a busy machine
Verdict = Literal["equal", "unequal", "unparseable", "died"]


class _Died(Exception):
    """Nothing that a cache keeps."""


def ask(gold: str, answer: str | None) -> Verdict:
    """What a worker says; `answer` None asks only whether the gold can be read."""
    try:
        return _lasting(gold, answer)
    except _Died:
        return "died"


@functools.lru_cache(maxsize=100_000)
def _lasting(gold: str, answer: str | None) -> Verdict:
    cpu = GOLD_SECONDS if answer is None else SECONDS
    verdict = ask_worker(MATH, {"gold": gold, "answer": answer}, cpu)
    if verdict == "died":
        raise _Died
    return verdict  # type: ignore[return-value]


def ask_worker(script: Path, question: dict[str, Any], cpu: float) -> str:
    """What `judge(**question)` of that file says in a worker, or "died", after so many seconds of CPU time."""
    with _borrowed(script) as worker:
        return worker.ask({"question": question, "cpu": cpu, "wall": max(WALL_SECONDS, 4 * cpu)})


class _Worker:
    """One child process. It limits itself; should it fail to, it is killed and started anew at the next request."""

    def __init__(self, script: Path) -> None:
        self.script = script
        self.process: subprocess.Popen[bytes] | None = None
        self.pending = b""

    def ask(self, request: dict[str, Any]) -> str:
        for _ in range(2):  # the process may have been killed from outside since the last request
            try:
                self._start()
                return self._request(request)
            except (BrokenPipeError, EOFError):
                self.stop()
        raise RuntimeError(f"the process of {self.script} does not stay alive (are its packages installed?)")

    def _request(self, request: dict[str, Any]) -> str:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        reply = self._read_line(request["wall"] + 1.0)
        if reply is None:
            log.warning("the process of %s did not answer; it is replaced", self.script)
            self.stop()
            return "died"
        return reply

    def _start(self) -> None:
        if self.process is not None:
            return
        # -P: the modules beside the script (format, code, ...) must not shadow the standard library's
        command = [sys.executable, "-P", str(Path(__file__).with_name("child.py")), str(self.script)]
        fixed = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # order of sets; memory
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env={**os.environ, **fixed})
        self.pending = b""
        if self._read_line(START_SECONDS) != "ready":
            raise EOFError

    def _read_line(self, seconds: float) -> str | None:
        assert self.process is not None
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.pending:
                if not selector.select(seconds):
                    return None
                chunk = os.read(self.process.stdout.fileno(), 65536)
                if not chunk:
                    raise EOFError
                self.pending += chunk
        line, _, self.pending = self.pending.partition(b"\n")
        return line.decode()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()  # its fork sees the closed pipe, or its own timer ends it
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    if pipe is not None:
                        pipe.close()
            self.process.wait()
        self.process = None


class _Pool:
    """A few workers, started when first needed; a caller waits while all are busy."""

    def __init__(self, script: Path) -> None:
        self.workers = [_Worker(script) for _ in range(pool_size())]
        self.free: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in self.workers:
            self.free.put(worker)


def pool_size() -> int:
    """How many answers are judged at a time."""
    return min(4, os.cpu_count() or 1)


_lock = threading.Lock()
_pools: dict[Path, _Pool] = {}


@contextlib.contextmanager
def _borrowed(script: Path) -> Iterator[_Worker]:
    with _lock:
        pool = _pools.setdefault(script, _pools.get(script) or _Pool(script))
    worker = pool.free.get()
    try:
        yield worker
    finally:
        pool.free.put(worker)


def _forget() -> None:
    """In a forked child: the parent's workers are not ours, two writers on a pipe would mix up their answers."""
    global _pools, _lock
    _pools, _lock = {}, threading.Lock()


@atexit.register
def close() -> None:
    """End the worker processes; the next question starts new ones."""
    for pool in _pools.values():
        for worker in pool.workers:
            worker.stop()


os.register_at_fork(after_in_child=_forget)
