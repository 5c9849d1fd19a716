"""Hand-computed values for every statistic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grpo.statistics import (
    compare_paired,
    effective_size,
    maj_at_k,
    mean_interval,
    pass_at_k,
    sign_flip_p,
    student_quantile,
    wilson,
)


def test_wilson_known_values() -> None:
    # 1 of 10: the interval printed in textbooks is 0.0179 to 0.4042.
    low, high = wilson(0.1, 10)
    assert low == pytest.approx(0.01788, abs=1e-5)
    assert high == pytest.approx(0.40415, abs=1e-5)
    # None of 10: low end exactly 0, high end z^2/(n + z^2).
    assert wilson(0.0, 10) == (0.0, pytest.approx(3.8414588 / 13.8414588, abs=1e-6))
    assert wilson(1.0, 10) == (pytest.approx(10 / 13.8414588, abs=1e-6), 1.0)


def test_binary_scores_use_the_number_of_problems() -> None:
    estimate = mean_interval([1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    assert (estimate.mean, estimate.n) == (0.1, 10)
    assert (estimate.low, estimate.high) == pytest.approx(wilson(0.1, 10))


def test_fractional_scores_use_the_effective_size() -> None:
    # Scores .25 .75 .5 .5: p = .5, variance (ddof 1) = .125/3, se^2 = .125/12, so p(1-p)/se^2 = .25 * 96 = 24.
    scores = np.array([0.25, 0.75, 0.5, 0.5])
    assert effective_size(scores) == pytest.approx(24.0)
    assert effective_size(scores, most=16) == 16
    estimate = mean_interval(scores.tolist(), samples=4)
    assert (estimate.low, estimate.high) == pytest.approx(wilson(0.5, 16))


@pytest.mark.parametrize("values", [[0.0] * 5, [1.0] * 5, [0.5] * 5, [0.3], [1.0]])
def test_interval_is_never_degenerate_and_holds_the_mean(values: list[float]) -> None:
    estimate = mean_interval(values)
    assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 1
    assert estimate.high - estimate.low > 0.1


def test_scores_outside_the_unit_interval_are_clipped() -> None:
    assert mean_interval([-2.0, 3.0]).mean == 0.5


def test_no_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_pass_at_k() -> None:
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)  # 1 - C(3,2)/C(4,2) = 1 - 3/6
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)  # 1 - C(2,2)/C(4,2)
    assert pass_at_k(4, 3, 2) == 1.0
    assert pass_at_k(4, 0, 4) == 0.0
    with pytest.raises(ValueError, match="at least 5"):
        pass_at_k(4, 1, 5)


def test_pass_at_1_does_not_fall_with_more_samples() -> None:
    assert pass_at_k(8, 2, 1) == pass_at_k(64, 16, 1) == 0.25


def test_maj_at_k() -> None:
    assert maj_at_k(["5", "5", "7"], [True, True, False], 3) == 1.0
    assert maj_at_k(["7", "5", "7"], [False, True, False], 3) == 0.0
    assert maj_at_k(["5", "7"], [True, False], 2) == 0.5  # a tie is split
    assert maj_at_k(["1/2", "0.5", "7", "7", "3"], [True, True, False, False, False], 5) == 0.5  # right ones are one
    assert maj_at_k([None, None, "5"], [False, False, True], 3) == 1.0  # no answer, no vote
    assert maj_at_k([None, None], [False, False], 2) == 0.0
    assert maj_at_k(["5", "5", "7", "7"], [True, True, False, False], 2) == 0.5  # two blocks


def test_student_quantile_against_tables() -> None:
    table = {1: 12.706, 2: 4.303, 5: 2.571, 10: 2.228, 29: 2.045, 100: 1.984}
    for freedom, value in table.items():
        assert student_quantile(freedom) == pytest.approx(value, rel=0.01)


def test_sign_flip_exact() -> None:
    assert sign_flip_p(np.array([1.0, 1.0, 1.0])) == pytest.approx(2 / 8)
    assert sign_flip_p(np.array([1.0, 1.0, -1.0])) == 1.0  # every pattern reaches |sum| = 1
    assert sign_flip_p(np.zeros(4)) == 1.0


def test_sign_flip_random_agrees_with_the_binomial() -> None:
    # 20 differences of the same size, 15 up and 5 down: two-sided sign test, P(X >= 15) + P(X <= 5).
    differences = np.array([1.0] * 15 + [-1.0] * 5)
    exact = 2 * sum(math.comb(20, i) for i in range(15, 21)) / 2**20
    assert sign_flip_p(differences) == pytest.approx(exact, abs=0.006)
    assert sign_flip_p(differences, seed=3) == sign_flip_p(differences, seed=3)


def test_compare_paired() -> None:
    # Differences 1 0 1 0: mean .5, sd .57735, half = t(3) * sd / 2.
    comparison = compare_paired([0, 0, 0, 1], [1, 0, 1, 1])
    assert comparison.difference == 0.5
    half = student_quantile(3) * math.sqrt(1 / 3) / 2
    assert (comparison.low, comparison.high) == (pytest.approx(0.5 - half), pytest.approx(min(1.0, 0.5 + half)))
    assert comparison.p_value == 0.5  # two differences, same sign: 2 of 4 patterns
    assert comparison.n == 4


def test_compare_equal_results_is_not_certainty() -> None:
    comparison = compare_paired([1.0] * 30, [1.0] * 30)
    assert (comparison.difference, comparison.p_value) == (0.0, 1.0)
    assert (comparison.low, comparison.high) == (pytest.approx(-0.1), pytest.approx(0.1))
