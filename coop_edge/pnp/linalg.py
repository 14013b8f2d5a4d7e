"""Computes small dense linear algebra in compiled code: sizes 2 to 12, where LAPACK's call costs more than the work."""

from __future__ import annotations

import math

import numpy as np

from coop_edge.pnp.jit import compiled

Array = np.ndarray

_MAX_QL = 60  # implicit shifts converge cubically; 2 or 3 steps per eigenvalue are usual


# Explicit loops instead of slice assignments: those compile ten times as long.


@compiled
def copy_pose(R: Array, t: Array, R_out: Array, t_out: Array) -> None:
    """Copy a pose: R_out, t_out = R, t."""
    for i in range(3):
        for j in range(3):
            R_out[i, j] = R[i, j]
        t_out[i] = t[i]


@compiled
def shifted(R: Array, c: Array, t: Array, sign: float, out: Array) -> None:
    """Compute out = t + sign R c; ``out`` may be t."""
    for i in range(3):
        out[i] = t[i] + sign * (R[i, 0] * c[0] + R[i, 1] * c[1] + R[i, 2] * c[2])


@compiled
def write_transform(R: Array, t: Array, T: Array) -> None:
    """Write T = [R t; 0 1]."""
    for i in range(3):
        for j in range(3):
            T[i, j] = R[i, j]
        T[i, 3] = t[i]
        T[3, i] = 0.0
    T[3, 3] = 1.0


@compiled
def all_finite(A: Array) -> bool:
    """Tell whether no entry of A [m,n] is NaN or infinite."""
    for i in range(A.shape[0]):
        for j in range(A.shape[1]):
            if not math.isfinite(A[i, j]):
                return False
    return True


@compiled
def symmetric_eigen(A: Array, values: Array) -> bool:
    """Compute eigenvalues and eigenvectors of the symmetric A [n,n], ascending; False for NaN or no convergence.

    A becomes the eigenvectors, as columns; values [n]. Householder tridiagonalisation, then implicit QL with
    Wilkinson's shift (Golub, Van Loan, Matrix Computations, section 8.3).
    """
    n = len(values)
    off = np.empty(n)
    _tridiagonal(A, values, off)
    if not _implicit_ql(values, off, A):
        return False
    for i in range(n):
        if not math.isfinite(values[i]):
            return False
    for i in range(n - 1):  # selection sort: n is small and n - 1 swaps of columns are the least work
        least = i
        for j in range(i + 1, n):
            if values[j] < values[least]:
                least = j
        if least != i:
            values[i], values[least] = values[least], values[i]
            for k in range(n):
                A[k, i], A[k, least] = A[k, least], A[k, i]
    return True


@compiled
def _tridiagonal(A: Array, diagonal: Array, off: Array) -> None:
    """Factor A = Q T Q^T: T into ``diagonal`` and ``off`` (off[i] between i and i + 1), Q over A."""
    n = len(diagonal)
    Q = np.zeros((n, n))
    for i in range(n):
        Q[i, i] = 1.0
    v, w = np.empty(n), np.empty(n)
    for k in range(n - 2):
        norm = 0.0
        for i in range(k + 1, n):
            v[i] = A[i, k]
            norm += v[i] * v[i]
        norm = math.sqrt(norm)
        if norm == 0.0:
            continue
        head = v[k + 1]
        v[k + 1] += math.copysign(norm, head)
        # H = I - b v v^T takes the column to -sign(head) norm e_1.
        b = 1.0 / (norm * (norm + abs(head)))
        for i in range(k + 1, n):
            s = 0.0
            for j in range(k + 1, n):
                s += A[i, j] * v[j]
            w[i] = b * s
        half = 0.0
        for i in range(k + 1, n):
            half += v[i] * w[i]
        half *= 0.5 * b
        for i in range(k + 1, n):
            w[i] -= half * v[i]
        for i in range(k + 1, n):
            for j in range(k + 1, n):
                A[i, j] -= v[i] * w[j] + w[i] * v[j]
        A[k + 1, k] = -math.copysign(norm, head)
        for i in range(n):
            s = 0.0
            for j in range(k + 1, n):
                s += Q[i, j] * v[j]
            s *= b
            for j in range(k + 1, n):
                Q[i, j] -= s * v[j]
    for i in range(n):
        diagonal[i] = A[i, i]
        off[i] = A[i + 1, i] if i + 1 < n else 0.0
    for i in range(n):
        for j in range(n):
            A[i, j] = Q[i, j]


@compiled
def _implicit_ql(d: Array, e: Array, V: Array) -> bool:
    """Diagonalise the tridiagonal matrix (d, e) by plane rotations, applied to the columns of V."""
    n = len(d)
    for first in range(n):
        for step in range(_MAX_QL):
            last = first
            while last < n - 1 and abs(e[last]) > 1.1e-16 * (abs(d[last]) + abs(d[last + 1])):
                last += 1
            if last == first:
                break
            if step == _MAX_QL - 1:
                return False
            # The eigenvalue of the leading 2 x 2 block that is closer to d[first].
            g = (d[first + 1] - d[first]) / (2.0 * e[first])
            r = math.hypot(g, 1.0)
            g = d[last] - d[first] + e[first] / (g + math.copysign(r, g))
            s, c, p = 1.0, 1.0, 0.0
            split = False
            for i in range(last - 1, first - 1, -1):
                f, b = s * e[i], c * e[i]
                r = math.sqrt(f * f + g * g)
                e[i + 1] = r
                if r == 0.0:  # the block has come apart by itself
                    d[i + 1] -= p
                    e[last] = 0.0
                    split = True
                    break
                s, c = f / r, g / r
                g = d[i + 1] - p
                r = (d[i] - g) * s + 2.0 * c * b
                p = s * r
                d[i + 1] = g + p
                g = c * r - b
                for k in range(n):
                    a = V[k, i + 1]
                    V[k, i + 1] = s * V[k, i] + c * a
                    V[k, i] = c * V[k, i] - s * a
            if not split:
                d[first] -= p
                e[first] = g
                e[last] = 0.0
    return True


@compiled
def least_squares(A: Array, b: Array, rows: int, columns: int, x: Array) -> bool:
    """Minimise |A x - b| over x by Householder QR; A [rows, columns] and b are overwritten; False if A is singular."""
    largest = 0.0
    for k in range(columns):
        norm = 0.0
        for i in range(k, rows):
            norm += A[i, k] * A[i, k]
        norm = math.sqrt(norm)
        largest = max(largest, norm)
        if not norm > 1e-14 * largest:
            return False
        head = A[k, k]
        A[k, k] += math.copysign(norm, head)
        scale = 1.0 / (norm * (norm + abs(head)))
        for j in range(k + 1, columns + 1):
            s = 0.0
            for i in range(k, rows):
                s += A[i, k] * (A[i, j] if j < columns else b[i])
            s *= scale
            for i in range(k, rows):
                if j < columns:
                    A[i, j] -= s * A[i, k]
                else:
                    b[i] -= s * A[i, k]
        x[k] = -math.copysign(norm, head)  # the diagonal of R, until the substitution below replaces it
    for k in range(columns - 1, -1, -1):
        s = b[k]
        for j in range(k + 1, columns):
            s -= A[k, j] * x[j]
        x[k] = s / x[k]
    return True


@compiled
def cholesky(A: Array, L: Array, floor: float) -> bool:
    """Compute lower L with A = L L^T for symmetric A [n,n]; False at a pivot not above ``floor`` (or NaN)."""
    n = A.shape[0]
    for j in range(n):
        s = A[j, j]
        for k in range(j):
            s -= L[j, k] * L[j, k]
        if not s > floor:
            return False
        pivot = math.sqrt(s)
        L[j, j] = pivot
        for i in range(j + 1, n):
            s = A[i, j]
            for k in range(j):
                s -= L[i, k] * L[j, k]
            L[i, j] = s / pivot
    return True


@compiled
def cholesky_solve(L: Array, b: Array, x: Array) -> None:
    """Solve L L^T x = b."""
    n = L.shape[0]
    for i in range(n):
        s = b[i]
        for k in range(i):
            s -= L[i, k] * x[k]
        x[i] = s / L[i, i]
    for i in range(n - 1, -1, -1):
        s = x[i]
        for k in range(i + 1, n):
            s -= L[k, i] * x[k]
        x[i] = s / L[i, i]


@compiled
def rotation_from_correlation(S: Array, R: Array) -> bool:
    """Compute R that maximises trace(R^T S), S = sum y x^T: absolute orientation y = R x (Horn, JOSA A 1987).

    By the quaternion, so a reflection cannot come out and coplanar points need no special case.
    """
    N = np.empty((4, 4))
    N[0, 0] = S[0, 0] + S[1, 1] + S[2, 2]
    N[1, 1] = S[0, 0] - S[1, 1] - S[2, 2]
    N[2, 2] = -S[0, 0] + S[1, 1] - S[2, 2]
    N[3, 3] = -S[0, 0] - S[1, 1] + S[2, 2]
    N[0, 1] = S[2, 1] - S[1, 2]
    N[0, 2] = S[0, 2] - S[2, 0]
    N[0, 3] = S[1, 0] - S[0, 1]
    N[1, 2] = S[0, 1] + S[1, 0]
    N[1, 3] = S[0, 2] + S[2, 0]
    N[2, 3] = S[1, 2] + S[2, 1]
    for i in range(4):
        for j in range(i):
            N[i, j] = N[j, i]
    values = np.empty(4)
    if not symmetric_eigen(N, values):
        return False
    w, x, y, z = N[0, 3], N[1, 3], N[2, 3], N[3, 3]
    R[0, 0], R[0, 1], R[0, 2] = w * w + x * x - y * y - z * z, 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)
    R[1, 0], R[1, 1], R[1, 2] = 2.0 * (x * y + w * z), w * w - x * x + y * y - z * z, 2.0 * (y * z - w * x)
    R[2, 0], R[2, 1], R[2, 2] = 2.0 * (x * z - w * y), 2.0 * (y * z + w * x), w * w - x * x - y * y + z * z
    return True


@compiled
def rotate_left(phi: Array, R: Array, out: Array) -> None:
    """Compute out = Exp(phi) R (Rodrigues); ``out`` must not be R."""
    x, y, z = phi[0], phi[1], phi[2]
    angle2 = x * x + y * y + z * z
    if angle2 < 1e-8:
        a, b = 1.0 - angle2 / 6.0, 0.5 - angle2 / 24.0  # the next terms are below 1e-18
    else:
        angle = math.sqrt(angle2)
        a = math.sin(angle) / angle
        half = math.sin(0.5 * angle) / angle
        b = 2.0 * half * half
    for j in range(3):
        r0, r1, r2 = R[0, j], R[1, j], R[2, j]
        # v + a (phi x v) + b (phi x (phi x v))
        c0, c1, c2 = y * r2 - z * r1, z * r0 - x * r2, x * r1 - y * r0
        out[0, j] = r0 + a * c0 + b * (y * c2 - z * c1)
        out[1, j] = r1 + a * c1 + b * (z * c0 - x * c2)
        out[2, j] = r2 + a * c2 + b * (x * c1 - y * c0)
