"""Solves P3P by the degenerate conic of a pencil.

With unit rays y_i and unknown distances l_i, the three equations |l_i y_i - l_j y_j|^2 = a_ij are quadrics
l^T M_ij l = a_ij. Two differences of them are homogeneous: conics D1, D2 in the projective point (l_1 : l_2 : l_3), and
the poses are their common points. A singular member of the pencil, D1 + g D2 with det = 0 (a cubic in g), is a pair of
lines, and each line meets a conic in at most two points (Persson, Nordberg: Lambda Twist, ECCV 2018; Ding, Yang,
Larsson, Olsson, Astrom: Revisiting the P3P problem, CVPR 2023). The line pair is split by its adjugate: for C = l m^T +
m l^T it is -(l x m)(l x m)^T, and C + hat(l x m) = 2 m l^T has rank one.
"""

from __future__ import annotations

import math

import numpy as np

from coop_edge.pnp.conics import line_pair, meet, pair_line
from coop_edge.pnp.jit import compiled

Array = np.ndarray

MAX_ROOTS = 4
FLAT = 1e-10
"""A triangle with |AB x AC|^2 <= FLAT |AB|^2 |AC|^2 gives no pose."""
_POLISH = 3  # Newton steps on the distances; quadratic, so rounding is reached


@compiled
def p3p(X: Array, rays: Array, R: Array, t: Array) -> int:
    """Compute the poses that put three points on three rays, in front of the camera.

    X [3,3] points as rows, metres; rays [3,3] unit vectors as rows; writes R [4,3,3], t [4,3] and returns how many.
    """
    a12, a13, a23 = _distance2(X, 0, 1), _distance2(X, 0, 2), _distance2(X, 1, 2)
    cosine = 0.5 * (a12 + a13 - a23)
    if not a12 * a13 - cosine * cosine > FLAT * a12 * a13:
        return 0
    scale = 3.0 / (a12 + a13 + a23)
    a12, a13, a23 = a12 * scale, a13 * scale, a23 * scale
    b12, b13, b23 = _dot(rays, 0, 1), _dot(rays, 0, 2), _dot(rays, 1, 2)
    # D1 = a23 M12 - a12 M23 and D2 = a23 M13 - a13 M23.
    D1 = (a23, -a23 * b12, 0.0, a23 - a12, a12 * b23, -a12)
    D2 = (a23, 0.0, -a23 * b13, -a13, a13 * b23, a23 - a13)
    found, p, C, D = line_pair(D1, D2)
    if not found:
        return 0
    count = 0
    line = np.empty(3)
    l = np.empty(3)  # noqa: E741 (the distances' usual letter)
    for side in range(2):
        pair_line(C, p, side, line)
        for root in range(2):
            if not meet(line, D, root, l):
                continue
            if _metric(l, b12, b13, b23) and _polish(l, a12, a13, a23, b12, b13, b23):
                _pose(X, rays, l, scale, R[count], t[count])
                count += 1
    return count


@compiled
def _distance2(X: Array, i: int, j: int) -> float:
    dx, dy, dz = X[i, 0] - X[j, 0], X[i, 1] - X[j, 1], X[i, 2] - X[j, 2]
    return dx * dx + dy * dy + dz * dz


@compiled
def _dot(y: Array, i: int, j: int) -> float:
    return y[i, 0] * y[j, 0] + y[i, 1] * y[j, 1] + y[i, 2] * y[j, 2]


@compiled
def _metric(l: Array, b12: float, b13: float, b23: float) -> bool:  # noqa: E741
    """Scale a projective point to distances whose three squared sides sum to 3; False if not all are positive."""
    if l[0] + l[1] + l[2] < 0.0:
        l[0], l[1], l[2] = -l[0], -l[1], -l[2]
    if not (l[0] > 0.0 and l[1] > 0.0 and l[2] > 0.0):
        return False
    squares = 2.0 * (l[0] * l[0] + l[1] * l[1] + l[2] * l[2])
    size = squares - 2.0 * (b12 * l[0] * l[1] + b13 * l[0] * l[2] + b23 * l[1] * l[2])
    if not size > 0.0:
        return False
    factor = math.sqrt(3.0 / size)
    l[0], l[1], l[2] = l[0] * factor, l[1] * factor, l[2] * factor
    return True


@compiled
def _polish(l: Array, a12: float, a13: float, a23: float, b12: float, b13: float, b23: float) -> bool:  # noqa: E741
    """Run Newton's method on the three side equations; False unless it ends at positive distances that satisfy them."""
    x, y, z = l[0], l[1], l[2]
    for step in range(_POLISH + 1):
        r0 = x * x + y * y - 2.0 * b12 * x * y - a12
        r1 = x * x + z * z - 2.0 * b13 * x * z - a13
        r2 = y * y + z * z - 2.0 * b23 * y * z - a23
        residual = abs(r0) + abs(r1) + abs(r2)
        if residual < 1e-14 or step == _POLISH:
            break
        # Rows of half the Jacobian: (p, q, 0), (u, 0, v), (0, g, h).
        p, q = x - b12 * y, y - b12 * x
        u, v = x - b13 * z, z - b13 * x
        g, h = y - b23 * z, z - b23 * y
        determinant = -(p * v * g + q * u * h)
        if determinant == 0.0:
            break
        k = 0.5 / determinant
        x -= k * (-v * g * r0 - q * h * r1 + q * v * r2)
        y -= k * (-u * h * r0 + p * h * r1 - p * v * r2)
        z -= k * (u * g * r0 - p * g * r1 - q * u * r2)
    l[0], l[1], l[2] = x, y, z
    return residual < 1e-6 and x > 0.0 and y > 0.0 and z > 0.0


@compiled
def _pose(X: Array, rays: Array, l: Array, scale: float, R: Array, t: Array) -> None:  # noqa: E741
    """Compute the motion that carries the triangle onto the points l_i y_i, by the two triangles' own frames."""
    size = 1.0 / math.sqrt(scale)
    Y = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            Y[i, j] = size * l[i] * rays[i, j]
    object_frame = np.empty((3, 3))
    camera_frame = np.empty((3, 3))
    triangle_frame(X, object_frame)
    triangle_frame(Y, camera_frame)
    for i in range(3):
        for j in range(3):
            R[i, j] = (
                camera_frame[0, i] * object_frame[0, j]
                + camera_frame[1, i] * object_frame[1, j]
                + camera_frame[2, i] * object_frame[2, j]
            )
    for i in range(3):
        moved = 0.0
        for k in range(3):
            moved += Y[k, i] - (R[i, 0] * X[k, 0] + R[i, 1] * X[k, 1] + R[i, 2] * X[k, 2])
        t[i] = moved / 3.0


@compiled
def triangle_frame(P: Array, axes: Array) -> None:
    """Compute orthonormal axes (rows) of a triangle: along its first side, in its plane, along its normal."""
    ax, ay, az = P[1, 0] - P[0, 0], P[1, 1] - P[0, 1], P[1, 2] - P[0, 2]
    bx, by, bz = P[2, 0] - P[0, 0], P[2, 1] - P[0, 1], P[2, 2] - P[0, 2]
    k = 1.0 / math.sqrt(ax * ax + ay * ay + az * az)
    ax, ay, az = ax * k, ay * k, az * k
    nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    k = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
    nx, ny, nz = nx * k, ny * k, nz * k
    axes[0, 0], axes[0, 1], axes[0, 2] = ax, ay, az
    axes[1, 0], axes[1, 1], axes[1, 2] = ny * az - nz * ay, nz * ax - nx * az, nx * ay - ny * ax
    axes[2, 0], axes[2, 1], axes[2, 2] = nx, ny, nz
