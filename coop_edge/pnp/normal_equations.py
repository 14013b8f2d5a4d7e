"""Sums residuals, Jacobians and normal equations of points and lines in one pass over structure-of-arrays.

Points are the rows x, y, z, u, v, w^2 of an array [6,n], centred and contiguous, so that the one loop that costs
anything (``weighted_sums``) reads six streams and vectorises. Lines have two more rows, their unit normal: [8,m]. For
depths see ``pnp.depths``. docs/solvers.md states the algorithm.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from coop_edge.pnp.camera import MIN_DEPTH
from coop_edge.pnp.jit import compiled, vectorised

Array = np.ndarray

NONE, HUBER, CAUCHY = 0, 1, 2
LOSSES = {"none": NONE, "huber": HUBER, "cauchy": CAUCHY}

# Values of PnpStatus: compiled code takes plain integers.
SOLVED, TOO_FEW_POINTS, NON_FINITE, DEGENERATE, NO_HYPOTHESIS, TOO_FEW_INLIERS, BEHIND_CAMERA = range(7)

LEAST_RESIDUALS = 6
"""Residuals that a pose without a prior takes; a point with a weight, in front, has two, a line or a depth one."""
SUMS = 28
"""The upper triangle of H by rows (21), the gradient g (6), the cost."""


class Targets(NamedTuple):
    """Points or lines of one problem, as the caller gave them: all float32 or all float64."""

    points: Array  # [P,3] metres, object frame
    pixels: Array  # [P,2]
    normals: Array  # [P,2] unit normals of lines in the image; [0,2] for points
    weights: Array  # [P] 1 / pixel


@vectorised
def weighted_sums(S: Array, weights: Array, R: Array, t: Array, K: Array, sums: Array) -> None:
    """Sum w J^T J, w J^T r and w |r|^2 at a pose into ``sums`` [28] in one pass, for weights w [n].

    J is d r / d (rho, phi) for R <- Exp(phi) R, t <- t + rho. The last sum is infinite if a point is not in front.
    """
    fx, skew, cx, fy, cy = K[0, 0], K[0, 1], K[0, 2], K[1, 1], K[1, 2]
    r00, r01, r02 = R[0, 0], R[0, 1], R[0, 2]
    r10, r11, r12 = R[1, 0], R[1, 1], R[1, 2]
    r20, r21, r22 = R[2, 0], R[2, 1], R[2, 2]
    t0, t1, t2 = t[0], t[1], t[2]
    h00 = h01 = h02 = h03 = h04 = h05 = h11 = h12 = h13 = h14 = h15 = 0.0
    h22 = h23 = h24 = h25 = h33 = h34 = h35 = h44 = h45 = h55 = 0.0
    g0 = g1 = g2 = g3 = g4 = g5 = cost = 0.0
    behind = 0
    for i in range(S.shape[1]):
        # The point relative to the centre of rotation, in camera axes; its image; the residual.
        x = r00 * S[0, i] + r01 * S[1, i] + r02 * S[2, i]
        y = r10 * S[0, i] + r11 * S[1, i] + r12 * S[2, i]
        z = r20 * S[0, i] + r21 * S[1, i] + r22 * S[2, i]
        depth = z + t2
        behind += 0 if depth > MIN_DEPTH else 1
        inverse = 1.0 / depth
        a, b = (x + t0) * inverse, (y + t1) * inverse
        u, v = fx * a + skew * b, fy * b
        du, dv = u + cx - S[3, i], v + cy - S[4, i]
        w = weights[i]
        cost += w * (du * du + dv * dv)
        # Rows of J: p for u, q for v (q0 = 0); columns 3..5 are the point's cross product with columns 0..2.
        p0, p1, p2 = fx * inverse, skew * inverse, -u * inverse
        q1, q2 = fy * inverse, -v * inverse
        p3, p4, p5 = y * p2 - z * p1, z * p0 - x * p2, x * p1 - y * p0
        q3, q4, q5 = y * q2 - z * q1, -x * q2, x * q1
        wp0, wp1, wp2, wp3, wp4, wp5 = w * p0, w * p1, w * p2, w * p3, w * p4, w * p5
        wq1, wq2, wq3, wq4, wq5 = w * q1, w * q2, w * q3, w * q4, w * q5
        h00 += wp0 * p0
        h01 += wp0 * p1
        h02 += wp0 * p2
        h03 += wp0 * p3
        h04 += wp0 * p4
        h05 += wp0 * p5
        h11 += wp1 * p1 + wq1 * q1
        h12 += wp1 * p2 + wq1 * q2
        h13 += wp1 * p3 + wq1 * q3
        h14 += wp1 * p4 + wq1 * q4
        h15 += wp1 * p5 + wq1 * q5
        h22 += wp2 * p2 + wq2 * q2
        h23 += wp2 * p3 + wq2 * q3
        h24 += wp2 * p4 + wq2 * q4
        h25 += wp2 * p5 + wq2 * q5
        h33 += wp3 * p3 + wq3 * q3
        h34 += wp3 * p4 + wq3 * q4
        h35 += wp3 * p5 + wq3 * q5
        h44 += wp4 * p4 + wq4 * q4
        h45 += wp4 * p5 + wq4 * q5
        h55 += wp5 * p5 + wq5 * q5
        g0 += wp0 * du
        g1 += wp1 * du + wq1 * dv
        g2 += wp2 * du + wq2 * dv
        g3 += wp3 * du + wq3 * dv
        g4 += wp4 * du + wq4 * dv
        g5 += wp5 * du + wq5 * dv
    sums[0], sums[1], sums[2], sums[3], sums[4], sums[5] = h00, h01, h02, h03, h04, h05
    sums[6], sums[7], sums[8], sums[9], sums[10] = h11, h12, h13, h14, h15
    sums[11], sums[12], sums[13], sums[14] = h22, h23, h24, h25
    sums[15], sums[16], sums[17] = h33, h34, h35
    sums[18], sums[19], sums[20] = h44, h45, h55
    sums[21], sums[22], sums[23], sums[24], sums[25], sums[26] = g0, g1, g2, g3, g4, g5
    sums[27] = cost if behind == 0 else math.inf


@compiled
def robust_weights(S: Array, R: Array, t: Array, K: Array, loss: int, scale: float, out: Array) -> float:
    """Write w^2 f'(s) into ``out`` [n] at a pose; return sum f(s), for Huber's or Cauchy's f with its scale."""
    scale2 = scale * scale
    cost = 0.0
    for i in range(S.shape[1]):
        x = R[0, 0] * S[0, i] + R[0, 1] * S[1, i] + R[0, 2] * S[2, i] + t[0]
        y = R[1, 0] * S[0, i] + R[1, 1] * S[1, i] + R[1, 2] * S[2, i] + t[1]
        z = R[2, 0] * S[0, i] + R[2, 1] * S[1, i] + R[2, 2] * S[2, i] + t[2]
        du = (K[0, 0] * x + K[0, 1] * y) / z + K[0, 2] - S[3, i]
        dv = K[1, 1] * y / z + K[1, 2] - S[4, i]
        s = S[5, i] * (du * du + dv * dv)
        if loss == CAUCHY:
            cost += scale2 * math.log1p(s / scale2)
            out[i] = S[5, i] * scale2 / (scale2 + s)
        elif s > scale2:
            root = math.sqrt(s)
            cost += 2.0 * scale * root - scale2
            out[i] = S[5, i] * scale / root
        else:
            cost += s
            out[i] = S[5, i]
    return cost


@compiled
def normal_sums(S: Array, R: Array, t: Array, K: Array, loss: int, scale: float, scratch: Array, sums: Array) -> None:
    """Sum H = w^2 f' J^T J (upper triangle), g = w^2 f' J^T r and the cost f(s) of points into ``sums`` [28].

    The cost is infinite if a point is not in front. ``scratch`` [n] is used by the robust losses alone.
    """
    if loss == NONE:
        weighted_sums(S, S[5], R, t, K, sums)
        return
    cost = robust_weights(S, R, t, K, loss, scale, scratch)
    weighted_sums(S, scratch, R, t, K, sums)
    if sums[27] < math.inf:
        sums[27] = cost


@compiled
def robust_loss(s: float, loss: int, scale: float) -> tuple[float, float]:
    """Return f(s) and f'(s) of s = w^2 r^2."""
    scale2 = scale * scale
    if loss == HUBER and s > scale2:
        root = math.sqrt(s)
        return 2.0 * scale * root - scale2, scale / root
    if loss == CAUCHY:
        return scale2 * math.log1p(s / scale2), scale2 / (scale2 + s)
    return s, 1.0


@compiled
def add_lines(S: Array, R: Array, t: Array, K: Array, loss: int, scale: float, sums: Array) -> None:
    """Add the shares of lines S [8,m] at a pose to ``sums`` [28]: residual n . (pi(K (R X + t)) - u), one per line.

    The cost becomes infinite if a line's point is not in front.
    """
    J = np.empty(6)
    for i in range(S.shape[1]):
        x = R[0, 0] * S[0, i] + R[0, 1] * S[1, i] + R[0, 2] * S[2, i]
        y = R[1, 0] * S[0, i] + R[1, 1] * S[1, i] + R[1, 2] * S[2, i]
        z = R[2, 0] * S[0, i] + R[2, 1] * S[1, i] + R[2, 2] * S[2, i]
        depth = z + t[2]
        if not depth > MIN_DEPTH:
            sums[27] = math.inf
            return
        inverse = 1.0 / depth
        a, b = (x + t[0]) * inverse, (y + t[1]) * inverse
        u, v = K[0, 0] * a + K[0, 1] * b, K[1, 1] * b
        n0, n1 = S[6, i], S[7, i]
        r = n0 * (u + K[0, 2] - S[3, i]) + n1 * (v + K[1, 2] - S[4, i])
        # dr / dP, then the cross product of the point with it.
        J[0], J[1] = n0 * K[0, 0] * inverse, (n0 * K[0, 1] + n1 * K[1, 1]) * inverse
        J[2] = -(n0 * u + n1 * v) * inverse
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
def gather(targets: Targets, T: Array) -> tuple[int, Array]:
    """Count the targets of one problem that have a weight; gather those in front at T, not centred and contiguous.

    The number is -1 if one that has a weight is not finite, or a weight is negative. The array has the rows of the
    module's docstring: 6 for points, 8 for lines. Targets of weight zero are not looked at.
    """
    X, u, normals, w = targets
    weighted = 0
    for i in range(len(w)):
        weighted += w[i] != 0.0  # NaN counts
    rows = 8 if len(normals) > 0 else 6
    S = np.empty((rows, weighted))
    n = 0
    for i in range(len(w)):
        weight = np.float64(w[i])
        if weight == 0.0:
            continue
        x, y, z = np.float64(X[i, 0]), np.float64(X[i, 1]), np.float64(X[i, 2])
        a, b = np.float64(u[i, 0]), np.float64(u[i, 1])
        # A finite number minus itself is 0, anything else NaN.
        rest = (x - x) + (y - y) + (z - z) + (a - a) + (b - b) + (weight - weight)
        if rows == 8:
            S[6, n], S[7, n] = normals[i, 0], normals[i, 1]
            rest += (S[6, n] - S[6, n]) + (S[7, n] - S[7, n])
        if not (weight > 0.0 and rest == 0.0):
            return -1, np.empty((rows, 0))
        if T[2, 0] * x + T[2, 1] * y + T[2, 2] * z + T[2, 3] > MIN_DEPTH:
            S[0, n], S[1, n], S[2, n], S[3, n], S[4, n], S[5, n] = x, y, z, a, b, weight * weight
            n += 1
    if n < weighted:
        fewer = np.empty((rows, n))
        for k in range(rows):
            for i in range(n):
                fewer[k, i] = S[k, i]
        S = fewer
    return weighted, S


@compiled
def input_status(weighted: int, seen: int, least: int) -> int:
    """Return the status of a problem by its residuals: with a weight, of these in front, and the least it takes."""
    if weighted < least:
        return TOO_FEW_POINTS
    if seen == 0 and weighted > 0:
        return BEHIND_CAMERA
    return TOO_FEW_POINTS if seen < least else SOLVED


@vectorised
def centre_on_mean(S: Array, centre: Array) -> None:
    """Subtract the centroid, weighted by w^2, from the places in the rows of S [k,n] and write it to ``centre`` [3]."""
    n = S.shape[1]
    cx, cy, cz, total = 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        w = S[5, i]
        cx += w * S[0, i]
        cy += w * S[1, i]
        cz += w * S[2, i]
        total += w
    centre[0], centre[1], centre[2] = cx / total, cy / total, cz / total
    for k in range(3):
        c = centre[k]
        for i in range(n):
            S[k, i] -= c


@compiled
def centre_lines(S: Array, centre: Array) -> None:
    """Subtract ``centre`` [3] from the places of lines S [8,m] or depths [9,d]."""
    for k in range(3):
        for i in range(S.shape[1]):
            S[k, i] -= centre[k]
