"""Putting things down: each tips until its weight stands on what is below it, over a map of heights.

Quasi-static and without friction's limits: a body is let down until it touches, its centre of mass is held against the
polygon of its contacts, and where it lies outside, the body turns a little about the polygon's edge and is let down
again. Bodies before it stay where they are. So things come to lie flat, on each other, or lean.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from coop_edge.geometry import se3
from coop_edge.mesh import Mesh
from coop_edge.render import CpuRenderer

CELL = 0.002
"""Side of a cell of the map, metres."""
CONTACT = 0.0002
"""Height over what is below up to which a cell counts as touching, metres."""
_FAR = 500.0  # metres; from there a perspective is parallel to 0.3 mm over 0.3 m, and float32 depth good to 0.03 mm
_STEP, _SMALLEST_STEP = np.radians(6.0), np.radians(0.2)
_MOST_STEPS = 120


@dataclass(frozen=True, eq=False)
class Footprint:
    """A body from below and above, about its centre, float64 [n,n] with n odd: rows along y, columns along x, metres;
    +inf and -inf beside it."""

    low: np.ndarray
    high: np.ndarray


class Body:
    """A mesh that can be put down. Its centre is that of its bounding box, its weight that of its convex hull."""

    def __init__(self, mesh: Mesh) -> None:
        from trimesh import Trimesh

        self.mesh = mesh
        hull = Trimesh(mesh.vertices, mesh.faces, process=False).convex_hull
        self.centre_of_mass = np.asarray(hull.center_mass)  # about the mesh's centre
        self._renderer = CpuRenderer(mesh, threads=1)
        self._n = 2 * int(np.ceil(mesh.radius / CELL)) + 3

    def footprint(self, R: np.ndarray) -> Footprint:
        """Return the footprint when turned by R, world from object."""
        flip = np.diag([1.0, -1.0, -1.0])  # from above: x to the right, y up in the image
        T = np.tile(np.eye(4), (2, 1, 1))
        T[0, :3, :3], T[1, :3, :3] = R, flip @ R
        T[:, 2, 3] = _FAR
        T[:, :3, 3] -= T[:, :3, :3] @ self.mesh.centre
        middle = (self._n - 1) / 2
        K = np.array([[_FAR / CELL, 0, middle], [0, _FAR / CELL, middle], [0, 0, 1.0]])
        seen = self._renderer.render(T, K, self._n)
        depth, mask = seen.depth.astype(np.float64), seen.mask
        both = mask[0] & mask[1, ::-1]
        return Footprint(np.where(both, depth[0] - _FAR, np.inf), np.where(both, _FAR - depth[1, ::-1], -np.inf))


class Table:
    """Heights of what lies on a square table, metres over its top; its middle is the origin."""

    def __init__(self, side: float = 0.9) -> None:
        n = 2 * int(side / 2 / CELL) + 1
        self._middle = (n - 1) // 2
        self.heights = np.zeros((n, n))

    def settle(self, body: Body, R: np.ndarray, x: float, y: float) -> np.ndarray | None:
        """Return T_world_object of the body as it comes to rest from (x, y) and R, or None if it never does."""
        step, last = _STEP, np.zeros(2)
        for _ in range(_MOST_STEPS):
            seen = body.footprint(R)
            placed = self._let_down(seen.low, x, y)
            if placed is None:
                return None
            z, touching = placed
            weight = R @ body.centre_of_mass
            over, pivot = _support(touching, weight[:2])
            if over or step < _SMALLEST_STEP:
                return se3.from_rt(R, np.array([*self._snapped(x, y), z]) - R @ body.mesh.centre)
            way = weight[:2] - pivot
            way /= np.linalg.norm(way)
            if way @ last < 0.0:  # it has tipped over the flat
                step *= 0.5
            last = way
            turn = se3.so3_exp(step * np.array([-way[1], way[0], 0.0]))
            row, column = np.rint(pivot / CELL).astype(int)[::-1] + (len(seen.low) - 1) // 2
            inside = 0 <= row < len(seen.low) and 0 <= column < len(seen.low) and np.isfinite(seen.low[row, column])
            hinge = np.array([*pivot, seen.low[row, column] if inside else seen.low.min()])
            shift = hinge - turn @ hinge
            x, y, R = x + shift[0], y + shift[1], turn @ R
        return None

    def add(self, body: Body, T_world_object: np.ndarray) -> None:
        """Let the body be part of what others lie on from now on."""
        R = T_world_object[:3, :3]
        x, y, z = T_world_object[:3, 3] + R @ body.mesh.centre
        seen = body.footprint(R)
        at = self._window(len(seen.high), x, y)
        if at is not None:
            self.heights[at] = np.maximum(self.heights[at], seen.high + z)

    def _snapped(self, x: float, y: float) -> np.ndarray:
        return np.rint(np.array([x, y]) / CELL) * CELL

    def _window(self, n: int, x: float, y: float) -> tuple[slice, slice] | None:
        column, row = np.rint(np.array([x, y]) / CELL).astype(int) + self._middle - (n - 1) // 2
        if min(row, column) < 1 or max(row, column) + n > len(self.heights) - 1:
            return None
        return slice(row, row + n), slice(column, column + n)

    def _let_down(self, low: np.ndarray, x: float, y: float) -> tuple[float, np.ndarray] | None:
        """Height of the body's centre where it first touches, and the touching cells [N,2] (x, y) about its centre."""
        at = self._window(len(low), x, y)
        if at is None:
            return None
        around = tuple(slice(s.start - 1, s.stop + 1) for s in at)
        # The highest of a cell and its neighbours: nothing that is steeper than the cells are fine is pierced.
        below = cv2.dilate(self.heights[around], np.ones((3, 3), np.uint8))[1:-1, 1:-1]
        gap = low - below
        z = -float(gap.min())
        rows, columns = np.nonzero(gap + z < CONTACT)
        return z, (np.stack([columns, rows], axis=1) - (len(low) - 1) / 2) * CELL


def _support(touching: np.ndarray, weight: np.ndarray) -> tuple[bool, np.ndarray]:
    """Whether ``weight`` [2] lies over the polygon of contacts [N,2], and the polygon's point nearest to it.

    A contact is a cell, not a point: its corners count.
    """
    half = 0.5 * CELL
    corners = (touching[:, None] + np.array([(-half, -half), (-half, half), (half, -half), (half, half)])).reshape(
        -1, 2
    )
    hull = cv2.convexHull(corners.astype(np.float32))[:, 0].astype(np.float64)
    a, edge = hull, np.roll(hull, -1, axis=0) - hull
    inside = edge[:, 0] * (weight[1] - a[:, 1]) - edge[:, 1] * (weight[0] - a[:, 0])
    if (inside >= 0).all() or (inside <= 0).all():
        return True, weight
    share = np.clip(((weight - a) * edge).sum(axis=1) / (edge**2).sum(axis=1), 0.0, 1.0)
    nearest = a + share[:, None] * edge
    return False, nearest[np.linalg.norm(nearest - weight, axis=1).argmin()]
