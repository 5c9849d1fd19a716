"""A child process in which untrusted text can only hurt a process that is replaced.

Run as a script with the path of a file that has `judge(**question) -> str`, and is run once, before anything is asked.
The process then forks; the fork reads one JSON request a line, `{"question": {...}, "cpu": ..., "wall": ...}`, and
writes one verdict a line. Interval timers with the default action end the fork even inside a C loop, which no exception
could; the parent process then writes "died" and forks again, in milliseconds, so an endless answer costs its limit and
no more. The limit that counts is of CPU time: on a busy machine a verdict comes later, but it is the same verdict.

This file imports nothing of the project: it must work whatever folder it is started from.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import signal
import sys
from collections.abc import Callable
from typing import TextIO

MEMORY = 4 << 30  # bytes of address space; sympy itself needs well under one GiB


def main(path: str) -> None:
    """Fork servers until one ends cleanly (its input was closed)."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no verdict
    judge = runpy.run_path(path, run_name="judge")["judge"]
    print("ready", file=replies)
    while True:
        child = os.fork()
        if child == 0:
            serve(judge, replies)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        print("died", file=replies)


def serve(judge: Callable[..., str], replies: TextIO) -> None:
    """Answer requests until the input ends."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # macOS refuses a limit below what is mapped already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request["cpu"])
        signal.setitimer(signal.ITIMER_REAL, request["wall"])
        verdict = judge(**request["question"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(verdict, file=replies)


if __name__ == "__main__":
    main(sys.argv[1])
