"""Runs weighted Levenberg-Marquardt on one problem: points, lines, depths, prior; docs/solvers.md states it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from coop_edge.pnp.base import DepthTargets, PosePrior
from coop_edge.pnp.depths import add_depths, gather_depths
from coop_edge.pnp.jit import compiled
from coop_edge.pnp.linalg import (
    all_finite,
    cholesky,
    cholesky_solve,
    copy_pose,
    rotate_left,
    shifted,
    write_transform,
)
from coop_edge.pnp.normal_equations import (
    DEGENERATE,
    LEAST_RESIDUALS,
    NON_FINITE,
    NONE,
    SOLVED,
    SUMS,
    Targets,
    add_lines,
    centre_lines,
    centre_on_mean,
    gather,
    input_status,
    normal_sums,
)
from coop_edge.pnp.prior import CentredPrior, about_centroid, add_prior, is_proper, is_readable, scaled_cholesky

Array = np.ndarray

# Values of LmStop: compiled code takes plain integers.
STOP_ITERATIONS, STOP_STEP, STOP_COST, STOP_DAMPING, STOP_UNSOLVED = range(5)

_LEAST_DAMPING, _LARGEST_DAMPING = 1e-12, 1e12


class Schedule(NamedTuple):
    """``LmConfig`` for compiled code; ``loss`` is a value of ``LOSSES``."""

    iterations: int
    damping: float
    damping_up: float
    damping_down: float
    step_tolerance: float
    cost_tolerance: float
    loss: int
    loss_scale: float


class Evidence(NamedTuple):
    """What the cost of a pose is made of, about the centroid of points, lines and depths."""

    K: Array  # [3,3]
    points: Array  # [6,n], see ``normal_equations``
    lines: Array  # [8,m]
    depths: Array  # [9,d]
    prior: CentredPrior


@compiled
def evaluate(evidence: Evidence, R: Array, t: Array, loss: int, scale: float, scratch: Array, sums: Array) -> None:
    """Sum H (upper triangle), g and the cost at a pose (R, t) into ``sums`` [28]; ``scratch`` as ``normal_sums``."""
    normal_sums(evidence.points, R, t, evidence.K, loss, scale, scratch, sums)
    if evidence.lines.shape[1] > 0:
        add_lines(evidence.lines, R, t, evidence.K, loss, scale, sums)
    if evidence.depths.shape[1] > 0:
        add_depths(evidence.depths, R, t, loss, scale, sums)
    if evidence.prior.information.size > 0:
        add_prior(evidence.prior, R, t, sums)


@compiled
def _unpack(sums: Array, damping: float, H: Array) -> None:
    """Return H + damping diag(H) from the upper triangle in ``sums``."""
    at = 0
    for i in range(6):
        for j in range(i, 6):
            H[i, j] = sums[at]
            H[j, i] = sums[at]
            at += 1
        H[i, i] *= 1.0 + damping


@compiled
def propose(sums: Array, damping: float, step: Array) -> bool:
    """Compute the step (rho', phi) [6] of the damped normal equations; False if they are not positive definite."""
    H, L, minus_g = np.empty((6, 6)), np.zeros((6, 6)), np.empty(6)
    _unpack(sums, damping, H)
    for k in range(6):
        minus_g[k] = -sums[21 + k]
    if not cholesky(H, L, 0.0):
        return False
    cholesky_solve(L, minus_g, step)
    return True


@compiled
def is_short(step: Array, t: Array, tolerance: float) -> bool:
    """Tell whether a step turns by less than ``tolerance`` radians and moves by less than that share of it."""
    moved = math.sqrt(step[0] * step[0] + step[1] * step[1] + step[2] * step[2])
    turned = math.sqrt(step[3] * step[3] + step[4] * step[4] + step[5] * step[5])
    distance = math.sqrt(t[0] * t[0] + t[1] * t[1] + t[2] * t[2])
    return turned < tolerance and moved < tolerance * distance


@compiled
def minimise(evidence: Evidence, schedule: Schedule, R: Array, t: Array, sums: Array) -> tuple[float, int, float, int]:
    """Run Levenberg-Marquardt from (R, t), which are replaced by the minimum.

    ``sums`` [28] ends as those of the minimum. Returns initial cost, iterations, damping and LmStop.
    """
    loss, scale, damping = schedule.loss, schedule.loss_scale, schedule.damping
    trial, step = np.empty(SUMS), np.zeros(6)
    scratch = np.empty(0 if loss == NONE else evidence.points.shape[1])
    R_trial, t_trial = np.empty((3, 3)), np.empty(3)
    evaluate(evidence, R, t, loss, scale, scratch, sums)
    initial = sums[27]
    for iteration in range(schedule.iterations):
        accepted = propose(sums, damping, step)
        if accepted:
            if is_short(step, t, schedule.step_tolerance):
                return initial, iteration + 1, damping, STOP_STEP
            rotate_left(step[3:], R, R_trial)
            for k in range(3):
                t_trial[k] = t[k] + step[k]
            evaluate(evidence, R_trial, t_trial, loss, scale, scratch, trial)
            accepted = trial[27] < sums[27]
        if accepted:
            decrease, previous = sums[27] - trial[27], sums[27]
            for k in range(SUMS):
                sums[k] = trial[k]
            copy_pose(R_trial, t_trial, R, t)
            damping = max(damping / schedule.damping_down, _LEAST_DAMPING)
            if decrease < schedule.cost_tolerance * previous:
                return initial, iteration + 1, damping, STOP_COST
        else:
            damping = max(damping, _LEAST_DAMPING) * schedule.damping_up
            if damping > _LARGEST_DAMPING:
                return initial, iteration + 1, damping, STOP_DAMPING
    return initial, schedule.iterations, damping, STOP_ITERATIONS


@compiled
def covariance_at_origin(sums: Array, variance: float, arm: Array, out: Array) -> bool:
    """Compute ``variance`` H^-1, moved to (rho, phi) at the object's origin, [6,6]; False if H is singular.

    ``arm`` [3] = R c, from the object's origin to the centroid in camera axes: rho = rho' - phi x arm.
    """
    H, L, scale = np.empty((6, 6)), np.zeros((6, 6)), np.empty(6)
    _unpack(sums, 0.0, H)
    if not scaled_cholesky(H, L, scale):
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
def read_problem(
    points: Targets, lines: Targets, depths: DepthTargets, prior: PosePrior, K: Array, T: Array
) -> tuple[int, Array, Array, Array]:
    """Return the status of a problem, and what takes part: points [6,n], lines [8,m], depths [9,d], not centred."""
    seen_points, S = gather(points, T)
    seen_lines, L = gather(lines, T)
    seen_depths, D = gather_depths(depths.points, depths.places, depths.normals, depths.weights, T)
    good = seen_points >= 0 and seen_lines >= 0 and seen_depths >= 0
    if not (is_readable(prior) and all_finite(K) and all_finite(T) and good):
        return NON_FINITE, S, L, D
    least = 0 if is_proper(prior.information) else LEAST_RESIDUALS
    weighted, seen = 2 * seen_points + seen_lines + seen_depths, 2 * S.shape[1] + L.shape[1] + D.shape[1]
    return input_status(weighted, seen, least), S, L, D


@compiled
def solve_lm(
    points: Targets,
    lines: Targets,
    depths: DepthTargets,
    prior: PosePrior,
    K: Array,
    T_init: Array,
    schedule: Schedule,
    T: Array,
    covariance: Array,
) -> tuple[int, float, float, int, float, int]:
    """Solve one problem: status, initial and final cost, iterations, damping, LmStop; writes T, covariance if solved.

    Without a prior its arrays are of size 0, [0,0], [0] and [0,0].
    """
    nan = math.nan
    status, S, L, D = read_problem(points, lines, depths, prior, K, T_init)
    if status != SOLVED:
        return status, nan, nan, 0, nan, STOP_UNSOLVED
    centre, sums = np.empty(3), np.empty(SUMS)
    if S.shape[1] > 0:
        centre_on_mean(S, centre)
        centre_lines(L, centre)
        centre_lines(D, centre)
    elif L.shape[1] > 0:
        centre_on_mean(L, centre)
        centre_lines(D, centre)
    elif D.shape[1] > 0:
        centre_on_mean(D, centre)
    else:
        for k in range(3):
            centre[k] = prior.centre[k]
    residuals = 2 * S.shape[1] + L.shape[1] + D.shape[1]
    R, t, arm, zero = np.empty((3, 3)), np.empty(3), np.empty(3), np.zeros(3)
    copy_pose(T_init, T_init[:, 3], R, t)
    shifted(R, centre, t, 1.0, t)
    evidence = Evidence(K, S, L, D, about_centroid(prior, centre))
    initial, taken, damping, stop = minimise(evidence, schedule, R, t, sums)
    shifted(R, centre, zero, 1.0, arm)
    if prior.information.size > 0:
        variance = 1.0
    else:
        variance = sums[27] / (residuals - 6.0) if residuals > 6 else nan
    if not covariance_at_origin(sums, variance, arm, covariance):
        return DEGENERATE, nan, nan, taken, nan, STOP_UNSOLVED
    shifted(R, centre, t, -1.0, t)
    write_transform(R, t, T)
    return SOLVED, initial, sums[27], taken, damping, stop
