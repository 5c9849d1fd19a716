"""The loss of a few tokens, in float64."""

from typing import Any

import torch
from torch import Tensor

from grpo.config.algorithm import LossConfig
from grpo.loss import LossTerms, Normaliser, grpo_loss


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def terms_of(
    logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor | None = None,
    *,
    old: Tensor | None = None,
    ref: Tensor | None = None,
    gen: Tensor | None = None,
    config: LossConfig | None = None,
    whole: Normaliser | None = None,
    **options: Any,
) -> LossTerms:
    """`grpo_loss` of a step that is these rows alone; unless given, the engine's log-probs are the policy's own."""
    mask = torch.ones_like(logprobs) if mask is None else mask
    gen = logprobs.detach() if gen is None else gen
    whole = whole or Normaliser(len(mask), int(mask.sum()), mask.shape[1], len(mask))
    options = {"prompt_tokens": mask.sum(-1)} | options  # each row answers a prompt of its own
    return grpo_loss(logprobs, old, ref, gen, advantages, mask, config or LossConfig(), whole, **options)
