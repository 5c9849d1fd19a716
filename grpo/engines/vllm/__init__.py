"""vLLM in this process, and behind servers. Not every installation has it, and importing it takes seconds."""

import importlib.util

from grpo.errors import UserError


def vllm_is_there() -> bool:
    """Whether vLLM is installed; it is not imported."""
    return importlib.util.find_spec("vllm") is not None


def require_vllm(wanting: str) -> None:
    """
    Raises:
        UserError: vLLM is not installed; `wanting` is what needs it.
    """
    if not vllm_is_there():
        raise UserError(
            f"vLLM is not installed ({wanting}): pip install -e '.[vllm]' for GPUs, make setup-vllm for a CPU"
        )
