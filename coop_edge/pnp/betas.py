"""Computes EPnP's coefficients of the null vectors from the distances between control points.

The control points in the camera's frame are sum_v beta_v V_v. For each pair p of them, |sum_v beta_v d_vp|^2 must be
the squared distance on the object: equations that are linear in the products beta_v beta_w.
"""

from __future__ import annotations

import math

import numpy as np

from coop_edge.pnp.jit import compiled
from coop_edge.pnp.linalg import least_squares

Array = np.ndarray

GAUSS_NEWTON_STEPS = 10


@compiled
def solve_betas(null: Array, variances: Array, count: int, N: int, beta: Array) -> bool:
    """Compute beta [4] from the N first null vectors; return False if the linear start is singular.

    null [count,count,3]: vector, control point, coordinates; variances [3] of the object's principal axes.
    """
    pairs = count * (count - 1) // 2
    gram = np.empty((pairs, count, count))  # beta^T gram_p beta is the squared distance of pair p
    goal = np.empty(pairs)
    p = 0
    for i in range(count):
        for j in range(i + 1, count):
            goal[p] = variances[j - 1] + (variances[i - 1] if i > 0 else 0.0)
            for v in range(count):
                for w in range(count):
                    s = 0.0
                    for k in range(3):
                        s += (null[v, i, k] - null[v, j, k]) * (null[w, i, k] - null[w, j, k])
                    gram[p, v, w] = s
            p += 1
    for v in range(4):
        beta[v] = 0.0
    if N == 1:
        above, below = 0.0, 0.0
        for p in range(pairs):
            length = math.sqrt(max(gram[p, 0, 0], 0.0))
            above += length * math.sqrt(goal[p])
            below += length * length
        if not below > 0.0:
            return False
        beta[0] = above / below
    elif not _linear_start(gram, goal, N, count, beta):
        return False
    _gauss_newton(gram, goal, count, beta)
    return math.isfinite(beta[0] + beta[1] + beta[2] + beta[3])


@compiled
def _linear_start(gram: Array, goal: Array, N: int, count: int, beta: Array) -> bool:
    """Solve for the products of betas by least squares, then for the betas.

    With as many vectors as control points there are more products than equations; those of beta_0 alone remain then,
    since the first vector carries most of the solution.
    """
    first_only = count == N
    pairs = len(goal)
    columns = N if first_only else N * (N + 1) // 2
    A = np.empty((pairs, columns))
    b = np.empty(pairs)
    for p in range(pairs):
        column = 0
        for v in range(1 if first_only else N):
            for w in range(v, N):
                A[p, column] = gram[p, v, w] if v == w else 2.0 * gram[p, v, w]
                column += 1
        b[p] = goal[p]
    x = np.empty(columns)
    if not least_squares(A, b, pairs, columns, x):
        return False
    product = np.zeros((4, 4))
    column = 0
    for v in range(1 if first_only else N):
        for w in range(v, N):
            product[v, w] = x[column]
            product[w, v] = x[column]
            column += 1
    lead = 0
    if not first_only:
        for v in range(1, N):
            if abs(product[v, v]) > abs(product[lead, lead]):
                lead = v
    beta[lead] = math.sqrt(abs(product[lead, lead]))
    if not beta[lead] > 0.0:
        return False
    for v in range(N):
        if v != lead:
            beta[v] = product[lead, v] / beta[lead]
    return True


@compiled
def _gauss_newton(gram: Array, goal: Array, count: int, beta: Array) -> None:
    """Minimise sum_p (beta^T gram_p beta - goal_p)^2 over all betas.

    Over all and not over the N of the start: with 4 or 5 points the null space really has several dimensions, in an
    arbitrary basis, and the median error of such samples falls by a factor of four.
    """
    pairs = len(goal)
    J = np.empty((pairs, count))
    r = np.empty(pairs)
    step = np.empty(count)
    for _ in range(GAUSS_NEWTON_STEPS):
        for p in range(pairs):
            r[p] = goal[p]
            for v in range(count):
                s = 0.0
                for w in range(count):
                    s += gram[p, v, w] * beta[w]
                J[p, v] = 2.0 * s
                r[p] -= beta[v] * s
        if not least_squares(J, r, pairs, count, step):
            break
        for v in range(count):
            beta[v] += step[v]
