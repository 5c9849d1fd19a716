"""Settings of the process: threads, memory, seeds, and how much it and the libraries say."""

import contextlib
import ctypes
import logging
import os
import random
import sys
import warnings

from grpo.config.engine import RuntimeConfig
from grpo.errors import public
from grpo.system.stopping import set_grace
from grpo.system.world import is_main, launched

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of glibc's mallopt
LARGEST, KEPT = 32 << 20, 1 << 30  # bytes: the most that glibc takes for the first, and comes to by itself
CHATTY = ("transformers", "datasets", "trl", "accelerate", "huggingface_hub", "httpx")
SILENCE = {  # read by the libraries when they are imported
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class _Public(logging.Formatter):
    """What rewards raise and servers answer is quoted in warnings: nothing in it acts on the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return public(super().format(record))


def log_at(level: str) -> None:
    """Our own messages from `level` on; of several processes only the main one speaks."""
    logging.getLogger("grpo").setLevel(level.upper() if is_main() else logging.CRITICAL)


def quiet(level: str) -> None:
    """Log our own messages at `level`; the libraries' chatter and progress bars only when debugging. Imports none."""
    debug = level == "debug"
    if not logging.getLogger().handlers:
        logging.basicConfig(stream=sys.stderr)
        logging.getLogger().handlers[0].setFormatter(_Public("%(message)s"))
    logging.getLogger().setLevel(logging.DEBUG if debug else logging.ERROR)
    log_at(level)
    if debug:
        return
    for name, value in SILENCE.items():
        os.environ.setdefault(name, value)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|transformers|trl|accelerate|datasets)\b")


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


def apply_quietly(runtime: RuntimeConfig, seed: int) -> None:
    """`quiet` and `apply_runtime`: the same at the start of every stage."""
    import transformers

    quiet(runtime.log_level)
    apply_runtime(runtime, seed)
    if runtime.log_level != "debug":
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()


def keep_memory() -> None:
    """What tensors leave is for the next ones, not given back to the system, which clears each page anew: that is half
    of all page faults of an update, a few percent of its time. glibc only."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(MMAP_THRESHOLD, LARGEST)
        allocator.mallopt(TRIM_THRESHOLD, KEPT)
