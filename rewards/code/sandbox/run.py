"""The trainer's side of the sandbox: start the guard, read what the tests gave, never wait for ever."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from grpo.errors import UserError

from . import filters, plain
from .inside import DIED, DONE, LEFT_OVER

log = logging.getLogger("grpo.rewards")
Isolation = Literal["auto", "namespaces", "limits"]
_CLEAR_UP_SECONDS = 10.0
START_SECONDS = 60.0  # of a few interpreter starts on a busy machine, beside the program's own time
_FAR = 10  # times its own time a program may take by the clock
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
    """Seconds for each test, without those of waiting for a processor; MiB of memory for all processes of a program;
    bytes of output of one run."""

    seconds: float
    memory_mb: int
    output: int = 4 << 20


def run(
    program: Program,
    tests: dict[str, Any],
    bounds: Bounds,
    isolation: Literal["namespaces", "limits"],
    *,
    partial: bool = False,
    enough: Callable[[dict[str, Any]], bool] = lambda report: False,
) -> list[dict[str, Any]]:
    """What each test gave, in order, up to the first for which `enough` says so, or that takes too long.

    `tests` are {"inputs"} (and {"outputs", "checker"}) for scripts, {"fn_name", "calls", ...} or {"setup", "asserts",
    "check", "entry_point"} for functions.

    Raises:
        SandboxError: the sandbox could not start, or died, or the machine was too busy to get it done.
    """
    count = len(tests.get("inputs") or tests.get("calls") or tests.get("asserts") or [tests])
    job = asdict(program) | {
        "namespaces": isolation == "namespaces",
        "trainer": os.getpid(),
        "seconds": bounds.seconds,
        "cpu_seconds": int(bounds.seconds * (1 if program.stdio else count + 1)) + 1,
        "memory": bounds.memory_mb << 20,
        "output": bounds.output,
        "partial": partial,
        "folders": sorted({sys.base_prefix, sys.base_exec_prefix}),
    }
    try:
        given = plain.message_bytes(job) + plain.message_bytes(tests, plain.OURS)
        ours, theirs = socket.socketpair()  # unlike a pipe or a file, nobody can open it anew through /proc
        with _folder(isolation) as folder, ours, tempfile.TemporaryFile() as errors:
            with theirs:
                guard = subprocess.Popen(
                    _COMMAND,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=errors,
                    cwd=folder,
                    env={"PYTHONHASHSEED": "0"},
                    start_new_session=True,
                )
            reports, code = _watch(guard, ours, given, START_SECONDS + _FAR * bounds.seconds * (count + 1), enough)
            errors.seek(0)
            last = errors.read()[-2000:].decode("utf-8", "replace").strip().rpartition("\n")[2]
    except (OSError, ValueError) as error:
        raise SandboxError(str(error)) from error
    failed = next((report["failed"] for report in reports if "failed" in report), None)
    if code == LEFT_OVER:
        log.warning("code reward: a program's processes could not all be ended")
    if failed is None and code in (DONE, LEFT_OVER):
        return reports
    raise SandboxError(failed or last or ("the tester died" if code == DIED else f"the sandbox ended with {code}"))


def _watch(
    guard: subprocess.Popen[bytes],
    line: socket.socket,
    given: bytes,
    seconds: float,
    enough: Callable[[dict[str, Any]], bool],
) -> tuple[list[dict[str, Any]], int]:
    """What the guard reported, and its exit code; `DONE` when `enough` has stopped it."""
    stopped = True  # also by an exception
    try:
        reports, stopped, late = _talk(line, given, seconds, enough)
    finally:
        code = _end(guard, stopped)
    if late:
        raise SandboxError(f"no verdict after {seconds:.0f} s: the machine is too busy")
    return reports, DONE if stopped else code


def choose(isolation: Isolation) -> Literal["namespaces", "limits"]:
    """The isolation to use, seen to work: "auto" is namespaces where they do, else limits, with one warning.

    Raises:
        SandboxError: it does not work.
        UserError: "auto", and nothing here would keep a program from what is the user's.
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
        if not filters.available():
            raise UserError(
                f"reward 'code': no namespaces here ({error}), and no Landlock with system call filters to keep a "
                "model's programs from this user's files and processes; allow one of them, or set isolation: limits "
                "in a container made for it"
            ) from error
        _check("limits")
        log.warning(
            "code reward: no namespaces (%s): model programs run as processes of this machine, held by Landlock, a "
            "system call filter and limits; isolation: namespaces refuses that",
            error,
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


def _talk(
    line: socket.socket, given: bytes, seconds: float, enough: Callable[[dict[str, Any]], bool]
) -> tuple[list[dict[str, Any]], bool, bool]:
    """The guard's lines until it ends; whether it is to be stopped, and whether because the time is over."""
    reports: list[dict[str, Any]] = []
    rest, pending, deadline = memoryview(given), bytearray(), time.monotonic() + seconds
    line.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while ready := selector.select(max(0.0, deadline - time.monotonic())):
            if ready[0][1] & selectors.EVENT_WRITE:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended: its output says why
                    rest = rest[line.send(rest) :]
                if not rest:
                    selector.modify(line, selectors.EVENT_READ)
            if not ready[0][1] & selectors.EVENT_READ:
                continue
            try:
                chunk = line.recv(1 << 20)
            except ConnectionResetError:  # it has ended before it had read all
                return reports, False, False
            if not chunk:
                return reports, False, False
            pending += chunk
            if b"\n" not in chunk:
                continue
            *lines, last = pending.split(b"\n")
            pending = bytearray(last)
            for text in lines:
                reports.append(json.loads(text))
                if enough(reports[-1]):
                    return reports, True, False
    return reports, True, True


def _end(guard: subprocess.Popen[bytes], stopped: bool) -> int:
    """The guard's exit code. One that has no reason to run is asked to clear up, then ended with all of its group."""
    if not stopped:  # its output has ended: it is clearing up
        with contextlib.suppress(subprocess.TimeoutExpired):
            return guard.wait(_CLEAR_UP_SECONDS)
    guard.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        return guard.wait(_CLEAR_UP_SECONDS)
    os.killpg(guard.pid, signal.SIGKILL)
    return guard.wait()
