"""What vLLM is asked for a group, in this process and behind a server alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpo.config.training import RLConfig
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


def check_temperatures(config: RLConfig) -> None:
    """The same of all that a training will sample with."""
    for phase in config.phases():
        check_sampling(phase.sample_settings())


def prompt_seed(seed: int, step: int, prompt: Prompt) -> int:
    """A 62-bit seed, with room for the sibling's number."""
    return stream_key(seed, step, prompt.task, prompt.id) >> 2


def parameters(prompt: Prompt, sampling: Sampling, end_ids: Sequence[int], seed: int, step: int) -> dict[str, Any]:
    """vLLM's `SamplingParams` of a prompt's siblings."""
    return {
        "n": sampling.group_size,
        # Sibling i draws with this + i: hashed, so that the next prompt's siblings have other seeds.
        "seed": prompt_seed(seed, step, prompt),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop),
        "stop_token_ids": list(end_ids),
        "ignore_eos": True,  # vLLM's own end token is one of ours, or none
        "detokenize": bool(sampling.stop),  # the text is made from the ids, as every engine does
        "skip_special_tokens": False,  # a stop text may be, or contain, one
        "logprobs": 0,  # of the sampled token
    }
