"""Settings of the process that a run depends on: threads, seeds, and how much the program says of itself."""

from __future__ import annotations

import logging
import random

from grpo.config import RuntimeConfig
from grpo.parallel import is_main
from grpo.stopping import set_grace


def log_at(level: str) -> None:
    """Our own messages from `level` on; of several processes only the main one speaks."""
    logging.getLogger("grpo").setLevel(level.upper() if is_main() else logging.CRITICAL)


def apply_runtime(runtime: RuntimeConfig, seed: int) -> None:
    """Threads, the seeds of every generator, the level of our messages, the time to stop in."""
    import numpy as np
    import torch

    log_at(runtime.log_level)
    set_grace(runtime.grace)
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
