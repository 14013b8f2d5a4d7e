"""What a Mesh shows, measured: area, extents, and the colours at the middle of its faces."""

from __future__ import annotations

import numpy as np

from coop_edge.mesh import Mesh


def area(mesh: Mesh) -> float:
    """Sum of the triangles' areas, square metres."""
    return float(areas(mesh).sum())


def areas(mesh: Mesh) -> np.ndarray:
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(float) for i in range(3))
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)


def extents(mesh: Mesh) -> np.ndarray:
    return np.ptp(mesh.vertices.astype(float), axis=0)


def middle_colors(mesh: Mesh) -> np.ndarray:
    """Colour at the middle of each face, 0..255."""
    n = len(mesh.faces)
    return mesh.surface_color(np.arange(n), np.full((n, 3), 1 / 3))


def all_colors(mesh: Mesh) -> list[tuple[int, ...]]:
    """The different colours at the middles of the faces, rounded."""
    return sorted({tuple(int(c) for c in row) for row in middle_colors(mesh).round()})
