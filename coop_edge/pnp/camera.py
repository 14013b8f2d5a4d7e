"""Reprojects structure-of-arrays points: the loops over points that RANSAC and EPnP spend their time in.

Points are X [3,n] metres and u [2,n] pixels, rows contiguous; a projection is P [3,4] = K [R t]. K is upper triangular
with last row 0 0 1, so the third row of P gives the depth. Where depth is measured, d [2,n] holds it, metres, and its
weight, pixels per metre, 0 where it is unknown; the squared error then is that of the reprojection and that of the
depth, together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coop_edge.pnp.jit import compiled, vectorised

Array = np.ndarray

MIN_DEPTH = 1e-6
"""A point is in front of the camera if it is farther than this along the optical axis, metres."""
CHUNK = 64  # points between two looks at the running score: a few vectors' worth


class Correspondences(NamedTuple):
    """The valid points of one problem."""

    X: Array  # [3,n] metres
    u: Array  # [2,n] pixels
    d: Array  # [2,n] metres and pixels per metre; [2,0] without measured depth
    K: Array  # [3,3]


@compiled
def projection(K: Array, R: Array, t: Array, P: Array) -> None:
    """Compute P = K [R t]."""
    for j in range(4):
        if j < 3:
            a, b, c = R[0, j], R[1, j], R[2, j]
        else:
            a, b, c = t[0], t[1], t[2]
        P[0, j] = K[0, 0] * a + K[0, 1] * b + K[0, 2] * c
        P[1, j] = K[1, 1] * b + K[1, 2] * c
        P[2, j] = c


@vectorised
def squared_errors(X: Array, u: Array, P: Array, out: Array) -> None:
    """Compute squared reprojection errors [n], pixels^2; infinity for a point that is not in front."""
    p00, p01, p02, p03 = P[0, 0], P[0, 1], P[0, 2], P[0, 3]
    p10, p11, p12, p13 = P[1, 0], P[1, 1], P[1, 2], P[1, 3]
    p20, p21, p22, p23 = P[2, 0], P[2, 1], P[2, 2], P[2, 3]
    for i in range(X.shape[1]):
        x, y, z = X[0, i], X[1, i], X[2, i]
        depth = p20 * x + p21 * y + p22 * z + p23
        inverse = 1.0 / depth
        du = (p00 * x + p01 * y + p02 * z + p03) * inverse - u[0, i]
        dv = (p10 * x + p11 * y + p12 * z + p13) * inverse - u[1, i]
        out[i] = du * du + dv * dv if depth > MIN_DEPTH else np.inf


@vectorised
def add_depth_errors(X: Array, d: Array, P: Array, out: Array) -> None:
    """Add squared errors of depth, pixels^2, to those of reprojection [n]."""
    p20, p21, p22, p23 = P[2, 0], P[2, 1], P[2, 2], P[2, 3]
    for i in range(X.shape[1]):
        off = d[1, i] * (p20 * X[0, i] + p21 * X[1, i] + p22 * X[2, i] + p23 - d[0, i])
        out[i] += off * off


@vectorised
def _msac_chunk(X: Array, u: Array, P: Array, threshold2: float, start: int, stop: int) -> float:
    p00, p01, p02, p03 = P[0, 0], P[0, 1], P[0, 2], P[0, 3]
    p10, p11, p12, p13 = P[1, 0], P[1, 1], P[1, 2], P[1, 3]
    p20, p21, p22, p23 = P[2, 0], P[2, 1], P[2, 2], P[2, 3]
    total = 0.0
    for i in range(start, stop):
        x, y, z = X[0, i], X[1, i], X[2, i]
        depth = p20 * x + p21 * y + p22 * z + p23
        inverse = 1.0 / depth
        du = (p00 * x + p01 * y + p02 * z + p03) * inverse - u[0, i]
        dv = (p10 * x + p11 * y + p12 * z + p13) * inverse - u[1, i]
        e2 = du * du + dv * dv
        # Written so that NaN (0 * infinity at depth 0) counts as an outlier.
        total += e2 if (depth > MIN_DEPTH) & (e2 < threshold2) else threshold2
    return total


@vectorised
def _msac_chunk_with_depth(X: Array, u: Array, d: Array, P: Array, threshold2: float, start: int, stop: int) -> float:
    p00, p01, p02, p03 = P[0, 0], P[0, 1], P[0, 2], P[0, 3]
    p10, p11, p12, p13 = P[1, 0], P[1, 1], P[1, 2], P[1, 3]
    p20, p21, p22, p23 = P[2, 0], P[2, 1], P[2, 2], P[2, 3]
    total = 0.0
    for i in range(start, stop):
        x, y, z = X[0, i], X[1, i], X[2, i]
        depth = p20 * x + p21 * y + p22 * z + p23
        inverse = 1.0 / depth
        du = (p00 * x + p01 * y + p02 * z + p03) * inverse - u[0, i]
        dv = (p10 * x + p11 * y + p12 * z + p13) * inverse - u[1, i]
        off = d[1, i] * (depth - d[0, i])
        e2 = du * du + dv * dv + off * off
        total += e2 if (depth > MIN_DEPTH) & (e2 < threshold2) else threshold2
    return total


@compiled
def msac_score(given: Correspondences, P: Array, threshold2: float, bound: float) -> float:
    """Return the MSAC score, pixels^2; scoring stops at a partial sum that reaches ``bound``, and returns that."""
    X, u, d, _ = given
    n = X.shape[1]
    total = 0.0
    start = 0
    while start < n and total < bound:
        stop = min(start + CHUNK, n)
        if d.shape[1] > 0:
            total += _msac_chunk_with_depth(X, u, d, P, threshold2, start, stop)
        else:
            total += _msac_chunk(X, u, P, threshold2, start, stop)
        start = stop
    return total


@compiled
def msac_inliers(
    given: Correspondences, P: Array, threshold2: float, errors: Array, inliers: Array
) -> tuple[float, int]:
    """Score and number of inliers; writes ``errors`` float64 [n] (squared) and ``inliers`` bool [n]."""
    squared_errors(given.X, given.u, P, errors)
    if given.d.shape[1] > 0:
        add_depth_errors(given.X, given.d, P, errors)
    score = 0.0
    count = 0
    for i in range(len(errors)):
        inside = errors[i] < threshold2
        inliers[i] = inside
        count += inside
        score += errors[i] if inside else threshold2
    return score, count
