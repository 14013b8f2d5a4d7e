"""Statistics of scores: does a high score mean a right pose (AUROC), and is the score the probability of one (ECE)?"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 500
_Z95 = 1.959963984540054  # of the normal distribution, 95 % within


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of ``right`` in ``count`` >= 1 (Wilson, JASA 1927)."""
    share, z2 = right / count, _Z95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    # At a share of 0 or 1 one end is the share itself, up to rounding.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def auroc(scores: np.ndarray, right: np.ndarray) -> float | None:
    """Return the probability that a right pose scores higher than a wrong one (Mann and Whitney's U), None without
    one of each."""
    n_right, n_wrong = int(right.sum()), int((~right).sum())
    if n_right == 0 or n_wrong == 0:
        return None
    u = rankdata(scores)[right].sum() - n_right * (n_right + 1) / 2
    return float(u / (n_right * n_wrong))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return Spearman's rank correlation, ties at their mean rank; None if either is constant."""
    ranks = np.stack([rankdata(a), rankdata(b)]) if len(a) else np.zeros((2, 0))
    if ranks.size == 0 or (np.ptp(ranks, axis=1) == 0).any():
        return None
    return float(np.corrcoef(ranks)[0, 1])


def calibration_error(scores: np.ndarray, right: np.ndarray, bins: int) -> float | None:
    """Return the expected calibration error: how far a bin's share of right poses is from its mean score, on average.

    Bins of equal count, weighted by their counts; 0 if the score is the probability of a right pose, and a little more
    in few poses by chance.

    Args:
        scores: float [N].
        right: bool [N].
        bins: at most so many.

    Returns None without poses, and where a score is outside [0, 1] and so no probability.
    """
    if not len(scores) or scores.min() < 0.0 or scores.max() > 1.0:
        return None
    return _calibration_error(scores, right, bins)


def intervals(
    scores: np.ndarray, right: np.ndarray, bins: int
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Return 95 % intervals of the AUROC and of the calibration error, by resampling poses (bootstrap).

    A resampled calibration error is too large by as much again as that of the poses themselves: the interval is
    mirrored at the latter (the basic bootstrap), which takes both off, so that it can lie below the error measured.
    It begins at 0 where a score that is the probability would show as large an error by chance, which mirroring misses.
    None where the figure is undefined. Arguments as of ``calibration_error``.
    """
    area, error = auroc(scores, right), calibration_error(scores, right, bins)
    rng, n = np.random.default_rng(0), len(scores)
    areas, errors, by_chance = [], [], []
    for _ in range(RESAMPLES if area is not None or error is not None else 0):
        drawn = rng.integers(0, n, n)
        if (found := auroc(scores[drawn], right[drawn])) is not None:
            areas.append(found)
        if error is not None:
            errors.append(_calibration_error(scores[drawn], right[drawn], bins))
            by_chance.append(_calibration_error(scores, rng.uniform(size=n) < scores, bins))
    of_area = None if area is None else _middle(areas)
    if error is None:
        return of_area, None
    low, high = _middle(errors)
    lowest = 0.0 if error <= _middle(by_chance)[1] else max(0.0, 2 * error - high)
    return of_area, (lowest, max(lowest, 2 * error - low))


def _calibration_error(scores: np.ndarray, right: np.ndarray, bins: int) -> float:
    order = np.argsort(scores, kind="stable")
    edges = bin_edges(scores[order], bins)
    gaps = np.add.reduceat((right - scores)[order], edges[:-1])
    return float(np.abs(gaps).sum() / len(scores))


def _middle(values: list[float]) -> tuple[float, float]:
    """The bounds between which the middle 95 % lie."""
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def bin_edges(scores: np.ndarray, bins: int) -> list[int]:
    """Return where the bins of equal count of sorted scores begin and end; equal scores stay in one bin."""
    n = len(scores)
    edges = {0, n}
    for k in range(1, min(bins, n)):
        # The end of the run that the ideal edge falls into, or its beginning, whichever is nearer.
        ideal = round(k * n / min(bins, n))
        value = scores[min(ideal, n - 1)]
        begin, end = (int(np.searchsorted(scores, value, side=side)) for side in ("left", "right"))
        edges.add(begin if ideal - begin <= end - ideal else end)
    return sorted(edges)
