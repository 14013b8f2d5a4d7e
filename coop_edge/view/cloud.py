"""Measured depth as coloured points in the camera's frame."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError
from coop_edge.inputs import metres_per_step
from coop_edge.types import Camera

MOST = 60_000
"""Points that are shown, about: more would not be told apart, and take longer to send."""


def in_metres(depth: Any, unit: str | float | None, camera: Camera) -> NDArray[np.float32]:
    """Return a depth image in metres; 0 = unknown.

    Args:
        depth: uint16 or floating point [height,width] of ``camera``, along the optical axis.
        unit: see ``metres_per_step``.

    Returns:
        float32 [height,width].

    Raises:
        InputError: another size, or no unit for integers.
    """
    if np.shape(depth) != (camera.height, camera.width):
        raise InputError(
            f"depth: wanted [{camera.height},{camera.width}] as the image, got {list(np.shape(depth))}; depth must be "
            "registered to the colour image, pixel by pixel"
        )
    metres = np.asarray(depth, np.float32) * np.float32(metres_per_step(unit, np.asarray(depth).dtype))
    return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0.0))


def cloud(
    image: NDArray[np.uint8], metres: NDArray[np.float32], camera: Camera, farthest: float
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the points that depth knows, with the image's colours.

    Args:
        image: RGB uint8 [height,width,3].
        metres: float32 [height,width] along the optical axis; 0 = unknown.
        camera: of both; its distortion is taken into account.
        farthest: metres along the optical axis, from which on points are left out.

    Returns:
        Camera points float32 [N,3] in metres, and RGB uint8 [N,3]; every k-th row and column, so that N is about
        ``MOST`` at most. N = 0 is legal.
    """
    step = max(1, math.ceil(math.sqrt(metres.size / MOST)))
    y, x = np.mgrid[0 : camera.height : step, 0 : camera.width : step].reshape(2, -1)
    z = metres[y, x].astype(np.float64)
    points = camera.rays(np.stack([x, y], axis=1).astype(np.float64)) * z[:, None]
    kept = (z > 0) & (z < farthest) & np.isfinite(points).all(axis=1)
    return points[kept].astype(np.float32), image[y[kept], x[kept]]
