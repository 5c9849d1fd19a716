"""Decoder layers as few operations, while the model samples: a step of a small model is mostly the calls it makes.

Weights are packed by oneDNN once for each call of the engine, adapters added. Queries, keys and values come of one
product, and activation, gate and residual are part of the products. That is for fp32 and bf16 on a CPU, where it was
measured (benchmarks/rollout.md); in fp16, on a GPU and in layers of another kind the model's own modules compute. In
bf16 what is rounded is what the model's own modules round, so that a trainer's log-probs are close: products and what
goes into them, with norms, rotations and scores in fp32.

Letters: N tokens of the flat row, C hidden size, H heads of queries and keys together, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grpo.engines.local.attention import PrefillState, Scores, StepState

# Norm, rotated attention, norm, gated MLP; alike but for biases, windows, and norms of queries and keys.
FUSED = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
_product = torch.ops.mkldnn._linear_pointwise
Packed = tuple[Tensor, Tensor | None]  # weights and biases, as `_packed` makes them


@contextmanager
def fused_layers(model: Any) -> Iterator[None]:
    """The layers that can be are fused meanwhile, with the weights that they have now."""
    rotation = _Rotation()
    fused: dict[Any, Any] = {layer: FusedLayer(layer, rotation) for layer in model.modules() if _fits(layer)}
    if fused and _plain([head := model.get_output_embeddings()]):
        fused[head] = _Head(head)
    for module, forward in fused.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in fused:
            del module.forward


def _fits(layer: nn.Module) -> bool:
    """By its class, and with nothing else put in the place of its forward or its products."""
    if type(layer).__name__ not in FUSED or "forward" in vars(layer) or layer.self_attn.config.hidden_act != "silu":
        return False
    return _plain([m for part in (layer.self_attn, layer.mlp) for name, m in part.named_children() if "_proj" in name])


def _plain(products: Sequence[Any]) -> bool:
    """Whether they are what oneDNN can stand in for, with an adapter or not."""
    bases = [getattr(module, "base_layer", module) for module in products]
    held = {(type(base), base.weight.dtype, base.weight.device.type) for base in bases}
    return held in [{(nn.Linear, dtype, "cpu")} for dtype in _types()]


@cache
def _types() -> list[torch.dtype]:
    """What oneDNN multiplies on this processor."""
    if not torch.backends.mkldnn.is_available():
        return []
    return [torch.float32, *[torch.bfloat16] * torch.ops.mkldnn._is_mkldnn_bf16_supported()]


def _computed(module: Any) -> torch.dtype | None:
    """What a product is made in, if oneDNN makes it so. An adapter is added to weights in fp32 alone: in bf16 it would
    be rounded away."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else module.weight.dtype
    rounds = hasattr(module, "base_layer") and dtype != torch.float32
    return None if rounds or dtype not in _types() else dtype


class _Products(NamedTuple):
    """Of a layer, in one dtype."""

    qkv: Packed
    o: Packed
    gate: Packed
    up: Packed
    down: Packed


class FusedLayer:
    """Stands in for a layer's `forward`."""

    def __init__(self, layer: Any, rotation: _Rotation):
        attention = layer.self_attn
        self.layer, self.usual = layer, type(layer).forward.__get__(layer)
        self.index, self.rotation = attention.layer_idx, rotation
        window = getattr(attention, "sliding_window", None)
        if type(layer).__name__ == "MistralDecoderLayer":
            window = attention.config.sliding_window
        self.scores = Scores(attention.scaling, window)
        self.head_size = attention.head_dim
        self.key_heads = attention.k_proj.out_features // attention.head_dim
        self.before, self.after = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self.head_norm = self.head_weights = None
        if hasattr(attention, "q_norm"):
            heads = (attention.q_proj.out_features // attention.head_dim, self.key_heads)
            weights = (attention.q_norm.weight, attention.k_norm.weight)
            self.head_norm = _Norm(attention.q_norm)
            self.head_weights = torch.cat([w.expand(n, -1) for n, w in zip(heads, weights, strict=True)])
        self.packed: _Products | None = None  # at the first call, which knows the dtype

    def _pack(self, dtype: torch.dtype) -> _Products:
        attention, mlp = self.layer.self_attn, self.layer.mlp
        first = [attention.q_proj, attention.k_proj, attention.v_proj]
        return _Products(
            _packed(first, dtype, self.before),
            _packed([attention.o_proj], dtype),
            _packed([mlp.gate_proj], dtype, self.after),
            _packed([mlp.up_proj], dtype, self.after),
            _packed([mlp.down_proj], dtype),
        )

    def __call__(
        self,
        hidden_states: Float[Tensor, "1 N C"],
        *,
        position_embeddings: tuple[Tensor, Tensor],
        decoding: PrefillState | StepState,
        **others: Any,
    ) -> Float[Tensor, "1 N C"]:
        dtype = _computed(self.layer.mlp.down_proj)
        if dtype is None:
            return self.usual(hidden_states, position_embeddings=position_embeddings, decoding=decoding, **others)
        self.packed = self.packed or self._pack(dtype)
        with torch.autocast("cpu", enabled=False):
            return self._forward(hidden_states[0], dtype, self.packed, position_embeddings, decoding).unsqueeze(0)

    def _forward(
        self,
        row: Float[Tensor, "N C"],
        dtype: torch.dtype,
        to: _Products,
        positions: tuple[Tensor, Tensor],
        decoding: PrefillState | StepState,
    ) -> Float[Tensor, "N C"]:
        """Between products everything is fp32, but for the sums that are added up in the model's own dtype."""
        heads = _product(self.before.scaled(row, dtype), *to.qkv, "none", [], "").view(len(row), -1, self.head_size)
        turned, values = heads[:, : -self.key_heads], heads[:, -self.key_heads :]
        if self.head_norm is not None:
            turned = self.head_norm(turned.float()).to(dtype) * self.head_weights
        turned = self.rotation.turn(turned.float(), positions).to(dtype).float()
        queries, keys = turned[:, : -self.key_heads], turned[:, -self.key_heads :]
        seen = decoding.attend(decoding.cache(self.index), queries, keys, values.float(), self.scores)
        row = _added(row, seen.flatten(1).to(dtype), to.o)
        scaled = self.after.scaled(row, dtype)
        gated = _product.binary(scaled, _product(scaled, *to.gate, "swish", [], ""), *to.up, "mul")
        return _added(row, gated, to.down)


class _Head:
    """Stands in for the `forward` of the product that makes the logits."""

    def __init__(self, head: Any):
        self.head, self.usual = head, type(head).forward.__get__(head)
        self.packed: Packed | None = None

    def __call__(self, hidden: Float[Tensor, "... C"]) -> Float[Tensor, "... V"]:
        dtype = _computed(self.head)
        if dtype is None:
            return self.usual(hidden)
        self.packed = self.packed or _packed([self.head], dtype)
        return _product(hidden.to(dtype), *self.packed, "none", [], "")


class _Norm:
    """x / sqrt(mean(x^2) + eps) of a root-mean-square norm, whose weight is part of the products after it in fp32."""

    def __init__(self, norm: Any):
        self.weight = norm.weight
        self.share, self.eps = 1 / len(norm.weight), torch.tensor(norm.variance_epsilon)

    def __call__(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        squares = (x * x).sum(-1, keepdim=True)  # a vector_norm is faster, but adds rounding that shows
        return x * torch.add(self.eps, squares, alpha=self.share).rsqrt_()

    def scaled(self, x: Float[Tensor, "... C"], dtype: torch.dtype) -> Float[Tensor, "... C"]:
        """As the products take it."""
        found = self(x.float())
        return found if dtype == torch.float32 else found.mul_(self.weight).to(dtype)


class _Rotation:
    """Rotary positions, with what all layers share of them worked out once a forward."""

    def __init__(self) -> None:
        self.embeddings: tuple[Tensor, Tensor] | None = None
        self.cos = self.sin = torch.empty(0)

    def turn(self, x: Float[Tensor, "N H D"], embeddings: tuple[Tensor, Tensor]) -> Float[Tensor, "N H D"]:
        """x cos + (-x2, x1) sin, x1 and x2 being the halves of each head."""
        half = x.shape[-1] // 2
        if self.embeddings is not embeddings:
            self.embeddings = embeddings
            cos, sin = (table[0].unsqueeze(1) for table in embeddings)
            self.cos, self.sin = cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)
        return (x * self.cos).add_(torch.cat([x[..., half:], x[..., :half]], -1).mul_(self.sin))


def _packed(modules: Sequence[Any], dtype: torch.dtype, norm: _Norm | None = None) -> Packed:
    """The weights of these products side by side, in fp32 with those of the norm before them; and their biases."""
    weight = torch.cat([_weight(module) for module in modules])
    if norm is not None and dtype == torch.float32:
        weight = weight * norm.weight
    bias = None if modules[0].bias is None else torch.cat([module.bias for module in modules]).to(dtype)
    return torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype)), bias


def _weight(module: Any) -> Tensor:
    """A product's, its adapter added."""
    return module.weight + module.get_delta_weight("default") if hasattr(module, "base_layer") else module.weight


def _added(row: Float[Tensor, "N C"], x: Float[Tensor, "N D"], packed: Packed) -> Float[Tensor, "N C"]:
    """row + x W, where the row may be fp32 and the product bf16."""
    if row.dtype == x.dtype:
        return _product.binary(x, row, *packed, "add")
    return row + _product(x, *packed, "none", [], "")
