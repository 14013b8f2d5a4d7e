"""Sums residuals and normal equations of measured depths, in metres, beside those of points and lines.

Depths are the rows x, y, z, normal . place, 0, w^2 of an array [9,d], centred as points are, and their unit normal in
camera axes. docs/solvers.md states the algorithm.
"""

from __future__ import annotations

import math

import numpy as np

from coop_edge.pnp.camera import MIN_DEPTH
from coop_edge.pnp.jit import compiled
from coop_edge.pnp.normal_equations import robust_loss

Array = np.ndarray


@compiled
def add_depths(S: Array, R: Array, t: Array, loss: int, scale: float, sums: Array) -> None:
    """Add the shares of depths S [9,d] at a pose to ``sums`` [28]: residual n . (R X + t) - n . q, one per depth.

    The cost becomes infinite if a depth's point is not in front.
    """
    J = np.empty(6)
    for i in range(S.shape[1]):
        x = R[0, 0] * S[0, i] + R[0, 1] * S[1, i] + R[0, 2] * S[2, i]
        y = R[1, 0] * S[0, i] + R[1, 1] * S[1, i] + R[1, 2] * S[2, i]
        z = R[2, 0] * S[0, i] + R[2, 1] * S[1, i] + R[2, 2] * S[2, i]
        if not z + t[2] > MIN_DEPTH:
            sums[27] = math.inf
            return
        J[0], J[1], J[2] = S[6, i], S[7, i], S[8, i]
        r = J[0] * (x + t[0]) + J[1] * (y + t[1]) + J[2] * (z + t[2]) - S[3, i]
        J[3], J[4], J[5] = y * J[2] - z * J[1], z * J[0] - x * J[2], x * J[1] - y * J[0]
        cost, slope = robust_loss(S[5, i] * r * r, loss, scale)
        w = S[5, i] * slope
        at = 0
        for j in range(6):
            for k in range(j, 6):
                sums[at] += w * J[j] * J[k]
                at += 1
            sums[21 + j] += w * J[j] * r
        sums[27] += cost


@compiled
def gather_depths(points: Array, places: Array, normals: Array, weights: Array, T: Array) -> tuple[int, Array]:
    """Do ``gather`` for the depths of one problem: their number with a weight (-1 as there); [9,d] in front at T."""
    weighted = 0
    for i in range(len(weights)):
        weighted += weights[i] != 0.0  # NaN counts
    S = np.zeros((9, weighted))
    n = 0
    for i in range(len(weights)):
        weight = np.float64(weights[i])
        if weight == 0.0:
            continue
        rest = weight - weight  # a finite number minus itself is 0, anything else NaN
        beyond, offset = T[2, 3], 0.0
        for k in range(3):
            X, q, normal = np.float64(points[i, k]), np.float64(places[i, k]), np.float64(normals[i, k])
            rest += (X - X) + (q - q) + (normal - normal)
            beyond += T[2, k] * X
            offset += normal * q
            S[k, n], S[6 + k, n] = X, normal
        if not (weight > 0.0 and rest == 0.0):
            return -1, np.empty((9, 0))
        if beyond > MIN_DEPTH:
            S[3, n], S[5, n] = offset, weight * weight
            n += 1
    fewer = np.empty((9, n))
    for k in range(9):
        for i in range(n):
            fewer[k, i] = S[k, i]
    return weighted, fewer
