"""Renders by rays through Open3D's ``RaycastingScene`` (Embree), shaded in plain NumPy: the reference.

It shares neither geometry nor shading code with the rasterisers, so that each checks the other. Two of the contract's
rules are about rasterisation and hold only up to rounding here: a ray through an edge hits either of its triangles, and
among coincident triangles any may win.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from coop_edge.errors import BackendUnavailable, InputError
from coop_edge.mesh.mesh import Mesh
from coop_edge.render.base import NEAR, Renderer, Shading

Array = np.ndarray[Any, Any]

SYSTEM_LIBRARIES = ("libegl1", "libgl1", "libgomp1", "libidn2-0", "libudev1", "libusb-1.0-0", "libx11-6")
"""Debian and Ubuntu packages that Open3D's wheel needs beside Python (headless too)."""

_BAND_SAMPLES = 1 << 20
"""Rays cast and shaded at once; larger views are rendered in bands of rows."""


class Open3dRenderer(Renderer):
    """Casts rays on the CPU; slower than ``CpuRenderer``, exact to float32, meant for onboarding and as a reference.

    Args:
        supersample: as of ``Renderer``; 3 here, since what is rendered offline is rendered well.
        threads: ray casting threads, None for Open3D's own choice.

    Raises:
        BackendUnavailable: Open3D is not installed.
    """

    def __init__(
        self,
        meshes: Mesh | Sequence[Mesh],
        *,
        shading: Shading | None = None,
        supersample: int = 3,
        threads: int | None = None,
    ) -> None:
        super().__init__(meshes, shading=shading, supersample=supersample)
        if threads is not None and (not isinstance(threads, (int, np.integer)) or threads < 1):
            raise InputError(f"threads: wanted an integer >= 1, or None for Open3D's choice, got {threads!r}")
        self.threads = threads
        self._o3d = import_open3d()
        self._scenes = [self._scene(mesh) for mesh in self.meshes]

    def _scene(self, mesh: Mesh) -> Any:
        tensor = self._o3d.core.Tensor
        scene = self._o3d.t.geometry.RaycastingScene()
        # Copies: Open3D wants writable memory, and a Mesh's arrays are read-only.
        scene.add_triangles(tensor(mesh.vertices.copy()), tensor(mesh.faces.astype(np.uint32)))
        return scene

    def _render(
        self, T_camera_centred: Array, K: Array, height: int, width: int, mesh_index: Array
    ) -> tuple[Array, Array, Array]:
        n, s = len(T_camera_centred), self.supersample
        rgb = np.zeros((n, height, width, 3), np.uint8)
        depth = np.zeros((n, height, width), np.float32)
        triangle_id = np.full((n, height, width), -1, np.int32)
        band = max(1, min(height, _BAND_SAMPLES // (width * s * s)))
        for i in range(n):
            for first in range(0, height, band):
                rows = slice(first, min(first + band, height))
                rays = camera_rays(K[i], rows, width, s)
                color, z, face = self._cast(T_camera_centred[i], rays, int(mesh_index[i]))
                mean = color.reshape(rows.stop - first, s, width, s, 3).mean(axis=(1, 3))
                rgb[i, rows] = np.floor(mean + 0.5).astype(np.uint8)
                depth[i, rows] = z[s // 2 :: s, s // 2 :: s]
                triangle_id[i, rows] = face[s // 2 :: s, s // 2 :: s]
        return rgb, depth, triangle_id

    def _cast(self, T: Array, rays: Array, index: int) -> tuple[Array, Array, Array]:
        """Return colour float64 [h,w,3] in 0..255, depth [h,w], triangle id [h,w] along rays [h,w,3] whose z is 1."""
        mesh = self.meshes[index]
        R, t = T[:3, :3], T[:3, 3]
        # Rays start at the near plane, or just before the object: float32 then resolves the object, not its distance.
        start = max(NEAR, t[2] - 1.01 * mesh.radius)
        batch = np.concatenate([(start * rays - t) @ R, rays @ R], axis=-1).astype(np.float32)
        hits = self._scenes[index].cast_rays(self._o3d.core.Tensor(batch), nthreads=self.threads or 0)
        face = hits["primitive_ids"].numpy().view(np.int32)  # a miss is 2^32 - 1, that is -1
        hit = face >= 0
        depth = np.where(hit, start + hits["t_hit"].numpy().astype(np.float64), 0.0)
        second, third = np.moveaxis(hits["primitive_uvs"].numpy()[hit].astype(np.float64), -1, 0)
        corner_weights = np.stack([1.0 - second - third, second, third], axis=-1)
        color = np.zeros((*face.shape, 3))
        color[hit] = shade(mesh, T, rays[hit], face[hit], corner_weights, self.shading)
        return color, depth.astype(np.float32), face


def import_open3d() -> Any:
    """Import ``open3d``.

    Raises:
        BackendUnavailable: it is not installed; the message says what to install.
    """
    try:
        return importlib.import_module("open3d")
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"Open3D is not installed ({error}): pip install open3d, or take the CPU renderer "
            "(--renderer cpu), which needs no extra package"
        ) from error
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            f"Open3D is installed but does not load ({error}): apt-get install {' '.join(SYSTEM_LIBRARIES)}"
        ) from error


def camera_rays(K: Array, rows: slice, width: int, samples: int) -> Array:
    """Return K^-1 (u, v, 1) of every sample of some rows of pixels, float64 [rows*samples, width*samples, 3].

    Sample j of pixel u lies at u + (j - (samples - 1) / 2) / samples: pixel centres are at integers, so Open3D's own
    ray helpers, which put them at + 0.5, are not used.
    """
    shift = (samples - 1) / 2
    u = (np.arange(width * samples) - shift) / samples
    v = (np.arange(rows.start * samples, rows.stop * samples) - shift) / samples
    pixels = np.stack([*np.meshgrid(u, v), np.ones((len(v), len(u)))], axis=-1)
    return np.asarray(pixels @ np.linalg.inv(K).T)


def shade(mesh: Mesh, T: Array, rays: Array, face: Array, weights: Array, shading: Shading) -> Array:
    """Return colours float64 [n,3] in 0..255, not rounded, where rays [n,3] meet faces [n] at barycentric [n,3]."""
    corners = mesh.vertices[mesh.faces[face]].astype(np.float64) @ T[:3, :3].T
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    product = np.linalg.norm(normal, axis=1) * np.linalg.norm(rays, axis=1)
    facing = np.abs((normal * rays).sum(axis=1)) / np.maximum(product, np.finfo(np.float64).tiny)
    albedo = np.einsum("nc,ncd->nd", weights, mesh.corner_colors[face].astype(np.float64))
    uv = np.einsum("nc,ncd->nd", weights, mesh.corner_uv[face].astype(np.float64))
    texture_of = mesh.face_texture[face]
    for index in np.unique(texture_of[texture_of >= 0]):
        chosen = texture_of == index
        albedo[chosen] = sample_texture(mesh.textures[index], uv[chosen])
    return np.asarray(np.minimum(albedo * (shading.ambient + shading.diffuse * facing)[:, None], 255.0))


def sample_texture(texture: Array, uv: Array) -> Array:
    """Look colours up, bilinear, repeating: texture uint8 [h,w,3], uv [n,2] from the bottom left -> float64 [n,3]."""
    height, width = texture.shape[:2]
    x, y = uv[:, 0] * width - 0.5, (1.0 - uv[:, 1]) * height - 0.5
    left, top = np.floor(x), np.floor(y)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    columns = [(left + step).astype(np.int64) % width for step in (0, 1)]
    rows = [(top + step).astype(np.int64) % height for step in (0, 1)]
    upper = texture[rows[0], columns[0]] * (1.0 - fx) + texture[rows[0], columns[1]] * fx
    lower = texture[rows[1], columns[0]] * (1.0 - fx) + texture[rows[1], columns[1]] * fx
    return np.asarray(upper * (1.0 - fy) + lower * fy)
