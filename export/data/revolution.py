"""Finds out whether a mesh is a surface of revolution that looks the same from all around its axis.

Half planes bounded by the axis cut such a surface in the same curves everywhere, of the same colours there. So the cuts
of many half planes are compared with each other, colour included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from coop_edge.mesh.mesh import Mesh
from coop_edge.mesh.symmetry import Symmetries

Array = np.ndarray[Any, Any]

TOLERANCE = 0.006
"""Largest distance between the cuts of two half planes, as a share of the diameter: polygons of 24 corners pass, and
those of 12 and handles do not."""
COLOUR_TOLERANCE = 24.0
"""Difference of colours, 0 to 255, that counts as much as that distance."""
MOMENTS = 0.02
"""Relative difference of two moments of the surface up to which they count as equal; those of a surface of revolution
across its axis are."""
HALF_PLANES = 48
FIRST_ANGLE = 0.0137
"""Of the first half plane, radians: planes do not pass through the corners of regular polygons."""


def symmetries_of(mesh: Mesh) -> Symmetries:
    """Find the continuous symmetry of a mesh: none, an axis, or (two axes) that of a ball; in the object's frame.

    A mesh with textures has none, nor has one whose colours change around the axis.
    """
    if not len(mesh.faces) or (mesh.face_texture >= 0).any():
        return Symmetries()
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    centre, moments, axes = _moments(corners)
    low, middle, high = moments
    if high - low <= MOMENTS * high:
        pairs = [(axes[:, i], centre) for i in range(3)]
        return _declared(mesh, pairs[:2]) if all(_turns_about(mesh, corners, *p) for p in pairs) else Symmetries()
    for equal, other in ((high - middle, 0), (middle - low, 2)):
        if equal <= MOMENTS * high and _turns_about(mesh, corners, axes[:, other], centre):
            return _declared(mesh, [(axes[:, other], centre)])
    return Symmetries()


def _declared(mesh: Mesh, axes: list[tuple[Array, Array]]) -> Symmetries:
    return Symmetries(continuous=tuple((axis, offset + mesh.centre) for axis, offset in axes))


def _moments(corners: Array) -> tuple[Array, Array, Array]:
    """Centroid [3] of the surface, its second moments [3] in ascending order, and their axes, the columns [3,3]."""
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    middles = corners.mean(axis=1)
    centre = np.average(middles, axis=0, weights=area)
    # The integral of x x^T over a triangle is its area / 12 times (9 m m^T + the sum of c c^T), m: middle, c: corners.
    c, m = corners - centre, middles - centre
    second = 9 * np.einsum("f,fi,fj->ij", area, m, m) + np.einsum("f,fki,fkj->ij", area, c, c)
    moments, axes = np.linalg.eigh(second / (12 * area.sum()))
    return centre, moments, axes


def _turns_about(mesh: Mesh, corners: Array, axis: Array, centre: Array) -> bool:
    """Tell whether all half planes cut the same curves of the same colours."""
    tolerance = TOLERANCE * mesh.diameter
    local = (corners - centre) @ _frame(axis)
    colors = mesh.corner_colors.astype(np.float64) * (tolerance / COLOUR_TOLERANCE)
    first: cKDTree | None = None
    for k in range(HALF_PLANES):
        angle = FIRST_ANGLE + 2 * np.pi * k / HALF_PLANES
        points = _cut(local, colors, angle, tolerance)
        if not len(points):
            return False
        tree = cKDTree(points)
        if first is None:
            first = tree
            continue
        for a, b in ((tree, first), (first, tree)):
            if not np.isfinite(a.query(b.data, distance_upper_bound=tolerance)[0]).all():
                return False
    return True


def _frame(axis: Array) -> Array:
    """Return a rotation [3,3] whose third column is the axis."""
    side = np.cross(axis, np.eye(3)[np.abs(axis).argmin()])
    side /= np.linalg.norm(side)
    return np.stack([side, np.cross(axis, side), axis], axis=1)


def _cut(corners: Array, colors: Array, angle: float, tolerance: float) -> Array:
    """Points (radius, height, red, green, blue) [P,5] on the cut with the half plane at an angle about z, closer to
    each other than the tolerance, but for what lies nearer to the axis than that."""
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    beside = corners[..., :2] @ across
    met = np.flatnonzero((beside.min(axis=1) < 0) & (beside.max(axis=1) >= 0))
    values = np.concatenate([(corners[met, :, :2] @ along)[..., None], corners[met, :, 2:], colors[met]], axis=2)
    beside = beside[met]
    # The corner that lies alone on its side of the plane, and the two edges to the others.
    sign = beside >= 0
    alone = np.where(sign.sum(axis=1) == 1, sign.argmax(axis=1), (~sign).argmax(axis=1))
    row, ends = np.arange(len(met)), []
    for step in (1, 2):
        other = (alone + step) % 3
        share = beside[row, alone] / (beside[row, alone] - beside[row, other])
        ends.append(values[row, alone] * (1 - share)[:, None] + values[row, other] * share[:, None])
    a, b = ends
    count = 1 + np.ceil(2 * np.linalg.norm((b - a)[:, :2], axis=1) / tolerance).astype(np.int64)
    which = np.repeat(np.arange(len(a)), count)
    step_of = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    share = (step_of / np.maximum(count[which] - 1, 1))[:, None]
    points = a[which] * (1 - share) + b[which] * share
    return points[points[:, 0] > tolerance]
