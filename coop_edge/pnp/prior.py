"""Adds a Gaussian prior on the pose to the normal equations; docs/solvers.md says what it means."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from coop_edge.pnp.base import PosePrior
from coop_edge.pnp.jit import compiled
from coop_edge.pnp.linalg import all_finite, cholesky

Array = np.ndarray

SINGULAR = 1e-12
"""Smallest Cholesky pivot of a symmetric matrix, scaled to a unit diagonal, that counts as positive definite."""


class CentredPrior(NamedTuple):
    """The prior on the pose of points that were centred; arrays of size 0 where there is none."""

    information: Array  # [6,6]
    rotation: Array  # [3,3] of the anchor
    place: Array  # [3] of the object's centre at the anchor, camera axes
    arm: Array  # [3] the object's centre less the points' centroid, object's frame


@compiled
def scaled_cholesky(H: Array, L: Array, scale: Array) -> bool:
    """Factor S H S = L L^T, S = diag(scale) making the diagonal 1; H becomes S H S. False if H is singular."""
    n = len(scale)
    for i in range(n):
        if not (H[i, i] > 0.0 and math.isfinite(H[i, i])):
            return False
        scale[i] = 1.0 / math.sqrt(H[i, i])
    for i in range(n):
        for j in range(n):
            H[i, j] *= scale[i] * scale[j]
    return cholesky(H, L, SINGULAR)


@compiled
def is_proper(information: Array) -> bool:
    """Tell whether a prior of information [6,6] fixes a pose on its own; False for none at all, [0,0]."""
    if information.size == 0:
        return False
    return scaled_cholesky(information.copy(), np.zeros((6, 6)), np.empty(6))


@compiled
def is_readable(prior: PosePrior) -> bool:
    """Tell whether all entries are finite. The arrays may be of size 0."""
    for i in range(len(prior.centre)):
        if not math.isfinite(prior.centre[i]):
            return False
    return all_finite(prior.T_anchor) and all_finite(prior.information)


@compiled
def about_centroid(prior: PosePrior, centroid: Array) -> CentredPrior:
    """Move the prior to the pose of points that were centred on ``centroid`` [3]."""
    if prior.information.size == 0:
        return CentredPrior(np.empty((0, 0)), np.empty((0, 0)), np.empty(0), np.empty(0))
    rotation, place, arm = np.empty((3, 3)), np.empty(3), np.empty(3)
    for i in range(3):
        place[i] = prior.T_anchor[i, 3]
        for j in range(3):
            rotation[i, j] = prior.T_anchor[i, j]
            place[i] += prior.T_anchor[i, j] * prior.centre[j]
        arm[i] = prior.centre[i] - centroid[i]
    return CentredPrior(prior.information.copy(), rotation, place, arm)


@compiled
def rotation_vector(Q: Array, out: Array) -> None:
    """Write the rotation vector of Q [3,3], at most pi long, into ``out`` [3]; through the quaternion, whose largest
    component is found first, so that no angle is ill-conditioned."""
    trace = Q[0, 0] + Q[1, 1] + Q[2, 2]
    i = 0
    if Q[1, 1] > Q[0, 0]:
        i = 1
    if Q[2, 2] > Q[i, i]:
        i = 2
    if trace > Q[i, i]:
        w, out[0], out[1], out[2] = 1.0 + trace, Q[2, 1] - Q[1, 2], Q[0, 2] - Q[2, 0], Q[1, 0] - Q[0, 1]
    else:
        j, k = (i + 1) % 3, (i + 2) % 3
        w = Q[k, j] - Q[j, k]
        out[i], out[j], out[k] = 1.0 + 2.0 * Q[i, i] - trace, Q[j, i] + Q[i, j], Q[k, i] + Q[i, k]
        if w < 0.0:
            w, out[0], out[1], out[2] = -w, -out[0], -out[1], -out[2]
    length = math.sqrt(out[0] * out[0] + out[1] * out[1] + out[2] * out[2])
    # Below, atan2's argument is its value; w is then 4 to rounding.
    scale = 2.0 * math.atan2(length, w) / length if length > 1e-100 else 2.0 / w
    for n in range(3):
        out[n] *= scale


@compiled
def inverse_left_jacobian(v: Array, out: Array) -> None:
    """Compute d log(Exp(phi) Exp(v)) / d phi at phi = 0, [3,3], for a rotation vector v of length at most pi.

    I - hat(v) / 2 + c hat(v)^2, c = (1 - (a / 2) cot(a / 2)) / a^2, a = |v| (Barfoot, State Estimation for Robotics).
    """
    x, y, z = v[0], v[1], v[2]
    a2 = x * x + y * y + z * z
    if a2 < 1e-4:
        c = 1.0 / 12.0 + a2 * (1.0 / 720.0 + a2 / 30240.0)
    else:
        half = 0.5 * math.sqrt(a2)
        c = (1.0 - half * math.cos(half) / math.sin(half)) / a2
    out[0, 0], out[1, 1], out[2, 2] = 1.0 - c * (y * y + z * z), 1.0 - c * (x * x + z * z), 1.0 - c * (x * x + y * y)
    out[0, 1], out[1, 0] = c * x * y + 0.5 * z, c * x * y - 0.5 * z
    out[0, 2], out[2, 0] = c * x * z - 0.5 * y, c * x * z + 0.5 * y
    out[1, 2], out[2, 1] = c * y * z + 0.5 * x, c * y * z - 0.5 * x


@compiled
def _residual_and_jacobian(prior: CentredPrior, R: Array, t: Array, e: Array, J: Array) -> None:
    """Compute xi from the anchor to the pose (R, t) of centred points, [6], and its derivative by the step, [6,6]."""
    arm, Q, block = np.empty(3), np.empty((3, 3)), np.empty((3, 3))
    for i in range(3):
        arm[i] = R[i, 0] * prior.arm[0] + R[i, 1] * prior.arm[1] + R[i, 2] * prior.arm[2]
        e[i] = arm[i] + t[i] - prior.place[i]
        for j in range(3):
            Q[i, j] = R[i, 0] * prior.rotation[j, 0] + R[i, 1] * prior.rotation[j, 1] + R[i, 2] * prior.rotation[j, 2]
    rotation_vector(Q, e[3:])
    inverse_left_jacobian(e[3:], block)
    for i in range(6):
        for j in range(6):
            J[i, j] = block[i - 3, j - 3] if i > 2 and j > 2 else 0.0
    for i in range(3):
        J[i, i] = 1.0
    # The centre moves by rho' + phi x arm.
    J[0, 4], J[0, 5], J[1, 5] = arm[2], -arm[1], arm[0]
    J[1, 3], J[2, 3], J[2, 4] = -arm[2], arm[1], -arm[0]


@compiled
def add_prior(prior: CentredPrior, R: Array, t: Array, sums: Array) -> None:
    """Add the prior's share of H, g and the cost at a pose (R, t) of the centred points to ``sums`` [28]."""
    e, J, LJ = np.empty(6), np.empty((6, 6)), np.zeros((6, 6))
    _residual_and_jacobian(prior, R, t, e, J)
    for k in range(6):
        for m in range(6):
            for i in range(6):
                LJ[k, i] += prior.information[k, m] * J[m, i]
    at = 0
    for i in range(6):
        for j in range(i, 6):
            for k in range(6):
                sums[at] += LJ[k, i] * J[k, j]
            at += 1
        Le = 0.0
        for k in range(6):
            sums[21 + i] += LJ[k, i] * e[k]
            Le += prior.information[i, k] * e[k]
        sums[27] += Le * e[i]
