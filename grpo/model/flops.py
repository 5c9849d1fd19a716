"""What an update computes, in floating-point operations, and what share of the hardware's peak that is (MFU).

Counted is what really goes through the model, so that work saved is no work done: a shared prompt once, the head on
trained tokens only, padding where rows are padded. Work done twice (gradient checkpointing) counts once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from grpo.model.adapter import base_model
from grpo.model.packing import ModelInput

# Dense FLOP/s (not the doubled figures of 2:4 sparsity) in half precision with fp32 accumulation, and in fp32 without
# tensor cores, from NVIDIA's data sheets and architecture papers. A name is the longest that torch's begins with.
PEAKS: dict[str, tuple[float, float]] = {
    "NVIDIA A100": (312e12, 19.5e12),
    "NVIDIA H100 80GB HBM3": (989.4e12, 66.9e12),  # SXM5
    "NVIDIA H100 PCIe": (756e12, 51.2e12),
    "NVIDIA H100 NVL": (835e12, 60e12),
    "NVIDIA H200": (989.4e12, 66.9e12),
    "NVIDIA H200 NVL": (835e12, 60e12),
    "NVIDIA L4": (121e12, 30.3e12),
    "NVIDIA L40S": (362e12, 91.6e12),
    "NVIDIA GeForce RTX 3090": (71.2e12, 35.6e12),
    "NVIDIA GeForce RTX 4090": (165.2e12, 82.6e12),
}
OTHER = {"Laptop", "MIG", "D", "Ti", "SUPER"}  # words in the name of a device that is not what it begins with
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def peak_flops(name: str, dtype: str) -> float | None:
    """Peak FLOP/s of one device by its name and `runtime.dtype`; None when it is not known.

    >>> peak_flops("NVIDIA A100-SXM4-80GB", "bfloat16")
    312000000000000.0
    """
    whole = OTHER.isdisjoint(name.split())
    known = [key for key in PEAKS if whole and (name == key or name.startswith((f"{key} ", f"{key}-")))]
    half, single = PEAKS[max(known, key=len)] if known else (None, None)
    return single if dtype == "float32" else half


def device_peak(device: torch.device, dtype: str, count: int) -> float | None:
    """`peak_flops` of so many devices like the one that trains; None for a CPU, whose peak has no name."""
    peak = peak_flops(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None
    return None if peak is None else count * peak


def mfu(flops: float | None, seconds: float, peak: float | None) -> float | None:
    """Model FLOPs utilisation: `flops` done in `seconds`, as a share of the peak; None where one is unknown."""
    return flops / (seconds * peak) if flops and seconds and peak else None


@dataclass(frozen=True)
class ModelSize:
    """What a token costs: parameters of the layers and of the head, all and trained, and the layers' attention.

    The embedding is a lookup and counts nothing; one that is also the head's weight counts there. `attention` lists
    (layers x heads x head width, window) of each kind of layer; window None sees everything before.
    """

    layers: int
    head: int
    layers_trained: int
    head_trained: int
    attention: tuple[tuple[int, int | None], ...]

    def of_update(self, rows: ModelInput) -> float:
        """Forward and backward of these rows: all tokens through the layers, and what predicts through the head.

        Each parameter costs a token 2 operations forward, 2 for the gradient of its input, and 2 for its own if it is
        trained: 6N in full training, 4N under an adapter (PaLM, arXiv 2204.02311 appendix B). A pair of query and key
        costs 4 per unit of width forward (scores, values) and twice that backward.
        """
        places = positions(rows)
        layers = rows.token_ids.numel() * (4 * self.layers + 2 * self.layers_trained)
        head = len(rows.predictors) * (4 * self.head + 2 * self.head_trained)
        return float(layers + head + sum(12 * width * seen_pairs(places, window) for width, window in self.attention))


def positions(rows: ModelInput) -> Int64[Tensor, " T"]:
    """The position of each token of the rows in its sequence."""
    if rows.positions is not None:
        return rows.positions.flatten()
    count, length = rows.token_ids.shape
    return torch.arange(length, device=rows.token_ids.device).repeat(count)


def seen_pairs(places: Int64[Tensor, " T"], window: int | None) -> int:
    """Keys that tokens at these positions see, themselves included, with causal attention."""
    seen = places + 1
    return int((seen if window is None else seen.clamp(max=window)).sum())


def size_of(model: Any) -> ModelSize | None:
    """The size of a model of dense layers and attention, with its adapter; None with experts, of which a token meets a
    few, for recurrent models, and where layers differ in size."""
    base = base_model(model)
    config = base.config.get_text_config()
    if any(getattr(config, name, None) for name in EXPERTS) or not hasattr(config, "num_attention_heads"):
        return None
    if getattr(config, "_heterogeneity_spec", None) is not None:
        return None
    head = {id(p): p for p in base.get_output_embeddings().parameters()}
    lookups = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    layers = [p for p in model.parameters() if id(p) not in head and id(p) not in lookups]
    return ModelSize(
        _count(layers),
        _count(head.values()),
        _count(p for p in layers if p.requires_grad),
        _count(p for p in head.values() if p.requires_grad),
        _attention(config),
    )


def _count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _attention(config: Any) -> tuple[tuple[int, int | None], ...]:
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    sliding = sum(kind == "sliding_attention" for kind in kinds) if window else 0
    by_window = ((len(kinds) - sliding) * width, None), (sliding * width, window)
    return tuple((total, seen) for total, seen in by_window if total)
