"""Defines what readers make of a file: parts with a material each, before their colours are settled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.polygons import triangulate

REPEAT, MIRROR, CLAMP = "repeat", "mirror", "clamp"
"""How a texture goes on outside [0, 1]."""
TRANSPARENCY = "transparency is not read: all faces are opaque"
"""The note of a file whose faces are not."""


@dataclass(frozen=True, eq=False)
class Texture:
    """An image, uint8 [h,w,3] sRGB, and how it goes on beyond its sides along u and v."""

    image: NDArray[np.uint8]
    wrap: tuple[str, str] = (REPEAT, REPEAT)


@dataclass(frozen=True)
class Material:
    """The look of a part.

    Attributes:
        color: [3] in 0..1, None where the material states none.
        tints: the colour also multiplies texture and vertex colours (glTF); else it is that of faces without either.
    """

    name: str = ""
    color: tuple[float, float, float] | None = None
    texture: Texture | None = None
    tints: bool = False


@dataclass(frozen=True)
class Part:
    """Triangles with one material, in the object's frame and the file's unit."""

    vertices: NDArray[np.float64]  # [V,3]
    faces: NDArray[np.int64]  # [F,3]
    colors: NDArray[np.float64] | None = None  # [F,3,3] in 0..1, of the file's vertices or faces; NaN = none
    uv: NDArray[np.float64] | None = None  # [F,3,2], v upwards
    material: Material | None = None
    linear: bool = False  # colours are linear light (glTF), else sRGB

    def trimmed(self) -> Part:
        """Return the part without the vertices that no face uses: parts may share many, and be placed many times."""
        used = np.zeros(len(self.vertices), bool)
        used[self.faces] = True
        if used.all():
            return self
        return replace(self, vertices=self.vertices[used], faces=(np.cumsum(used) - 1)[self.faces])

    def moved(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the vertices moved by ``matrix`` [4,4]."""
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused later
            return np.asarray(self.vertices @ matrix[:3, :3].T + matrix[:3, 3])


@dataclass(frozen=True)
class Polygons:
    """Polygons as files hold them: one flat list of corners, and how many each polygon has."""

    corners: NDArray[np.int64]  # [C] vertices
    sizes: NDArray[np.int64]  # [P]

    def cut(self, vertices: NDArray[np.float64], notes: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Cut them into triangles.

        Returns places in ``corners`` [T,3], and the polygon that each triangle is of [T].

        Raises:
            MeshError: a corner is no vertex.
        """
        check_corners(self.corners, len(vertices))
        small = int((self.sizes < 3).sum())
        if small:
            notes.append(f"{small} faces have fewer than three corners and were left out")
        points = vertices[self.corners] if (self.sizes > 3).any() else np.zeros((len(self.corners), 3))
        cut = triangulate(points, self.sizes)
        if cut.uncertain:
            notes.append(
                f"{cut.uncertain} polygons cross themselves or have no plane: they were cut as fans, and their area is "
                "uncertain; export the mesh as triangles"
            )
        return cut.corners, cut.polygon


def check_corners(corners: NDArray[np.int64], n: int) -> None:
    """Raise MeshError unless all corners are among ``n`` vertices."""
    if corners.size and (corners.min() < 0 or corners.max() >= n):
        wrong = corners.max() if corners.max() >= n else corners.min()
        raise MeshError(f"a face refers to vertex {wrong} of {n}: the file is truncated or damaged")


def check_coordinates(uv: NDArray[Any]) -> None:
    """Raise MeshError unless all texture coordinates are finite."""
    if not np.isfinite(uv).all():
        raise MeshError(
            "texture coordinates hold NaN or infinity; repair the mesh or load with ignore_colors=True "
            "(--ignore-colors of the commands)"
        )
