"""A scene in Mitsuba 3: its pictures, and what is met first behind the centre of each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets.demo_scene.mitsuba_scene import bitmap, in_passes, perspective, shape
from benchmarks.datasets.demo_scene.parts import Part
from benchmarks.datasets.make_dataset.arrange import View
from coop_edge.geometry import se3
from coop_edge.mesh import Mesh
from export.data.objects import TrainingObject

_BOUNCES = 5  # vertices of a path, the camera and the light among them; what is longer is lost in the noise
_PASS = 32  # samples per pixel of the picture that are traced at once


class TracedScene:
    """Objects in a room. Each object is one or two shapes: its textured triangles, and its plain ones.

    objects: (mesh, T_world_object, roughness) of each. folder: for the files that Mitsuba reads.
    """

    def __init__(
        self, mi: Any, room: Mapping[str, Any], objects: Sequence[tuple[Mesh, np.ndarray, float]], folder: Path
    ) -> None:
        self._mi = mi
        described: dict[str, Any] = {"type": "scene", **room}
        for i, (mesh, T, roughness) in enumerate(objects):
            for key, (part, image) in parts(mesh, roughness).items():
                name = f"object{i:03d}{key}"
                color = {"type": "mesh_attribute", "name": "vertex_color"} if image is None else bitmap(mi, image)
                bsdf = {"type": "principled", "base_color": color, "roughness": roughness, "specular": 0.5}
                described[name] = shape(folder / f"{name}.ply", part, T)
                described[name]["bsdf"] = {"type": "twosided", "bsdf": bsdf}
        self._scene = mi.load_dict(described, optimize=False)  # which would melt shapes of one material into one
        ids = [str(s.id()) for s in self._scene.shapes()]
        self._owner = np.array([int(n[6:9]) if n.startswith("object") else -1 for n in ids] + [-1])

    def picture(self, view: View, samples: int) -> np.ndarray:
        """Return radiance float32 [2h,2w,3]; ``samples`` per pixel of the picture, at least 4."""
        mi = self._mi
        at_once = min(_PASS, max(4, samples))
        sensor = mi.load_dict(perspective(mi, view.K, view.size, view.T_world_camera, 2, at_once // 4))
        integrator = mi.load_dict({"type": "path", "max_depth": _BOUNCES, "hide_emitters": False})
        passes = max(1, round(samples / at_once))
        return in_passes(mi, self._scene, passes, sensor=sensor, integrator=integrator)

    def first_hits(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Return which object the ray through each pixel's centre meets first, int [h,w], -1 for none, and its depth.

        The depth is z of the camera, float64 metres [h,w], 0 where there is nothing at all.
        """
        mi = self._mi
        width, height = view.size
        sensor = mi.load_dict(perspective(mi, view.K, view.size, view.T_world_camera, 1, 1))
        u, v = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
        x, y = (a.ravel() for a in np.meshgrid(u, v))
        trace = self._trace_one_by_one if mi.variant().startswith("scalar") else self._trace_at_once
        points, index = trace(sensor, x, y)
        z = se3.transform(se3.invert(view.T_world_camera), points)[:, 2]
        depth = np.where(np.isfinite(z), z, 0.0).reshape(height, width)
        return self._owner[index].reshape(height, width), depth

    def _trace_at_once(self, sensor: Any, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import drjit as dr

        mi = self._mi
        rays, _ = sensor.sample_ray(0.0, 0.5, mi.Point2f(mi.Float(x), mi.Float(y)), mi.Point2f(0.5))
        hit = self._scene.ray_intersect(rays)
        index = mi.Int32(-1) + dr.zeros(mi.Int32, len(x))
        for k, one in enumerate(self._scene.shapes()):
            index = dr.select(hit.is_valid() & (hit.shape == mi.ShapePtr(one)), k, index)
        valid = np.array(hit.is_valid())
        points = np.where(valid[:, None], np.array(hit.p).T.astype(np.float64), np.nan)
        return points, np.array(index)

    def _trace_one_by_one(self, sensor: Any, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        position = {str(one.id()): k for k, one in enumerate(self._scene.shapes())}
        points, index = np.full((len(x), 3), np.nan), np.full(len(x), -1)
        for i, (a, b) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
            ray, _ = sensor.sample_ray(0.0, 0.5, [a, b], [0.5, 0.5])
            hit = self._scene.ray_intersect(ray)
            if hit.is_valid():
                points[i], index[i] = np.array(hit.p).ravel(), position[str(hit.shape.id())]
        return points, index


def parts(mesh: Mesh, roughness: float) -> dict[str, tuple[Part, np.ndarray | None]]:
    """Group a mesh's triangles by texture: key -> (part, image). Normals are smooth up to a crease."""
    smooth = TrainingObject(mesh, np.zeros((0, 3), np.float32), mesh.diameter).normal_map.astype(np.float64)
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    normals = np.einsum("fij,fkj->fki", smooth[..., :3], corners) + smooth[:, None, :, 3]
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    out: dict[str, tuple[Part, np.ndarray | None]] = {}
    for texture in range(-1, len(mesh.textures)):
        mine = mesh.face_texture == texture
        if not mine.any():
            continue
        part = Part(
            (corners[mine] + mesh.centre).reshape(-1, 3),
            np.arange(3 * int(mine.sum())).reshape(-1, 3),
            mesh.corner_colors[mine].reshape(-1, 3),
            uv=None if texture < 0 else mesh.corner_uv[mine].reshape(-1, 2).astype(np.float64),
            smooth=True,
            roughness=roughness,
            normals=normals[mine].reshape(-1, 3),
        )
        out["plain" if texture < 0 else f"texture{texture}"] = (part, None if texture < 0 else mesh.textures[texture])
    return out
