"""Log-probs and entropies from hidden states, in chunks: [tokens, vocabulary] is never whole, forward or backward.

The backward makes the logits again, chunk by chunk (as Liger's and Cut Cross-Entropy's, arXiv 2411.09009, do); where
one chunk holds all, its log-probs are kept instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# Logits at a time: 32 MB in fp32 on a CPU, 512 MB on a GPU. With fewer the matrix products do not reach their speed
# (2 cores, 32k words of 256: 91 GFLOP/s for 128 tokens, 139 for 256); with more a CPU's caches hold nothing.
CHUNK = {"cpu": 2**23, "cuda": 2**27}
ROWS = 128  # tokens at least, however large the vocabulary
# Chunks for one product of the weight's gradient where that is of half precision and added to a sum in fp32: for each,
# [V, D] is written, read and added, which takes a CPU as long as the product itself. A GPU's chunks are large already.
TOGETHER = {"cpu": 4}


@dataclass(frozen=True)
class LogitShape:
    """How a model makes its logits from those of its last layer, and the sampling temperature."""

    temperature: float = 1.0
    scale: float = 1.0  # Cohere, Granite and others multiply
    softcap: float | None = None  # Gemma 2: cap x tanh(logits / cap)

    @property
    def factor(self) -> float:
        """What the last layer's logits are multiplied by."""
        return self.scale / self.temperature


def target_logprobs(
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
    logprobs, entropy = _TargetLogprobs.apply(hidden, weight, bias, targets, shape, dtype, with_entropy)
    return logprobs, entropy if entropy_gradient else entropy.detach()


class _TargetLogprobs(torch.autograd.Function):
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
        ctx.set_materialize_grads(False)  # zeros for an entropy that nothing depends on would cost a pass over all
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        logprobs = torch.empty(len(hidden), dtype=exact, device=hidden.device)
        entropy = torch.zeros_like(logprobs)
        matrix = weight.to(dtype)
        table = None
        for chunk, logits, table in _chunks(hidden, len(weight), exact):
            _make_logits(hidden[chunk], matrix, bias, shape, logits)
            torch.log_softmax(logits, -1, out=table)
            logprobs[chunk] = table.gather(-1, targets[chunk, None]).squeeze(-1)
            if with_entropy:
                entropy[chunk] = -torch.exp(table, out=logits).mul_(table).sum(-1)
        whole = table is not None and len(table) == len(hidden) and shape.softcap is None
        keep = table if whole and any(ctx.needs_input_grad) else None
        ctx.save_for_backward(hidden, weight, bias, targets, entropy, keep)
        return logprobs, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, entropy_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, entropy, kept = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        exact = entropy.dtype
        grad = torch.zeros_like(entropy) if grad is None else grad
        hidden_grad = torch.empty_like(hidden) if wants_hidden else None
        # Chunks are added up in fp32; the weight's own type may be bf16.
        weight_grad = torch.zeros(weight.shape, dtype=exact, device=grad.device) if wants_weight else None
        bias_grad = torch.zeros(len(weight), dtype=exact, device=grad.device) if wants_bias else None
        matrix, held, begin = weight.to(ctx.dtype), None, 0
        if ctx.dtype != exact:
            chunks = TOGETHER.get(hidden.device.type, 1) if wants_weight else 1
            rows = min(chunks * rows_at_a_time(len(weight), hidden.device), len(hidden))
            held = torch.empty(rows, len(weight), dtype=ctx.dtype, device=hidden.device)
        for chunk, logits, table in _chunks(hidden, len(weight), exact):
            states, slope = hidden[chunk], None
            if kept is None:
                slope = _make_logits(states, matrix, bias, ctx.shape, logits)
                torch.log_softmax(logits, -1, out=table)
            upstream = grad[chunk, None] * ctx.shape.factor
            bonus = None
            if entropy_grad is not None:
                bonus = entropy[chunk, None], entropy_grad[chunk, None] * ctx.shape.factor
            _logits_gradient(table if kept is None else kept, targets[chunk, None], upstream, bonus, logits)
            if slope is not None:
                logits.mul_(slope)
            if bias_grad is not None:
                bias_grad += logits.sum(0)
            end = chunk.start + len(states)
            slopes = logits if held is None else held[chunk.start - begin : end - begin].copy_(logits)
            if hidden_grad is not None:
                hidden_grad[chunk] = slopes @ matrix
            if held is None or end - begin == len(held) or end == len(hidden):
                if weight_grad is not None:
                    block = slopes if held is None else held[: end - begin]
                    _add_product(weight_grad, block.t(), hidden[begin:end].to(ctx.dtype))
                begin = end
        return (
            hidden_grad,
            None if weight_grad is None else weight_grad.to(weight.dtype),
            None if bias_grad is None or bias is None else bias_grad.to(bias.dtype),
            *[None] * 4,
        )


def rows_at_a_time(vocabulary: int, device: torch.device) -> int:
    """Tokens whose logits are made together."""
    return max(ROWS, CHUNK.get(device.type, CHUNK["cuda"]) // vocabulary)


def _chunks(hidden: Tensor, vocabulary: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The tokens of each chunk, and memory for two [tokens, vocabulary], the same for all: made anew for each, it would
    cost a CPU as much as what is computed in it."""
    size = rows_at_a_time(vocabulary, hidden.device)
    memory = [torch.empty(min(size, len(hidden)), vocabulary, dtype=dtype, device=hidden.device) for _ in range(2)]
    for start in range(0, len(hidden), size):
        first, second = (table[: len(hidden) - start] for table in memory)
        yield slice(start, start + size), first, second


def _make_logits(
    states: Float[Tensor, "n D"], matrix: Float[Tensor, "V D"], bias: Tensor | None, shape: LogitShape, out: Tensor
) -> Float[Tensor, "n V"] | None:
    """Write the logits to `out`; the slope of the softcap, if there is one."""
    with torch.autocast(states.device.type, enabled=False):
        if matrix.dtype == out.dtype:
            torch.mm(states.to(matrix.dtype), matrix.t(), out=out)
        else:
            out.copy_(states.to(matrix.dtype) @ matrix.t())
    if bias is not None:
        out.add_(bias)
    slope = None
    if shape.softcap is not None:
        out.div_(shape.softcap).tanh_()
        slope = 1 - out.square()
        out.mul_(shape.softcap)
    if shape.factor != 1:
        out.mul_(shape.factor)
    return slope


def _logits_gradient(
    table: Float[Tensor, "n V"],
    targets: Int64[Tensor, "n 1"],
    grad: Float[Tensor, "n 1"],
    bonus: tuple[Float[Tensor, "n 1"], Float[Tensor, "n 1"]] | None,
    out: Float[Tensor, "n V"],
) -> None:
    """Of the last layer's output z, whose log-probs are `table`: d log p_t / dz = 1_t - p, and for `bonus`, the entropy
    H with its gradient, dH / dz = -p (log p + H)."""
    torch.exp(table, out=out)
    if bonus is None:
        out.mul_(-grad)
    else:
        entropy, its_grad = bonus
        out.mul_((table + entropy).mul_(its_grad).add_(grad).neg_())
    out.scatter_add_(-1, targets, grad)


def _add_product(total: Float[Tensor, "V D"], left: Float[Tensor, "V n"], right: Float[Tensor, "n D"]) -> None:
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
