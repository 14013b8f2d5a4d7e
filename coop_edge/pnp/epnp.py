"""Solves EPnP: a pose from n >= 4 points without a start, in O(n).

Lepetit, Moreno-Noguer, Fua: EPnP: an accurate O(n) solution to the PnP problem, IJCV 2009. Points are affine
combinations of control points: the centroid and, along each principal axis, a point one standard deviation away. In the
camera's frame the control points solve M x = 0; M^T M (12 x 12, or 9 x 9 for points on a plane) is summed directly.

With this choice of control points the points' local coordinates are uncorrelated with variance 1, so absolute
orientation over all points has the correlation matrix n sum_j (C_j - C_0)(c_j - c_0)^T: nothing but the control points
is needed, exactly.
"""

from __future__ import annotations

import math

import numpy as np

from coop_edge.pnp.betas import solve_betas
from coop_edge.pnp.camera import projection, squared_errors
from coop_edge.pnp.jit import compiled, vectorised
from coop_edge.pnp.linalg import copy_pose, rotation_from_correlation, shifted, symmetric_eigen

Array = np.ndarray

PLANAR = 1e-6
"""Below this ratio of the two smaller principal variances only the planar case is computed ..."""
GENERAL = 1e-2
"""... above this one only the general case, in between both."""


@compiled
def epnp(X: Array, u: Array, K: Array, R: Array, t: Array) -> float:
    """Solve the pose of n >= 4 points that are neither coincident nor collinear.

    X [3,n] metres, u [2,n] pixels; writes R [3,3], t [3] and returns the sum of squared reprojection errors, pixels^2;
    infinity (R, t unspecified) if no candidate has all points in front.
    """
    n = X.shape[1]
    centre = np.empty(3)
    axes = np.empty((3, 3))
    variances = np.empty(3)
    best = math.inf
    if not _principal_axes(X, centre, axes, variances):
        return best
    normalised = np.empty((3, n))
    _normalise(u, K, normalised)
    local = np.empty((4, n))
    _local_coordinates(X, centre, axes, variances, local)
    ratio = variances[2] / variances[1]
    errors = np.empty(n)
    for count in range(3, 5):
        if (count == 3 and ratio <= GENERAL) or (count == 4 and ratio >= PLANAR):
            best = _best_candidate(X, u, K, centre, axes, variances, local, normalised, count, best, errors, R, t)
    return best


@compiled
def _best_candidate(
    X: Array,
    u: Array,
    K: Array,
    centre: Array,
    axes: Array,
    variances: Array,
    local: Array,
    normalised: Array,
    count: int,
    best: float,
    errors: Array,
    R: Array,
    t: Array,
) -> float:
    """Try the candidates with ``count`` control points; one whose error is below ``best`` replaces R, t."""
    MtM = np.zeros((3 * count, 3 * count))
    _normal_matrix(local, normalised, count, MtM)
    values = np.empty(3 * count)
    if not symmetric_eigen(MtM, values):
        return best
    null = np.empty((count, count, 3))  # [vector, control point, xyz]
    for v in range(count):
        for c in range(count):
            for k in range(3):
                null[v, c, k] = MtM[3 * c + k, v]
    beta = np.empty(4)
    R_new, t_new, P = np.empty((3, 3)), np.empty(3), np.empty((3, 4))
    for N in range(1, count + 1):
        if not solve_betas(null, variances, count, N, beta):
            continue
        if not _pose_of_betas(null, beta, centre, axes, variances, count, R_new, t_new):
            continue
        projection(K, R_new, t_new, P)
        squared_errors(X, u, P, errors)
        total = 0.0
        for i in range(len(errors)):
            total += errors[i]
        if total < best:
            best = total
            copy_pose(R_new, t_new, R, t)
    return best


@compiled
def _principal_axes(X: Array, centre: Array, axes: Array, variances: Array) -> bool:
    """Compute centroid, principal axes (rows) and variances, largest first."""
    n = X.shape[1]
    for k in range(3):
        total = 0.0
        for i in range(n):
            total += X[k, i]
        centre[k] = total / n
    C = np.zeros((3, 3))
    for i in range(n):
        x, y, z = X[0, i] - centre[0], X[1, i] - centre[1], X[2, i] - centre[2]
        C[0, 0] += x * x
        C[0, 1] += x * y
        C[0, 2] += x * z
        C[1, 1] += y * y
        C[1, 2] += y * z
        C[2, 2] += z * z
    C[1, 0], C[2, 0], C[2, 1] = C[0, 1], C[0, 2], C[1, 2]
    values = np.empty(3)
    if not symmetric_eigen(C, values):
        return False
    for a in range(3):
        variances[a] = max(values[2 - a], 0.0) / n
        # With noise the result depends slightly on which way an axis points: let its largest component be positive.
        largest = 0
        for k in range(1, 3):
            if abs(C[k, 2 - a]) > abs(C[largest, 2 - a]):
                largest = k
        sign = 1.0 if C[largest, 2 - a] > 0.0 else -1.0
        for k in range(3):
            axes[a, k] = sign * C[k, 2 - a]
    return variances[1] > 0.0


@vectorised
def _normalise(u: Array, K: Array, out: Array) -> None:
    """Compute x, y = K^-1 u and x^2 + y^2, [3,n]."""
    inverse_x, inverse_y = 1.0 / K[0, 0], 1.0 / K[1, 1]
    for i in range(u.shape[1]):
        y = (u[1, i] - K[1, 2]) * inverse_y
        x = (u[0, i] - K[0, 2] - K[0, 1] * y) * inverse_x
        out[0, i] = x
        out[1, i] = y
        out[2, i] = x * x + y * y


@vectorised
def _local_coordinates(X: Array, centre: Array, axes: Array, variances: Array, out: Array) -> None:
    """Fill rows 1..3: coordinates along the axes in standard deviations (0 without extent); row 0 is scratch."""
    for a in range(3):
        scale = 1.0 / math.sqrt(variances[a]) if variances[a] > 0.0 else 0.0
        ax, ay, az = axes[a, 0] * scale, axes[a, 1] * scale, axes[a, 2] * scale
        shift = ax * centre[0] + ay * centre[1] + az * centre[2]
        for i in range(X.shape[1]):
            out[a + 1, i] = ax * X[0, i] + ay * X[1, i] + az * X[2, i] - shift


@vectorised
def _normal_matrix(local: Array, normalised: Array, count: int, MtM: Array) -> None:
    """Compute M^T M from sums of alpha_j alpha_k (1, x, y, x^2 + y^2); alpha_0 = 1 - sum of the others."""
    n = local.shape[1]
    for i in range(n):
        local[0, i] = 1.0 - local[1, i] - local[2, i] - (local[3, i] if count == 4 else 0.0)
    for j in range(count):
        for k in range(j, count):
            s, sx, sy, sr = 0.0, 0.0, 0.0, 0.0
            for i in range(n):
                a = local[j, i] * local[k, i]
                s += a
                sx += a * normalised[0, i]
                sy += a * normalised[1, i]
                sr += a * normalised[2, i]
            _block(MtM, 3 * j, 3 * k, s, sx, sy, sr)
            _block(MtM, 3 * k, 3 * j, s, sx, sy, sr)


@compiled
def _block(MtM: Array, row: int, column: int, s: float, sx: float, sy: float, sr: float) -> None:
    MtM[row, column] = s
    MtM[row + 1, column + 1] = s
    MtM[row, column + 2] = -sx
    MtM[row + 1, column + 2] = -sy
    MtM[row + 2, column] = -sx
    MtM[row + 2, column + 1] = -sy
    MtM[row + 2, column + 2] = sr


@compiled
def _pose_of_betas(
    null: Array, beta: Array, centre: Array, axes: Array, variances: Array, count: int, R: Array, t: Array
) -> bool:
    """Compute R, t from the control points sum_v beta_v null[v], with the sign that puts the centroid in front."""
    C = np.zeros((4, 3))
    for c in range(count):
        for k in range(3):
            for v in range(count):
                C[c, k] += beta[v] * null[v, c, k]
    sign = 1.0 if C[0, 2] > 0.0 else -1.0
    S = np.zeros((3, 3))
    for c in range(1, count):
        deviation = sign * math.sqrt(variances[c - 1])
        for i in range(3):
            for j in range(3):
                S[i, j] += (C[c, i] - C[0, i]) * deviation * axes[c - 1, j]
    if not rotation_from_correlation(S, R):
        return False
    for i in range(3):
        t[i] = sign * C[0, i]
    shifted(R, centre, t, -1.0, t)
    return math.isfinite(t[0] + t[1] + t[2])
