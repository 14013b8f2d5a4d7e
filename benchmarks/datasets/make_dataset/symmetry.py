"""Which turns map an object onto itself, colours included: found by trying, on points of its surface."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from coop_edge.geometry import se3
from coop_edge.mesh import Mesh, Symmetries

_POINTS = 4000
_DENSE = 60_000
_GEOMETRY = 0.02
"""Of the diameter: what 998 of 1,000 surface points may at most lie beside the surface after a turn."""
_COLOR = 20.0
"""Of 255: by how much the colour may differ, in the mean over the surface, from the most similar one close by; and of
95 of 100 points, by three times as much."""
_ORDERS = (2, 3, 4, 5, 6, 8)
_MANY = (
    0.37,
    1.0,
    1.83,
    2.71,
)  # turns (radians) of no finite order: an object that stands them all is one of revolution


def find_symmetries(mesh: Mesh, seed: int = 0) -> Symmetries:
    """Find symmetries about the axes of the object's frame and its principal axes, through the middle of its surface.

    Geometry to two per cent of the diameter and colours: a label, or a handle, breaks a symmetry. Reflections are no
    rigid motion and are not looked for. Symmetries about other axes (the diagonals of a tetrahedron) are not found, nor
    turns of another order than ``_ORDERS``: smaller ones hold of anything within the tolerance.
    """
    probe = _Probe(mesh, np.random.default_rng(seed))
    discrete: list[np.ndarray] = []
    continuous: list[tuple[np.ndarray, np.ndarray]] = []
    for axis in probe.axes():
        if all(probe.holds(axis, angle) for angle in _MANY):
            continuous.append((axis, probe.middle))
            continue
        orders = [n for n in _ORDERS if probe.holds(axis, 2.0 * np.pi / n)]
        if orders:
            discrete.append(probe.turn(axis, 2.0 * np.pi / max(orders)))
    if len(continuous) == 1:  # beside an axis of revolution only a flip of it is something else
        axis = continuous[0][0]
        discrete = [T for T in discrete if abs(axis @ T[:3, :3] @ axis + 1.0) < 1e-6][:1]
    elif continuous:
        continuous, discrete = continuous[:2], []
    return Symmetries(tuple(discrete), tuple(continuous))


class _Probe:
    """Points on a surface, and whether a turn about its middle leaves them on it."""

    def __init__(self, mesh: Mesh, rng: np.random.Generator) -> None:
        self._dense, self._dense_color = _sample(mesh, _DENSE, rng)
        self._points, self._color = _sample(mesh, _POINTS, rng)
        self.middle = self._dense.mean(axis=0)
        self._tree = cKDTree(self._dense)
        self._diameter = mesh.diameter

    def axes(self) -> list[np.ndarray]:
        """The frame's axes, and the principal ones that differ from them by more than a degree."""
        found = list(np.eye(3))
        for axis in np.linalg.eigh(np.cov((self._dense - self.middle).T))[1].T:
            if all(abs(axis @ other) < np.cos(np.radians(1.0)) for other in found[:3]):
                found.append(axis)
        return found

    def turn(self, axis: np.ndarray, angle: float) -> np.ndarray:
        """[4,4], by ``angle`` radians about the axis through the middle."""
        R = se3.so3_exp(angle * axis)
        return se3.from_rt(R, self.middle - R @ self.middle)

    def holds(self, axis: np.ndarray, angle: float) -> bool:
        moved = se3.transform(self.turn(axis, angle), self._points)
        distance, near = self._tree.query(moved, k=12)
        if np.quantile(distance[:, 0], 0.998) > _GEOMETRY * self._diameter:
            return False
        difference = np.abs(self._dense_color[near] - self._color[:, None]).max(axis=2).min(axis=1)
        return bool(difference.mean() < _COLOR and np.quantile(difference, 0.95) < 3.0 * _COLOR)


def _sample(mesh: Mesh, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points [count,3] in the object's frame, uniform over the area, and their colours [count,3] in 0..255."""
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    face = rng.choice(len(area), count, p=area / area.sum())
    r, s = np.sqrt(rng.random(count)), rng.random(count)
    weights = np.stack([1 - r, r * (1 - s), r * s], axis=1)
    points = np.einsum("nk,nkc->nc", weights, corners[face]) + mesh.centre
    return points, mesh.surface_color(face, weights)
