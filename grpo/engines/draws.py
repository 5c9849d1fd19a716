"""Counter-based random numbers: a token's draw depends on (seed, step, prompt, sibling, position) and nothing else."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

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
