"""Weights from a folder or a hub name. They are fp32 masters where they are trained; half precision is autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from grpo.errors import UserError, first_line
from grpo.model.loading.exact import with_whole_attention
from grpo.model.loading.path import check_model


@contextmanager
def loading(model: str, failure: str = "cannot be loaded") -> Iterator[None]:
    """A `UserError` when the name is not a model's, or transformers cannot load it."""
    check_model(model)
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(f"model '{model}': {failure}: {first_line(error)}") from error


def load_model(model: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """A causal LM, in eval mode: dropout would make pi_theta differ from the policy that sampled. Training wants fp32
    masters.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    with loading(model):
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    return with_whole_attention(loaded).to(device).eval()


def load_outline(model: str) -> Any:
    """The model with its settings and without its weights, for who needs only the former.

    Raises:
        UserError: its config cannot be loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    with loading(model), torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    with suppress(OSError):  # without one, what its config says of end tokens is there already
        outline.generation_config = GenerationConfig.from_pretrained(model)
    outline.name_or_path = model
    return outline
