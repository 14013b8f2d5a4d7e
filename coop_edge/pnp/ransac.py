"""Runs RANSAC over minimal samples of one problem; docs/solvers.md states the algorithm."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from coop_edge.pnp.camera import msac_inliers, msac_score, projection
from coop_edge.pnp.epnp import epnp
from coop_edge.pnp.jit import compiled
from coop_edge.pnp.linalg import all_finite, copy_pose, shifted, write_transform
from coop_edge.pnp.lm import Evidence, Schedule, minimise
from coop_edge.pnp.normal_equations import (
    DEGENERATE,
    NO_HYPOTHESIS,
    NON_FINITE,
    SOLVED,
    SUMS,
    TOO_FEW_INLIERS,
    TOO_FEW_POINTS,
    centre_on_mean,
)
from coop_edge.pnp.p3p import MAX_ROOTS, p3p
from coop_edge.pnp.prior import CentredPrior
from coop_edge.pnp.sampling import MAX_SAMPLE, draw_sample

Array = np.ndarray

ROUND = 32
"""Hypotheses between two looks at the stopping rule."""
REFINE_ROUNDS = 3
NEAR = 1.5
"""Refinement begins with the points within this many thresholds: a pose of three noisy points misses many inliers."""


class Settings(NamedTuple):
    """``RansacConfig`` and ``RansacSearchConfig`` for compiled code."""

    threshold: float  # pixels
    hypotheses: int
    confidence: float
    use_p3p: bool
    sample_size: int
    refine: bool
    min_inliers: int
    seed: int
    lm: Schedule  # of the refinement


class Correspondences(NamedTuple):
    """The valid points of one problem."""

    X: Array  # [3,n] metres
    u: Array  # [2,n] pixels
    K: Array  # [3,3]


@compiled
def compact(points_object: Array, points_image: Array, valid: Array, K: Array) -> tuple[int, Array, Array]:
    """Gather the valid points of one problem: status, X [3,n], u [2,n]."""
    n = 0
    for i in range(len(valid)):
        n += valid[i]
    X, u = np.empty((3, n)), np.empty((2, n))
    at = 0
    for i in range(len(valid)):
        if valid[i]:
            X[0, at], X[1, at], X[2, at] = points_object[i, 0], points_object[i, 1], points_object[i, 2]
            u[0, at], u[1, at] = points_image[i, 0], points_image[i, 1]
            at += 1
    status = SOLVED
    if not (all_finite(K) and all_finite(X) and all_finite(u)):
        status = NON_FINITE
    elif n < 4:
        status = TOO_FEW_POINTS
    elif collinear(X):
        status = DEGENERATE
    return status, X, u


@compiled
def collinear(X: Array) -> bool:
    """Do all points [3,n], n >= 1, lie on one line, or in one place?"""
    n = X.shape[1]
    far, d2 = 0, 0.0
    for i in range(1, n):
        x, y, z = X[0, i] - X[0, 0], X[1, i] - X[1, 0], X[2, i] - X[2, 0]
        r2 = x * x + y * y + z * z
        if r2 > d2:
            far, d2 = i, r2
    ax, ay, az = X[0, far] - X[0, 0], X[1, far] - X[1, 0], X[2, far] - X[2, 0]
    cross2 = 0.0
    for i in range(1, n):
        x, y, z = X[0, i] - X[0, 0], X[1, i] - X[1, 0], X[2, i] - X[2, 0]
        cx, cy, cz = ay * z - az * y, az * x - ax * z, ax * y - ay * x
        cross2 = max(cross2, cx * cx + cy * cy + cz * cz)
    d = math.sqrt(d2)
    h = math.sqrt(cross2) / d if d > 0.0 else 0.0
    origin = math.sqrt(X[0, 0] * X[0, 0] + X[1, 0] * X[1, 0] + X[2, 0] * X[2, 0])
    return h <= 1e-5 * d + 1e-6 * origin


@compiled
def unit_rays(u: Array, K: Array, rays: Array) -> None:
    """Compute directions K^-1 (u, v, 1) of unit length: u [2,n] -> rays [n,3]."""
    for i in range(u.shape[1]):
        y = (u[1, i] - K[1, 2]) / K[1, 1]
        x = (u[0, i] - K[0, 2] - K[0, 1] * y) / K[0, 0]
        s = 1.0 / math.sqrt(x * x + y * y + 1.0)
        rays[i, 0], rays[i, 1], rays[i, 2] = x * s, y * s, s


@compiled
def enough(drawn: int, k: int, n: int, m: int, confidence: float) -> bool:
    """Tell whether an all-inlier sample of m has been drawn with this probability, if k of n are inliers."""
    if not confidence < 1.0 or k < m:
        return False
    p = 1.0
    for i in range(m):
        p *= (k - i) / (n - i)
    return p >= 1.0 or drawn * math.log1p(-p) <= math.log1p(-confidence)


@compiled
def _sample_poses(given: Correspondences, rays: Array, sample: Array, use_p3p: bool, R: Array, t: Array) -> int:
    """Solve the poses of the minimal sample [m] of points into R [4,3,3], t [4,3]; return how many."""
    m = len(sample)
    if use_p3p:
        corners, directions = np.empty((3, 3)), np.empty((3, 3))
        for i in range(3):
            for k in range(3):
                corners[i, k] = given.X[k, sample[i]]
                directions[i, k] = rays[sample[i], k]
        return p3p(corners, directions, R, t)
    points, pixels = np.empty((3, m)), np.empty((2, m))
    for i in range(m):
        for k in range(3):
            points[k, i] = given.X[k, sample[i]]
        for k in range(2):
            pixels[k, i] = given.u[k, sample[i]]
    # The error is infinite unless all points of the sample come out in front.
    return 1 if epnp(points, pixels, given.K, R[0], t[0]) < math.inf else 0


@compiled
def best_hypothesis(
    given: Correspondences, settings: Settings, substream: int, R: Array, t: Array, errors: Array, inliers: Array
) -> tuple[float, int]:
    """Find the best-scoring hypothesis into R, t; return its score (infinite if there is none) and the number drawn."""
    X, u, K = given
    n = X.shape[1]
    m = 3 if settings.use_p3p else min(settings.sample_size, n)
    threshold2 = settings.threshold * settings.threshold
    rays = np.empty((n, 3))
    unit_rays(u, K, rays)
    sample, scratch = np.empty(m, np.int64), np.empty(MAX_SAMPLE, np.int64)
    R_all, t_all, P = np.empty((MAX_ROOTS, 3, 3)), np.empty((MAX_ROOTS, 3)), np.empty((3, 4))
    best = math.inf
    drawn = 0
    while drawn < settings.hypotheses:
        stop = min(drawn + ROUND, settings.hypotheses)
        for h in range(drawn, stop):
            draw_sample(settings.seed, substream, h, n, m, sample, scratch)
            for i in range(_sample_poses(given, rays, sample, settings.use_p3p, R_all, t_all)):
                projection(K, R_all[i], t_all[i], P)
                score = msac_score(X, u, P, threshold2, best)
                if score < best:
                    best = score
                    copy_pose(R_all[i], t_all[i], R, t)
        drawn = stop
        if best < math.inf:
            projection(K, R, t, P)
            _, k = msac_inliers(X, u, P, threshold2, errors, inliers)
            if enough(drawn, k, n, m, settings.confidence):
                break
    return best, drawn


@compiled
def _minimum(S: Array, K: Array, lm: Schedule, R: Array, t: Array) -> None:
    """Run Levenberg-Marquardt on points S [6,k], which are centred, from (R, t), which are replaced."""
    centre, no_lines, no_depths = np.empty(3), np.empty((8, 0)), np.empty((9, 0))
    no_prior = CentredPrior(np.empty((0, 0)), np.empty((0, 0)), np.empty(0), np.empty(0))
    centre_on_mean(S, centre)
    shifted(R, centre, t, 1.0, t)
    minimise(Evidence(K, S, no_lines, no_depths, no_prior), lm, R, t, np.empty(SUMS))
    shifted(R, centre, t, -1.0, t)


@compiled
def refine_pose(given: Correspondences, settings: Settings, R: Array, t: Array, errors: Array, inliers: Array) -> None:
    """Refine by EPnP, then Levenberg-Marquardt, on the points that fit; each is kept only if it lowers the MSAC score.

    ``errors`` and ``inliers`` [n] are scratch.
    """
    X, u, K = given
    R_new, t_new, P = np.empty((3, 3)), np.empty(3), np.empty((3, 4))
    new_inliers = np.empty(len(inliers), np.bool_)
    threshold2 = settings.threshold * settings.threshold
    near2 = NEAR * NEAR * threshold2
    projection(K, R, t, P)
    score, _ = msac_inliers(X, u, P, threshold2, errors, inliers)
    _, k = msac_inliers(X, u, P, near2, errors, inliers)
    if k >= 4:
        S = _selected(X, u, inliers, k)
        if not collinear(S[:3]) and epnp(S[:3], S[3:5], K, R_new, t_new) < math.inf:
            projection(K, R_new, t_new, P)
            new_score, _ = msac_inliers(X, u, P, threshold2, errors, new_inliers)
            if new_score < score:
                score = new_score
                copy_pose(R_new, t_new, R, t)
                _, k = msac_inliers(X, u, P, near2, errors, inliers)
    for attempt in range(REFINE_ROUNDS):
        if attempt > 0:
            projection(K, R, t, P)
            _, k = msac_inliers(X, u, P, threshold2, errors, inliers)
        if k < 3:
            break
        copy_pose(R, t, R_new, t_new)
        _minimum(_selected(X, u, inliers, k), K, settings.lm, R_new, t_new)
        projection(K, R_new, t_new, P)
        new_score, _ = msac_inliers(X, u, P, threshold2, errors, new_inliers)
        if new_score < score:
            score = new_score
            copy_pose(R_new, t_new, R, t)
            if _equal(new_inliers, inliers):
                break
        elif attempt > 0:
            break


@compiled
def _equal(a: Array, b: Array) -> bool:
    for i in range(len(a)):  # noqa: SIM110 (Numba compiles no generator expression)
        if a[i] != b[i]:
            return False
    return True


@compiled
def _selected(X: Array, u: Array, chosen: Array, k: int) -> Array:
    """Return the chosen points as rows x, y, z, u, v, 1: [6,k]."""
    S = np.empty((6, k))
    at = 0
    for i in range(X.shape[1]):
        if chosen[i]:
            S[0, at], S[1, at], S[2, at], S[3, at], S[4, at], S[5, at] = (
                X[0, i],
                X[1, i],
                X[2, i],
                u[0, i],
                u[1, i],
                1.0,
            )
            at += 1
    return S


@compiled
def solve_ransac(
    points_object: Array,
    points_image: Array,
    valid: Array,
    K: Array,
    settings: Settings,
    substream: int,
    T: Array,
    inliers_out: Array,
) -> tuple[int, int, int, float, float]:
    """Solve one problem: status, inliers, hypotheses, score, RMS error; writes T [4,4], inliers_out [N] if solved."""
    status, X, u = compact(points_object, points_image, valid, K)
    if status != SOLVED:
        return status, 0, 0, math.inf, math.nan
    n = X.shape[1]
    given = Correspondences(X, u, K)
    R, t, P = np.empty((3, 3)), np.empty(3), np.empty((3, 4))
    errors, inliers = np.empty(n), np.empty(n, np.bool_)
    score, drawn = best_hypothesis(given, settings, substream, R, t, errors, inliers)
    if not score < math.inf:
        return NO_HYPOTHESIS, 0, drawn, math.inf, math.nan
    if settings.refine:
        refine_pose(given, settings, R, t, errors, inliers)
    projection(K, R, t, P)
    score, k = msac_inliers(X, u, P, settings.threshold * settings.threshold, errors, inliers)
    if k < settings.min_inliers:
        return TOO_FEW_INLIERS, 0, drawn, math.inf, math.nan
    squares = 0.0
    at = 0
    for i in range(len(valid)):
        if valid[i]:
            inliers_out[i] = inliers[at]
            squares += errors[at] if inliers[at] else 0.0
            at += 1
    write_transform(R, t, T)
    return SOLVED, k, drawn, score, math.sqrt(squares / k)
