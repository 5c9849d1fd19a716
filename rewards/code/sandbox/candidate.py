"""The untrusted side: a keeper that can neither be seen into nor ended, and under it the candidate's program.

The keeper (first process of its own process namespace, where there are namespaces) holds no test and no verdict. It
starts the program, once to answer calls, or once for each input; when the program ends it ends what the program has
started. What the candidate's process may write to the tester are the values of its calls: whatever it does to its own
interpreter, it can only give answers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import Any

from . import filters, limits, namespaces, plain, program

READY = "ready"


def keep(job: dict[str, Any], requests: int, replies: int) -> None:
    """The keeper's life; the pipes lead from and to the tester."""
    for kind in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(kind, signal.SIG_IGN)  # also as the first process: a handler of Python's would be called
    if job["linux"]:
        namespaces.die_with_parent(signal.SIGKILL)
        namespaces.adopt_orphans()
    if job["namespaces"]:
        namespaces.make_root(job["folders"], processes=True)
    if job["stdio"]:
        plain.send(replies, READY)
        while True:
            try:
                text = plain.receive(requests, plain.OURS)
            except EOFError:
                return
            plain.send(replies, _run(job, text), plain.OURS)
    child = os.fork()
    if child == 0:
        _become_candidate(job, {requests: program.REQUESTS, replies: program.REPLIES})
        plain.send(program.REPLIES, READY)
        program.serve(job["code"], job["header"], job["entry_point"])
    os.close(requests)
    os.close(replies)
    limits.wait_for(child, job["seconds"], _Watch(job["memory"]))
    limits.kill_rest()


class _Watch:
    """True when all processes of the program together hold more memory than one may."""

    def __init__(self, memory: int) -> None:
        self.memory, self.next = memory, time.monotonic() + 0.1

    def __call__(self) -> bool:
        if time.monotonic() < self.next:
            return False
        self.next = time.monotonic() + 0.1
        return limits.resident_memory() > self.memory


def _become_candidate(job: dict[str, Any], pipes: dict[int, int]) -> None:
    """In a forked child: the given pipes and nothing else of ours, limits, no privileges, a session of its own."""
    os.setsid()
    for kind in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
        signal.signal(kind, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    copies = {os.dup(source): target for source, target in pipes.items()}  # out of each other's way
    for number in (0, 1, 2):
        os.dup2(null, number)
    for source, target in copies.items():
        os.dup2(source, target, inheritable=target < 3)
    wanted = {0, 1, 2, *pipes.values(), *job["library_fds"]}
    for number in range(limits.OPEN_FILES):
        if number not in wanted:
            with contextlib.suppress(OSError):
                os.close(number)
    os.environ.clear()
    limits.set_limits(job["cpu_seconds"], job["memory"], job["processes"])
    if job["linux"]:
        namespaces.give_up_privileges(job["candidate_user"])
        if not job["namespaces"]:
            filters.show_only(job["folders"], ".", job["library_fds"])
        filters.install(namespaced=job["namespaces"])
    sys.argv = ["solution.py"]


def _run(job: dict[str, Any], text: str) -> dict[str, Any]:
    """One run of the program on one input: what it wrote before it ended, and whether it ended well."""
    given, source = os.pipe()
    output, target = os.pipe()
    for number in (given, target):
        os.fchmod(number, 0o666)  # the candidate, another user, may open /dev/stdin and /dev/stdout
    started, ready = os.pipe()
    child = os.fork()
    if child == 0:
        _become_candidate(job, {given: 0, target: 1, ready: program.REPLIES})
        os.write(program.REPLIES, b"1")
        os.close(program.REPLIES)
        program.run_script(job["code"])
    for number in (given, target, ready):
        os.close(number)
    has_started = os.read(started, 1) == b"1"
    os.close(started)
    pump = program.Pump(source, output, text.encode("utf-8", "replace"), job["output"])
    status, watch = None, _Watch(job["memory"])
    while status is None and not pump.too_much and not watch():
        pump.move(0.01)
        found, ended = os.waitpid(child, os.WNOHANG)
        status = ended if found else None
    limits.kill_rest()
    pump.finish()
    return {"output": pump.text(), "ended_well": status == 0 and not pump.too_much, "started": has_started}
