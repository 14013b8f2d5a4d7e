"""RANSAC over minimal samples, one problem; the algorithm is stated in ``coop_edge.pnp``."""

from __future__ import annotations

import math

import numpy as np

from coop_edge.pnp.camera import msac_inliers, msac_score, projection
from coop_edge.pnp.epnp import epnp
from coop_edge.pnp.jit import compiled
from coop_edge.pnp.linalg import all_finite, copy_pose, shifted, write_transform
from coop_edge.pnp.lm import minimise
from coop_edge.pnp.normal_equations import (
    DEGENERATE,
    NO_HYPOTHESIS,
    NON_FINITE,
    SOLVED,
    SUMS,
    TOO_FEW_INLIERS,
    TOO_FEW_POINTS,
    centre_points,
)
from coop_edge.pnp.p3p import MAX_ROOTS, p3p
from coop_edge.pnp.sampling import MAX_SAMPLE, draw_sample

Array = np.ndarray

ROUND = 32
"""Hypotheses between two looks at the stopping rule."""
REFINE_ROUNDS = 3
NEAR = 1.5
"""Refinement begins with the points within this many thresholds: a pose of three noisy points misses many inliers."""


@compiled
def compact(points_object: Array, points_image: Array, valid: Array, K: Array) -> tuple[int, Array, Array]:
    """Valid points of one problem: status, X [3,n], u [2,n]."""
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
    """Directions K^-1 (u, v, 1) of unit length: u [2,n] -> rays [n,3]."""
    for i in range(u.shape[1]):
        y = (u[1, i] - K[1, 2]) / K[1, 1]
        x = (u[0, i] - K[0, 2] - K[0, 1] * y) / K[0, 0]
        s = 1.0 / math.sqrt(x * x + y * y + 1.0)
        rays[i, 0], rays[i, 1], rays[i, 2] = x * s, y * s, s


@compiled
def enough(drawn: int, k: int, n: int, m: int, confidence: float) -> bool:
    """Has an all-inlier sample of m been drawn with this probability, if k of n are inliers?"""
    if not confidence < 1.0 or k < m:
        return False
    p = 1.0
    for i in range(m):
        p *= (k - i) / (n - i)
    return p >= 1.0 or drawn * math.log1p(-p) <= math.log1p(-confidence)


@compiled
def _sample_poses(
    X: Array, u: Array, rays: Array, K: Array, sample: Array, m: int, use_p3p: bool, R: Array, t: Array
) -> int:
    """Poses of a minimal sample into R [4,3,3], t [4,3]: how many."""
    if use_p3p:
        corners, directions = np.empty((3, 3)), np.empty((3, 3))
        for i in range(3):
            for k in range(3):
                corners[i, k] = X[k, sample[i]]
                directions[i, k] = rays[sample[i], k]
        return p3p(corners, directions, R, t)
    points, pixels = np.empty((3, m)), np.empty((2, m))
    for i in range(m):
        for k in range(3):
            points[k, i] = X[k, sample[i]]
        for k in range(2):
            pixels[k, i] = u[k, sample[i]]
    # The error is infinite unless all points of the sample come out in front.
    return 1 if epnp(points, pixels, K, R[0], t[0]) < math.inf else 0


@compiled
def best_hypothesis(
    X: Array,
    u: Array,
    K: Array,
    threshold2: float,
    hypotheses: int,
    confidence: float,
    use_p3p: bool,
    m: int,
    seed: int,
    substream: int,
    R: Array,
    t: Array,
    errors: Array,
    inliers: Array,
) -> tuple[float, int]:
    """The best-scoring hypothesis into R, t: its score (infinite if there is none) and the number drawn."""
    n = X.shape[1]
    rays = np.empty((n, 3))
    unit_rays(u, K, rays)
    sample, scratch = np.empty(MAX_SAMPLE, np.int64), np.empty(MAX_SAMPLE, np.int64)
    R_all, t_all, P = np.empty((MAX_ROOTS, 3, 3)), np.empty((MAX_ROOTS, 3)), np.empty((3, 4))
    best = math.inf
    drawn = 0
    while drawn < hypotheses:
        stop = min(drawn + ROUND, hypotheses)
        for h in range(drawn, stop):
            draw_sample(seed, substream, h, n, m, sample, scratch)
            for i in range(_sample_poses(X, u, rays, K, sample, m, use_p3p, R_all, t_all)):
                projection(K, R_all[i], t_all[i], P)
                score = msac_score(X, u, P, threshold2, best)
                if score < best:
                    best = score
                    copy_pose(R_all[i], t_all[i], R, t)
        drawn = stop
        if best < math.inf:
            projection(K, R, t, P)
            _, k = msac_inliers(X, u, P, threshold2, errors, inliers)
            if enough(drawn, k, n, m, confidence):
                break
    return best, drawn


@compiled
def refine_pose(
    X: Array, u: Array, K: Array, threshold2: float, lm: Array, R: Array, t: Array, errors: Array, inliers: Array
) -> None:
    """EPnP, then Levenberg-Marquardt, on the points that fit; each replaces R, t only if it lowers the MSAC score.

    ``lm``: iterations, damping, damping_up, damping_down, step_tolerance, cost_tolerance, loss, scale. ``errors`` and
    ``inliers`` [n] are scratch.
    """
    R_new, t_new, P, sums, centre = np.empty((3, 3)), np.empty(3), np.empty((3, 4)), np.empty(SUMS), np.empty(3)
    new_inliers, no_prior = np.empty(len(inliers), np.bool_), np.empty(0)
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
        S = _selected(X, u, inliers, k)
        centre_points(S, centre)
        copy_pose(R, t, R_new, t_new)
        shifted(R_new, centre, t_new, 1.0, t_new)
        minimise(S, K, R_new, t_new, int(lm[0]), lm[1], lm[2], lm[3], lm[4], lm[5], int(lm[6]), lm[7], no_prior, sums)
        shifted(R_new, centre, t_new, -1.0, t_new)
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
    """The chosen points as rows x, y, z, u, v, 1: [6,k]."""
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
    threshold: float,
    hypotheses: int,
    confidence: float,
    use_p3p: bool,
    sample_size: int,
    refine: bool,
    min_inliers: int,
    seed: int,
    substream: int,
    lm: Array,
    T: Array,
    inliers_out: Array,
) -> tuple[int, int, int, float, float]:
    """One problem: status, inliers, hypotheses drawn, score, RMS error; writes T [4,4], inliers_out [N] if solved."""
    status, X, u = compact(points_object, points_image, valid, K)
    if status != SOLVED:
        return status, 0, 0, math.inf, math.nan
    n = X.shape[1]
    m = 3 if use_p3p else min(sample_size, n)
    R, t, P = np.empty((3, 3)), np.empty(3), np.empty((3, 4))
    errors, inliers = np.empty(n), np.empty(n, np.bool_)
    threshold2 = threshold * threshold
    score, drawn = best_hypothesis(
        X, u, K, threshold2, hypotheses, confidence, use_p3p, m, seed, substream, R, t, errors, inliers
    )
    if not score < math.inf:
        return NO_HYPOTHESIS, 0, drawn, math.inf, math.nan
    if refine:
        refine_pose(X, u, K, threshold2, lm, R, t, errors, inliers)
    projection(K, R, t, P)
    score, k = msac_inliers(X, u, P, threshold2, errors, inliers)
    if k < min_inliers:
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
