"""Hand-computed values for every statistic."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import betaincinv

from grpo.evaluation.statistics import compare_paired, maj_at_k, mean_bounds, mean_interval, pass_at_k, sign_flip_p


def test_right_or_wrong_scores_give_the_interval_of_clopper_and_pearson():
    # 1 of 10: the interval printed in textbooks is 0.0025 to 0.4450.
    estimate = mean_interval([1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    assert (estimate.mean, estimate.n) == (0.1, 10)
    assert (estimate.low, estimate.high) == pytest.approx((0.002529, 0.445016), abs=1e-6)
    # None of 10: low end exactly 0, high end 1 - 0.025^(1/10).
    assert mean_interval([0.0] * 10).low == 0.0
    assert mean_interval([0.0] * 10).high == pytest.approx(1 - 0.025**0.1)
    assert mean_interval([1.0] * 10).low == pytest.approx(0.025**0.1)
    assert mean_interval([1.0] * 10).high == 1.0


def test_shares_of_samples_narrow_the_interval():
    """Scores .25 .75 .5 .5 and a fifth of 1: mean .6, variance .065, of the Dirichlet mean .065/6."""
    estimate = mean_interval([0.25, 0.75, 0.5, 0.5])
    strength = 0.24 / (0.065 / 6) - 1
    upper = betaincinv(np.array(0.6 * strength), np.array(0.4 * strength), 0.975)
    assert estimate.high == pytest.approx(float(upper))
    assert estimate.low == pytest.approx(1 - estimate.high)  # by symmetry
    assert estimate.high - estimate.low < 0.7 * (mean_interval([0, 1, 0, 1]).high - mean_interval([0, 1, 0, 1]).low)


SHARES: dict[str, Callable[[np.random.Generator, float, tuple[int, int]], np.ndarray]] = {
    "all alike": lambda _, p, shape: np.full(shape, p),
    "solved or not": lambda rng, p, shape: (rng.random(shape) < p).astype(float),
    "mostly solved or not": lambda rng, p, shape: rng.beta(p, 1 - p, shape),
    "spread": lambda rng, p, shape: rng.beta(5 * p, 5 * (1 - p), shape),
}


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("n", [30, 100, 500])
def test_the_95_percent_interval_holds_the_truth(n, share):
    """Problems drawn anew each time, and samples of them: at least 93% of the intervals, whatever p and k. (The plain
    bootstrap of percentiles holds it in 78% at n = 30, k = 1, p = 0.05.) benchmarks/coverage.md has a finer grid."""
    rng = np.random.default_rng(0)
    for k in (1, 4, 64):
        for p in (0.01, 0.03, 0.1, 0.5, 0.8, 0.97, 0.99):
            scores = rng.binomial(k, SHARES[share](rng, p, (600, n))) / k
            low, high = mean_bounds(scores.mean(axis=1), (scores**2).mean(axis=1), n)
            assert ((low <= p) & (p <= high)).mean() >= 0.93, (k, p)


def test_the_interval_is_not_wide_for_nothing():
    """Against the normal one, where that holds: at most 5% wider at 500 problems, 25% at 30."""
    rng = np.random.default_rng(0)
    for n, k, most in ((500, 1, 1.03), (500, 64, 1.06), (100, 4, 1.10), (30, 1, 1.05), (30, 64, 1.25)):
        scores = rng.binomial(k, rng.beta(2, 2, (200, n))) / k
        low, high = mean_bounds(scores.mean(axis=1), (scores**2).mean(axis=1), n)
        normal = 2 * 1.96 * scores.std(axis=1, ddof=1) / math.sqrt(n)
        assert 1.0 < ((high - low) / normal).mean() < most, (n, k)


@pytest.mark.parametrize("values", [[0.0] * 5, [1.0] * 5, [0.5] * 5, [0.3], [1.0]])
def test_interval_is_never_degenerate_and_holds_the_mean(values):
    estimate = mean_interval(values)
    assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 1
    assert estimate.high - estimate.low > 0.1


def test_scores_outside_the_unit_interval_are_clipped():
    assert mean_interval([-2.0, 3.0]).mean == 0.5


def test_no_values_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_pass_at_k():
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)  # 1 - C(3,2)/C(4,2) = 1 - 3/6
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)  # 1 - C(2,2)/C(4,2)
    assert pass_at_k(4, 3, 2) == 1.0
    assert pass_at_k(4, 0, 4) == 0.0
    with pytest.raises(ValueError, match="at least 5"):
        pass_at_k(4, 1, 5)


def test_pass_at_1_does_not_fall_with_more_samples():
    assert pass_at_k(8, 2, 1) == pass_at_k(64, 16, 1) == 0.25


def test_maj_at_k():
    assert maj_at_k(["5", "5", "7"], [True, True, False], 3) == 1.0
    assert maj_at_k(["7", "5", "7"], [False, True, False], 3) == 0.0
    assert maj_at_k(["5", "7"], [True, False], 2) == 0.5  # a tie is split
    assert maj_at_k(["1/2", "0.5", "7", "7", "3"], [True, True, False, False, False], 5) == 0.5  # right ones are one
    assert maj_at_k([None, None, "5"], [False, False, True], 3) == 1.0  # no answer, no vote
    assert maj_at_k([None, None], [False, False], 2) == 0.0
    assert maj_at_k(["5", "5", "7", "7"], [True, True, False, False], 2) == 0.5  # two blocks


def test_sign_flip_exact():
    assert sign_flip_p(np.array([1.0, 1.0, 1.0])) == pytest.approx(2 / 8)
    assert sign_flip_p(np.array([1.0, 1.0, -1.0])) == 1.0  # every pattern reaches |sum| = 1
    assert sign_flip_p(np.zeros(4)) == 1.0


def test_sign_flip_random_agrees_with_the_binomial():
    # 20 differences of the same size, 15 up and 5 down: two-sided sign test, P(X >= 15) + P(X <= 5).
    differences = np.array([1.0] * 15 + [-1.0] * 5)
    exact = 2 * sum(math.comb(20, i) for i in range(15, 21)) / 2**20
    assert sign_flip_p(differences) == pytest.approx(exact, abs=0.006)
    assert sign_flip_p(differences, seed=3) == sign_flip_p(differences, seed=3)


def test_compare_paired():
    comparison = compare_paired([0, 0, 0, 1], [1, 0, 1, 1])
    assert comparison.difference == 0.5
    assert comparison.p_value == 0.5  # two differences, same sign: 2 of 4 patterns
    assert comparison.n == 4
    shares = mean_interval([1.0, 0.5, 1.0, 0.5])  # differences 1 0 1 0, from [-1, 1] to [0, 1]
    assert (comparison.low, comparison.high) == pytest.approx((2 * shares.low - 1, 2 * shares.high - 1))


def test_compare_is_symmetric():
    rng = np.random.default_rng(0)
    a, b = rng.binomial(4, 0.5, (2, 40)) / 4
    there, back = compare_paired(a, b), compare_paired(b, a)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p_value == back.p_value


@pytest.mark.parametrize(("gained", "lost"), [(0.035, 0.0), (0.1, 0.05), (0.3, 0.2)])
@pytest.mark.parametrize("n", [30, 100, 500])
def test_the_interval_of_a_difference_holds_the_truth(n, gained, lost):
    rng = np.random.default_rng(0)
    changes = rng.choice([1.0, -1.0, 0.0], p=[gained, lost, 1 - gained - lost], size=(1000, n))
    shares = (changes + 1) / 2  # as compare_paired takes them
    low, high = mean_bounds(shares.mean(axis=1), (shares**2).mean(axis=1), n)
    assert ((2 * low - 1 <= gained - lost) & (gained - lost <= 2 * high - 1)).mean() >= 0.93


def test_compare_equal_results_is_not_certainty():
    comparison = compare_paired([1.0] * 30, [1.0] * 30)
    assert (comparison.difference, comparison.p_value) == (0.0, 1.0)
    assert comparison.low == pytest.approx(-comparison.high)
    assert 0.08 < comparison.high < 0.12
