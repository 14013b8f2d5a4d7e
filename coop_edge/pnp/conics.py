"""Finds common points of two conics, for P3P: splits a singular member of their pencil into lines that meet a conic.

Symmetric 3x3 matrices are tuples (c00, c01, c02, c11, c12, c22); points and lines are homogeneous.
"""

from __future__ import annotations

import math

import numpy as np

from coop_edge.pnp.jit import compiled

Array = np.ndarray
Symmetric = tuple[float, float, float, float, float, float]


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
    """Return trace(A B)."""
    return a[0] * b[0] + a[3] * b[3] + a[5] * b[5] + 2.0 * (a[1] * b[1] + a[2] * b[2] + a[4] * b[4])


@compiled
def line_pair(D1: Symmetric, D2: Symmetric) -> tuple[bool, tuple[float, float, float], Symmetric, Symmetric]:
    """Find the most clearly real line pair of the pencil: found, vertex l x m, matrix, and a conic to meet it with."""
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
    """Return the real roots of x^3 + b x^2 + c x + d, NaN where there are fewer than three."""
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
def pair_line(C: Symmetric, p: tuple[float, float, float], side: int, line: Array) -> None:
    """Return one of the two lines of the pair C with vertex p: a column or row of the rank-one matrix C + hat(p)."""
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
def meet(line: Array, D: Symmetric, root: int, point: Array) -> bool:
    """Compute one of the two points (up to scale) where the line meets the conic; False if they are not real."""
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
    point[0], point[1], point[2] = s * e0 + w * f0, s * e1 + w * f1, s * e2 + w * f2
    return True
