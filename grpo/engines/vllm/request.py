"""What a request to vLLM may ask, and the seed it goes by."""

from __future__ import annotations

from grpo.engines.draws import stream_key
from grpo.errors import UserError
from grpo.types import Prompt, Sampling

COLDEST = 0.01  # vLLM samples at this temperature when a lower one is asked for, and only logs that


def check_sampling(sampling: Sampling) -> None:
    """
    Raises:
        UserError: vLLM would silently sample otherwise.
    """
    if 0 < sampling.temperature < COLDEST:
        raise UserError(
            f"sampling temperature {sampling.temperature:g}: vLLM's lowest is {COLDEST}; take that, 0 to evaluate "
            "greedily, or engine=local"
        )


def prompt_seed(seed: int, step: int, prompt: Prompt) -> int:
    """A 62-bit seed, with room for the sibling's number."""
    return stream_key(seed, step, prompt.task, prompt.id) >> 2
