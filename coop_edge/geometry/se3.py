"""Computes with rotations and rigid motions, batched over any leading axes, float64.

A transform ``T_b_a`` is a 4x4 matrix [R t; 0 1] that maps coordinates in frame a to coordinates in frame b:
``x_b = R x_a + t``. The SE(3) tangent is xi = (rho, phi), translation before rotation: ``exp(xi)`` has rotation
Exp(phi) and translation V(phi) rho (Barfoot, State Estimation for Robotics, 2017, section 7.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.base.plain import floats
from coop_edge.errors import InputError

Array = NDArray[np.float64]


def hat(v: ArrayLike) -> Array:
    """Return cross-product matrices: ``hat(a) @ b == cross(a, b)``. [...,3] -> [...,3,3]."""
    v = _trailing(v, (3,), "v")
    out = np.zeros((*v.shape[:-1], 3, 3))
    out[..., 0, 1], out[..., 0, 2], out[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    out[..., 1, 0], out[..., 2, 0], out[..., 2, 1] = v[..., 2], -v[..., 1], v[..., 0]
    return out


def so3_exp(phi: ArrayLike) -> Array:
    """Turn rotation vectors (radians) into rotation matrices. [...,3] -> [...,3,3]."""
    phi = _trailing(phi, (3,), "phi")
    a, b, _ = _coefficients(phi)
    K = hat(phi)
    return np.eye(3) + a[..., None, None] * K + b[..., None, None] * (K @ K)


def so3_log(R: ArrayLike) -> Array:
    """Turn rotation matrices into rotation vectors of length at most pi. [...,3,3] -> [...,3]."""
    R = _trailing(R, (3, 3), "R")
    # Through the quaternion: well conditioned at every angle, pi included (the trace formula is not).
    q = _quaternion(R)
    w, v = q[..., 0], q[..., 1:]
    n = np.linalg.norm(v, axis=-1)
    angle = 2.0 * np.arctan2(n, w)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(n > 1e-9, angle / n, 2.0 / np.where(w == 0.0, 1.0, w))
    return v * scale[..., None]


def exp(xi: ArrayLike) -> Array:
    """Turn twists (rho, phi) into transforms. [...,6] -> [...,4,4]."""
    xi = _trailing(xi, (6,), "xi")
    rho, phi = xi[..., :3], xi[..., 3:]
    _, b, c = _coefficients(phi)
    K = hat(phi)
    V = np.eye(3) + b[..., None, None] * K + c[..., None, None] * (K @ K)
    return from_rt(so3_exp(phi), (V @ rho[..., None])[..., 0])


def log(T: ArrayLike) -> Array:
    """Turn transforms into twists (rho, phi), rotation at most pi. [...,4,4] -> [...,6]; inverse of ``exp``."""
    T = _trailing(T, (4, 4), "T")
    phi = so3_log(T[..., :3, :3])
    angle = np.linalg.norm(phi, axis=-1)
    half = 0.5 * angle
    small = angle < 1e-2
    safe = np.where(small, 1.0, angle)
    with np.errstate(divide="ignore", invalid="ignore"):
        closed = (1.0 - half * np.cos(half) / np.sin(np.where(small, 1.0, half))) / safe**2
    d = np.where(small, 1.0 / 12.0 + angle**2 / 720.0 + angle**4 / 30240.0, closed)
    K = hat(phi)
    V_inverse = np.eye(3) - 0.5 * K + d[..., None, None] * (K @ K)
    rho = (V_inverse @ T[..., :3, 3, None])[..., 0]
    return np.concatenate([rho, phi], axis=-1)


def from_rt(R: ArrayLike, t: ArrayLike) -> Array:
    """Make transforms from rotations and translations. [...,3,3] and [...,3] -> [...,4,4], leading axes broadcast."""
    R, t = _trailing(R, (3, 3), "R"), _trailing(t, (3,), "t")
    shape = np.broadcast_shapes(R.shape[:-2], t.shape[:-1])
    T = np.zeros((*shape, 4, 4))
    T[..., :3, :3], T[..., :3, 3], T[..., 3, 3] = R, t, 1.0
    return T


def compose(*transforms: ArrayLike) -> Array:
    """Multiply transforms: ``compose(T_c_b, T_b_a) == T_c_a``. Leading axes broadcast."""
    out = np.eye(4)
    for i, T in enumerate(transforms):
        out = out @ _trailing(T, (4, 4), f"transforms[{i}]")
    return out


def invert(T: ArrayLike) -> Array:
    """Invert transforms by transposition (exact for a rotation, no linear solve). [...,4,4] -> [...,4,4]."""
    T = _trailing(T, (4, 4), "T")
    R_t = np.swapaxes(T[..., :3, :3], -1, -2)
    return from_rt(R_t, -(R_t @ T[..., :3, 3, None])[..., 0])


def transform(T: ArrayLike, points: ArrayLike) -> Array:
    """Move points: T [...,4,4], points [...,N,3] -> [...,N,3]."""
    T, points = _trailing(T, (4, 4), "T"), _trailing(points, (3,), "points")
    return points @ np.swapaxes(T[..., :3, :3], -1, -2) + T[..., None, :3, 3]


def rotation_angle(R_a: ArrayLike, R_b: ArrayLike) -> Array:
    """Return the angle between rotations, radians in [0, pi]. [...,3,3] x 2 -> [...]."""
    R_a, R_b = _trailing(R_a, (3, 3), "R_a"), _trailing(R_b, (3, 3), "R_b")
    return np.linalg.norm(so3_log(np.swapaxes(R_a, -1, -2) @ R_b), axis=-1)


def turn_covariances(R: ArrayLike, covariance: ArrayLike) -> Array:
    """Turn covariances, or their inverses, of xi = (rho, phi) into axes that R turns vectors to: B C B^T with
    B = diag(R, R). [...,3,3] and [...,6,6] -> [...,6,6]."""
    R, covariance = _trailing(R, (3, 3), "R"), _trailing(covariance, (6, 6), "covariance")
    B = np.zeros((*R.shape[:-2], 6, 6))
    B[..., :3, :3] = B[..., 3:, 3:] = R
    return B @ covariance @ np.swapaxes(B, -1, -2)


def smallest_rotation_to_z(axis: ArrayLike) -> Array:
    """Return the rotations [N,3,3] about an axis in the image plane that turn ``axis`` [N,3], z > 0, to +z."""
    axis = np.asarray(axis, np.float64)
    d = axis / np.linalg.norm(axis, axis=-1, keepdims=True)
    K = hat(np.cross(d, (0.0, 0.0, 1.0)))
    return np.asarray(np.eye(3) + K + (K @ K) / (1.0 + d[:, 2])[:, None, None])


def random_rotation(rng: np.random.Generator, shape: tuple[int, ...] = ()) -> Array:
    """Draw rotations uniform over SO(3) (normalised Gaussian quaternions). -> [*shape,3,3]."""
    q = rng.normal(size=(*shape, 4))
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    w, v = q[..., 0, None, None], q[..., 1:]
    K = hat(v)
    return np.eye(3) + 2.0 * w * K + 2.0 * (K @ K)


def check_transform(T: ArrayLike, name: str = "T_camera_object", tolerance: float = 1e-6) -> Array:
    """Return ``T`` as float64 [...,4,4].

    Raises:
        InputError: wrong shape, NaN, not a rotation, a reflection, a bad last row.
    """
    T = _trailing(T, (4, 4), name)
    if not np.isfinite(T).all():
        raise InputError(f"{name}: holds NaN or infinity; wanted a finite 4x4 transform")
    if T.size and np.abs(T[..., 3, :] - (0.0, 0.0, 0.0, 1.0)).max() > tolerance:
        raise InputError(f"{name}: last row is {T[..., 3, :].reshape(-1, 4)[0]}, wanted [0 0 0 1]; is it transposed?")
    R = T[..., :3, :3]
    if T.size:
        error = np.abs(R @ np.swapaxes(R, -1, -2) - np.eye(3)).max()
        if error > tolerance:
            raise InputError(
                f"{name}: rotation part is off orthonormal by {error:.2g} (allowed {tolerance:g}); if it was rounded, "
                "take the nearest rotation: U, _, Vt = np.linalg.svd(R); R = U @ Vt"
            )
        if (np.linalg.det(R) < 0).any():
            raise InputError(f"{name}: rotation part is a reflection (determinant -1); wanted determinant +1")
    return T


def _trailing(value: ArrayLike, shape: tuple[int, ...], name: str) -> Array:
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        array = value
    else:
        array = floats(value, name, f"numbers of shape [...,{','.join(map(str, shape))}]")
    if array.shape[-len(shape) :] != shape:
        raise InputError(f"{name}: wanted shape [...,{','.join(map(str, shape))}], got {list(array.shape)}")
    return array


def _coefficients(phi: Array) -> tuple[Array, Array, Array]:
    """Return sin(x)/x, (1 - cos x)/x^2, (x - sin x)/x^3 of the angle x = |phi|."""
    x = np.linalg.norm(phi, axis=-1)
    x2 = x * x
    small = x < 1e-2
    safe = np.where(small, 1.0, x)
    a = np.where(small, 1.0 - x2 / 6.0 + x2**2 / 120.0 - x2**3 / 5040.0, np.sin(safe) / safe)
    # 1 - cos x cancels; 2 sin^2(x/2) does not.
    b = np.where(small, 0.5 - x2 / 24.0 + x2**2 / 720.0, 2.0 * np.sin(0.5 * safe) ** 2 / safe**2)
    c = np.where(small, 1.0 / 6.0 - x2 / 120.0 + x2**2 / 5040.0 - x2**3 / 362880.0, (safe - np.sin(safe)) / safe**3)
    return a, b, c


def _quaternion(R: Array) -> Array:
    """Return unit quaternions (w, x, y, z), w >= 0, by the largest of the four candidates (Shepperd, 1978)."""
    m = R
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    candidates = np.empty((*R.shape[:-2], 4, 4))
    d0, d1, d2 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    x, y, z = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    for row, values in enumerate(
        (
            (1.0 + trace, x, y, z),
            (x, 1.0 + d0 - d1 - d2, xy, xz),
            (y, xy, 1.0 - d0 + d1 - d2, yz),
            (z, xz, yz, 1.0 - d0 - d1 + d2),
        )
    ):
        for column, value in enumerate(values):
            candidates[..., row, column] = value
    best = np.argmax(np.stack([trace, d0, d1, d2], axis=-1), axis=-1)
    q = np.take_along_axis(candidates, best[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., :1] < 0, -q, q)
