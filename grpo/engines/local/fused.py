"""Decoder layers as few operations, while the model samples: a step of a small model is mostly the calls it makes.

Weights are packed by oneDNN once for each call of the engine, adapters added. Queries, keys and values come of one
product, and activation, gate and residual are part of the products. That is for fp32 on a CPU, where it was measured
(benchmarks/rollout.md); under autocast, on a GPU and in layers of another kind the model's own modules compute.

Letters: N tokens of the flat row, C hidden size, H heads of queries and keys together, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grpo.engines.local.attention import PrefillState, Scores, StepState

# Norm, rotated attention, norm, gated MLP; alike but for biases, windows, and norms of queries and keys.
FUSED = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
_product = torch.ops.mkldnn._linear_pointwise


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
    return held == {(nn.Linear, torch.float32, "cpu")} and torch.backends.mkldnn.is_available()


class FusedLayer:
    """Stands in for a layer's `forward`."""

    def __init__(self, layer: Any, rotation: _Rotation):
        attention, mlp = layer.self_attn, layer.mlp
        self.usual = type(layer).forward.__get__(layer)
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
        first = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.qkv = _packed(first, layer.input_layernorm.weight)
        self.o = _packed([attention.o_proj])
        self.gate, self.up = (_packed([m], layer.post_attention_layernorm.weight) for m in (mlp.gate_proj, mlp.up_proj))
        self.down = _packed([mlp.down_proj])

    def __call__(
        self,
        hidden_states: Float[Tensor, "1 N C"],
        *,
        position_embeddings: tuple[Tensor, Tensor],
        decoding: PrefillState | StepState,
        **others: Any,
    ) -> Float[Tensor, "1 N C"]:
        if torch.is_autocast_enabled("cpu"):
            return self.usual(hidden_states, position_embeddings=position_embeddings, decoding=decoding, **others)
        row = hidden_states[0]
        heads = _product(self.before(row), *self.qkv, "none", [], "").view(len(row), -1, self.head_size)
        turned, values = heads[:, : -self.key_heads], heads[:, -self.key_heads :]
        if self.head_norm is not None:
            turned = self.head_norm(turned).mul_(self.head_weights)
        turned = self.rotation.turn(turned, position_embeddings)
        queries, keys = turned[:, : -self.key_heads], turned[:, -self.key_heads :]
        seen = decoding.attend(decoding.cache(self.index), queries, keys, values, self.scores)
        row = _product.binary(seen.flatten(1), row, *self.o, "add")
        scaled = self.after(row)
        gated = _product.binary(scaled, _product(scaled, *self.gate, "swish", [], ""), *self.up, "mul")
        return _product.binary(gated, row, *self.down, "add").unsqueeze(0)


class _Head:
    """Stands in for the `forward` of the product that makes the logits."""

    def __init__(self, head: Any):
        self.usual, self.packed = type(head).forward.__get__(head), _packed([head])

    def __call__(self, hidden: Float[Tensor, "... C"]) -> Float[Tensor, "... V"]:
        if torch.is_autocast_enabled("cpu"):
            return self.usual(hidden)
        return _product(hidden, *self.packed, "none", [], "")


class _Norm:
    """x / sqrt(mean(x^2) + eps), of a root-mean-square norm whose weight is applied elsewhere."""

    def __init__(self, norm: Any):
        self.share, self.eps = 1 / len(norm.weight), torch.tensor(norm.variance_epsilon)

    def __call__(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        squares = (x * x).sum(-1, keepdim=True)  # a vector_norm is faster, but adds rounding that shows
        return x * torch.add(self.eps, squares, alpha=self.share).rsqrt_()


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


def _packed(modules: Sequence[Any], norm: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """The weights of these products side by side, with that of the norm before them in them; and their biases."""
    weight = torch.cat([_weight(module) for module in modules])
    biases = [module.bias for module in modules]
    pack = torch.ops.mkldnn._reorder_linear_weight
    return pack(weight if norm is None else weight * norm), None if biases[0] is None else torch.cat(biases)


def _weight(module: Any) -> Tensor:
    """A product's, its adapter added."""
    return module.weight + module.get_delta_weight("default") if hasattr(module, "base_layer") else module.weight
