"""Trainers in processes of their own that take turns, a step each: `Worker` is the end that gives the word, `Gate` the
one inside a trainer's process that waits for it and measures the step."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).resolve().parent


class Worker:
    """A trainer that waits for its turn."""

    def __init__(self, side: str, command: list[str], folder: Path, threads: int):
        folder.mkdir(parents=True)
        self.side = side
        self.log = folder / "log"
        environment = {
            **os.environ,
            "PYTHONPATH": f"{HERE.parent}:{os.environ.get('PYTHONPATH', '')}",
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )

    def read(self) -> dict[str, Any]:
        line = _pipe(self.process.stdout).readline()
        if not line:
            raise SystemExit(f"{self.side} failed:\n{self.log.read_text()[-3000:]}")
        return dict(json.loads(line))

    def step(self) -> dict[str, Any]:
        """Have it do a step."""
        self.tell("go")
        return self.read()

    def tell(self, word: str) -> None:
        pipe = _pipe(self.process.stdin)
        pipe.write(word + "\n")
        pipe.flush()

    def stop(self) -> None:
        self.tell("stop")
        self.process.wait()


def _pipe(stream: Any) -> TextIO:
    assert stream is not None
    return stream  # type: ignore[no-any-return]


class Stop(BaseException):
    """No more steps."""


def resident(name: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


class Gate:
    """Waits for the word before each step, and measures it."""

    def __init__(self, cuda: bool = False):
        self.cuda = cuda
        self.step = -1
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what the trainers print is not for the other end

    def now(self) -> float:
        if self.cuda:
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def begin(self) -> None:
        """A step is over, and the next wants to begin."""
        end = self.now()
        if self.step < 0:
            self.loaded()
            self.say({"ready": True})
        else:
            self.say(
                {
                    "seconds": end - self.start,
                    "cpu": time.process_time() - self.used,
                    **self.found,
                    "peak": self.peak(),
                    **self.more(),
                }
            )
        if sys.stdin.readline().strip() != "go":
            raise Stop
        self.step += 1
        self.start, self.used = self.now(), time.process_time()

    def more(self) -> dict[str, Any]:
        """What else is known of the step."""
        return {}

    def generated(self, lengths: list[int]) -> None:
        """The step has its completions."""
        self.found = {"generation": self.now() - self.start, "tokens": sum(lengths), "longest": max(lengths)}

    def loaded(self) -> None:
        """Memory from here on is what the steps take: models are loaded, the optimizer has no state yet."""
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self.base = torch.cuda.memory_allocated()
            return
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self.base = resident("VmRSS")

    def peak(self) -> int:
        """The most memory above the loaded models so far, in bytes."""
        if self.cuda:
            import torch

            return int(torch.cuda.max_memory_allocated() - self.base)
        return resident("VmHWM") - self.base

    def say(self, record: dict[str, Any]) -> None:
        self.out.write(json.dumps(record) + "\n")
        self.out.flush()
