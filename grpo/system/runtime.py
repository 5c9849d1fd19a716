"""Settings of the process that a run depends on: threads, seeds, and how much the program says of itself."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import random

from grpo.config.engine import RuntimeConfig
from grpo.system.stopping import set_grace
from grpo.system.world import is_main, launched

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of glibc's mallopt
LARGEST, KEPT = 32 << 20, 1 << 30  # bytes: the most that glibc takes for the first, and comes to by itself


def log_at(level: str) -> None:
    """Our own messages from `level` on; of several processes only the main one speaks."""
    logging.getLogger("grpo").setLevel(level.upper() if is_main() else logging.CRITICAL)


def apply_runtime(runtime: RuntimeConfig, seed: int) -> None:
    """Threads, memory, the seeds of every generator, the level of our messages, the time to stop in."""
    import numpy as np
    import torch

    log_at(runtime.log_level)
    set_grace(runtime.grace)
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
        if launched():
            os.environ["OMP_NUM_THREADS"] = str(runtime.threads)  # or accelerate takes another number on CPUs
    keep_memory()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def keep_memory() -> None:
    """What tensors leave is for the next ones, not given back to the system, which clears each page anew: that is half
    of all page faults of an update, a few percent of its time. glibc only."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(MMAP_THRESHOLD, LARGEST)
        allocator.mallopt(TRIM_THRESHOLD, KEPT)
