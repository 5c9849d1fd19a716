"""Attention over a flat row of prompts and completions (grpo.model.packing): each completion sees its prompt and
itself.

On a CPU it is split in two: every stretch causally to itself, and all completions of a prompt to that prompt, whose
keys are never copied. The two are merged by their log-sum-exps; going backward, each part takes the merged output and
log-sum-exp, which is all that flash attention needs (as in ring attention, arXiv 2310.01889). On a GPU it is one
FlexAttention. Both are compared with plain attention in tests/model/test_shared_attention.py.

Letters: T tokens of the flat row, H heads of queries, K of keys and values, D head size (E: of values).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grpo.model.attention_cpu import attention, attention_gradients
from grpo.model.packing import Bucket, Segments

NAME = "grpo_shared_prompts"
Query = Float[Tensor, "1 H T D"]
Key = Float[Tensor, "1 K T D"]
Value = Float[Tensor, "1 K T E"]


def shared_attention(model: Any) -> AbstractContextManager[None]:
    """While it lasts, forwards of the Hugging Face `model` attend as their argument `segments` says."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    return attending_by(model, NAME)


@contextmanager
def attending_by(model: Any, name: str) -> Iterator[None]:
    """While it lasts, the model's attention is the one registered under this name."""
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before


def attend(
    module: Any,
    query: Query,
    key: Key,
    value: Value,
    attention_mask: Any,
    *,
    segments: Segments,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **other: Any,
) -> tuple[Float[Tensor, "1 T H E"], None]:
    """What transformers calls in every layer.

    Raises:
        NotImplementedError: the layer has what is not computed here; `grpo.model.fit.why_not_shared` finds out.
    """
    if any(other.get(name) is not None for name in ("s_aux", "position_bias")):
        raise NotImplementedError("attention sinks or biases")
    if sliding_window is None and has_window(module):
        raise NotImplementedError("a window that its attention is not told of")
    if torch.is_autocast_enabled(query.device.type):  # norms and rotations may have left queries and keys in fp32
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window if sliding_window is not None and sliding_window < segments.longest else None
    if query.device.type == "cuda":
        return flex_attention(query, key, value, segments, scale, window, softcap).transpose(1, 2), None
    if window is None and softcap is None and query.shape[-1] == value.shape[-1] and query.device.type == "cpu":
        merged = _MergedAttention.apply(*(x[0].transpose(0, 1) for x in (query, key, value)), segments, scale)
        return merged.unsqueeze(0), None
    return masked_attention(query, key, value, segments, scale, window, softcap).transpose(1, 2), None


def has_window(module: Any) -> bool:
    """Whether the model's config gives this layer a window."""
    kinds = getattr(module.config, "layer_types", None)
    if kinds is not None:
        return kinds[module.layer_idx] == "sliding_attention"
    window = getattr(module.config, "sliding_window", None)
    return window is not None and getattr(module.config, "use_sliding_window", True)


class _MergedAttention(torch.autograd.Function):
    """Two flash attentions merged; tensors are [T, heads, D], saved unpadded."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float) -> Tensor:
        out = query.new_empty(query.shape)
        lse = torch.empty(query.shape[:2], dtype=torch.float64 if query.dtype == torch.float64 else torch.float32)
        for bucket in segments.own:
            part, norm = attention(_take(query, bucket), _take(key, bucket), _take(value, bucket), scale, causal=True)
            out.index_copy_(0, bucket.flat, _give(part, bucket))
            lse.index_copy_(0, bucket.flat, _give(norm.unsqueeze(-1), bucket).squeeze(-1))
        for asking, prompt, real in segments.across:
            keys, values, bias = _take(key, prompt), _take(value, prompt), _bias(real, query.dtype)
            part, norm = attention(_take(query, asking), keys, values, scale, bias=bias)
            first, second = lse.index_select(0, asking.flat), _give(norm.unsqueeze(-1), asking).squeeze(-1)
            both = torch.logaddexp(first, second)
            before = out.index_select(0, asking.flat)
            weight = (second - both).exp_().unsqueeze(-1).to(out.dtype)
            out.index_copy_(0, asking.flat, torch.lerp(before, _give(part, asking), weight))
            lse.index_copy_(0, asking.flat, both)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.segments, ctx.scale = segments, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: with gradient checkpointing they cannot be had again
        grads = [torch.empty(x.shape, dtype=x.dtype) for x in saved[:3]]
        for bucket in ctx.segments.own:
            parts = _part_gradients(saved, grad, bucket, bucket, ctx.scale, True, None)
            for total, part in zip(grads, parts, strict=True):
                total.index_copy_(0, bucket.flat, _give(part, bucket))
        for asking, prompt, real in ctx.segments.across:
            parts = _part_gradients(saved, grad, asking, prompt, ctx.scale, False, _bias(real, grad.dtype))
            for total, part, where in zip(grads, parts, (asking, prompt, prompt), strict=True):
                total.index_add_(0, where.flat, _give(part, where))
        return (*grads, None, None)


def _part_gradients(
    saved: Sequence[Tensor], grad: Tensor, asking: Bucket, keys: Bucket, scale: float, causal: bool, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of queries, keys and values, by one of the two attentions."""
    query, key, value, out, lse = saved
    incoming = _take(grad, asking)
    if asking.padded is not None:  # a padded query repeats a real one: it must not count twice
        incoming = torch.zeros_like(incoming.transpose(1, 2)).flatten(0, 1)
        incoming.index_copy_(0, asking.padded, grad.index_select(0, asking.flat))
        incoming = incoming.view(*asking.index.shape, *grad.shape[1:]).transpose(1, 2)
    q, k, v, seen = _take(query, asking), _take(key, keys), _take(value, keys), _take(out, asking)
    norm = _take(lse.unsqueeze(-1), asking).squeeze(-1).contiguous()
    return attention_gradients(incoming, q, k, v, seen, norm, scale, causal=causal, bias=bias)


def _take(rows: Float[Tensor, "T H D"], bucket: Bucket) -> Float[Tensor, "n H L D"]:
    """The bucket's stretches as a padded batch."""
    taken = rows.index_select(0, bucket.index.flatten())
    return taken.view(*bucket.index.shape, *rows.shape[1:]).transpose(1, 2)


def _give(batch: Float[Tensor, "n H L D"], bucket: Bucket) -> Float[Tensor, "M H D"]:
    """The real rows of a padded batch, in the order of `bucket.flat`."""
    rows = batch.transpose(1, 2).flatten(0, 1)
    return rows if bucket.padded is None else rows.index_select(0, bucket.padded)


def _bias(real: Bool[Tensor, "n 1 1 K"] | None, dtype: torch.dtype) -> Float[Tensor, "n 1 1 K"] | None:
    return None if real is None else torch.zeros(real.shape, dtype=dtype).masked_fill_(~real, -torch.inf)


def visible(segments: Segments, window: int | None, query: Tensor, key: Tensor) -> Tensor:
    """Whether the token at `query` of the flat row sees the one at `key`: the rule that everything here follows."""
    stretch, prompt = segments.labels
    seen = (key <= query) & ((stretch[query] == stretch[key]) | (prompt[query] == stretch[key]))
    if window is None:
        return seen
    places = segments.places
    return seen & (places[query] - places[key] < window)


def masked_attention(
    query: Query, key: Key, value: Value, segments: Segments, scale: float, window: int | None, softcap: float | None
) -> Float[Tensor, "1 H T E"]:
    """Plain attention prompt by prompt, for what flash attention on CPUs does not do: windows that cut something off,
    capped scores, values of another width than keys."""
    times = query.shape[1] // key.shape[1]
    out = query.new_empty(*query.shape[:3], value.shape[-1])
    pieces, places = [], []
    for tokens in segments.tokens_by_prompt:
        q, k, v = (x.index_select(2, tokens) for x in (query, key, value))
        scores = q.unflatten(1, (-1, times)) @ k.unsqueeze(2).transpose(-1, -2) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        seen = visible(segments, window, tokens[:, None], tokens[None])
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32))
        pieces.append((weights.to(v.dtype) @ v.unsqueeze(2)).flatten(1, 2))
        places.append(tokens)
    return out.index_copy(2, torch.cat(places), torch.cat(pieces, 2))


def flex_attention(
    query: Query, key: Key, value: Value, segments: Segments, scale: float, window: int | None, softcap: float | None
) -> Float[Tensor, "1 H T E"]:
    """One kernel that skips the blocks of the flat row that nobody sees."""

    def capped(score: Tensor, *_: Tensor) -> Tensor:
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    flex, _ = _flex(query.device.type)
    mask, grouped = block_mask(segments, window), query.shape[1] != key.shape[1]
    cap = None if softcap is None else capped
    return flex(query, key, value, score_mod=cap, block_mask=mask, scale=scale, enable_gqa=grouped)


def block_mask(segments: Segments, window: int | None) -> Any:
    """FlexAttention's form of `visible`, made once for all layers with that window."""
    masks = segments.block_masks
    if window not in masks:

        def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return visible(segments, window, query, key)

        device, length = segments.device, len(segments.labels[0])
        masks[window] = _flex(device.type)[1](seen, None, None, length, length, device=str(device))
    return masks[window]


@cache
def _flex(device: str) -> tuple[Any, Any]:
    """FlexAttention and its mask maker, compiled on a GPU; without that, each holds all T x T scores."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if device != "cuda":
        return flex_attention, create_block_mask
    return torch.compile(flex_attention, dynamic=True), torch.compile(create_block_mask, dynamic=True)
