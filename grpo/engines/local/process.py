"""The embedded engine in a process of its own, so that it can sample while the trainer computes (`engine.ahead`).

Requests go over a socket, one at a time; weights through memory that both processes see. The process ends with the
trainer, however that ends, and leaves nothing behind.
"""

import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import psutil
import torch

from grpo.config.engine import RuntimeConfig
from grpo.errors import UserError
from grpo.system.background import in_background
from grpo.types import Group, Heard, PolicyWeights, Prompt, Sampling

PATIENCE = 120  # seconds in which a process that computes nothing is given up
ALIGNMENT = 64  # bytes; of each tensor in the shared memory
COMMAND = "from grpo.engines.local.worker import main; main()"
PACKAGES = str(Path(__file__).parents[3])  # where the process finds this package, wherever it is started
NAME = "the process that samples ahead (engine.ahead)"
AGAIN = "the same command goes on from the last checkpoint"
LOOK_SECONDS = 1.0  # between two looks whether the other side still is there


@dataclass(frozen=True)
class Place:
    """Of a tensor in the shared memory."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int

    def view(self, memory: mmap.mmap) -> torch.Tensor:
        """The tensor that lies there, not a copy."""
        count = torch.Size(self.shape).numel()
        return torch.frombuffer(memory, dtype=self.dtype, count=count, offset=self.start).view(self.shape)


class ProcessEngine:
    """Groups from a second process, which has its own copy of the model `name`; `sync` fills it.

    `threads`: of the process, on a CPU. It starts at the first `sync`.
    """

    def __init__(self, name: str, runtime: RuntimeConfig, max_rows: int, threads: int):
        self._settings = {"name": name, "runtime": runtime.model_dump(), "max_rows": max_rows, "threads": threads}
        self._memory_file = shared_file()
        self._memory: mmap.mmap | None = None  # made at the first sync, when its size is known
        self._places: list[Place] = []
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self) -> subprocess.Popen[bytes]:
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        with theirs:
            fds = (theirs.fileno(), self._memory_file.fileno())
            return subprocess.Popen(
                # -P: the current folder's modules (queue, code, ...) must not shadow the standard library's
                [sys.executable, "-P", "-c", COMMAND, json.dumps(self._settings), str(os.getpid()), *map(str, fds)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join([*filter(None, sys.path), PACKAGES])},
                stdin=subprocess.PIPE,  # its end tells the process that we are gone
                pass_fds=fds,
                start_new_session=True,  # Ctrl-C is meant for the trainer
            )

    def sync(self, policy: PolicyWeights) -> None:
        """Give the process the policy's weights.

        Raises:
            UserError: it is gone, or its model has other tensors.
        """
        self._process = self._process or self._start()
        if self._memory is None:
            self._places, size = layout(policy.tensors())
            self._memory_file.truncate(size)
            self._memory = mmap.mmap(self._memory_file.fileno(), size)
        for place, (_, tensor) in zip(self._places, policy.tensors(), strict=True):
            place.view(self._memory).copy_(tensor)
        self._ask(("sync", self._places))

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, step: int, heard: Heard | None = None
    ) -> list[Group]:
        """As the embedded engine's.

        Raises:
            UserError: as there; or the process failed, died or hangs.
        """
        bare = [Prompt(p.id, p.token_ids, task=p.task) for p in prompts]  # the columns may be anything
        groups = self._ask(("generate", bare, sampling, seed, step))
        groups = [Group(prompt, group.rollouts) for prompt, group in zip(prompts, groups, strict=True)]
        for group in groups:
            group.tell(heard)
        return groups

    def release(self) -> None:
        """Its memory is its own."""

    def close(self) -> None:
        """End the process, whatever it does. (A thread may still wait for its answer, and closes the socket.)"""
        self._memory_file.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()

    def _ask(self, request: Any) -> Any:
        assert self._process is not None
        exchanged = in_background(lambda: self._exchange(request))  # either way may block, if the process hangs
        self._watch(self._process, exchanged)
        try:
            failure, answer = exchanged.result()
        except (EOFError, OSError) as error:
            raise UserError(ending(self._process)) from error
        if failure is not None:
            raise UserError(failure)
        return answer

    def _exchange(self, request: Any) -> Any:
        self._connection.send(request)
        return self._connection.recv()

    def _watch(self, process: subprocess.Popen[bytes], exchanged: Future[Any]) -> None:
        """Until there is an answer, or the end of the process. A `UserError` when it has computed nothing for a while:
        it was stopped, or it waits for what never comes."""
        spent, idle = -1.0, 0
        while not wait([exchanged], LOOK_SECONDS).done:
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(process.pid).cpu_times()
                # Seconds are counted by waking up: after a suspended run goes on, no time seems to have passed.
                idle = 0 if times.user + times.system > spent else idle + 1
                spent = times.user + times.system
            if idle >= PATIENCE:
                process.kill()
                raise UserError(f"{NAME} hangs: it computed nothing for {PATIENCE} s and was ended; {AGAIN}")


def ending(process: subprocess.Popen[bytes]) -> str:
    """How a process that answers no more has ended, or has to be, and what to do."""
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        return f"{NAME} answers no more and was ended; {AGAIN}"
    if code >= 0:
        return f"{NAME} ended with exit code {code}: what it wrote before says why"
    hint = "; perhaps memory ran out" if code == -signal.SIGKILL else ""
    return f"{NAME} was ended by {signal_name(-code)}{hint}: {AGAIN}"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time ones but two have none
        return f"signal {number}"


def shared_file() -> IO[bytes]:
    """A file without a name, in memory where the system has that."""
    return open(os.memfd_create("grpo-weights"), "r+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


def layout(tensors: Iterator[tuple[str, torch.Tensor]]) -> tuple[list[Place], int]:
    """Where each tensor lies, one after the other, and the bytes of all."""
    places, start = [], 0
    for name, tensor in tensors:
        places.append(Place(name, tuple(tensor.shape), tensor.dtype, start))
        start += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    return places, start
