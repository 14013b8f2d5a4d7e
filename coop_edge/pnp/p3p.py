"""P3P by the degenerate conic of a pencil.

With unit rays y_i and unknown distances l_i, the three equations |l_i y_i - l_j y_j|^2 = a_ij are quadrics
l^T M_ij l = a_ij. Two differences of them are homogeneous: conics D1, D2 in the projective point (l_1 : l_2 : l_3), and
the poses are their common points. A singular member of the pencil, D1 + g D2 with det = 0 (a cubic in g), is a pair of
lines, and each line meets a conic in at most two points (Persson, Nordberg: Lambda Twist, ECCV 2018; Ding, Yang,
Larsson, Olsson, Astrom: Revisiting the P3P problem, CVPR 2023). The line pair is split by its adjugate: for C = l m^T +
m l^T it is -(l x m)(l x m)^T, and C + hat(l x m) = 2 m l^T has rank one.

Symmetric 3x3 matrices are tuples (c00, c01, c02, c11, c12, c22).
"""

from __future__ import annotations

import math

import numpy as np

from coop_edge.pnp.jit import compiled

Array = np.ndarray
Symmetric = tuple[float, float, float, float, float, float]

MAX_ROOTS = 4
FLAT = 1e-10
"""A triangle with |AB x AC|^2 <= FLAT |AB|^2 |AC|^2 gives no pose."""
_POLISH = 3  # Newton steps on the distances; quadratic, so rounding is reached


@compiled
def p3p(X: Array, rays: Array, R: Array, t: Array) -> int:
    """Poses that put three points on three rays, in front of the camera.

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
    found, p, C, D = _line_pair(D1, D2)
    if not found:
        return 0
    count = 0
    line = np.empty(3)
    l = np.empty(3)  # noqa: E741 (the distances' usual letter)
    for side in range(2):
        _line(C, p, side, line)
        for root in range(2):
            if not _meet(line, D, root, l):
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
def _cofactors(c: Symmetric) -> Symmetric:
    return (
        c[3] * c[5] - c[4] * c[4],
        c[2] * c[4] - c[1] * c[5],
        c[1] * c[4] - c[2] * c[3],
        c[0] * c[5] - c[2] * c[2],
        c[1] * c[2] - c[0] * c[4],
        c[0] * c[3] - c[1] * c[1],
    )


@compiled
def _inner(a: Symmetric, b: Symmetric) -> float:
    """trace(A B)."""
    return a[0] * b[0] + a[3] * b[3] + a[5] * b[5] + 2.0 * (a[1] * b[1] + a[2] * b[2] + a[4] * b[4])


@compiled
def _line_pair(D1: Symmetric, D2: Symmetric) -> tuple[bool, tuple[float, float, float], Symmetric, Symmetric]:
    """The most clearly real line pair of the pencil: found, its vertex l x m, its matrix, and a conic to meet it with."""
    k1, k2 = _cofactors(D1), _cofactors(D2)
    d0 = (D1[0] * k1[0]) + (D1[1] * k1[1]) + (D1[2] * k1[2])
    d3 = (D2[0] * k2[0]) + (D2[1] * k2[1]) + (D2[2] * k2[2])
    d1, d2 = _inner(k1, D2), _inner(k2, D1)
    A, B = D1, D2
    if abs(d0) > abs(d3):  # the larger leading coefficient: g D1 + D2 instead
        d0, d1, d2, d3 = d3, d2, d1, d0
        A, B = D2, D1
    best = 0.0
    vertex = (0.0, 0.0, 0.0)
    C, D = A, B
    if d3 == 0.0:
        return False, vertex, C, D
    g = _cubic(d2 / d3, d1 / d3, d0 / d3)
    for i in range(3):
        if math.isnan(g[i]):
            continue
        s = 1.0 / (1.0 + abs(g[i]))
        w = s * g[i]
        c = (
            s * A[0] + w * B[0],
            s * A[1] + w * B[1],
            s * A[2] + w * B[2],
            s * A[3] + w * B[3],
            s * A[4] + w * B[4],
            s * A[5] + w * B[5],
        )
        k = _cofactors(c)
        largest = max(-k[0], -k[3], -k[5])
        if not largest > best:
            continue
        best = largest
        C = c
        # Of the pencil's two ends, the one that is farther from C.
        D = B if abs(g[i]) < 1.0 else A
        r = 1.0 / math.sqrt(largest)
        if largest == -k[0]:
            vertex = (-k[0] * r, -k[1] * r, -k[2] * r)
        elif largest == -k[3]:
            vertex = (-k[1] * r, -k[3] * r, -k[4] * r)
        else:
            vertex = (-k[2] * r, -k[4] * r, -k[5] * r)
    return best > 0.0, vertex, C, D


@compiled
def _cubic(b: float, c: float, d: float) -> tuple[float, float, float]:
    """Real roots of x^3 + b x^2 + c x + d, NaN where there are fewer than three."""
    shift = b / 3.0
    p = c - b * shift
    q = d + shift * (2.0 * shift * shift - c)
    half = 0.5 * q
    third = p / 3.0
    discriminant = half * half + third * third * third
    nan = math.nan
    if discriminant > 0.0:
        r = math.sqrt(discriminant)
        # The sum of the two cube roots without cancellation: take the larger, the other is -p / 3 over it.
        u = (abs(half) + r) ** (1.0 / 3.0)
        u = -u if half > 0.0 else u
        x = (u - third / u if u != 0.0 else 0.0) - shift
        return _newton(x, b, c, d), nan, nan
    m = math.sqrt(max(-third, 0.0))
    if m == 0.0:
        return -shift, nan, nan
    angle = math.acos(min(1.0, max(-1.0, -half / (m * m * m)))) / 3.0
    x0 = 2.0 * m * math.cos(angle) - shift
    x1 = 2.0 * m * math.cos(angle + 2.0943951023931953) - shift
    x2 = 2.0 * m * math.cos(angle - 2.0943951023931953) - shift
    return _newton(x0, b, c, d), _newton(x1, b, c, d), _newton(x2, b, c, d)


@compiled
def _newton(x: float, b: float, c: float, d: float) -> float:
    for _ in range(2):
        slope = (3.0 * x + 2.0 * b) * x + c
        if slope == 0.0:
            break
        x -= (((x + b) * x + c) * x + d) / slope
    return x


@compiled
def _line(C: Symmetric, p: tuple[float, float, float], side: int, line: Array) -> None:
    """One of the two lines of the pair C with vertex p: a column or a row of the rank-one matrix C + hat(p)."""
    n00, n01, n02 = C[0], C[1] - p[2], C[2] + p[1]
    n10, n11, n12 = C[1] + p[2], C[3], C[4] - p[0]
    n20, n21, n22 = C[2] - p[1], C[4] + p[0], C[5]
    if side == 1:
        n01, n10 = n10, n01
        n02, n20 = n20, n02
        n12, n21 = n21, n12
    r0, r1, r2 = abs(n00) + abs(n01) + abs(n02), abs(n10) + abs(n11) + abs(n12), abs(n20) + abs(n21) + abs(n22)
    if r0 >= r1 and r0 >= r2:
        line[0], line[1], line[2] = n00, n01, n02
    elif r1 >= r2:
        line[0], line[1], line[2] = n10, n11, n12
    else:
        line[0], line[1], line[2] = n20, n21, n22


@compiled
def _meet(line: Array, D: Symmetric, root: int, l: Array) -> bool:  # noqa: E741
    """One of the two points (up to scale) where the line meets the conic; False if they are not real."""
    # Two points e, f that span the line, by solving for its largest coordinate.
    if abs(line[0]) >= abs(line[1]) and abs(line[0]) >= abs(line[2]):
        if line[0] == 0.0:
            return False
        e0, e1, e2 = -line[1] / line[0], 1.0, 0.0
        f0, f1, f2 = -line[2] / line[0], 0.0, 1.0
    elif abs(line[1]) >= abs(line[2]):
        e0, e1, e2 = 1.0, -line[0] / line[1], 0.0
        f0, f1, f2 = 0.0, -line[2] / line[1], 1.0
    else:
        e0, e1, e2 = 1.0, 0.0, -line[0] / line[2]
        f0, f1, f2 = 0.0, 1.0, -line[1] / line[2]
    De0 = D[0] * e0 + D[1] * e1 + D[2] * e2
    De1 = D[1] * e0 + D[3] * e1 + D[4] * e2
    De2 = D[2] * e0 + D[4] * e1 + D[5] * e2
    a = De0 * e0 + De1 * e1 + De2 * e2
    b = De0 * f0 + De1 * f1 + De2 * f2
    c = (
        f0 * (D[0] * f0 + D[1] * f1 + D[2] * f2)
        + f1 * (D[1] * f0 + D[3] * f1 + D[4] * f2)
        + f2 * (D[2] * f0 + D[4] * f1 + D[5] * f2)
    )
    # a s^2 + 2 b s w + c w^2 = 0 for the point s e + w f.
    discriminant = b * b - a * c
    if discriminant < 0.0:
        # A double root that rounding made complex; the Newton steps decide whether it is one.
        if discriminant < -1e-9 * (b * b + abs(a * c)):
            return False
        discriminant = 0.0
    q = -(b + math.copysign(math.sqrt(discriminant), b))
    if root == 0:
        s, w = q, a
    else:
        s, w = c, q
    l[0], l[1], l[2] = s * e0 + w * f0, s * e1 + w * f1, s * e2 + w * f2
    return True


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
    """Newton's method on the three side equations; False unless it ends at positive distances that satisfy them."""
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
    """The motion that carries the triangle onto the points l_i y_i, by the two triangles' own frames."""
    size = 1.0 / math.sqrt(scale)
    Y = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            Y[i, j] = size * l[i] * rays[i, j]
    object_frame = np.empty((3, 3))
    camera_frame = np.empty((3, 3))
    _frame(X, object_frame)
    _frame(Y, camera_frame)
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
def _frame(P: Array, axes: Array) -> None:
    """Orthonormal axes (rows) of a triangle: along its first side, in its plane, along its normal."""
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
