"""Statistics of evaluations: intervals over problems, pass@k, maj@k and paired comparison. Pure functions."""

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

TAIL = 0.025  # outside a 95% interval, on each side
EXACT_FLIPS = 14  # up to this many non-zero differences every sign pattern is enumerated
RANDOM_FLIPS = 10_000
CORRECT = object()  # the one vote that all right answers share, however they are written


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and its 95% interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """B - A over the same problems: mean difference, its 95% interval, two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float
    n: int


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean of per-problem scores in [0, 1], clipped to it, with its 95% interval over problems (`mean_bounds`)."""
    if len(values) == 0:
        raise ValueError("no values to average")
    scores = np.clip(np.asarray(values, dtype=np.float64), 0.0, 1.0)
    mean = float(scores.mean())
    low, high = mean_bounds(np.array(mean), np.array(np.mean(scores**2)), len(scores))
    return Estimate(mean, float(low), float(high), len(scores))


def mean_bounds(mean: np.ndarray, square: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """95% interval of the expected score of a problem, whatever its distribution over [0, 1].

    Each bound adds one problem of the worst score to the n that were seen, 1 for the upper and 0 for the lower, and
    takes the 97.5% or 2.5% quantile of their mean under Dirichlet(1, ..., 1) weights (Gaffke 2005; Learned-Miller and
    Thomas 2020, arXiv:1905.06208), here that of the Beta distribution with the same mean and variance. With scores of
    0 and 1 that is the interval of Clopper and Pearson (1934), exactly; with shares of many samples it narrows as they
    agree, and it has no width zero. Simulated coverage: `benchmarks/coverage.md`.

    Args:
        mean, square: means of the scores and of their squares, for any number of evaluations at a time.
        n: problems in each of them.
    """
    low = _dirichlet_quantile(n * mean / (n + 1), n * square / (n + 1), n, TAIL)
    high = _dirichlet_quantile((n * mean + 1) / (n + 1), (n * square + 1) / (n + 1), n, 1 - TAIL)
    return np.minimum(low, mean), np.maximum(high, mean)  # rounding aside, they already are


def _dirichlet_quantile(mean: np.ndarray, square: np.ndarray, n: int, q: float) -> np.ndarray:
    """Of n + 1 scores under Dirichlet weights, matched by a Beta distribution."""
    from scipy.special import betaincinv  # here: what computes no interval starts without it

    variance = np.maximum(square - mean**2, 0.0) / (n + 2)
    spread = variance > 0  # else all scores are 0, or all are 1
    middle, size = np.where(spread, mean, 0.5), np.where(spread, variance, 1 / 12)
    strength = middle * (1 - middle) / size - 1
    return np.where(spread, betaincinv(middle * strength, (1 - middle) * strength, q), mean)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased chance that one of k samples is right, from n samples: 1 - C(n-c, k)/C(n, k) (Chen et al. 2021)."""
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples, got {n}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool], k: int) -> float:
    """Chance that a vote among k samples is right: the mean over the disjoint blocks of k samples.

    A sample without an answer (None) does not vote; all right answers count as one; a tie is split evenly.
    """
    if not 1 <= k <= len(answers):
        raise ValueError(f"maj@{k} needs at least {k} samples, got {len(answers)}")
    votes = [CORRECT if right else answer for answer, right in zip(answers, correct, strict=True)]
    starts = range(0, len(votes) - k + 1, k)
    return float(np.mean([_vote(votes[start : start + k]) for start in starts]))


def _vote(votes: Sequence[Hashable | None]) -> float:
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    winners = [answer for answer, count in counts.items() if count == most]
    return (CORRECT in winners) / len(winners)


def compare_paired(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Comparison:
    """B - A on the same problems, scores in [0, 1]: `mean_bounds` of the differences and a sign-flip p-value.

    Student's interval would be too narrow where few problems differ: 87% with 3.5 points gained on 100 problems.
    """
    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    if len(differences) == 0:
        raise ValueError("no problems to compare")
    shares = mean_interval(((differences + 1) / 2).tolist())  # differences are in [-1, 1]
    low, high = 2 * shares.low - 1, 2 * shares.high - 1
    return Comparison(float(differences.mean()), low, high, sign_flip_p(differences, seed), len(differences))


def sign_flip_p(differences: np.ndarray, seed: int = 0) -> float:
    """Two-sided p-value: how often random signs on the differences give a sum at least as far from zero."""
    nonzero = differences[differences != 0]
    if len(nonzero) == 0:
        return 1.0
    observed = abs(float(nonzero.sum())) * (1 - 1e-9)  # equal sums must count in spite of rounding
    if len(nonzero) <= EXACT_FLIPS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(nonzero))))
        return float((np.abs(signs @ nonzero) >= observed).mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    for _ in range(RANDOM_FLIPS // 1000):  # in parts, for memory
        signs = rng.integers(0, 2, size=(1000, len(nonzero)), dtype=np.int8) * 2.0 - 1.0
        extreme += int((np.abs(signs @ nonzero) >= observed).sum())
    return (extreme + 1) / (RANDOM_FLIPS + 1)  # the observed signs are one of the patterns
