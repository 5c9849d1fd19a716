"""Where a model computes, and in what precision where nothing is trained."""

from __future__ import annotations

import logging
from functools import cache

import torch

from grpo.config.engine import RuntimeConfig
from grpo.errors import UserError
from grpo.system.world import launched, local_rank

log = logging.getLogger("grpo")


def pick_device(runtime: RuntimeConfig) -> torch.device:
    """The device asked for; `auto` takes a GPU when there is one. Each of several processes has its own GPU.

    Raises:
        UserError: there is no such device, or it cannot train in this precision.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name = runtime.device if runtime.device != "auto" else "cuda" if available["cuda"] else "cpu"
    if not available[name]:
        raise UserError(f"runtime.device={name}: torch finds no such device here")
    if name == "cpu" and runtime.dtype == "float16":
        raise UserError("runtime.dtype=float16 trains with loss scaling on a GPU only; on a CPU use bfloat16")
    shared = name == "cuda" and launched()
    if name == "cuda" and not shared and torch.cuda.device_count() > 1:
        _say_one_of(torch.cuda.device_count())
    return torch.device(name, local_rank() % torch.cuda.device_count() if shared else None)


@cache  # once
def _say_one_of(count: int) -> None:
    log.warning("%d GPUs are visible; this process computes on one of them (docs/processes.md: how to use all)", count)


def inference_dtype(runtime: RuntimeConfig) -> torch.dtype:
    """What weights are held in where nothing is trained."""
    return torch.bfloat16 if runtime.dtype == "bfloat16" else torch.float32
