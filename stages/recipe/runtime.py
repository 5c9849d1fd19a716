"""Settings of the process: those of `grpo.system.runtime`, and how much the libraries say."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from grpo.config.engine import RuntimeConfig
from grpo.system import runtime as core

CHATTY = ("transformers", "datasets", "trl", "accelerate", "huggingface_hub", "httpx")


def quiet(level: str) -> None:
    """Log our own messages at `level`; the libraries' chatter and progress bars only when debugging.

    Imports nothing heavy: the libraries read the environment when they are imported.
    """
    debug = level == "debug"
    if not logging.getLogger().handlers:
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger().setLevel(logging.DEBUG if debug else logging.ERROR)
    core.log_at(level)
    if debug:
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|transformers|trl|accelerate|datasets)\b")


def apply_runtime(runtime: RuntimeConfig, seed: int) -> None:
    """Threads, seeds of every generator, and quiet libraries: the same at the start of every stage."""
    import transformers

    quiet(runtime.log_level)
    core.apply_runtime(runtime, seed)
    if runtime.log_level != "debug":
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
