"""AUROC, calibration error and their intervals, against SciPy, brute force, and scores whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from benchmarks.accuracy.calibration import (
    auroc,
    bin_edges,
    calibration_error,
    intervals,
    rank_correlation,
    wilson,
)


def drawn(n: int, seed: int, probability=lambda s: s) -> tuple[np.ndarray, np.ndarray]:
    """n uniform scores, and whether poses are right, which they are with the given probability."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(size=n)
    return scores, rng.uniform(size=n) < probability(scores)


@pytest.mark.parametrize(
    ("right", "count"), [(0, 1), (1, 1), (0, 20), (7, 20), (20, 20), (500, 1000), (23, 23), (11, 11)]
)
def test_wilson_is_scipys(right, count):
    expected = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    low, high = wilson(right, count)
    np.testing.assert_allclose((low, high), (expected.low, expected.high), atol=1e-12)
    assert 0.0 <= low <= right / count <= high <= 1.0  # rounding included: bars are drawn from the share


@pytest.mark.parametrize("seed", range(4))
def test_auroc_counts_pairs(seed):
    rng = np.random.default_rng(seed)
    scores, right = rng.integers(0, 8, 60) / 8.0, rng.uniform(size=60) < 0.4  # many ties
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[right] for b in scores[~right]]
    assert auroc(scores, right) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_rank_correlation_is_scipys():
    scores, errors = np.random.default_rng(1).uniform(size=(2, 300))
    scores = np.round(scores, 1)
    assert rank_correlation(scores, -errors) == pytest.approx(stats.spearmanr(scores, -errors).statistic, abs=1e-12)
    assert rank_correlation(np.ones(5), np.arange(5.0)) is None


def test_the_calibration_error_by_hand():
    scores, right = np.array([0.1, 0.3, 0.8, 1.0]), np.array([False, True, True, True])
    assert calibration_error(scores, right, 2) == pytest.approx((2 * abs(0.5 - 0.2) + 2 * abs(1.0 - 0.9)) / 4)
    assert calibration_error(scores, right, 1) == pytest.approx(abs(0.75 - 0.55))
    assert calibration_error(scores[::-1], right[::-1], 2) == calibration_error(scores, right, 2)


@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_error_is_the_mean_over_the_bins(seed):
    scores, right = drawn(503, seed, lambda s: s**2)
    order = np.argsort(scores)
    parts = [order[a:b] for a, b in itertools.pairwise(bin_edges(scores[order], 10))]
    expected = sum(len(p) * abs(right[p].mean() - scores[p].mean()) for p in parts) / 503
    assert calibration_error(scores, right, 10) == pytest.approx(expected)
    assert calibration_error(scores, right, 10) == pytest.approx(1 / 6, abs=0.04)  # mean of s - s^2


def test_what_is_no_probability_has_no_calibration_error():
    right = np.array([True, False])
    assert calibration_error(np.array([0.2, 1.5]), right, 10) is None
    assert calibration_error(np.array([-0.1, 0.5]), right, 10) is None
    assert calibration_error(np.zeros(0), np.zeros(0, bool), 10) is None
    area, error = intervals(np.array([0.2, 1.5]), right, 10)
    assert error is None
    assert area is not None


@pytest.mark.parametrize(
    ("probability", "area", "error"), [(lambda s: s, 5 / 6, 0.0), (lambda s: 0.2 + 0.6 * s, 0.7, 0.1)]
)
def test_intervals_hold_the_truth_about_as_often_as_they_say(probability, area, error):
    """Of P(right) = 0.2 + 0.6 s the AUROC is 0.7, as the integral says, and |0.2 - 0.4 s| is 0.1 on average."""
    found = [intervals(*drawn(400, seed, probability), 10) for seed in range(40)]
    assert sum(a[0] <= area <= a[1] for a, _ in found) >= 34
    assert sum(e[0] <= error <= e[1] + 1e-12 for _, e in found) >= 34


def test_intervals_shrink_with_the_number_of_poses_and_are_the_same_every_time():
    few, many = (intervals(*drawn(n, 1, lambda s: s**2), 10) for n in (200, 3200))
    assert all(b[1] - b[0] < 0.5 * (a[1] - a[0]) for a, b in zip(few, many, strict=True))
    assert few == intervals(*drawn(200, 1, lambda s: s**2), 10)


def test_no_interval_where_all_poses_are_right():
    area, error = intervals(np.full(20, 0.9), np.ones(20, bool), 10)
    assert area is None
    assert error[0] == 0.0  # a score of 0.9 that is the probability shows an error of 0.1 by chance in 20 poses
    assert error[1] == pytest.approx(0.1)
