"""A Gaussian prior on the pose, as a term of the normal equations; what it means stands in ``coop_edge.pnp``.

To compiled code a prior is an array [21] (``about_centroid`` fills it) or, where there is none, one of size 0.
"""

from __future__ import annotations

import math

import numpy as np

from coop_edge.pnp.jit import compiled
from coop_edge.pnp.linalg import all_finite

Array = np.ndarray

# Places in the array: 1 / sigma^2; the anchor's rotation, by rows; the object's centre at the anchor, camera axes; the
# object's centre less the points' centroid, object's frame.
INFORMATION, ROTATION, POSITION, ARM, PLACES = 0, 6, 15, 18, 21


@compiled
def is_proper(sigma: Array) -> bool:
    """Whether a prior of standard deviations [6] fixes a pose on its own; False for none at all, [0]."""
    for i in range(len(sigma)):
        if not sigma[i] < math.inf:
            return False
    return len(sigma) > 0


@compiled
def is_readable(T_anchor: Array, centre: Array, sigma: Array) -> bool:
    """Whether no entry is NaN, nor infinite where that means nothing. All may be of size 0."""
    if not all_finite(T_anchor):
        return False
    for i in range(len(centre)):
        if not math.isfinite(centre[i]):
            return False
    for i in range(len(sigma)):  # noqa: SIM110 (Numba compiles no generator expression)
        if math.isnan(sigma[i]):
            return False
    return True


@compiled
def about_centroid(T_anchor: Array, centre: Array, sigma: Array, centroid: Array, prior: Array) -> None:
    """The prior on the pose of points that were centred on ``centroid`` [3], into ``prior`` [21]."""
    for i in range(6):
        prior[INFORMATION + i] = (1.0 / sigma[i]) * (1.0 / sigma[i])
    for i in range(3):
        place = T_anchor[i, 3]
        for j in range(3):
            prior[ROTATION + 3 * i + j] = T_anchor[i, j]
            place += T_anchor[i, j] * centre[j]
        prior[POSITION + i] = place
        prior[ARM + i] = centre[i] - centroid[i]


@compiled
def rotation_vector(Q: Array, out: Array) -> None:
    """The rotation vector of Q [3,3], of length at most pi, into ``out`` [3]; through the quaternion, whose largest
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
    """d log(Exp(phi) Exp(v)) / d phi at phi = 0, [3,3], for a rotation vector v of length at most pi.

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
def _residual_and_jacobian(prior: Array, R: Array, t: Array, e: Array, J: Array) -> None:
    """xi from the anchor to the pose (R, t) of the centred points, [6], and its derivative by the step, [6,6]."""
    arm, Q, block = np.empty(3), np.empty((3, 3)), np.empty((3, 3))
    for i in range(3):
        arm[i] = R[i, 0] * prior[ARM] + R[i, 1] * prior[ARM + 1] + R[i, 2] * prior[ARM + 2]
        e[i] = arm[i] + t[i] - prior[POSITION + i]
        for j in range(3):
            at = ROTATION + 3 * j
            Q[i, j] = R[i, 0] * prior[at] + R[i, 1] * prior[at + 1] + R[i, 2] * prior[at + 2]
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
def add_prior(prior: Array, R: Array, t: Array, sums: Array) -> None:
    """Add the prior's share of H, g and the cost at a pose (R, t) of the centred points to ``sums`` [28]."""
    e, J = np.empty(6), np.empty((6, 6))
    _residual_and_jacobian(prior, R, t, e, J)
    at = 0
    for i in range(6):
        for j in range(i, 6):
            for k in range(6):
                sums[at] += prior[INFORMATION + k] * J[k, i] * J[k, j]
            at += 1
        for k in range(6):
            sums[21 + i] += prior[INFORMATION + k] * J[k, i] * e[k]
        sums[27] += prior[INFORMATION + i] * e[i] * e[i]
