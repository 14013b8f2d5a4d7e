"""Mesh: the one internal form of an object's geometry and colours."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError

DEFAULT_ALBEDO = (200, 200, 200)
"""Light grey (sRGB, 0..255) of faces that carry no colour of their own."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles in metres about ``centre``, each with exactly one colour source.

    A point in the object's own frame (that of the file, in metres) is ``vertices + centre``; poses always refer to the
    object's own frame, renderers add the centre themselves.

    A face's colour comes from ``textures[face_texture]`` at ``corner_uv`` where ``face_texture >= 0``, else from
    ``corner_colors`` (vertex colours, or one uniform colour thrice). Texture coordinates are OpenGL's: (0, 0) is the
    bottom left corner of the bottom left texel, u to the right, v up, repeated outside [0, 1].
    """

    vertices: NDArray[np.float32]  # [V,3] metres, about centre
    faces: NDArray[np.int32]  # [F,3]
    centre: NDArray[np.float64]  # [3] metres
    corner_colors: NDArray[np.uint8]  # [F,3,3] RGB per corner
    corner_uv: NDArray[np.float32]  # [F,3,2]; 0 where untextured
    face_texture: NDArray[np.int32]  # [F] index into textures, -1 = corner_colors
    textures: tuple[NDArray[np.uint8], ...] = ()  # RGB images [h,w,3]
    name: str = ""
    notes: tuple[str, ...] = field(default=())  # what loading changed: faces dropped, simplified, textures shrunk

    def __post_init__(self) -> None:
        f = len(self.faces)
        for name, shape, dtype in (
            ("vertices", (len(self.vertices), 3), np.float32),
            ("faces", (f, 3), np.int32),
            ("centre", (3,), np.float64),
            ("corner_colors", (f, 3, 3), np.uint8),
            ("corner_uv", (f, 3, 2), np.float32),
            ("face_texture", (f,), np.int32),
        ):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
                given = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
                raise MeshError(f"Mesh.{name}: wanted {np.dtype(dtype).name} {list(shape)}, got {given}")
            object.__setattr__(self, name, np.ascontiguousarray(array))
            getattr(self, name).setflags(write=False)
        if f == 0:
            raise MeshError("Mesh has no faces; wanted at least one triangle")
        if not (np.isfinite(self.vertices).all() and np.isfinite(self.corner_uv).all()):
            raise MeshError("Mesh holds non-finite vertices or texture coordinates")
        if self.faces.min() < 0 or self.faces.max() >= len(self.vertices):
            raise MeshError(f"Mesh.faces: indices must lie in [0, {len(self.vertices)})")
        if self.face_texture.max() >= len(self.textures):
            raise MeshError(f"Mesh.face_texture: index {self.face_texture.max()} of {len(self.textures)} textures")

    @cached_property
    def diameter(self) -> float:
        """Largest distance between two vertices, metres (exact, over the convex hull's vertices)."""
        from coop_edge.mesh.measure import diameter

        return diameter(self.vertices)

    @cached_property
    def radius(self) -> float:
        """Largest distance of a vertex from ``centre``, metres."""
        return float(np.linalg.norm(self.vertices.astype(np.float64), axis=1).max())

    @cached_property
    def hash(self) -> str:
        """SHA-256 over everything that shapes a render: geometry, centre, colours, textures."""
        digest = hashlib.sha256(b"coop_edge.Mesh/1")
        geometry = (self.vertices, self.faces, self.centre)
        colours = (self.corner_colors, self.corner_uv, self.face_texture, *self.textures)
        for array in (*geometry, *colours):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def packed_textures(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """All textures as one flat atlas: texels uint8 [M,3] and a table int64 [n,3] of (first texel, height, width).

        Renderers sample from it; flat storage needs no padding between textures, because wrapping and interpolation
        stay inside one texture's rows and columns. Without textures: one white texel and an empty table.
        """
        if not self.textures:
            return np.full((1, 3), 255, np.uint8), np.zeros((0, 3), np.int64)
        sizes = [t.shape[0] * t.shape[1] for t in self.textures]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        table = np.array([(s, *t.shape[:2]) for s, t in zip(starts, self.textures, strict=True)], dtype=np.int64)
        return np.concatenate([t.reshape(-1, 3) for t in self.textures]), table
