"""The oracle of training labels, of one view at a time, in NumPy and float64: matches and visibility.

``export.data.labels`` is held against it, and the networks that stand in for trained ones in the tests of the stages
answer by it: a stage that follows other conventions than training cannot find the right pose.

A surface point is visible in a view if its own side faces the camera and the depth image holds it there. The depth
image is known at whole pixels; between them the surface lies between the depths of the four around, so a point is
accepted within that range, widened by ``tolerance``. Only pixels of the same object count, so whatever stands in front
hides it. The side settles what depth cannot: the two faces of a thin plate. Within a pixel of an outline the answer may
err to either side: there a depth image does not tell.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coop_edge.geometry import se3
from coop_edge.geometry.camera import project

Array = np.ndarray[Any, Any]

PATCH = 16
"""Patch width, pixels."""
TOLERANCE = 0.01
"""Of depth comparisons, as a share of the diameter."""


def patch_centres(size: int) -> Array:
    """Pixels float64 [T,2] (x, y) of the centres of a size x size image's patches, row by row."""
    middle = PATCH * (np.arange(size // PATCH) + 0.5) - 0.5
    x, y = np.meshgrid(middle, middle)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def patch_camera(K: Array) -> Array:
    """K of the small image whose pixels are centred at the patch centres of K's image."""
    shift = np.array([[1.0, 0.0, -(PATCH / 2 - 0.5)], [0.0, 1.0, -(PATCH / 2 - 0.5)], [0.0, 0.0, 1.0]])
    return np.diag([1.0 / PATCH, 1.0 / PATCH, 1.0]) @ shift @ K


def side_seen(normals: Array, points: Array, T: Array) -> Array:
    """+1 or -1 [P]: which side of its triangle (normal [P,3]) the camera sees at points [P,3] (object's frame)."""
    eye = se3.invert(T)[:3, 3]
    return np.where(np.einsum("nk,nk->n", normals, eye - points) >= 0, 1, -1)


def visible_in(points: Array, T: Array, K: Array, depth: Array, tolerance: float) -> tuple[Array, Array]:
    """Which of the points [P,3] (object's frame) a view shows: pixels float64 [P,2], and bool [P].

    depth float32 [n,n]: metres where the view shows this object, 0 elsewhere. tolerance: metres.
    """
    n = len(depth)
    moved = se3.transform(T, points)
    uv = project(K, moved)
    z = moved[:, 2]
    inside = np.isfinite(uv).all(axis=1)
    safe = np.where(inside[:, None], uv, 0.0)
    inside &= ((safe >= -0.5) & (safe < n - 0.5)).all(axis=1)
    x0 = np.clip(np.floor(safe[:, 0]), -1, n).astype(np.int64)
    y0 = np.clip(np.floor(safe[:, 1]), -1, n).astype(np.int64)
    low, high = np.full(len(z), np.inf), np.full(len(z), -np.inf)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        near = depth[np.clip(y0 + dy, 0, n - 1), np.clip(x0 + dx, 0, n - 1)]
        low = np.minimum(low, np.where(near > 0, near, np.inf))
        high = np.maximum(high, near)  # 0 never is the largest where there is something
    return uv, inside & (z >= low - tolerance) & (z <= high + tolerance)


def match_labels(pixels: Array, matched: Array, size: int) -> tuple[Array, Array]:
    """match_index int64 [T] and offset float32 [T,2] of points that fall on template pixels [T,2] where ``matched``."""
    side = size // PATCH
    position = np.where(matched[:, None], (pixels + 0.5) / PATCH, 0.0)
    cell = np.clip(np.floor(position), 0, side - 1)
    index = np.where(matched, cell[:, 1] * side + cell[:, 0], side * side).astype(np.int64)
    offset = np.where(matched[:, None], position - cell - 0.5, 0.0)
    return index, offset.astype(np.float32)
