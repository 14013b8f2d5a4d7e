"""Takes ``trimesh.Trimesh`` and ``trimesh.Scene`` objects apart into parts. Files are not read through trimesh."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from trimesh.visual.material import MultiMaterial, PBRMaterial, empty_material

from coop_edge.errors import MeshError
from coop_edge.mesh.colors import unit_colors
from coop_edge.mesh.images import ImageDecoder
from coop_edge.mesh.limits import LoadLimits
from coop_edge.mesh.parts import TRANSPARENCY, Material, Part, Texture, check_corners

_DEFAULT_DIFFUSE = (102, 102, 102)  # what trimesh fills in where a material states no colour


class TrimeshReader:
    """Reads objects in memory.

    Args:
        notes: what was passed over or guessed.
    """

    def __init__(self, *, ignore_colors: bool, limits: LoadLimits, notes: list[str]) -> None:
        self._ignore_colors, self._notes = ignore_colors, notes
        self._decoder = ImageDecoder(limits, notes)
        self._images: dict[int, tuple[Any, NDArray[np.uint8]]] = {}  # by id, which the image kept beside it holds

    def read(self, source: Any) -> list[Part]:
        """Return the parts of a ``trimesh.Trimesh`` or ``trimesh.Scene``.

        Raises:
            MeshError: anything else.
        """
        if isinstance(source, trimesh.Trimesh):
            return self._mesh(source)
        if isinstance(source, trimesh.PointCloud):
            raise MeshError(f"a point cloud of {np.shape(source.vertices)[0]} points has no surface; wanted triangles")
        if not isinstance(source, trimesh.Scene):
            raise MeshError(f"wanted a path, trimesh.Trimesh or trimesh.Scene, got {type(source).__name__}")
        parts = []
        for node in source.graph.nodes_geometry:
            transform, name = source.graph[node]
            geometry = source.geometry[name]
            if isinstance(geometry, trimesh.Trimesh):
                matrix = np.asarray(transform, np.float64)
                parts += [replace(part, vertices=part.moved(matrix)) for part in self._mesh(geometry)]
        return parts

    def _mesh(self, mesh: Any) -> list[Part]:
        vertices = np.asarray(mesh.vertices, np.float64).reshape(-1, 3)
        faces = np.asarray(mesh.faces, np.int64).reshape(-1, 3)
        check_corners(faces, len(vertices))
        visual = mesh.visual
        kind = visual.kind if visual is not None and visual.defined else None
        if self._ignore_colors or kind is None:
            return [Part(vertices, faces)]
        if kind == "face":
            return [Part(vertices, faces, np.repeat(self._unit(visual.face_colors, len(faces))[:, None], 3, axis=1))]
        if kind == "vertex":
            return [Part(vertices, faces, self._unit(visual.vertex_colors, len(vertices))[faces])]
        attributes = getattr(visual, "vertex_attributes", {})
        extra = attributes.get("color") if "color" in attributes else None
        colors = None if extra is None or not len(extra) else self._unit(extra, len(vertices))[faces]
        uv = getattr(visual, "uv", None)
        coordinates = (
            np.asarray(uv, np.float64)[faces][..., :2] if uv is not None and len(uv) == len(vertices) else None
        )
        return [
            Part(
                vertices,
                faces[chosen],
                None if colors is None else colors[chosen],
                None if coordinates is None else coordinates[chosen],
                self._material(material),
            )
            for chosen, material in _materials(visual, len(faces))
        ]

    def _unit(self, colors: Any, n: int) -> NDArray[np.float64]:
        if len(colors) != n:
            raise MeshError(f"{len(colors)} colours for {n} vertices or faces; the mesh is damaged")
        return unit_colors(colors, self._notes)

    def _material(self, material: Any) -> Material | None:
        if material is None:
            return None
        name = str(getattr(material, "name", None) or "")
        if getattr(material, "alphaMode", None) in ("MASK", "BLEND"):
            self._notes.append(TRANSPARENCY)
        color = _color(material)
        image = material.baseColorTexture if isinstance(material, PBRMaterial) else getattr(material, "image", None)
        # Texture coordinates without any material: trimesh puts a tiny grey image in its place.
        filler = empty_material().image
        if image is None or (image.size == filler.size and image.tobytes() == filler.tobytes()):
            return Material(name, color)
        if isinstance(material, PBRMaterial) and color is not None and _states_tint(color):
            self._notes.append("the colour that trimesh keeps in a material beside its texture is not used")
        if id(image) not in self._images:
            label = image.info.get("file_path", "an image of the mesh") if hasattr(image, "info") else "an image"
            self._images[id(image)] = image, self._decoder.convert(image, f"texture {label}")
        return Material(name, color, Texture(self._images[id(image)][1]))


def _color(material: Any) -> tuple[float, float, float] | None:
    """Return the diffuse colour that a trimesh material states itself, in 0..1, or None."""
    if isinstance(material, PBRMaterial):
        color = material.baseColorFactor
    else:
        color = getattr(material, "diffuse", None)
        stated = "kd" in (getattr(material, "kwargs", None) or {})
        if color is not None and not stated and tuple(color[:3]) == _DEFAULT_DIFFUSE:
            color = None
    if color is None:
        return None
    r, g, b = (float(c) for c in unit_colors(np.asarray(color)[None])[0])
    return r, g, b


def _states_tint(color: tuple[float, float, float]) -> bool:
    """Return whether a colour is neither white nor what trimesh fills in."""
    return color != (1.0, 1.0, 1.0) and not np.allclose(color, np.array(_DEFAULT_DIFFUSE) / 255.0, atol=1 / 255)


def _materials(visual: Any, n: int) -> list[tuple[NDArray[np.int64], Any]]:
    """Return (face indices, material) pairs; several for a trimesh MultiMaterial."""
    material = getattr(visual, "material", None)
    everything = np.arange(n)
    if not isinstance(material, MultiMaterial):
        return [(everything, material)]
    which = np.asarray(visual.face_materials if visual.face_materials is not None else [])
    if which.shape != everything.shape:
        raise MeshError(f"MultiMaterial: {which.size} face materials for {n} faces")
    if which.size and (which.min() < 0 or which.max() >= len(material.materials)):
        raise MeshError(f"MultiMaterial: a face has material {which.max()} of {len(material.materials)}")
    return [(everything[which == i], m) for i, m in enumerate(material.materials)]
