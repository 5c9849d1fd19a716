"""Attention while the model samples: the one place that sees the prompts and completions of the flat row apart.

It comes in through transformers' `AttentionInterface`, for any model that uses it, and keeps the keys and values
itself. A prompt's are held once: its siblings' queries meet them in one matrix product, and each meets its own
completion's in another.

Letters: N tokens of the flat row, P prompts, R running completions, S siblings of the prompt that has the most running,
T prompt columns, L completion columns, H key/value heads, Q queries per key/value head, D head size (Dv: of values).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from grpo.engines.local.cache import LayerCache
from grpo.errors import UserError
from grpo.model.adapter import base_model
from grpo.model.attention import attending_by, has_window

NAME = "grpo_decoding"
LAYER_TYPES = {"full_attention", "sliding_attention"}
Queries = Float[Tensor, "N heads D"]
Keys = Float[Tensor, "N H D"]
Values = Float[Tensor, "N H Dv"]
# What models give their attention besides, to no effect here. Sinks, biases, sparse indices and what else there may be
# are another kind of attention.
IGNORED = {"dropout", "is_causal", "position_ids"}


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    decoding: PrefillState | StepState,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What the model calls in every layer: [1, heads, N, D] -> [1, N, heads, D]."""
    if any(value is not None and value is not False for name, value in others.items() if name not in IGNORED):
        raise unfit(module)
    if attention_mask is not None or (sliding_window is None and has_window(module)):  # it would be left out
        raise unfit(module)
    if module.layer_idx in decoding.attended:  # its keys would take the place of others
        raise unfit(module)
    cache = decoding.cache(module.layer_idx)
    queries, keys, values = (_operand(tensor[0].transpose(0, 1)) for tensor in (query, key, value))
    with torch.autocast(query.device.type, enabled=False):
        out = decoding.attend(cache, queries, keys, values, Scores(scaling, sliding_window, softcap))
    return out.to(query.dtype).unsqueeze(0), None


AttentionInterface.register(NAME, _attention)


def _operand(tensor: Tensor) -> Tensor:
    """In the dtype SDPA would compute in. In fp32 where half-precision products can't give fp32 scores."""
    device = tensor.device.type
    if torch.is_autocast_enabled(device):
        tensor = tensor.to(torch.get_autocast_dtype(device))
    return tensor if device == "cuda" else tensor.float()


def unfit(what: Any) -> UserError:
    """What to raise of a model, or a layer, that this attention is not made for."""
    return UserError(f"{type(what).__name__} has another kind of attention")


def why_not_replaced(model: Any) -> str | None:
    """Why this attention cannot take the place of the model's, as far as that is known without a forward."""
    base = base_model(model)
    types = getattr(base.config.get_text_config(), "layer_types", None) or []
    if not getattr(base, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    strange = set(types) - LAYER_TYPES
    return f"it has layers of the kind {sorted(strange)[0]}" if strange else None


@contextmanager
def own_attention(model: Any) -> Iterator[None]:
    """The model's attention is ours meanwhile, and half-precision copies of its weights are made once.

    Autocast forgets those copies when its outermost context ends: this one, which itself casts nothing.
    """
    with attending_by(model, NAME), torch.autocast(next(model.parameters()).device.type, enabled=False):
        yield


class Scores(NamedTuple):
    """How a layer's scores are made."""

    scaling: float
    window: int | None = None  # tokens that a token sees, itself included
    softcap: float | None = None  # cap x tanh(score / cap), as Gemma 2 has it

    def capped(self, scaled: Tensor) -> Tensor:
        return scaled if self.softcap is None else scaled.div_(self.softcap).tanh_().mul_(self.softcap)


@dataclass
class _State:
    """Of one forward."""

    layers: dict[int, LayerCache]
    attended: set[int] = field(default_factory=set, init=False)  # layers, so far

    def cache(self, layer: int) -> LayerCache:
        self.attended.add(layer)
        return self.layers.setdefault(layer, LayerCache())


@dataclass
class PrefillState(_State):
    """Whole prompts, one after the other in the flat row; they become the lines from `start` on."""

    start: int
    padded: Int64[Tensor, "P T"]  # token of the flat row in each place of a right-padded batch; 0 in the padding
    real: Bool[Tensor, "P T"]

    def attend(
        self, cache: LayerCache, queries: Queries, keys: Keys, values: Values, how: Scores
    ) -> Float[Tensor, "N heads Dv"]:
        """Causal, so the padding to the right needs no mask."""
        q, k, v = (tensor[self.padded].transpose(1, 2) for tensor in (queries, keys, values))
        cache.add_prompts(self.start, k, v)
        width, band = self.padded.shape[1], None
        if (how.window is not None and how.window < width) or how.softcap is not None:
            band = torch.ones(width, width, dtype=torch.bool, device=q.device).tril().triu(1 - (how.window or width))
        if how.softcap is not None:  # SDPA has none
            assert band is not None
            grouped = q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)
            scores = how.capped((grouped @ k.transpose(-1, -2)).float() * how.scaling)
            hidden = ~band.repeat(q.shape[1] // k.shape[1], 1)
            weights = scores.masked_fill_(hidden, -torch.inf).softmax(-1).to(v.dtype)
            out = (weights @ v).view(*q.shape[:3], v.shape[-1])
        else:
            out = scaled_dot_product_attention(
                q, k, v, attn_mask=band, is_causal=band is None, scale=how.scaling, enable_gqa=k.shape[1] != q.shape[1]
            )
        return out.transpose(1, 2)[self.real]


@dataclass
class StepState(_State):
    """One token of each running completion."""

    room: tuple[int, int]  # slots and columns there can be at most
    columns: Int64[Tensor, " R"]  # where each token goes in its slot
    prompt: Int64[Tensor, " R"]  # line of its prompt
    prompt_length: Int64[Tensor, " R"]
    sibling: Int64[Tensor, " R"]  # its number among the running ones of its prompt
    lanes: Int64[Tensor, " PS"]  # running completion of each (prompt, sibling); any one where there is none
    sizes: tuple[int, int, int]  # P, T, L
    masks: dict[int | None, Tensor] = field(default_factory=dict)  # by window
    written: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # places, by heads and columns of the buffer
    gathers: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)  # orders, by heads and queries

    def mask(self, window: int | None) -> Float[Tensor, "R 1 1 TL"]:
        """What to add to the scores: 0 for the columns in use and in the window, -inf for the others."""
        if window not in self.masks:
            _, prompt_columns, width = self.sizes
            device = self.columns.device
            # Counted from a completion's first token, prompt columns are negative. Of column 0 on, every one is there.
            place = torch.arange(prompt_columns, device=device) - self.prompt_length.unsqueeze(1)
            after = torch.arange(width, device=device).expand(len(self.columns), -1)
            last = self.columns.unsqueeze(1)
            hidden = torch.cat([place >= 0, after > last], dim=1)
            if window is not None:
                hidden |= torch.cat([place, after], dim=1) <= last - window
            zeros = torch.zeros(hidden.shape, device=device)
            self.masks[window] = zeros.masked_fill_(hidden, -torch.inf)[:, None, None]
        return self.masks[window]

    def places(self, heads: int, columns: int) -> Int64[Tensor, " RH"]:
        """Where the new tokens go in a buffer [slots, heads, columns, D], counted in rows of D numbers."""
        if (heads, columns) not in self.written:
            lines = torch.arange(len(self.columns) * heads, device=self.columns.device).view(-1, heads)
            self.written[heads, columns] = (lines * columns + self.columns.unsqueeze(1)).flatten()
        return self.written[heads, columns]

    def attend(
        self, cache: LayerCache, queries: Queries, keys: Keys, values: Values, how: Scores
    ) -> Float[Tensor, "N heads Dv"]:
        """One softmax over the prompt's columns and the completion's own; N is R."""
        prompts, prompt_columns, width = self.sizes
        rows, heads, _ = keys.shape
        slots, most = self.room
        cache.reserve_tokens(slots, width, most, keys, values)
        cache.add_tokens(self.places(heads, cache.completions.keys.shape[2]), keys, values)
        q = queries.unflatten(1, (heads, -1))
        shared_keys, shared_values = cache.prompts.used(prompts, prompt_columns)
        own_keys, own_values = cache.completions.used(rows, width)
        of_prompt = self._apart(_scores(self._together(q), shared_keys.transpose(1, 2)), q)
        of_own = _scores(q.flatten(0, 1), own_keys.transpose(1, 2)).view(rows, heads, -1, width)
        scores = torch.cat([of_prompt, of_own], dim=-1)
        if how.softcap is None:
            scores = torch.add(self.mask(how.window), scores, alpha=how.scaling)
        else:
            scores = how.capped(scores.mul_(how.scaling)).add_(self.mask(how.window))
        weights = scores.softmax(-1).to(values.dtype)
        out = torch.bmm(weights.flatten(0, 1)[..., prompt_columns:], own_values).unflatten(0, (rows, heads))
        out += self._apart(torch.bmm(self._together(weights[..., :prompt_columns]), shared_values), q)
        return out.flatten(1, 2)

    def orders(self, heads: int, queries: int) -> tuple[Int64[Tensor, " PHSQ"], Int64[Tensor, " RH"]]:
        """The gathers of `_together` and `_apart`, for so many heads and queries per head."""
        if (heads, queries) not in self.gathers:
            device = self.lanes.device
            head = torch.arange(heads, device=device)
            lanes = self.lanes.view(self.sizes[0], 1, -1)
            lines = (lanes * heads + head.unsqueeze(1)).view(-1, 1) * queries
            apart = (self.prompt.unsqueeze(1) * heads + head) * lanes.shape[2] + self.sibling.unsqueeze(1)
            self.gathers[heads, queries] = (lines + torch.arange(queries, device=device)).flatten(), apart.flatten()
        return self.gathers[heads, queries]

    def _together(self, rows: Float[Tensor, "R H Q X"]) -> Float[Tensor, "PH SQ X"]:
        """The rows of each prompt's siblings side by side."""
        _, heads, queries, _ = rows.shape
        lanes = rows.flatten(0, 2).index_select(0, self.orders(heads, queries)[0])
        return lanes.unflatten(0, (self.sizes[0] * heads, -1))

    def _apart(self, lanes: Float[Tensor, "PH SQ X"], like: Float[Tensor, "R H Q D"]) -> Float[Tensor, "R H Q X"]:
        """What `_together` put side by side, as rows again."""
        rows, heads, queries, _ = like.shape
        lines = lanes.view(-1, queries * lanes.shape[-1]).index_select(0, self.orders(heads, queries)[1])
        return lines.view(rows, heads, queries, -1)


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Batched products in fp32."""
    if keys.dtype == torch.float32:
        return torch.bmm(queries, keys)
    return torch.bmm(queries, keys, out_dtype=torch.float32)
