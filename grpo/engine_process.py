"""The embedded engine in a process of its own, so that it can sample while the trainer computes (`engine.ahead`).

Requests go over a socket, one at a time; weights through memory that both processes see. The process ends with the
trainer, however that ends, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil
import torch

from grpo.config import RuntimeConfig
from grpo.errors import UserError
from grpo.types import Group, PolicyWeights, Prompt, Sampling

PATIENCE = 120  # seconds in which a process that computes nothing is given up
ALIGNMENT = 64  # bytes; of each tensor in the shared memory
COMMAND = "from grpo.engine_process import main; main()"
NAME = "the process that samples ahead (engine.ahead)"
AGAIN = "the same command goes on from the last checkpoint"


@dataclass(frozen=True)
class Place:
    """Of a tensor in the shared memory."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int

    def view(self, memory: mmap.mmap) -> torch.Tensor:
        count = torch.Size(self.shape).numel()
        return torch.frombuffer(memory, dtype=self.dtype, count=count, offset=self.start).view(self.shape)


class ProcessEngine:
    """Groups from a second process, which has its own copy of the model `name`; `sync` fills it.

    `threads`: of the process, on a CPU.
    """

    def __init__(self, name: str, runtime: RuntimeConfig, max_rows: int, threads: int):
        self._memory_file = shared_file()
        self._memory: mmap.mmap | None = None  # made at the first sync, when its size is known
        self._places: list[Place] = []
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        settings = {"name": name, "runtime": runtime.model_dump(), "max_rows": max_rows, "threads": threads}
        with theirs:
            fds = (theirs.fileno(), self._memory_file)
            self._process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, json.dumps(settings), *map(str, fds)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                stdin=subprocess.PIPE,  # its end tells the process that we are gone
                pass_fds=fds,
                start_new_session=True,  # Ctrl-C is meant for the trainer
            )

    def sync(self, policy: PolicyWeights) -> None:
        """Give the process the policy's weights.

        Raises:
            UserError: it is gone, or its model has other tensors.
        """
        if self._memory is None:
            self._places, size = layout(policy.export())
            os.ftruncate(self._memory_file, size)
            self._memory = mmap.mmap(self._memory_file, size)
        for place, (_, tensor) in zip(self._places, policy.export(), strict=True):
            place.view(self._memory).copy_(tensor)
        self._ask(("sync", self._places))

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, step: int) -> list[Group]:
        """As the embedded engine's.

        Raises:
            UserError: as there; or the process failed, died or hangs.
        """
        bare = [Prompt(p.id, p.token_ids, task=p.task) for p in prompts]  # the columns may be anything
        groups = self._ask(("generate", bare, sampling, seed, step))
        return [Group(prompt, group.rollouts) for prompt, group in zip(prompts, groups, strict=True)]

    def release(self) -> None:
        """Its memory is its own."""

    def close(self) -> None:
        """End the process, whatever it does. (A thread may still wait for its answer, and closes the socket.)"""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        os.close(self._memory_file)

    def _ask(self, request: Any) -> Any:
        try:
            self._connection.send(request)
            self._wait()
            failure, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            code = self._process.wait(PATIENCE)
            ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            hint = "; perhaps memory ran out" if code == -signal.SIGKILL else ""
            raise UserError(f"{NAME} {ended}{hint}: {AGAIN}") from error
        if failure is not None:
            raise UserError(failure)
        return answer

    def _wait(self) -> None:
        """Until there is an answer, or the end of the process.

        Raises:
            UserError: it has computed nothing for a while: it was stopped, or it waits for what never comes.
        """
        spent, idle = -1.0, 0
        while not self._connection.poll(1.0):
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(self._process.pid).cpu_times()
                # Seconds are counted by waking up: after a suspended run goes on, no time seems to have passed.
                idle = 0 if times.user + times.system > spent else idle + 1
                spent = times.user + times.system
            if idle >= PATIENCE:
                self._process.kill()
                raise UserError(f"{NAME} hangs: it computed nothing for {PATIENCE} s and was ended; {AGAIN}")


def shared_file() -> int:
    """Descriptor of a file without a name, in memory where the system has that."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("grpo-weights")
    descriptor, name = tempfile.mkstemp()
    os.unlink(name)
    return descriptor


def layout(tensors: Iterator[tuple[str, torch.Tensor]]) -> tuple[list[Place], int]:
    """Where each tensor lies, one after the other, and the bytes of all."""
    places, start = [], 0
    for name, tensor in tensors:
        places.append(Place(name, tuple(tensor.shape), tensor.dtype, start))
        start += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    return places, start


@dataclass(frozen=True)
class Delivered:
    """The policy's weights, as the process sees them."""

    places: Sequence[Place]
    memory: mmap.mmap

    def export(self) -> Iterator[tuple[str, torch.Tensor]]:
        for place in self.places:
            yield place.name, place.view(self.memory)


def main() -> None:
    """The process: answer requests until the trainer is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # schedulers send it to everyone; the trainer ends us when it is done
    threading.Thread(target=_end_with_trainer, daemon=True).start()
    settings, channel, memory_file = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    engine = None
    memory: mmap.mmap | None = None
    with Connection(channel) as connection, contextlib.suppress(EOFError):
        while True:
            kind, *arguments = connection.recv()
            failure, answer = None, None
            try:
                engine = engine or _engine(**settings)
                if kind == "sync":
                    memory = memory or mmap.mmap(memory_file, 0)
                    engine.sync(Delivered(arguments[0], memory))
                else:
                    prompts, sampling, seed, step = arguments
                    answer = engine.generate(prompts, sampling, seed=seed, step=step)
            except UserError as error:
                failure = str(error)
            except Exception as error:  # noqa: BLE001 - the trainer says it in one line
                failure = f"{NAME} failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}; {AGAIN}"
            connection.send((failure, answer))


def _engine(name: str, runtime: dict[str, Any], max_rows: int, threads: int) -> Any:
    import transformers

    from grpo.engine_local import LocalEngine
    from grpo.policy import inference_dtype, load_model, load_tokenizer, pick_device

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    config = RuntimeConfig.model_validate(runtime)
    model = load_model(name, pick_device(config), inference_dtype(config))
    return LocalEngine(model, load_tokenizer(name), max_rows, shared=False)


def _end_with_trainer() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
