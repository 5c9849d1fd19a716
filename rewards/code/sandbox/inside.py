"""What runs in the process that the parent starts: the guard, which prepares the sandbox, waits, and clears up.

    guard ── tester ── keeper ── candidate

The guard is outside of the process namespaces and ends the tester, whose end is the end of everything below. Its exit
code says how it went (`DONE`, ...); what the tests gave goes to standard output, one JSON object a line. Standard input
and output are sockets: a pipe or a file is opened anew through /proc by whoever may look there, a socket is not.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, NoReturn

from . import candidate, limits, namespaces, plain, tester
from .failures import KeeperFailedError
from .stand_ins import Candidate
from .watch import Clock

DONE, NO_START, DIED, LEFT_OVER = 0, 4, 5, 6  # exit codes
_stopped = False


def main() -> NoReturn:
    """Read a job from standard input and do it."""
    signal.signal(signal.SIGTERM, _stop)
    os.umask(0o022)
    sys.set_int_max_str_digits(0)
    linux = sys.platform == "linux"
    job: dict[str, Any] = {"linux": linux, "candidate_user": None, "tester_user": None, "library_fds": []}
    try:
        if linux:
            with open("/proc/self/oom_score_adj", "w") as file:  # where memory runs out, this goes before the trainer
                file.write("1000")
            namespaces.hide_memory()  # before there is anything to see
            namespaces.leave_keyring()
        job = plain.receive(0) | job
        if linux:
            namespaces.die_with_parent(signal.SIGTERM)
            if os.getppid() != job["trainer"]:  # it ended before that was said
                os._exit(DIED)
            namespaces.adopt_orphans()
        _choose_users(job)
    except (OSError, EOFError) as error:
        _report(1, {"failed": str(error)})
        os._exit(NO_START)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os._exit(_test(job))
    status = limits.wait_for(child, lambda: _stopped)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)  # in a namespace it returns when every process in it is gone
    if not job["namespaces"] and not limits.kill_rest():
        os._exit(LEFT_OVER)
    os._exit(status >> 8 if status is not None and status in (DONE, NO_START << 8) else DIED)


def _choose_users(job: dict[str, Any]) -> None:
    """Enter the namespaces, if any, and give root's tester and candidate users of their own."""
    ids = namespaces.spare_ids() if job["linux"] else None
    job["processes"] = limits.PROCESSES
    if job["namespaces"]:
        namespaces.hide_memory(False)  # else its own user map is closed to it; no program sees past its namespace
        namespaces.enter_namespaces(ids)
        namespaces.hide_memory()
        if ids:
            job["candidate_user"], job["tester_user"] = namespaces.CANDIDATE, namespaces.TESTER
    elif ids:
        job["candidate_user"], job["tester_user"] = ids
        os.chown(".", job["candidate_user"], -1)
        _open_libraries(job)
    elif os.geteuid() == 0:
        raise OSError("root has no other user here for a program to run as; run as an ordinary user")
    else:
        job["processes"] += limits.tasks_of_user() + limits.PROCESSES * (os.cpu_count() or 1)  # its neighbours'


def _open_libraries(job: dict[str, Any]) -> None:
    """Hold the standard library open for a user who may not pass through the folders above it (/root, say)."""
    modules = [module for module in list(sys.modules.values()) if isinstance(getattr(module, "__path__", None), list)]
    for index, folder in enumerate(sys.path):
        if not os.path.isdir(folder):
            continue
        job["library_fds"].append(os.open(folder, os.O_PATH | os.O_DIRECTORY))
        opened = f"/proc/self/fd/{job['library_fds'][-1]}"
        for module in modules:
            module.__path__[:] = [path.replace(f"{folder}/", f"{opened}/", 1) for path in module.__path__]
        sys.path[index] = opened


def _test(job: dict[str, Any]) -> int:
    """The tester's process: the keeper is forked off before the tests are read, so that it cannot hold them."""
    requests, replies = os.pipe(), os.pipe()
    reports = os.dup(1)
    clock = Clock()
    try:
        if job["namespaces"]:
            namespaces.unshare(namespaces.NEWPID)
        keeper = os.fork()
        if keeper == 0:
            os.close(reports)
            os.close(requests[1])
            os.close(replies[0])
            _keep(job, requests[0], replies[1], clock)
        os.close(requests[0])
        os.close(replies[1])
        tests = plain.receive(0, plain.OURS)
        _silence()
        program = Candidate(replies[0], requests[1], keeper, clock)
        tester.main(job, tests, program, lambda message: _report(reports, message))
    except EOFError:
        _report(reports, {"failed": "the candidate's process did not start"})
        return NO_START
    except KeeperFailedError:  # its error output says why
        return NO_START
    except Exception as error:  # noqa: BLE001 - a tester that cannot go on gives no verdict
        _report(reports, {"failed": f"{type(error).__name__}: {error}"})
        return NO_START
    return DONE


def _keep(job: dict[str, Any], requests: int, replies: int, clock: Clock) -> NoReturn:
    _silence(errors=False)
    try:
        candidate.keep(job, requests, replies, clock)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - what goes wrong in the keeper is no verdict on the program
        print(f"sandbox: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(1)


def _silence(*, errors: bool = True) -> None:
    """Nobody below may read the tests from standard input, nor write to the verdicts on standard output."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2) if errors else (0, 1):
        os.dup2(null, number)
    os.close(null)


def _report(pipe: int, message: Any) -> None:
    line = memoryview(json.dumps(message).encode() + b"\n")
    while line:
        line = line[os.write(pipe, line) :]


def _stop(*_: Any) -> None:
    global _stopped
    _stopped = True
