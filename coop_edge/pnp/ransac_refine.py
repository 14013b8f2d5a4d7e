"""Refines RANSAC's best pose on the points that fit it: EPnP, then Levenberg-Marquardt; docs/solvers.md states it."""

from __future__ import annotations

import math

import numpy as np

from coop_edge.pnp.camera import Correspondences, msac_inliers, projection
from coop_edge.pnp.epnp import epnp
from coop_edge.pnp.jit import compiled
from coop_edge.pnp.linalg import copy_pose, shifted
from coop_edge.pnp.lm import Evidence, Schedule, minimise
from coop_edge.pnp.normal_equations import SUMS, centre_lines, centre_on_mean
from coop_edge.pnp.prior import CentredPrior

Array = np.ndarray

REFINE_ROUNDS = 3
NEAR = 1.5
"""Refinement begins with the points within this many thresholds: a pose of three noisy points misses many inliers."""


@compiled
def _minimum(S: Array, D: Array, K: Array, lm: Schedule, R: Array, t: Array) -> None:
    """Run Levenberg-Marquardt on points S [6,k] and depths D [9,j], centred here, from (R, t), replaced by the end."""
    centre, no_lines = np.empty(3), np.empty((8, 0))
    no_prior = CentredPrior(np.empty((0, 0)), np.empty((0, 0)), np.empty(0), np.empty(0))
    centre_on_mean(S, centre)
    centre_lines(D, centre)
    shifted(R, centre, t, 1.0, t)
    minimise(Evidence(K, S, no_lines, D, no_prior), lm, R, t, np.empty(SUMS))
    shifted(R, centre, t, -1.0, t)


@compiled
def refine_pose(
    given: Correspondences, threshold: float, lm: Schedule, R: Array, t: Array, errors: Array, inliers: Array
) -> None:
    """Refine by EPnP, then Levenberg-Marquardt, on the points that fit; each is kept only if it lowers the MSAC score.

    ``errors`` and ``inliers`` [n] are scratch.
    """
    X, u, d, K = given
    R_new, t_new, P = np.empty((3, 3)), np.empty(3), np.empty((3, 4))
    new_inliers = np.empty(len(inliers), np.bool_)
    threshold2 = threshold * threshold
    near2 = NEAR * NEAR * threshold2
    projection(K, R, t, P)
    score, _ = msac_inliers(given, P, threshold2, errors, inliers)
    _, k = msac_inliers(given, P, near2, errors, inliers)
    if k >= 4:
        S = _selected(X, u, inliers, k)
        if not collinear(S[:3]) and epnp(S[:3], S[3:5], K, R_new, t_new) < math.inf:
            projection(K, R_new, t_new, P)
            new_score, _ = msac_inliers(given, P, threshold2, errors, new_inliers)
            if new_score < score:
                score = new_score
                copy_pose(R_new, t_new, R, t)
                _, k = msac_inliers(given, P, near2, errors, inliers)
    for attempt in range(REFINE_ROUNDS):
        if attempt > 0:
            projection(K, R, t, P)
            _, k = msac_inliers(given, P, threshold2, errors, inliers)
        if k < 3:
            break
        copy_pose(R, t, R_new, t_new)
        _minimum(_selected(X, u, inliers, k), _selected_depths(X, d, inliers), K, lm, R_new, t_new)
        projection(K, R_new, t_new, P)
        new_score, _ = msac_inliers(given, P, threshold2, errors, new_inliers)
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
def _selected_depths(X: Array, d: Array, chosen: Array) -> Array:
    """Return the depths of chosen points as ``pnp.depths`` takes them, [9,j]; j = 0 without measured depth."""
    k = 0
    for i in range(d.shape[1]):
        k += chosen[i] and d[1, i] > 0.0
    D = np.zeros((9, k))
    at = 0
    for i in range(d.shape[1]):
        if chosen[i] and d[1, i] > 0.0:
            D[0, at], D[1, at], D[2, at], D[3, at] = X[0, i], X[1, i], X[2, i], d[0, i]
            D[5, at], D[8, at] = d[1, i] * d[1, i], 1.0
            at += 1
    return D


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
