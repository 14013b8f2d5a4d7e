"""Building blocks of the demo objects: coloured and textured triangles, and shapes to make them of. Metres, z up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Color = Sequence[float]


@dataclass(frozen=True)
class Part:
    """Triangles with one material.

    vertices [V,3] metres, z up; faces [F,3]; colors uint8 [V,3] sRGB, or uv [V,2] (v up) into ``texture``, a key;
    smooth: whether normals are shared between faces; roughness: of the coat; normals [V,3]: of a smooth part, or None
    for those of its faces by area.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray
    uv: np.ndarray | None = None
    texture: str = ""
    smooth: bool = False
    roughness: float = 0.5
    normals: np.ndarray | None = None


class Painter:
    """Collects flat quads, triangles and boxes in plain colours."""

    def __init__(self) -> None:
        self._vertices: list[np.ndarray] = []
        self._colors: list[np.ndarray] = []
        self._faces: list[np.ndarray] = []
        self._count = 0

    def polygon(self, corners: Iterable[Color], color: Color) -> None:
        """Add a convex polygon, counter-clockwise as seen from outside."""
        points = np.asarray(list(corners), np.float64)
        n = len(points)
        fan = np.array([(0, i, i + 1) for i in range(1, n - 1)])
        self._vertices.append(points)
        self._colors.append(np.tile(np.clip(np.rint(color), 0, 255).astype(np.uint8), (n, 1)))
        self._faces.append(fan + self._count)
        self._count += n

    def box(self, low: Color, high: Color, color: Color) -> None:
        """Add an axis-aligned box."""
        x, y, z = zip(low, high, strict=True)
        for axis in range(3):
            for side in (0, 1):
                a, b = (axis + 1) % 3, (axis + 2) % 3
                order = ((0, 0), (1, 0), (1, 1), (0, 1)) if side else ((0, 0), (0, 1), (1, 1), (1, 0))
                corners = np.empty((4, 3))
                for row, (i, j) in enumerate(order):
                    corners[row, axis] = (x, y, z)[axis][side]
                    corners[row, a], corners[row, b] = (x, y, z)[a][i], (x, y, z)[b][j]
                self.polygon(corners.tolist(), color)

    def part(self, roughness: float) -> Part:
        return Part(
            np.concatenate(self._vertices),
            np.concatenate(self._faces),
            np.concatenate(self._colors),
            roughness=roughness,
        )


def plain(vertices: np.ndarray, faces: np.ndarray, color: Color, *, smooth: bool, roughness: float) -> Part:
    """Make a part in one colour."""
    colors = np.tile(np.asarray(color, np.uint8), (len(vertices), 1))
    return Part(vertices, faces, colors, smooth=smooth, roughness=roughness)


def revolve(outline: np.ndarray, segments: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn (radius, z) rows about z, outside on the left of the way, into a surface: vertices, faces, u in [0, 1].

    The seam at azimuth 0 is doubled for texture coordinates. Triangles without area (on the axis) are left out.
    """
    angle = np.linspace(0.0, 2.0 * np.pi, segments + 1)
    r, z = outline[:, 0, None], outline[:, 1, None]
    vertices = np.stack(np.broadcast_arrays(r * np.cos(angle), r * np.sin(angle), z), axis=-1)
    u = np.broadcast_to(angle / (2.0 * np.pi), vertices.shape[:2])
    return vertices.reshape(-1, 3), drop_flat(vertices, _grid(len(outline), segments + 1)), u.ravel()


def tube(
    middle: np.ndarray, normal: np.ndarray, half: tuple[float, float], around: int
) -> tuple[np.ndarray, np.ndarray]:
    """Make an elliptic tube along points ``middle`` [N,3] in the plane of ``normal``; half axes in and across it."""
    tangent = np.gradient(middle, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    inside = np.cross(normal, tangent)
    s = np.linspace(0.0, 2.0 * np.pi, around + 1)
    section = half[0] * np.cos(s)[None, :, None] * inside[:, None] + half[1] * np.sin(s)[None, :, None] * normal
    vertices = middle[:, None] + section
    return vertices.reshape(-1, 3), drop_flat(vertices, _grid(len(middle), around + 1))


def disc(radius: float, height: float, segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Make a closed cylinder on z = 0 with a small bevel at its upper edge."""
    bevel = 0.15 * height
    outline = np.array([(0, 0), (radius, 0), (radius, height - bevel), (radius - bevel, height), (0, height)], float)
    vertices, faces, _ = revolve(outline, segments)
    return vertices, faces


def drop_flat(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Drop the faces that have no area."""
    corners = vertices.reshape(-1, 3)[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    return faces[area > 1e-12]


def _grid(rows: int, columns: int) -> np.ndarray:
    index = np.arange(rows * columns).reshape(rows, columns)
    quads = np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], axis=-1).reshape(-1, 4)
    return quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
