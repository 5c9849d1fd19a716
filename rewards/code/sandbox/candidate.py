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
from typing import Any

from . import filters, limits, namespaces, plain, program
from .watch import Clock, Watch, open_proc

READY = "ready"


def keep(job: dict[str, Any], requests: int, replies: int, clock: Clock) -> None:
    """The keeper's life; the pipes lead from and to the tester."""
    proc = open_proc() if job["linux"] else None
    for kind in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(kind, signal.SIG_IGN)  # also as the first process: a handler of Python's would be called
    if job["linux"]:
        namespaces.die_with_parent(signal.SIGKILL)
        namespaces.adopt_orphans()
    if job["namespaces"]:
        namespaces.make_root(job["folders"], processes=True)
        proc = open_proc() if os.path.exists("/proc/self") else proc  # our own is shorter
    if job["linux"]:
        clock.keep_from_children()
    folder = None if job["namespaces"] else "."
    watch = Watch(proc, job["seconds"], job["memory"], limits.PROCESSES, folder)
    if job["stdio"]:
        plain.send(replies, READY)
        while True:
            try:
                text = plain.receive(requests, plain.OURS)
            except EOFError:
                return
            plain.send(replies, _run(job, text, watch), plain.OURS)
    child = os.fork()
    if child == 0:
        _become_candidate(job, {requests: program.REQUESTS, replies: program.REPLIES})
        plain.send(program.REPLIES, READY)
        program.serve(job["code"], job["header"], job["entry_point"])
    os.close(requests)
    os.close(replies)
    watch.begin(clock)
    limits.wait_for(child, watch)
    limits.kill_rest()


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
        namespaces.die_with_parent(signal.SIGKILL)  # a keeper that fails leaves nobody unwatched
        filters.install(namespaced=job["namespaces"])
    sys.argv = ["solution.py"]


def _run(job: dict[str, Any], text: str, watch: Watch) -> dict[str, Any]:
    """One run of the program on one input: what it wrote before it ended, whether it ended well, and whether at all."""
    given, source = os.pipe()
    output, target = os.pipe()
    for number in (given, target):
        os.fchmod(number, 0o666)  # the candidate, another user, may open /dev/stdin and /dev/stdout
    started, ready = os.pipe()
    watch.begin()
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
    status, stopped = None, False
    while status is None and not pump.too_much and not stopped:
        pump.move(0.01)
        found, ended = os.waitpid(child, os.WNOHANG)
        status = ended if found else None
        stopped = status is None and watch()
    limits.kill_rest()
    pump.finish()
    well = status == 0 and not pump.too_much
    return {"output": pump.text(), "ended_well": well, "started": has_started, "stopped": stopped}
