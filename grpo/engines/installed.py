"""vLLM, which not every installation has. Importing it takes seconds, so here it is only looked for."""

from __future__ import annotations

import importlib.util

from grpo.config.sections import EngineConfig
from grpo.errors import UserError


def vllm_is_there() -> bool:
    return importlib.util.find_spec("vllm") is not None


def check_engine(config: EngineConfig) -> None:
    """
    Raises:
        UserError: the engine asked for is not installed.
    """
    if config.kind == "vllm":
        require_vllm("engine.kind=vllm")


def require_vllm(wanting: str) -> None:
    """
    Raises:
        UserError: vLLM is not installed; `wanting` is what needs it.
    """
    if not vllm_is_there():
        raise UserError(
            f"vLLM is not installed ({wanting}): pip install -e '.[vllm]' for GPUs, make setup-vllm for a CPU"
        )
