"""Prepares triangles on their way to a Mesh: still float64, about the file's origin, and not yet checked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.colors import TextureTable, paint
from coop_edge.mesh.limits import LoadLimits
from coop_edge.mesh.parts import Part

_FARTHEST = 1e12
"""Of a coordinate in the file's unit; beyond it the squares of lengths leave what numbers hold."""
_BLOCK = 1 << 17
"""Faces that are looked at together."""


@dataclass(frozen=True)
class Soup:
    """Triangles with a colour source each; the colour fields are those of Mesh."""

    vertices: NDArray[np.float64]  # [V,3] metres
    faces: NDArray[np.int64]  # [F,3]
    corner_colors: NDArray[np.uint8]
    corner_uv: NDArray[np.float32]
    face_texture: NDArray[np.int32]
    textures: tuple[NDArray[np.uint8], ...]

    def select(self, keep: NDArray[np.bool_]) -> Soup:
        """Keep the faces where ``keep`` [F] is true."""
        return replace(
            self,
            faces=self.faces[keep],
            corner_colors=self.corner_colors[keep],
            corner_uv=self.corner_uv[keep],
            face_texture=self.face_texture[keep],
        )


def assemble(parts: list[Part], albedo: NDArray[np.uint8], limits: LoadLimits, notes: list[str]) -> tuple[Soup, float]:
    """Join all parts and settle their colours; also return the share of faces that have one of their own.

    Raises:
        MeshError: the textures exceed the limits.
    """
    parts = [part.trimmed() for part in parts]
    table = TextureTable(parts, limits, notes)
    painted = [paint(part, albedo, table, notes) for part in parts]
    starts = np.cumsum([0, *(len(p.vertices) for p in parts)])[:-1]
    colored = np.concatenate([np.zeros(0, bool), *(c.colored for c in painted)])
    soup = Soup(
        vertices=np.concatenate([np.zeros((0, 3)), *(p.vertices for p in parts)]),
        faces=np.concatenate([np.zeros((0, 3), np.int64), *(p.faces + s for p, s in zip(parts, starts, strict=True))]),
        corner_colors=np.concatenate([np.zeros((0, 3, 3), np.uint8), *(c.colors for c in painted)]),
        corner_uv=np.concatenate([np.zeros((0, 3, 2), np.float32), *(c.uv for c in painted)]),
        face_texture=np.concatenate([np.zeros(0, np.int32), *(c.texture for c in painted)]),
        textures=tuple(table.images),
    )
    return soup, float(colored.mean()) if colored.size else 0.0


def check_finite(soup: Soup) -> None:
    """Raise MeshError if a face uses a vertex or texture coordinate that is NaN, infinite or beyond all reason."""
    bad: NDArray[np.bool_] = np.asarray(~np.isfinite(soup.vertices).all(axis=1))
    if bad[soup.faces].any():
        n = int(np.unique(soup.faces[bad[soup.faces]]).size)
        raise MeshError(f"{n} vertices used by faces are NaN or infinite; repair the mesh or export it again")
    used = np.zeros((len(soup.vertices), 1), bool)
    used[soup.faces] = True
    low, high = soup.vertices.min(where=used, initial=0.0), soup.vertices.max(where=used, initial=0.0)
    if (far := float(max(-low, high))) > _FARTHEST:
        raise MeshError(f"a vertex has the coordinate {far:.3g}; repair the mesh or export it again")
    if not np.isfinite(soup.corner_uv).all():
        raise MeshError(
            "texture coordinates hold NaN or infinity; repair the mesh or load with ignore_colors=True "
            "(--ignore-colors of the commands)"
        )


def drop_degenerate(soup: Soup) -> Soup:
    """Drop the faces that have no area to within rounding (height below 1e-7 of the longest edge)."""
    keep = np.zeros(len(soup.faces), bool)
    for start in range(0, len(soup.faces), _BLOCK):  # in blocks: the arrays take ten times the memory of the faces
        corners = soup.vertices[soup.faces[start : start + _BLOCK]]
        edges = corners[:, [1, 2, 0]] - corners
        longest = (edges**2).sum(-1).max(axis=1, initial=0.0)
        twice_area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
        keep[start : start + _BLOCK] = (twice_area > 1e-7 * longest) & (longest > 0)
    return soup if keep.all() else soup.select(keep)


def drop_repeated(soup: Soup) -> Soup:
    """Drop triangles that lie exactly on an earlier one and face the same way; vertices are to be merged already."""
    first = soup.faces.argmin(axis=1)
    turned = soup.faces[np.arange(len(soup.faces))[:, None], (first[:, None] + np.arange(3)) % 3]
    _, kept = np.unique(turned, axis=0, return_index=True)
    keep = np.zeros(len(soup.faces), bool)
    keep[kept] = True
    return soup if keep.all() else soup.select(keep)


def compact(soup: Soup) -> Soup:
    """Drop unused vertices, and merge vertices at equal positions (colours belong to the corners)."""
    used = np.zeros(len(soup.vertices), bool)
    used[soup.faces] = True
    points = soup.vertices[used]
    points += 0.0  # -0.0 becomes 0.0, which compares equal but sorts apart
    order = np.lexsort(points.T)
    points = points[order]
    new = np.ones(len(points), bool)
    new[1:] = (points[1:] != points[:-1]).any(axis=1)
    group = np.full(len(soup.vertices), -1, np.int64)
    group[np.flatnonzero(used)[order]] = np.cumsum(new) - 1
    return replace(soup, vertices=points[new], faces=group[soup.faces])


def drop_unused_textures(soup: Soup) -> Soup:
    """Drop textures that no face refers to."""
    used = np.unique(soup.face_texture[soup.face_texture >= 0])
    index = np.full(len(soup.textures) + 1, -1, np.int32)
    index[used] = np.arange(len(used))
    textures = tuple(soup.textures[i] for i in used)
    return replace(soup, face_texture=index[soup.face_texture], textures=textures)
