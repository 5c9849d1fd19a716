"""vLLM, which not every installation has. Importing it takes seconds, so here it is only looked for."""

from __future__ import annotations

import importlib.util

from grpo.config import EngineConfig
from grpo.errors import UserError


def vllm_is_there() -> bool:
    return importlib.util.find_spec("vllm") is not None


def check_engine(config: EngineConfig) -> None:
    """
    Raises:
        UserError: the engine asked for is not installed.
    """
    if config.kind == "vllm" and not vllm_is_there():
        raise UserError(
            "vLLM is not installed (engine.kind=vllm): pip install -e '.[vllm]' for GPUs, make setup-vllm for a CPU"
        )
