"""Solves for the motion of three points whose places are measured (Kabsch, Acta Crystallographica A32, 1976).

Of two triangles, each about its centroid, the planes are laid onto each other, and in the plane the turn has a closed
form. That is the least-squares motion of any two triangles that are not flat: with axes along a first side and the
normal a triangle's affine map onto the other has a positive determinant, so no reflection can fit better.
"""

from __future__ import annotations

import math

import numpy as np

from coop_edge.pnp.jit import compiled
from coop_edge.pnp.p3p import FLAT, triangle_frame

Array = np.ndarray


@compiled
def kabsch(X: Array, Y: Array, R: Array, t: Array) -> bool:
    """Compute the motion (R, t) that minimises the sum of |R X_i + t - Y_i|^2 over three points; False if either
    triangle is flat.

    X [3,3] and Y [3,3] points as rows, metres; writes R [3,3] and t [3].
    """
    if _is_flat(X) or _is_flat(Y):
        return False
    object_frame, camera_frame = np.empty((3, 3)), np.empty((3, 3))
    triangle_frame(X, object_frame)
    triangle_frame(Y, camera_frame)
    x, y = np.empty((3, 2)), np.empty((3, 2))
    _in_plane(X, object_frame, x)
    _in_plane(Y, camera_frame, y)
    along, across = 0.0, 0.0
    for i in range(3):
        along += x[i, 0] * y[i, 0] + x[i, 1] * y[i, 1]
        across += x[i, 0] * y[i, 1] - x[i, 1] * y[i, 0]
    length = math.sqrt(along * along + across * across)
    if not length > 0.0:
        return False
    cosine, sine = along / length, across / length
    for i in range(3):
        first = cosine * camera_frame[0, i] + sine * camera_frame[1, i]
        second = cosine * camera_frame[1, i] - sine * camera_frame[0, i]
        for j in range(3):
            R[i, j] = first * object_frame[0, j] + second * object_frame[1, j] + camera_frame[2, i] * object_frame[2, j]
    for i in range(3):
        moved = 0.0
        for k in range(3):
            moved += Y[k, i] - (R[i, 0] * X[k, 0] + R[i, 1] * X[k, 1] + R[i, 2] * X[k, 2])
        t[i] = moved / 3.0
    return True


@compiled
def _is_flat(P: Array) -> bool:
    """Tell whether three points lie on a line, or nearly: see ``FLAT``."""
    aa, bb, ab = 0.0, 0.0, 0.0
    for k in range(3):
        a, b = P[1, k] - P[0, k], P[2, k] - P[0, k]
        aa += a * a
        bb += b * b
        ab += a * b
    return not aa * bb - ab * ab > FLAT * aa * bb


@compiled
def _in_plane(P: Array, frame: Array, out: Array) -> None:
    """Write the points' coordinates along the first two axes, about their centroid, [3,2]."""
    for axis in range(2):
        mean = 0.0
        for i in range(3):
            out[i, axis] = P[i, 0] * frame[axis, 0] + P[i, 1] * frame[axis, 1] + P[i, 2] * frame[axis, 2]
            mean += out[i, axis] / 3.0
        for i in range(3):
            out[i, axis] -= mean
