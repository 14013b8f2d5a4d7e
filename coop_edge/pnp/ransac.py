"""Runs RANSAC over minimal samples of one problem; docs/solvers.md states the algorithm."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from coop_edge.pnp.base import MeasuredDepths
from coop_edge.pnp.camera import Correspondences, msac_inliers, msac_score, projection, squared_errors
from coop_edge.pnp.epnp import epnp
from coop_edge.pnp.jit import compiled
from coop_edge.pnp.kabsch import kabsch
from coop_edge.pnp.linalg import all_finite, copy_pose, write_transform
from coop_edge.pnp.lm import Schedule
from coop_edge.pnp.normal_equations import (
    DEGENERATE,
    NO_HYPOTHESIS,
    NON_FINITE,
    SOLVED,
    TOO_FEW_INLIERS,
    TOO_FEW_POINTS,
)
from coop_edge.pnp.p3p import MAX_ROOTS, p3p
from coop_edge.pnp.ransac_refine import collinear, refine_pose
from coop_edge.pnp.sampling import MAX_SAMPLE, draw_sample

Array = np.ndarray

ROUND = 32
"""Hypotheses between two looks at the stopping rule."""


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


@compiled
def compact(
    points_object: Array, points_image: Array, valid: Array, measured: MeasuredDepths, K: Array
) -> tuple[int, Correspondences]:
    """Gather the valid points of one problem, and its status."""
    n = 0
    for i in range(len(valid)):
        n += valid[i]
    X, u, d = np.empty((3, n)), np.empty((2, n)), np.zeros((2, n if len(measured.weights) > 0 else 0))
    at = 0
    for i in range(len(valid)):
        if not valid[i]:
            continue
        X[0, at], X[1, at], X[2, at] = points_object[i, 0], points_object[i, 1], points_object[i, 2]
        u[0, at], u[1, at] = points_image[i, 0], points_image[i, 1]
        if d.shape[1] > 0 and measured.weights[i] != 0.0:  # NaN counts
            d[0, at], d[1, at] = measured.depth[i], measured.weights[i]
        at += 1
    status = SOLVED
    if not (all_finite(K) and all_finite(X) and all_finite(u) and all_finite(d) and (d[1:] >= 0.0).all()):
        status = NON_FINITE
    elif n < 4:
        status = TOO_FEW_POINTS
    elif collinear(X):
        status = DEGENERATE
    return status, Correspondences(X, u, d, K)


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
    """Solve the poses of the minimal sample [m] of points into R [5,3,3], t [5,3]; return how many."""
    m = len(sample)
    if use_p3p:
        corners, directions = np.empty((3, 3)), np.empty((3, 3))
        for i in range(3):
            for k in range(3):
                corners[i, k] = given.X[k, sample[i]]
                directions[i, k] = rays[sample[i], k]
        count = p3p(corners, directions, R, t)
        return count + (
            given.d.shape[1] > 0 and _sample_motion(given.d, corners, directions, sample, R[count], t[count])
        )
    points, pixels = np.empty((3, m)), np.empty((2, m))
    for i in range(m):
        for k in range(3):
            points[k, i] = given.X[k, sample[i]]
        for k in range(2):
            pixels[k, i] = given.u[k, sample[i]]
    # The error is infinite unless all points of the sample come out in front.
    return 1 if epnp(points, pixels, given.K, R[0], t[0]) < math.inf else 0


@compiled
def _sample_motion(d: Array, corners: Array, directions: Array, sample: Array, R: Array, t: Array) -> bool:
    """Solve the pose of three points of known depth d [2,n] as a motion in space; False if there is none."""
    places = np.empty((3, 3))
    for i in range(3):
        if not d[1, sample[i]] > 0.0:
            return False
        for k in range(3):
            places[i, k] = d[0, sample[i]] * directions[i, k] / directions[i, 2]
    return kabsch(corners, places, R, t)


@compiled
def best_hypothesis(
    given: Correspondences, settings: Settings, substream: int, R: Array, t: Array, errors: Array, inliers: Array
) -> tuple[float, int]:
    """Find the best-scoring hypothesis into R, t; return its score (infinite if there is none) and the number drawn."""
    u, K = given.u, given.K
    n = u.shape[1]
    m = 3 if settings.use_p3p else min(settings.sample_size, n)
    threshold2 = settings.threshold * settings.threshold
    rays = np.empty((n, 3))
    unit_rays(u, K, rays)
    sample, scratch = np.empty(m, np.int64), np.empty(MAX_SAMPLE, np.int64)
    R_all, t_all, P = np.empty((MAX_ROOTS + 1, 3, 3)), np.empty((MAX_ROOTS + 1, 3)), np.empty((3, 4))
    best = math.inf
    drawn = 0
    while drawn < settings.hypotheses:
        stop = min(drawn + ROUND, settings.hypotheses)
        for h in range(drawn, stop):
            draw_sample(settings.seed, substream, h, n, m, sample, scratch)
            for i in range(_sample_poses(given, rays, sample, settings.use_p3p, R_all, t_all)):
                projection(K, R_all[i], t_all[i], P)
                score = msac_score(given, P, threshold2, best)
                if score < best:
                    best = score
                    copy_pose(R_all[i], t_all[i], R, t)
        drawn = stop
        if best < math.inf:
            projection(K, R, t, P)
            _, k = msac_inliers(given, P, threshold2, errors, inliers)
            if enough(drawn, k, n, m, settings.confidence):
                break
    return best, drawn


@compiled
def solve_ransac(
    points_object: Array,
    points_image: Array,
    valid: Array,
    measured: MeasuredDepths,
    K: Array,
    settings: Settings,
    substream: int,
    T: Array,
    inliers_out: Array,
) -> tuple[int, int, int, float, float]:
    """Solve one problem: status, inliers, hypotheses, score, RMS error; writes T [4,4], inliers_out [N] if solved.

    Without measured depth its arrays are of size 0.
    """
    status, given = compact(points_object, points_image, valid, measured, K)
    if status != SOLVED:
        return status, 0, 0, math.inf, math.nan
    n = given.X.shape[1]
    R, t, P = np.empty((3, 3)), np.empty(3), np.empty((3, 4))
    errors, inliers = np.empty(n), np.empty(n, np.bool_)
    score, drawn = best_hypothesis(given, settings, substream, R, t, errors, inliers)
    if not score < math.inf:
        return NO_HYPOTHESIS, 0, drawn, math.inf, math.nan
    if settings.refine:
        refine_pose(given, settings.threshold, settings.lm, R, t, errors, inliers)
    projection(K, R, t, P)
    score, k = msac_inliers(given, P, settings.threshold * settings.threshold, errors, inliers)
    if k < settings.min_inliers:
        return TOO_FEW_INLIERS, 0, drawn, math.inf, math.nan
    if given.d.shape[1] > 0:
        squared_errors(given.X, given.u, P, errors)  # of reprojection alone
    squares = 0.0
    at = 0
    for i in range(len(valid)):
        if valid[i]:
            inliers_out[i] = inliers[at]
            squares += errors[at] if inliers[at] else 0.0
            at += 1
    write_transform(R, t, T)
    return SOLVED, k, drawn, score, math.sqrt(squares / k)
