"""Holds an object's geometry and colours in their one internal form: ``Mesh``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.errors import InputError, MeshError
from coop_edge.mesh.limits import LoadLimits

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
    notes: tuple[str, ...] = field(default=())  # what loading changed or did not read
    colored: float | None = None  # share of the file's faces that have a colour of their own; None = not known

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
            object.__setattr__(self, name, _frozen(array))
        if f == 0:
            raise MeshError("Mesh has no faces; wanted at least one triangle")
        if not (np.isfinite(self.vertices).all() and np.isfinite(self.corner_uv).all()):
            raise MeshError("Mesh holds non-finite vertices or texture coordinates")
        if self.faces.min() < 0 or self.faces.max() >= len(self.vertices):
            raise MeshError(f"Mesh.faces: indices must lie in [0, {len(self.vertices)})")
        if not np.isfinite(self.centre).all():
            raise MeshError(f"Mesh.centre: wanted finite numbers (metres), got {self.centre.tolist()}")
        for i, texture in enumerate(self.textures):
            if texture.dtype != np.uint8 or texture.ndim != 3 or texture.shape[2] != 3 or texture.size == 0:
                raise MeshError(f"Mesh.textures[{i}]: wanted uint8 [h,w,3], got {texture.dtype} {list(texture.shape)}")
        if self.face_texture.max() >= len(self.textures):
            raise MeshError(f"Mesh.face_texture: index {self.face_texture.max()} of {len(self.textures)} textures")
        object.__setattr__(self, "textures", tuple(_frozen(texture) for texture in self.textures))

    @classmethod
    def load(
        cls,
        source: Any,
        *,
        unit: str,
        albedo: ArrayLike | None = None,
        ignore_colors: bool = False,
        max_faces: int = 100_000,
        name: str | None = None,
        allow_outside: bool = False,
        limits: LoadLimits | None = None,
    ) -> Mesh:
        """Load a mesh file, or take a trimesh object.

        ``centre`` is the middle of the bounding box. Degenerate triangles are dropped, vertices at equal positions
        merged, textures above 4096 pixels a side shrunk; ``notes`` says what was changed or not read, and so does the
        log.

        Args:
            source: path of an OBJ (with MTL and textures), PLY, GLB/GLTF 2.0, STL, OFF or DAE file, or a
                ``trimesh.Trimesh`` or ``trimesh.Scene``. Scene graphs are flattened; the axes stay those of the file.
            unit: unit of the vertex coordinates: "m", "cm", "mm" or "in". There is no default, and what a file says
                about its own unit is not used.
            albedo: (R, G, B) in 0..255 for faces without a colour of their own; light grey (``DEFAULT_ALBEDO``) if
                None.
            ignore_colors: drop the file's colours and textures; all faces take the albedo.
            max_faces: a mesh with more triangles is simplified to as many; those that come to bridge a texture's seam
                then carry colours at their corners instead of the texture.
            name: name of the object; the file's stem if None.
            allow_outside: read textures, material libraries and buffers wherever the file says that they are; else only
                below the parent of its own folder.
            limits: bounds on what the file may unpack to; ``LoadLimits()`` if None.

        Raises:
            MeshError: the file is missing, cannot be read, exceeds the limits, or refers to a file that is missing or
                outside; the mesh has no triangles, vertices that are not finite, or a diameter outside 5 mm to 5 m.
            InputError: the unit is unknown, or another argument is out of its range.
        """
        from coop_edge.mesh.load import load_mesh

        albedo = DEFAULT_ALBEDO if albedo is None else albedo
        fields = load_mesh(
            source,
            unit=unit,
            albedo=albedo,
            ignore_colors=ignore_colors,
            max_faces=max_faces,
            name=name,
            allow_outside=allow_outside,
            limits=limits,
        )
        return cls(**fields)

    def surface_color(self, face: ArrayLike, barycentric: ArrayLike) -> NDArray[np.float64]:
        """Return the albedo [...,3] in 0..255 (not rounded) at face indices [...] and barycentric coordinates [...,3].

        A renderer shows it there before shading.

        Raises:
            InputError: shapes do not fit, or there is no such face.
        """
        from coop_edge.mesh.sample import surface_colors

        index, weights = np.asarray(face), np.asarray(barycentric, np.float64)
        if weights.shape != (*index.shape, 3) or index.dtype.kind not in "iu":
            raise InputError(
                f"surface_color: wanted integers [...] and barycentric coordinates [...,3], got {index.dtype} "
                f"{list(index.shape)} and {list(weights.shape)}"
            )
        if index.size and not (index.min() >= 0 and index.max() < len(self.faces)):
            raise InputError(f"surface_color: wanted face indices in [0, {len(self.faces)})")
        flat = surface_colors(
            self.corner_colors,
            self.corner_uv,
            self.face_texture,
            self.textures,
            index.reshape(-1).astype(np.int64),
            weights.reshape(-1, 3),
        )
        return flat.reshape(*index.shape, 3)

    @cached_property
    def diameter(self) -> float:
        """Return the largest distance between two vertices, metres (exact, over the convex hull's vertices)."""
        from coop_edge.mesh.measure import diameter

        return diameter(self.vertices)

    @property
    def summary(self) -> str:
        """Return one line: name, diameter, faces, colours or "no colours"."""
        return f"{self.name or 'mesh'}: diameter {self.diameter:.4g} m, {len(self.faces)} faces, {self.color_summary}"

    @property
    def color_summary(self) -> str:
        """Return what the faces are coloured by, or "no colours"."""
        if self.textures:
            return f"colours ({len(self.textures)} texture{'s' if len(self.textures) > 1 else ''})"
        colored = self.colored
        if colored is None:
            colored = float((self.corner_colors != DEFAULT_ALBEDO).any(axis=(1, 2)).mean())
        if colored == 0.0:
            return "no colours"
        return "colours" if colored == 1.0 else f"colours on {colored:.0%} of the faces"

    @cached_property
    def is_plain_grey(self) -> bool:
        """Tell whether all faces have one grey, as CAD without colours has; it says nothing of the object's colours."""
        if (self.face_texture >= 0).any() or not len(self.faces):
            return False
        colors = self.corner_colors.reshape(-1, 3)
        return bool((colors == colors[0, 0]).all())

    @cached_property
    def radius(self) -> float:
        """Return the largest distance of a vertex from ``centre``, metres."""
        return float(np.linalg.norm(self.vertices.astype(np.float64), axis=1).max())

    @cached_property
    def hash(self) -> str:
        """Return the SHA-256 of everything that shapes a render: geometry, centre, colours, textures."""
        digest = hashlib.sha256(b"coop_edge.Mesh/1")
        geometry = (self.vertices, self.faces, self.centre)
        colours = (self.corner_colors, self.corner_uv, self.face_texture)
        arrays: list[NDArray[Any]] = [*geometry, *colours, *self.textures]
        for array in arrays:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def packed_textures(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return all textures as one atlas: texels uint8 [M,3], and a table int64 [n,3] of first texel, height, width.

        Renderers sample from it; flat storage needs no padding between textures, because wrapping and interpolation
        stay inside one texture's rows and columns. Without textures: one white texel and an empty table.
        """
        if not self.textures:
            return np.full((1, 3), 255, np.uint8), np.zeros((0, 3), np.int64)
        sizes = [t.shape[0] * t.shape[1] for t in self.textures]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        table = np.array([(s, *t.shape[:2]) for s, t in zip(starts, self.textures, strict=True)], dtype=np.int64)
        return np.concatenate([t.reshape(-1, 3) for t in self.textures]), table


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Make an array C-contiguous and read-only; a copy if it could be written to from outside (the hash is cached)."""
    if array.flags.writeable or not array.flags.c_contiguous or array.base is not None:
        array = np.array(array, order="C")
        array.setflags(write=False)
    return array
