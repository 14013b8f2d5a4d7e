"""Takes files and trimesh objects apart into parts, before their colours are settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

from coop_edge.errors import MeshError

Array = NDArray[Any]


@dataclass(frozen=True)
class Part:
    """Triangles with one trimesh visual, in the object's frame and the file's unit."""

    vertices: NDArray[np.float64]  # [V,3]
    faces: NDArray[np.int64]  # [F,3]
    visual: Any = None  # trimesh TextureVisuals, or None
    vertex_colors: Array | None = None  # [V,3] or [V,4], any numeric type
    face_colors: Array | None = None  # [F,3] or [F,4]
    linear: bool = False  # colours of vertices and materials are linear light (glTF), else sRGB


def from_trimesh(mesh: Any, transform: Array | None = None, *, linear: bool = False) -> Part:
    """Make a Part from a ``trimesh.Trimesh``, moved by ``transform`` [4,4] if given."""
    visual = mesh.visual
    kind = visual.kind if visual is not None and visual.defined else None
    texture = visual if kind == "texture" else None
    attributes = getattr(texture, "vertex_attributes", {})
    extra = attributes.get("color") if "color" in attributes else None
    return _part(
        mesh.vertices,
        mesh.faces,
        transform,
        visual=texture,
        vertex_colors=visual.vertex_colors if kind == "vertex" else extra,
        face_colors=visual.face_colors if kind == "face" else None,
        linear=linear,
    )


def from_scene(scene: Any, *, linear: bool = False) -> list[Part]:
    """Return the triangles of a ``trimesh.Scene``, a part per instance, moved to where its node puts it."""
    parts = []
    for node in scene.graph.nodes_geometry:
        transform, geometry_name = scene.graph[node]
        geometry = scene.geometry[geometry_name]
        if isinstance(geometry, trimesh.Trimesh):
            parts.append(from_trimesh(geometry, transform, linear=linear))
    return parts


def from_loader(loaded: Mapping[str, Any]) -> list[Part]:
    """Make parts from what trimesh's format readers return: one mesh, or geometries with a graph.

    The readers' own output has colours that ``trimesh.Trimesh`` would drop: vertex colours beside a
    material without a texture.
    """
    if "geometry" not in loaded:
        return [_from_arrays(loaded, None)] if loaded.get("faces") is not None else []
    graph = loaded.get("graph") or [{"geometry": name} for name in loaded["geometry"]]
    nodes = ((loaded["geometry"][node["geometry"]], node.get("matrix")) for node in graph if "geometry" in node)
    return [_from_arrays(geometry, matrix) for geometry, matrix in nodes if geometry.get("faces") is not None]


def _from_arrays(arrays: Mapping[str, Any], transform: Array | None) -> Part:
    keys = ("visual", "vertex_colors", "face_colors")
    return _part(arrays["vertices"], arrays["faces"], transform, **{k: arrays.get(k) for k in keys})


def _part(vertices: Any, faces: Any, transform: Array | None, **colours: Any) -> Part:
    v = np.asarray(vertices, np.float64).reshape(-1, 3)
    f = np.asarray(faces, np.int64)
    if f.ndim == 2 and f.shape[1] > 3:  # polygons: a fan of triangles each, as the readers do where sizes are mixed
        fan = range(1, f.shape[1] - 1)
        f = np.concatenate([f[:, [0, i, i + 1]] for i in fan])
        if colours.get("face_colors") is not None:
            colours["face_colors"] = np.concatenate([colours["face_colors"]] * len(fan))
    if f.size and (f.ndim != 2 or f.shape[1] != 3):
        raise MeshError(f"faces: wanted triangles [F,3], got {list(f.shape)}; triangulate the mesh first")
    f = f.reshape(-1, 3)
    if f.size and (f.min() < 0 or f.max() >= len(v)):
        wrong = f.max() if f.max() >= len(v) else f.min()
        raise MeshError(f"a face refers to vertex {wrong} of {len(v)}: the file is truncated or damaged")
    for key, n in (("vertex_colors", len(v)), ("face_colors", len(f))):
        if colours.get(key) is not None and len(colours[key]) != n:
            raise MeshError(f"{key}: {len(colours[key])} colours for {n}; the file is damaged")
    if transform is not None:
        matrix = np.asarray(transform, np.float64)
        v = v @ matrix[:3, :3].T + matrix[:3, 3]
    return Part(v, f, **colours)
