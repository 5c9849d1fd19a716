"""The trainer's side of the sandbox: start the guard, read what the tests gave, never wait for ever."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from . import plain
from .inside import DIED, DONE, LEFT_OVER, TIME_OUT

log = logging.getLogger("grpo.rewards")
Isolation = Literal["auto", "namespaces", "limits"]
_CLEAR_UP_SECONDS = 10.0
START_SECONDS = 60.0  # of a few interpreter starts on a busy machine, beside the program's own time
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from sandbox.inside import main; del sys.path[0]; main()"
_COMMAND = [sys.executable, "-s", "-S", "-P", "-X", "utf8", "-c", _BOOT, str(Path(__file__).parent.parent)]


class SandboxError(Exception):
    """The sandbox did not do its work: there is no verdict."""


@dataclass(frozen=True)
class Program:
    """What is run: `code`, and for a completion task what goes before it when it does not define `entry_point`."""

    code: str
    header: str = ""
    entry_point: str = ""
    stdio: bool = False  # run as a script on each input; else loaded once to answer calls


@dataclass(frozen=True)
class Bounds:
    """Seconds of wall time for a program and all of its tests, MiB of memory for all of its processes."""

    seconds: float
    memory_mb: int


def run(
    program: Program,
    tests: dict[str, Any],
    bounds: Bounds,
    isolation: Literal["namespaces", "limits"],
    *,
    partial: bool = False,
    enough: Callable[[dict[str, Any]], bool] = lambda report: False,
) -> list[dict[str, Any]]:
    """What each test gave, in order, up to the first for which `enough` says so, or the end of the time.

    `tests` are {"inputs"} for scripts, else {"setup", "asserts", "check", "entry_point"}.

    Raises:
        SandboxError: the sandbox could not start, or died.
    """
    job = asdict(program) | {
        "namespaces": isolation == "namespaces",
        "trainer": os.getpid(),
        "seconds": bounds.seconds,
        "cpu_seconds": int(bounds.seconds) + 1,
        "memory": bounds.memory_mb << 20,
        "partial": partial,
        "folders": sorted({sys.base_prefix, sys.base_exec_prefix}),
    }
    try:
        with _folder(isolation) as folder, tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
            plain.send(given.fileno(), job)
            plain.send(given.fileno(), tests)
            given.seek(0)
            guard = subprocess.Popen(
                _COMMAND,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=folder,
                env={"PYTHONHASHSEED": "0"},
                start_new_session=True,
            )
            reports, code = _watch(guard, START_SECONDS + bounds.seconds, enough)
            errors.seek(0)
            last = errors.read()[-2000:].decode("utf-8", "replace").strip().rpartition("\n")[2]
    except OSError as error:
        raise SandboxError(str(error)) from error
    failed = next((report["failed"] for report in reports if "failed" in report), None)
    if code == LEFT_OVER:
        log.warning("code reward: a program's processes could not all be ended")
    if failed is None and code in (DONE, TIME_OUT, LEFT_OVER):
        return reports
    raise SandboxError(failed or last or ("the tester died" if code == DIED else f"the sandbox ended with {code}"))


def _watch(
    guard: subprocess.Popen[bytes], seconds: float, enough: Callable[[dict[str, Any]], bool]
) -> tuple[list[dict[str, Any]], int]:
    """What the guard reported, and its exit code; `DONE` when `enough` has stopped it."""
    stopped = True  # also by an exception
    try:
        reports, stopped, late = _read(guard, seconds, enough)
    finally:
        code = _end(guard, stopped)
    return reports, DONE if stopped and not late else code


def choose(isolation: Isolation) -> Literal["namespaces", "limits"]:
    """The isolation to use, seen to work: "auto" is namespaces where they do, else limits, with one warning.

    Raises:
        SandboxError: it does not work.
    """
    with _lock:
        if isolation != "auto":
            _check(isolation)
            return isolation
        return _choose()


_lock = threading.Lock()


@functools.cache
def _choose() -> Literal["namespaces", "limits"]:
    try:
        _check("namespaces")
    except SandboxError as error:
        _check("limits")
        log.warning(
            "code reward: no namespaces (%s): model programs run with resource limits only, can read files, use the "
            "network%s; isolation: namespaces refuses that",
            error,
            "" if os.geteuid() == 0 else ", and end any process of this user",
        )
        return "limits"
    return "namespaces"


@functools.cache
def _check(isolation: Literal["namespaces", "limits"]) -> None:
    """Run a program that must pass, and that imports what no process has imported before."""
    if isolation == "namespaces" and sys.platform != "linux":
        raise SandboxError("they need Linux")
    code = "def one():\n    import decimal, json.tool, random\n    return 1"
    tests = {"setup": "", "asserts": ["assert one() == 1"], "check": None, "entry_point": ""}
    reports = run(Program(code), tests, Bounds(START_SECONDS, 512), isolation)
    if reports != [{"passed": True}]:
        raise SandboxError(f"a program that must pass did not ({isolation})")


@contextlib.contextmanager
def _folder(isolation: str) -> Iterator[str]:
    """Where the guard starts: with limits only, an empty folder that is removed afterwards."""
    if isolation == "namespaces":
        yield "/"
        return
    folder = tempfile.TemporaryDirectory(prefix="grpo-code-", ignore_cleanup_errors=True)
    try:
        yield folder.name
    finally:
        try:
            folder.cleanup()
        except RecursionError:
            log.warning("code reward: %s is too deep to be removed", folder.name)


def _read(
    guard: subprocess.Popen[bytes], seconds: float, enough: Callable[[dict[str, Any]], bool]
) -> tuple[list[dict[str, Any]], bool, bool]:
    """The guard's lines until it ends; whether it is to be stopped, and whether because the time is over."""
    assert guard.stdout is not None
    reports: list[dict[str, Any]] = []
    pending, deadline = bytearray(), time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(guard.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(guard.stdout.fileno(), 1 << 20)
            if not chunk:
                return reports, False, False
            pending += chunk
            if b"\n" not in chunk:
                continue
            *lines, rest = pending.split(b"\n")
            pending = bytearray(rest)
            for line in lines:
                reports.append(json.loads(line))
                if enough(reports[-1]):
                    return reports, True, False
    return reports, True, True


def _end(guard: subprocess.Popen[bytes], stopped: bool) -> int:
    """The guard's exit code. One that has no reason to run is asked to clear up, then ended with all of its group."""
    assert guard.stdout is not None
    guard.stdout.close()
    if not stopped:  # its output has ended: it is clearing up
        with contextlib.suppress(subprocess.TimeoutExpired):
            return guard.wait(_CLEAR_UP_SECONDS)
    guard.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        return guard.wait(_CLEAR_UP_SECONDS)
    os.killpg(guard.pid, signal.SIGKILL)
    return guard.wait()
