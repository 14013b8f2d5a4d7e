"""Renders on machines without a GPU: a deferred z-buffer rasteriser in Numba, one view per thread.

The rules of ``base`` made exact. The CUDA renderer follows the same ones, so that the two agree to rounding:

1. Supersampling by s renders on a grid s times as fine, K scaled so that u_s = s u + (s - 1) / 2 (same for v).
2. Vertices are moved to the camera, x_c = R x + t. A triangle with all corners nearer than NEAR, or all outside the
   same side of the frame, is dropped. A triangle that crosses NEAR, or reaches over 2^20 samples from the origin, is
   cut into a convex polygon; a cut is computed from the edge's inner end: p = in + d_in / (d_in - d_out) (out - in).
   The polygon is drawn as a fan about its first corner, under the triangle's own id.
3. Projected corners are snapped: U = floor(256 u + 1/2), V likewise. From here on coverage is integer arithmetic, and
   neighbours share their corners bit by bit. Corners are ordered so that (B - A) x (C - A) > 0 in (U, V); 0 is dropped.
4. A sample P = (256 u, 256 v) is covered if E = (Q - P0) x (P - P0) > 0 for each edge P0 -> Q in that order, or E = 0
   on a left edge (V falls) or a top edge (V constant, U rises).
5. Depth comes from the plane of the triangle as it was before cutting and snapping: with normal n and d = n . x_0,
   1 / z = n . K^-1 (u, v, 1) / d, z limited to the range of the three corners and not below NEAR; rounded to float32.
   d = 0 (edge-on) draws nothing. The least (depth, id) wins, in that order.
6. Barycentric coordinates: w_i proportional to (x_j x x_k) . K^-1 (u, v, 1), negative ones set to 0, sum 1. They weight
   the uncut triangle's corners: texture coordinates or colours.
7. A sample's colour is limited to 255 but not rounded; a pixel is floor(mean + 1/2).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np

from coop_edge.base.hardware import thread_count
from coop_edge.mesh.mesh import Mesh
from coop_edge.render.base import Renderer, Shading
from coop_edge.render.rasterize import Buffer, Pinhole, Surface, Vertices, rasterize, transform_vertices
from coop_edge.render.shade import Image, Light, shade

Array = np.ndarray[Any, Any]

_BAND_SAMPLES = 1 << 22
"""Samples of a supersampled view that are held at once; larger views are drawn in bands of rows."""


class CpuRenderer(Renderer):
    """Rasterises on the CPU; views of a batch are spread over ``threads`` threads (default: all cores).

    The first call compiles the kernels (seconds; cached on disk for later processes). Instances may be shared between
    threads and inherited by forked processes. Parameters besides those of ``Renderer``: threads, at least 1.
    """

    def __init__(
        self,
        meshes: Mesh | Sequence[Mesh],
        *,
        shading: Shading | None = None,
        supersample: int = 1,
        threads: int | None = None,
    ) -> None:
        super().__init__(meshes, shading=shading, supersample=supersample)
        self.threads = thread_count(int(threads) if isinstance(threads, np.integer) else threads)
        self._textures = [mesh.packed_textures() for mesh in self.meshes]

    def _render(
        self, T_camera_centred: Array, K: Array, height: int, width: int, mesh_index: Array
    ) -> tuple[Array, Array, Array]:
        n = len(T_camera_centred)
        rgb = np.empty((n, height, width, 3), np.uint8)
        depth = np.empty((n, height, width), np.float32)
        triangle_id = np.empty((n, height, width), np.int32)

        def view(i: int) -> None:
            self._view(T_camera_centred[i], K[i], int(mesh_index[i]), rgb[i], depth[i], triangle_id[i])

        if n <= 1 or self.threads == 1:
            for i in range(n):
                view(i)
        else:
            list(_pool(self.threads, os.getpid()).map(view, range(n)))  # list: raises what a view raised
        return rgb, depth, triangle_id

    def _view(self, T: Array, K: Array, index: int, rgb: Array, depth: Array, triangle_id: Array) -> None:
        """Render one view into rgb [H,W,3], depth and triangle_id [H,W]."""
        mesh, s = self.meshes[index], self.supersample
        height, width = depth.shape
        shift = (s - 1) / 2
        fx, fy = s * K[0, 0], s * K[1, 1]
        camera = Pinhole(
            *map(float, (fx, s * K[0, 1], s * K[0, 2] + shift, fy, s * K[1, 2] + shift, 1.0 / fx, 1.0 / fy))
        )
        colors = mesh.corner_colors, mesh.corner_uv, mesh.face_texture
        surface = Surface(mesh.faces, *colors, *self._textures[index])
        light = Light(float(self.shading.ambient), float(self.shading.diffuse))
        count = len(mesh.vertices)
        vertices = Vertices(
            _scratch("xyz", (count, 3), np.float64),
            _scratch("fixed", (count, 2), np.int32),
            _scratch("code", (count,), np.uint8),
        )
        transform_vertices(mesh.vertices, T, camera, height * s, width * s, vertices)
        band = height if s == 1 else max(1, min(height, _BAND_SAMPLES // (width * s * s)))
        for first in range(0, height, band):
            rows = slice(first, min(first + band, height))
            shape = ((rows.stop - first) * s, width * s)
            buffer = Buffer(
                first * s,
                depth if s == 1 else _scratch("depth", shape, np.float32),
                triangle_id if s == 1 else _scratch("id", shape, np.int32),
            )
            buffer.depth.fill(np.inf)
            buffer.triangle_id.fill(-1)
            rasterize(mesh.faces, vertices, camera, buffer)
            image = Image(rgb[rows], depth[rows], triangle_id[rows])
            shade(buffer, s, vertices.xyz, camera, surface, light, image)


@lru_cache(maxsize=8)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return the pool of this size, which all renderers share; ``process`` is a key: threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="coop_edge.render")


_local = threading.local()


def _scratch(name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> Array:
    """Return an uninitialised array that this thread reuses from call to call; it grows to the largest shape."""
    size = int(np.prod(shape))
    buffer: Array | None = getattr(_local, name, None)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size, dtype)
        setattr(_local, name, buffer)
    return buffer[:size].reshape(shape)
