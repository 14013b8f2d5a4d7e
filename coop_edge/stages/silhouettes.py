"""Computes what objects at poses cover of an image: silhouettes, boxes around them, and how much they overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coop_edge.geometry import se3
from coop_edge.ops.base import Operations
from coop_edge.render.base import Renderer
from coop_edge.types import Camera

Floats = NDArray[np.float64]

MASK_SIDE = 160
"""Longer side of the images in which silhouettes are compared, pixels."""


def silhouettes(
    renderer: Renderer, T_camera_object: Floats, index: NDArray[np.integer], camera: Camera, ops: Operations
) -> NDArray[np.bool_]:
    """Render the silhouettes of objects at poses [M,4,4], reduced to ``MASK_SIDE`` pixels: bool [M,h,w] on the host.

    Args:
        renderer: of the objects at ``index`` [M].
        camera: of the image.
        ops: of the renderer's device.
    """
    factor = min(1.0, MASK_SIDE / max(camera.size))
    width, height = (max(1, round(factor * side)) for side in camera.size)
    smaller = np.diag([width / camera.width, height / camera.height, 1.0])
    smaller[:2, 2] = [0.5 * smaller[k, k] - 0.5 for k in range(2)]  # centres of pixels are at integers
    seen = renderer.render(T_camera_object.reshape(-1, 4, 4), smaller @ camera.K, (height, width), mesh_index=index)
    return ops.to_host(seen.mask)


def pose_boxes(T_camera_object: Floats, vertices: NDArray[np.floating], centre: Floats, camera: Camera) -> Floats:
    """Return the boxes (x, y, width, height) [M,4] of an object at poses [M,4,4], as far as they are in the image.

    NaN where the object reaches behind the camera or is not in the image.

    Args:
        vertices: [V,3] metres about ``centre`` [3].
    """
    out = np.full((len(T_camera_object), 4), np.nan)
    for row, T in enumerate(T_camera_object):
        points = se3.transform(T, vertices.astype(np.float64) + centre)
        if points[:, 2].min() <= 0:
            continue
        pixels = camera.project(points) + 0.5  # from the centres of pixels to their edges
        if not np.isfinite(pixels).all():
            continue
        low, high = np.clip(pixels.min(axis=0), 0.0, camera.size), np.clip(pixels.max(axis=0), 0.0, camera.size)
        if (high - low).min() >= 1.0:
            out[row] = np.concatenate([low, high - low])
    return out


def shared(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Return the intersection over union of two masks; 0 if both are empty."""
    return float((a & b).sum() / max(int((a | b).sum()), 1))
