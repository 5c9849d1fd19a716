"""Where the time of a step goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch.profiler import record_function


class Clock:
    """Seconds by phase since the last lap."""

    PHASES = ("generate", "reward", "score", "update", "sync", "save")

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(self.PHASES, 0.0)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        with record_function(phase):  # its name in a profiler's trace
            yield
        self.seconds[phase] += time.perf_counter() - start

    def lap(self) -> dict[str, float]:
        seconds, self.seconds = self.seconds, dict.fromkeys(self.PHASES, 0.0)
        return seconds
