"""How often the 95% interval of pass@1 holds the truth: simulated, on a fine grid. Writes benchmarks/coverage.md.

    python benchmarks/coverage.py            # a few minutes on one core

Problems are drawn anew in every evaluation, and k samples of each; the truth is the mean over all problems there could
be. "All alike": every problem has the same p. "Solved or not": a share p of the problems is always solved. "Beta c":
each problem has its own, from Beta(cp, c(1 - p)); the smaller c, the more they differ. Beside our interval stand
Student's, the percentile bootstrap's (500 draws, on fewer evaluations) and Wilson's over problems.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from grpo.evaluation.statistics import mean_bounds

PROBLEMS, SAMPLES = (30, 100, 500), (1, 4, 64)
RATES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99)
EVALUATIONS, BOOTSTRAPPED, DRAWS = 2000, 200, 500
T = {30: 2.045, 100: 1.984, 500: 1.965}  # 97.5% quantiles of Student's distribution
Z = 1.959964
Bounds = tuple[np.ndarray, np.ndarray]


def shares(rng: np.random.Generator, kind: str, p: float, shape: tuple[int, int]) -> np.ndarray:
    """How often each problem is solved."""
    if kind == "all alike":
        return np.full(shape, p)
    if kind == "solved or not":
        return (rng.random(shape) < p).astype(float)
    strength = float(kind.removeprefix("Beta "))
    return rng.beta(strength * p, strength * (1 - p), shape)


KINDS = ("all alike", "Beta 20", "Beta 5", "Beta 1", "Beta 0.2", "solved or not")


def ours(scores: np.ndarray, _: np.random.Generator) -> Bounds:
    return mean_bounds(scores.mean(axis=1), (scores**2).mean(axis=1), scores.shape[1])


def student(scores: np.ndarray, _: np.random.Generator) -> Bounds:
    n, mean = scores.shape[1], scores.mean(axis=1)
    half = T[n] * scores.std(axis=1, ddof=1) / math.sqrt(n)
    return mean - half, mean + half


def wilson(scores: np.ndarray, _: np.random.Generator) -> Bounds:
    n, mean = scores.shape[1], scores.mean(axis=1)
    center, scale = mean + Z * Z / (2 * n), 1 + Z * Z / n
    half = Z * np.sqrt(mean * (1 - mean) / n + Z * Z / (4 * n * n))
    return (center - half) / scale, (center + half) / scale


def bootstrap(scores: np.ndarray, rng: np.random.Generator) -> Bounds:
    scores = scores[:BOOTSTRAPPED]
    n = scores.shape[1]
    weights = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n
    low, high = np.quantile(scores @ weights.T, (0.025, 0.975), axis=1)
    return low, high


METHODS: dict[str, Callable[[np.ndarray, np.random.Generator], Bounds]] = {
    "ours": ours, "Student": student, "bootstrap": bootstrap, "Wilson": wilson,
}  # fmt: skip


def grid() -> Iterator[tuple[str, int, int, float, dict[str, tuple[float, float]]]]:
    """(kind, n, k, p, method -> (coverage, mean width))."""
    rng = np.random.default_rng(0)
    for kind in KINDS:
        for n in PROBLEMS:
            for k in SAMPLES:
                for p in RATES:
                    scores = rng.binomial(k, shares(rng, kind, p, (EVALUATIONS, n))) / k
                    found = {}
                    for name, method in METHODS.items():
                        low, high = method(scores, rng)
                        held = (low <= p + 1e-12) & (p - 1e-12 <= high)
                        found[name] = float(held.mean()), float((high - low).mean())
                    yield kind, n, k, p, found


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(map(str, numbers))


def report() -> str:
    rows = list(grid())
    lines = [
        "# Coverage of the 95% interval of pass@1",
        "",
        f"Made by `python benchmarks/coverage.py`: {len(rows)} settings (n = {_listed(PROBLEMS)} problems; "
        f"k = {_listed(SAMPLES)} samples; p = {_listed(RATES)}), {EVALUATIONS} evaluations each "
        f"({BOOTSTRAPPED} for the bootstrap, whose figures are noisier). In per cent.",
        "",
        "| how problems differ | ours, least | ours, mean | Student, least | bootstrap, least | Wilson, least "
        "| ours, width | Student, width |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in (*KINDS, "all"):
        chosen = [row for row in rows if kind in (row[0], "all")]
        least = {name: 100 * min(row[4][name][0] for row in chosen) for name in METHODS}
        mean = 100 * np.mean([row[4]["ours"][0] for row in chosen])
        width = [100 * np.mean([row[4][name][1] for row in chosen]) for name in ("ours", "Student")]
        lines.append(
            f"| {kind} | {least['ours']:.1f} | {mean:.1f} | {least['Student']:.1f} | {least['bootstrap']:.1f} "
            f"| {least['Wilson']:.1f} | {width[0]:.1f} | {width[1]:.1f} |"
        )
    lines += ["", "The ten settings where ours holds the truth least often:", "", "| how | n | k | p | held |"]
    lines.append("|---|---|---|---|---|")
    for kind, n, k, p, found in sorted(rows, key=lambda row: row[4]["ours"][0])[:10]:
        lines.append(f"| {kind} | {n} | {k} | {p} | {100 * found['ours'][0]:.1f} |")
    low = min(found["ours"][0] for *_, found in rows)
    lines += ["", f"Least coverage: {100 * low:.1f}%; asked for: 93%.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    text = report()
    Path(__file__).with_name("coverage.md").write_text(text, encoding="utf-8")
    print(text)
