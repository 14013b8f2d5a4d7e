"""Weighted Levenberg-Marquardt on the reprojection error, one problem; the algorithm is stated in ``coop_edge.pnp``."""

from __future__ import annotations

import math

import numpy as np

from coop_edge.pnp.jit import compiled
from coop_edge.pnp.linalg import cholesky, cholesky_solve, copy_pose, rotate_left, shifted, write_transform
from coop_edge.pnp.normal_equations import (
    DEGENERATE,
    LEAST_POINTS,
    NON_FINITE,
    NONE,
    SOLVED,
    SUMS,
    centre_points,
    gather,
    normal_sums,
)
from coop_edge.pnp.prior import PLACES, about_centroid, add_prior, is_proper, is_readable

Array = np.ndarray

# Values of LmStop: compiled code takes plain integers.
STOP_ITERATIONS, STOP_STEP, STOP_COST, STOP_DAMPING, STOP_UNSOLVED = range(5)

SINGULAR = 1e-12
"""Smallest Cholesky pivot of H scaled to a unit diagonal."""
_LEAST_DAMPING, _LARGEST_DAMPING = 1e-12, 1e12


@compiled
def _unpack(sums: Array, damping: float, H: Array) -> None:
    """H + damping diag(H) from the upper triangle in ``sums``."""
    at = 0
    for i in range(6):
        for j in range(i, 6):
            H[i, j] = sums[at]
            H[j, i] = sums[at]
            at += 1
        H[i, i] *= 1.0 + damping


@compiled
def minimise(
    S: Array,
    K: Array,
    R: Array,
    t: Array,
    iterations: int,
    damping: float,
    up: float,
    down: float,
    step_tolerance: float,
    cost_tolerance: float,
    loss: int,
    scale: float,
    prior: Array,
    sums: Array,
) -> tuple[float, int, float, int]:
    """Levenberg-Marquardt from (R, t), which are replaced by the minimum, about centred points S [6,n].

    prior: [21] about the points' centroid, or [0] for none. ``sums`` [28] ends as those of the minimum. Returns initial
    cost, iterations, damping and LmStop.
    """
    trial = np.empty(SUMS)
    scratch = np.empty(0 if loss == NONE else S.shape[1])
    R_trial, t_trial = np.empty((3, 3)), np.empty(3)
    H, L = np.empty((6, 6)), np.zeros((6, 6))
    step, minus_g = np.zeros(6), np.empty(6)
    normal_sums(S, R, t, K, loss, scale, scratch, sums)
    if prior.size > 0:
        add_prior(prior, R, t, sums)
    initial = sums[27]
    for iteration in range(iterations):
        _unpack(sums, damping, H)
        for k in range(6):
            minus_g[k] = -sums[21 + k]
        accepted = cholesky(H, L, 0.0)
        if accepted:
            cholesky_solve(L, minus_g, step)
            moved = math.sqrt(step[0] * step[0] + step[1] * step[1] + step[2] * step[2])
            turned = math.sqrt(step[3] * step[3] + step[4] * step[4] + step[5] * step[5])
            distance = math.sqrt(t[0] * t[0] + t[1] * t[1] + t[2] * t[2])
            if turned < step_tolerance and moved < step_tolerance * distance:
                return initial, iteration + 1, damping, STOP_STEP
            rotate_left(step[3:], R, R_trial)
            for k in range(3):
                t_trial[k] = t[k] + step[k]
            normal_sums(S, R_trial, t_trial, K, loss, scale, scratch, trial)
            if prior.size > 0:
                add_prior(prior, R_trial, t_trial, trial)
            accepted = trial[27] < sums[27]
        if accepted:
            decrease, previous = sums[27] - trial[27], sums[27]
            for k in range(SUMS):
                sums[k] = trial[k]
            copy_pose(R_trial, t_trial, R, t)
            damping = max(damping / down, _LEAST_DAMPING)
            if decrease < cost_tolerance * previous:
                return initial, iteration + 1, damping, STOP_COST
        else:
            damping = max(damping, _LEAST_DAMPING) * up
            if damping > _LARGEST_DAMPING:
                return initial, iteration + 1, damping, STOP_DAMPING
    return initial, iterations, damping, STOP_ITERATIONS


@compiled
def covariance_at_origin(sums: Array, variance: float, arm: Array, out: Array) -> bool:
    """``variance`` times H^-1, moved to (rho, phi) at the object's origin, [6,6]; False if H is singular.

    ``arm`` [3] = R c, from the object's origin to the centroid in camera axes: rho = rho' - phi x arm.
    """
    H, L = np.empty((6, 6)), np.zeros((6, 6))
    _unpack(sums, 0.0, H)
    scale = np.empty(6)
    for i in range(6):
        if not (H[i, i] > 0.0 and math.isfinite(H[i, i])):
            return False
        scale[i] = 1.0 / math.sqrt(H[i, i])
    for i in range(6):
        for j in range(6):
            H[i, j] *= scale[i] * scale[j]
    if not cholesky(H, L, SINGULAR):
        return False
    C = np.empty((6, 6))
    unit, column = np.empty(6), np.empty(6)
    for j in range(6):
        for i in range(6):
            unit[i] = scale[i] if i == j else 0.0
        cholesky_solve(L, unit, column)
        for i in range(6):
            C[i, j] = scale[i] * column[i] * variance
    A = np.zeros((6, 6))
    for i in range(6):
        A[i, i] = 1.0
    A[0, 4], A[0, 5], A[1, 5] = -arm[2], arm[1], -arm[0]
    A[1, 3], A[2, 3], A[2, 4] = arm[2], -arm[1], arm[0]
    AC = np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            for k in range(6):
                AC[i, j] += A[i, k] * C[k, j]
    for i in range(6):
        for j in range(i, 6):
            s = 0.0
            for k in range(6):
                s += AC[i, k] * A[j, k]
            out[i, j] = s
            out[j, i] = s
    return True


@compiled
def solve_lm(
    X: Array,
    u: Array,
    w: Array,
    K: Array,
    T_init: Array,
    T_anchor: Array,
    prior_centre: Array,
    prior_sigma: Array,
    iterations: int,
    damping: float,
    up: float,
    down: float,
    step_tolerance: float,
    cost_tolerance: float,
    loss: int,
    scale: float,
    T: Array,
    covariance: Array,
) -> tuple[int, float, float, int, float, int]:
    """One problem: status, initial and final cost, iterations, damping, LmStop; writes T, covariance if solved.

    X [P,3], u [P,2], w [P] float32 or float64. T_anchor [4,4], prior_centre [3] and prior_sigma [6] are the prior's;
    without one, [0,0], [0] and [0].
    """
    nan = math.nan
    if not is_readable(T_anchor, prior_centre, prior_sigma):
        return NON_FINITE, nan, nan, 0, nan, STOP_UNSOLVED
    status, S = gather(X, u, w, K, T_init, 0 if is_proper(prior_sigma) else LEAST_POINTS)
    if status != SOLVED:
        return status, nan, nan, 0, nan, STOP_UNSOLVED
    centre, sums = np.empty(3), np.empty(SUMS)
    prior, n = np.empty(PLACES if prior_sigma.size > 0 else 0), S.shape[1]
    if n > 0:
        centre_points(S, centre)
    else:
        for k in range(3):
            centre[k] = prior_centre[k]
    if prior.size > 0:
        about_centroid(T_anchor, prior_centre, prior_sigma, centre, prior)
    R, t, arm, zero = np.empty((3, 3)), np.empty(3), np.empty(3), np.zeros(3)
    copy_pose(T_init, T_init[:, 3], R, t)
    shifted(R, centre, t, 1.0, t)
    initial, taken, damping, stop = minimise(
        S, K, R, t, iterations, damping, up, down, step_tolerance, cost_tolerance, loss, scale, prior, sums
    )
    shifted(R, centre, zero, 1.0, arm)
    if prior.size > 0:
        variance = 1.0
    else:
        variance = sums[27] / (2.0 * n - 6.0) if n > 3 else nan
    if not covariance_at_origin(sums, variance, arm, covariance):
        return DEGENERATE, nan, nan, taken, nan, STOP_UNSOLVED
    shifted(R, centre, t, -1.0, t)
    write_transform(R, t, T)
    return SOLVED, initial, sums[27], taken, damping, stop
