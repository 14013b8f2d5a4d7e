"""Projects points to pixels with a pinhole camera, and back; batched, float64.

Pixel (u, v) of a camera point (x, y, z), z forward: (u, v, 1) ~ K (x, y, z). The top-left pixel is centred at (0, 0).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.errors import InputError
from coop_edge.geometry import se3

Array = NDArray[np.float64]


def project(K: ArrayLike, points_camera: ArrayLike) -> Array:
    """Project camera points to pixels; NaN where z <= 0. K [...,3,3], points [...,N,3] -> [...,N,2]."""
    K, points = np.asarray(K, np.float64), np.asarray(points_camera, np.float64)
    homogeneous = points @ np.swapaxes(K, -1, -2)
    z = points[..., 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(z > 0, homogeneous[..., :2] / z, np.nan)


def rays(K: ArrayLike, pixels: ArrayLike) -> Array:
    """Return the camera points at z = 1 that are seen at ``pixels``. K [...,3,3], pixels [...,N,2] -> [...,N,3]."""
    K, pixels = np.asarray(K, np.float64), np.asarray(pixels, np.float64)
    # Back substitution instead of an inverse: exact where K is diagonal plus centre.
    y = (pixels[..., 1] - K[..., 1, 2, None]) / K[..., 1, 1, None]
    x = (pixels[..., 0] - K[..., 0, 2, None] - K[..., 0, 1, None] * y) / K[..., 0, 0, None]
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def unproject(K: ArrayLike, pixels: ArrayLike, depth: ArrayLike) -> Array:
    """Return the camera points [...,N,3] at ``pixels`` [...,N,2] with z = ``depth`` [...,N] metres."""
    return rays(K, pixels) * np.asarray(depth, np.float64)[..., None]


def reprojection_error(T_camera_object: ArrayLike, K: ArrayLike, points: ArrayLike, pixels: ArrayLike) -> Array:
    """Return the distances [...,N], pixels, between projected object points [...,N,3] and observed pixels [...,N,2]."""
    projected = project(K, se3.transform(T_camera_object, points))
    return np.linalg.norm(projected - np.asarray(pixels, np.float64), axis=-1)


def check_intrinsics(K: ArrayLike, n: int) -> Array:
    """Return K as float64 [n,3,3].

    Raises:
        InputError: wrong shape, NaN, a focal length that is not positive, a last row other than 0 0 1.
    """
    try:
        K = np.asarray(K, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"K: wanted numbers of shape [3,3] or [{n},3,3]: {error}") from None
    if K.shape not in ((3, 3), (n, 3, 3)):
        raise InputError(f"K: wanted [3,3] or [{n},3,3], got {list(K.shape)}")
    if not np.isfinite(K).all():
        raise InputError("K: holds NaN or infinity")
    if K.size and ((K[..., 0, 0] <= 0).any() or (K[..., 1, 1] <= 0).any()):
        raise InputError("K: wanted positive focal lengths K[0,0] and K[1,1] (x right, y down, z forward)")
    if (K.size and (np.abs(K[..., 2, :] - (0, 0, 1)) > 1e-12).any()) or (np.abs(K[..., 1, 0]) > 1e-12).any():
        raise InputError("K: wanted an upper triangular matrix with last row 0 0 1; is it transposed?")
    return np.array(np.broadcast_to(K, (n, 3, 3)))
