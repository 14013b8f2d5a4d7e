"""Renders the silhouette of an object in an image, through the camera's lens."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.render.base import NEAR, Renderer, on_host
from coop_edge.types import Camera

Array = NDArray[np.float64]

_LARGEST = 2.0
"""Side of the ideal image that is rendered behind a lens, over the longer side of the camera's, at most."""
_FINER = 2.0
"""Pixels of that image per ideal pixel, if it may be as large: a lens may magnify, and the nearest is taken."""


def silhouette(T_camera_object: ArrayLike, camera: Camera, renderer: Renderer) -> NDArray[np.bool_]:
    """Return where the image of ``camera`` shows the renderer's first mesh, bool [height,width]; see ``depth_seen``."""
    return np.asarray(depth_seen(T_camera_object, camera, renderer) > 0)


def depth_seen(T_camera_object: ArrayLike, camera: Camera, renderer: Renderer) -> NDArray[np.float32]:
    """Return the depth of the renderer's first mesh as ``camera`` sees it, [height,width] metres, 0 = nothing.

    Args:
        T_camera_object: [4,4], metres.

    Behind a lens an ideal image of the object is rendered, and each pixel looked up.
    """
    T = np.asarray(T_camera_object, np.float64)
    if camera.lens is None:
        return rendered_depth(renderer, T, camera.K, camera.size)
    seen = np.zeros((camera.height, camera.width), np.float32)
    points = se3.transform(T, renderer.meshes[0].vertices.astype(np.float64) + renderer.meshes[0].centre)
    columns, rows = _window(camera, points)
    grid = np.stack(np.meshgrid(np.arange(*columns, dtype=np.float64), np.arange(*rows, dtype=np.float64)), axis=-1)
    ideal = camera.lens.undistort(grid)
    if not np.isfinite(ideal).any():
        return seen
    low, high = np.nanmin(ideal, axis=(0, 1)), np.nanmax(ideal, axis=(0, 1))
    if points[:, 2].min() > NEAR:
        pixels = project(camera.K, points)
        low, high = np.maximum(low, pixels.min(axis=0) - 1.0), np.minimum(high, pixels.max(axis=0) + 1.0)
    if (low >= high).any():
        return seen
    scale = min(_FINER, _LARGEST * max(camera.size) / float((high - low).max()))
    to_view = np.array([[scale, 0.0, -scale * low[0]], [0.0, scale, -scale * low[1]], [0.0, 0.0, 1.0]])
    width, height = np.ceil(scale * (high - low)).astype(int) + 1
    depth = rendered_depth(renderer, T, to_view @ camera.K, (width, height))
    pixel = np.rint(np.where(np.isfinite(ideal), scale * (ideal - low), -1.0)).astype(np.int64)
    inside = np.asarray(((pixel >= 0) & (pixel < (width, height))).all(axis=-1))
    pixel = np.where(inside[..., None], pixel, 0)
    seen[slice(*rows), slice(*columns)] = depth[pixel[..., 1], pixel[..., 0]] * inside
    return seen


def _window(camera: Camera, points: Array) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the columns and rows (first, end) that may show camera points [N,3]; all of them if some are not seen."""
    pixels = camera.project(points)
    if not np.isfinite(pixels).all():
        return (0, camera.width), (0, camera.height)
    margin = 0.05 * np.ptp(pixels, axis=0) + 2.0  # what bends outwards between two vertices
    low = np.clip(np.floor(pixels.min(axis=0) - margin), 0, camera.size).astype(int)
    high = np.clip(np.ceil(pixels.max(axis=0) + margin) + 1, low, camera.size).astype(int)
    return (int(low[0]), int(high[0])), (int(low[1]), int(high[1]))


def rendered_depth(renderer: Renderer, T: Array, K: Array, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the depth [height,width] of the renderer's first mesh in a pinhole image of ``size`` (width, height)."""
    depth = renderer.render(T[None], K, (int(size[1]), int(size[0]))).depth
    return np.asarray(on_host(depth)[0], np.float32)
