"""Counter-based random numbers, and tokens drawn with them: a token's draw depends on (seed, step, prompt, sibling,
position) and nothing else."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def stream_key(*parts: object) -> int:
    """A 64-bit key of its parts; unlike `hash` the same in every process and on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniforms(keys: npt.NDArray[np.uint64], position: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One number in (0, 1) for each stream at its position (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):  # wrapping multiplication is the algorithm
        z = keys + np.asarray(position + 1).astype(np.uint64) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def draw(
    logits: Float[Tensor, "R V"], uniform: Float[Tensor, " R"], temperature: float, top_p: float
) -> tuple[Int64[Tensor, " R"], Float[Tensor, " R"]]:
    """Tokens drawn by inverting the cumulative distribution at `uniform` in (0, 1), one for each of R rows.

    The log-probs are those of the distribution drawn from, before top-p. Temperature 0 is greedy, and its
    log-probs are those at temperature 1.
    """
    scaled = logits if temperature in (0, 1) else logits / temperature
    if temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, _pick(scaled.log_softmax(-1), tokens)
    probabilities = scaled.softmax(-1)
    kept = probabilities if top_p == 1 else keep_top_p(probabilities, top_p)
    cumulative = kept.cumsum(-1)
    target = (uniform * cumulative[:, -1]).to(cumulative.dtype)
    tokens = torch.searchsorted(cumulative, target.unsqueeze(-1)).squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return tokens, _pick(probabilities, tokens).log()  # of a token that was drawn: far from underflow


def _pick(table: Float[Tensor, "R V"], tokens: Int64[Tensor, " R"]) -> Float[Tensor, " R"]:
    return table.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def keep_top_p(probabilities: Float[Tensor, "R V"], top_p: float) -> Float[Tensor, "R V"]:
    """Zero all but the smallest set of most likely tokens whose mass reaches `top_p`."""
    ordered, index = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probabilities).scatter(-1, index, torch.where(before < top_p, ordered, 0.0))
