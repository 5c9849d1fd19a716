"""Statistics of evaluations: intervals over problems, pass@k, maj@k and paired comparison. Pure functions."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054  # the 97.5% quantile of the normal distribution
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


def wilson(p: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a proportion `p` from `n` trials; never of width zero."""
    center = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, min(p, (center - half) / scale)), min(1.0, max(p, (center + half) / scale))


def mean_interval(values: Sequence[float], samples: int | None = None) -> Estimate:
    """Mean of per-problem scores in [0, 1] with Wilson's interval over problems.

    The effective sample size is p(1-p)/se^2, with se the standard error over problems; the number of problems when
    every score is 0 or 1. `samples` per problem bound it by problems x samples, so that a chance agreement of the
    problems (every one solved exactly half of the time) cannot make the interval vanish.
    """
    if len(values) == 0:
        raise ValueError("no values to average")
    scores = np.clip(np.asarray(values, dtype=np.float64), 0.0, 1.0)
    n, p = len(scores), float(scores.mean())
    low, high = wilson(p, effective_size(scores, n * samples if samples else None))
    return Estimate(p, low, high, n)


def effective_size(scores: np.ndarray, most: float | None = None) -> float:
    """How many independent right-or-wrong trials would be as uncertain as the mean of these scores."""
    n, p = len(scores), float(scores.mean())
    if n == 1 or bool(np.isin(scores, (0.0, 1.0)).all()):
        return float(n)
    squared_error = float(scores.var(ddof=1)) / n
    if squared_error <= 1e-16:  # all alike: nothing learnt about their spread
        return float(n)
    size = p * (1 - p) / squared_error
    return min(size, most) if most else size


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
    """B - A on the same problems: Student's interval of the mean difference and a sign-flip permutation p-value."""
    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    n = len(differences)
    if n == 0:
        raise ValueError("no problems to compare")
    mean = float(differences.mean())
    spread = float(differences.std(ddof=1)) if n > 1 else 0.0
    # All differences alike: the "rule of three" bounds what n problems could have missed.
    half = student_quantile(n - 1) * spread / math.sqrt(n) if spread > 1e-12 else 3.0 / n
    return Comparison(mean, max(-1.0, mean - half), min(1.0, mean + half), sign_flip_p(differences, seed), n)


def student_quantile(freedom: int) -> float:
    """The 97.5% quantile of Student's t: exact for 1 and 2 degrees, else Cornish and Fisher's expansion."""
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z, v = Z95, float(freedom)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3


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
