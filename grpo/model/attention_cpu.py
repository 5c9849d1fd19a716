"""Attention of a padded batch on a CPU, and its gradients, both by log-sum-exps: the two pieces of `shared_attention`.

Flash attention makes a few calls for every head of every sequence, which on short ones take longer than the arithmetic;
those are done by products of the whole batch, in fp32 at least, which hold all scores.

Letters: n sequences, H heads of queries, K of keys and values, L queries, S keys, D head size.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

LOG2_E = 1 / math.log(2)  # exp2 is fast where exp is not: on CPUs it takes many times as long far below zero
SHORT = 64  # keys up to which products of the whole batch are faster
Query = Float[Tensor, "n H L D"]
Key = Float[Tensor, "n K S D"]
Norms = Float[Tensor, "n H L"]
Bias = Float[Tensor, "n 1 1 S"]
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@torch.autocast("cpu", enabled=False)  # what is half precision here is so already
def attention(
    query: Query, key: Key, value: Key, scale: float, *, causal: bool = False, bias: Bias | None = None
) -> tuple[Query, Norms]:
    """What the queries see, and the log-sum-exps of their scores. `causal` (L and S are the same tokens): no `bias`."""
    if not _short(key):
        return _flash(query, key, value, 0.0, causal, attn_mask=bias, scale=scale)
    dtype, (query, key, value) = query.dtype, _exact(query, key, value)
    keys = key.flatten(0, 1)
    scores = torch.baddbmm(_hidden(query, key, causal, bias), _by_key(query, key), keys.transpose(1, 2), alpha=scale)
    logs = scores.log_softmax(-1)
    norm = scores.amax(-1) - logs.amax(-1)  # by the largest: by another one, rounding would be that of its score
    seen = torch.bmm(logs.mul_(LOG2_E).exp2_(), value.flatten(0, 1))
    return _by_query(seen, query).to(dtype), norm.view(query.shape[:3])


@torch.autocast("cpu", enabled=False)
def attention_gradients(
    grad: Query,
    query: Query,
    key: Key,
    value: Key,
    out: Query,
    norm: Norms,
    scale: float,
    *,
    causal: bool = False,
    bias: Bias | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of query, key and value, when `out` and `norm` may be those of more keys than these."""
    if not _short(key):
        return _flash_backward(grad, query, key, value, out, norm, 0.0, causal, attn_mask=bias, scale=scale)
    dtype, (grad, query, key, value, out) = query.dtype, _exact(grad, query, key, value, out)
    queries, keys, values, grads = _by_key(query, key), key.flatten(0, 1), value.flatten(0, 1), _by_key(grad, key)
    start = (_hidden(query, key, causal, bias) - norm.reshape(len(keys), -1, 1)).mul_(LOG2_E)
    weights = torch.baddbmm(start, queries, keys.transpose(1, 2), alpha=scale * LOG2_E).exp2_()
    along = (grads * _by_key(out, key)).sum(-1, keepdim=True)
    of_scores = torch.bmm(grads, values.transpose(1, 2)).sub_(along).mul_(weights).mul_(scale)
    return (
        _by_query(torch.bmm(of_scores, keys), query).to(dtype),
        torch.bmm(of_scores.transpose(1, 2), queries).view(key.shape).to(dtype),
        torch.bmm(weights.transpose(1, 2), grads).view(value.shape).to(dtype),
    )


def _short(key: Tensor) -> bool:
    return key.shape[2] <= SHORT


def _exact(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Half precision in fp32, in which flash attention adds up too."""
    return tuple(x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors)


def _by_key(x: Query, key: Key) -> Float[Tensor, "nK hL D"]:
    """Heads that share a head of keys under one another."""
    return x.reshape(key.shape[0] * key.shape[1], -1, x.shape[-1])


def _by_query(x: Float[Tensor, "nK hL D"], query: Query) -> Query:
    return x.view(*query.shape[:3], x.shape[-1])


def _hidden(query: Tensor, key: Tensor, causal: bool, bias: Tensor | None) -> Float[Tensor, "#nK #hL S"]:
    """Minus infinity where a query does not see a key."""
    length, keys = query.shape[2], key.shape[2]
    if causal:
        mask = query.new_full((length, keys), -torch.inf).triu_(1)
        return mask.repeat(query.shape[1] // key.shape[1], 1)
    if bias is None:
        return query.new_zeros(())
    return bias.to(query.dtype).expand(-1, key.shape[1], -1, -1).reshape(-1, 1, keys)
