"""Log-probs and entropies from hidden states, in chunks: [tokens, vocabulary] is never whole, forward or backward.

The backward makes the logits again, chunk by chunk (as Liger's and Cut Cross-Entropy's, arXiv 2411.09009, do); where
one chunk holds all, its log-probs are kept instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

CHUNK = 2**22  # logits at a time: 16 MB in fp32


@dataclass(frozen=True)
class LogitShape:
    """How a model makes its logits from those of its last layer, and the sampling temperature."""

    temperature: float = 1.0
    scale: float = 1.0  # Cohere, Granite and others multiply
    softcap: float | None = None  # Gemma 2: cap x tanh(logits / cap)

    @property
    def factor(self) -> float:
        return self.scale / self.temperature


def score_tokens(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    targets: Int64[Tensor, " N"],
    shape: LogitShape,
    *,
    with_entropy: bool = False,
    entropy_gradient: bool = False,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """(log-prob of each target, entropy of its distribution in nats: zero unless asked for), in fp32 at least.

    Under autocast the logits are matrix products of its type; all after that is fp32.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    logprobs, entropy = _Scores.apply(hidden, weight, bias, targets, shape, dtype, with_entropy)
    return logprobs, entropy if entropy_gradient else entropy.detach()


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        shape: LogitShape,
        dtype: torch.dtype,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.shape, ctx.dtype = shape, dtype
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        logprobs = torch.empty(len(hidden), dtype=exact, device=hidden.device)
        entropy = torch.zeros_like(logprobs)
        chunks = _chunks(len(hidden), len(weight))
        matrix = weight.to(dtype)
        table = None
        for chunk in chunks:
            table, _ = _log_softmax(hidden[chunk], matrix, bias, shape)
            logprobs[chunk] = table.gather(-1, targets[chunk, None]).squeeze(-1)
            if with_entropy:
                entropy[chunk] = -(table.exp() * table).sum(-1)
        keep = table if len(chunks) == 1 and shape.softcap is None and any(ctx.needs_input_grad) else None
        ctx.save_for_backward(hidden, weight, bias, targets, entropy, keep)
        return logprobs, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, entropy_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        hidden, weight, bias = saved[:3]
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        hidden_grad = torch.empty_like(hidden) if wants_hidden else None
        # Chunks are added up in fp32; the weight's own type may be bf16.
        weight_grad = torch.zeros(weight.shape, dtype=grad.dtype, device=grad.device) if wants_weight else None
        bias_grad = torch.zeros(len(weight), dtype=grad.dtype, device=grad.device) if wants_bias else None
        matrix = weight.to(ctx.dtype)
        for chunk in _chunks(len(hidden), len(weight)):
            logits_grad = _logits_gradient(saved, ctx.shape, chunk, matrix, grad, entropy_grad)
            if bias_grad is not None:
                bias_grad += logits_grad.sum(0)
            logits_grad = logits_grad.to(ctx.dtype)
            if hidden_grad is not None:
                hidden_grad[chunk] = (logits_grad @ matrix).to(hidden.dtype)
            if weight_grad is not None:
                states = hidden[chunk].to(ctx.dtype)
                if ctx.dtype == weight_grad.dtype:
                    weight_grad.addmm_(logits_grad.t(), states)
                else:
                    weight_grad += logits_grad.t() @ states
        return (
            hidden_grad,
            None if weight_grad is None else weight_grad.to(weight.dtype),
            None if bias_grad is None else bias_grad.to(bias.dtype),
            *[None] * 4,
        )


def _chunks(tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK // vocabulary)
    return [slice(start, start + size) for start in range(0, tokens, size)]


def _log_softmax(
    hidden: Tensor, matrix: Tensor, bias: Tensor | None, shape: LogitShape
) -> tuple[Float[Tensor, "n V"], Float[Tensor, "n V"] | None]:
    """Log-probs of the whole vocabulary, and the slope of the softcap, if there is one."""
    with torch.autocast(hidden.device.type, enabled=False):
        offset = None if bias is None else bias.to(matrix.dtype)
        logits = torch.nn.functional.linear(hidden.to(matrix.dtype), matrix, offset)
    if logits.dtype != torch.float64:
        logits = logits.float()
    slope = None
    if shape.softcap is not None:
        bent = torch.tanh(logits / shape.softcap)
        logits, slope = bent * shape.softcap, 1 - bent.square()
    if shape.factor != 1:
        logits.mul_(shape.factor)
    return torch.log_softmax(logits, -1), slope


def _logits_gradient(
    saved: Sequence[Any], shape: LogitShape, chunk: slice, matrix: Tensor, grad: Tensor, entropy_grad: Tensor | None
) -> Float[Tensor, "n V"]:
    """Of the last layer's output z: d log p_t / dz = 1_t - p, dH / dz = -p (log p + H)."""
    hidden, _, bias, targets, entropy, table = saved
    slope = None
    if table is None:
        table, slope = _log_softmax(hidden[chunk], matrix, bias, shape)
    upstream = grad[chunk, None] * shape.factor
    weights = -upstream
    if entropy_grad is not None:
        weights = weights - entropy_grad[chunk, None] * shape.factor * (table + entropy[chunk, None])
    result = table.exp().mul_(weights).scatter_add_(-1, targets[chunk, None], upstream)
    return result if slope is None else result.mul_(slope)
