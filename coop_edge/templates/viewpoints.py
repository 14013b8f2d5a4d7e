"""Defines the 42 viewpoints of the templates, and the camera there: vertices of an icosahedron subdivided once.

They lie on the unit sphere. Neighbours are 31.7 or 36 degrees apart; no viewpoint is repeated with another roll.

Order: from the object's +z downwards, and at equal height by azimuth from +x towards +y, in [0, 360) degrees. Viewpoint
0 looks down the object's z axis, 41 looks up it. The order is part of what a template file or a trained network means
by "template 17": ``VERSION`` changes with it.

Roll: the camera's up direction lies in the plane of its optical axis and the object's +z. At the two poles, where that
says nothing, up is the object's +y.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.mesh.mesh import Mesh

Array = NDArray[np.float64]

VERSION = 1
"""Of the viewpoints' order and roll."""
DEFAULT_SIZE = 224
"""Side of a template, pixels."""
DEFAULT_MARGIN = 1.05
"""Side of a template over the diameter of the bounding sphere's image."""
DEFAULT_FIELD_OF_VIEW = 15.0
"""Of a template, degrees from side to side: with the default margin the camera is 8 radii away, as in most scenes."""


def _viewpoints() -> Array:
    golden = (1.0 + np.sqrt(5.0)) / 2.0
    base = np.array([(0.0, s, t * golden) for s in (-1, 1) for t in (-1, 1)])
    corners = np.concatenate([np.roll(base, k, axis=1) for k in range(3)])  # 12 vertices, edges of length 2
    squared = ((corners[:, None] - corners[None]) ** 2).sum(-1)
    i, j = np.nonzero(np.triu(np.abs(squared - 4.0) < 1e-9))
    points = np.concatenate([corners, 0.5 * (corners[i] + corners[j])])  # and the middles of the 30 edges
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[np.abs(points) < 1e-12] = 0.0
    azimuth = np.round(np.degrees(np.arctan2(points[:, 1], points[:, 0])) % 360.0, 6) % 360.0
    return np.ascontiguousarray(points[np.lexsort((azimuth, -np.round(points[:, 2], 9)))])


VIEWPOINTS: Array = _viewpoints()
"""Unit vectors [42,3] from the object to the cameras, in the object's frame."""
VIEWPOINTS.setflags(write=False)


def template_poses(distance: float, centre: ArrayLike = (0.0, 0.0, 0.0)) -> Array:
    """Return poses T_camera_object [42,4,4] of cameras that look at ``centre`` [3] from ``distance`` metres.

    The centre is a point of the object's frame.

    Raises:
        InputError: unless the distance is positive and finite and the centre is three finite numbers.
    """
    c = np.asarray(centre, np.float64)
    if not (np.isfinite(distance) and distance > 0):
        raise InputError(f"distance: wanted a positive number of metres, got {distance!r}")
    if c.shape != (3,) or not np.isfinite(c).all():
        raise InputError(f"centre: wanted three finite numbers, got {centre!r}")
    forward = -VIEWPOINTS
    pole = np.abs(VIEWPOINTS[:, 2]) > 1.0 - 1e-9
    up = np.where(pole[:, None], (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    right = np.cross(forward, up)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    down = np.cross(forward, right)
    R = np.stack([right, down, forward], axis=1)  # rows: the camera's axes in the object's frame
    return se3.from_rt(R, np.array([0.0, 0.0, distance]) - R @ c)


def template_camera(
    mesh: Mesh,
    size: int = DEFAULT_SIZE,
    *,
    margin: float = DEFAULT_MARGIN,
    field_of_view: float = DEFAULT_FIELD_OF_VIEW,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return T_camera_object [42,4,4] and K [3,3] of the templates of ``mesh``.

    Args:
        mesh: what is shown.
        size: side of a template, pixels.
        margin: side of a template over the diameter of the bounding sphere's image; it sets the distance. The sphere
            (about the mesh's centre, radius r) is seen from distance D under sin a = r / D, with an image of radius
            f tan a.
        field_of_view: angle between the left and the right side of a template, degrees.

    Raises:
        InputError: a number out of range.
    """
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not 1 <= size <= 8192:
        raise InputError(f"size: wanted an integer in 1..8192, got {size!r}")
    if not _number_in(margin, 1.0, 10.0):
        raise InputError(f"margin: wanted a number in [1, 10], got {margin!r}")
    if not _number_in(field_of_view, 1.0, 90.0):
        raise InputError(f"field_of_view: wanted degrees in [1, 90], got {field_of_view!r}")
    half = math.tan(math.radians(field_of_view) / 2.0)
    distance = mesh.radius / math.sin(math.atan(half / margin))
    focal = 0.5 * size / half
    middle = 0.5 * (size - 1)  # pixel centres lie at whole numbers: the sides are at -0.5 and size - 0.5
    K = np.array([[focal, 0.0, middle], [0.0, focal, middle], [0.0, 0.0, 1.0]])
    return template_poses(distance, mesh.centre), K


def _number_in(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and bool(low <= value <= high)
