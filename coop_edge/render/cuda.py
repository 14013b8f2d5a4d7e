"""Renders on GPUs: many views of many meshes in a few launches of the kernels in ``kernels/raster.cu``.

It follows the rules of ``render.cpu`` step by step, with two differences: arithmetic is FP32 (an Orin computes FP64 at
1/64 of that rate), and depth and colours come from edges that are rotated rather than subtracted, so that FP32 suffices
at any distance. Coverage, once corners are snapped, is the same integer arithmetic. Which sample a triangle gets can
therefore differ from ``CpuRenderer`` only where rounding moves a corner by 1/256 sample, or where depths tie to 1e-6.

The result is the same for every batch a view is part of, and on every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from coop_edge.errors import InputError
from coop_edge.kernels.device import CupyDevice, Device
from coop_edge.mesh.mesh import Mesh
from coop_edge.render.base import Array, Renderer, RenderResult, Shading
from coop_edge.render.raster_kernels import (
    BLOCK,
    Band,
    Buffer,
    Image,
    Light,
    Scene,
    Surfaces,
    queue_capacity,
    rasterize,
    shade,
)

_NOTHING = np.uint64(0xFFFFFFFFFFFFFFFF)  # kNothing


@dataclass(frozen=True)
class CudaRenderResult(RenderResult):
    """A RenderResult whose object-point map was written by the renderer itself, on the device."""

    points: Array  # float32 [N,H,W,3] metres: the surface point seen, in the object's frame; NaN off it

    def object_points(self) -> Array:
        """Return the object-point map, float32 [N,H,W,3] on the device."""
        return self.points


class CudaRenderer(Renderer):
    """Renders on a GPU; all launches go to the device's current stream, and nothing waits for it.

    Parameters besides those of ``Renderer``:

    Arrays of the result live on the device. An instance is for one thread and one stream at a time, because its scratch
    memory is shared by its calls.

    Args:
        device: where to render; default ``CupyDevice()``, which raises BackendUnavailable without a GPU.
        object_points: write the object-point map along with the image (the result is a CudaRenderResult).
        max_scratch_bytes: bound on the z-buffer, 8 bytes per sample; larger batches are drawn in parts. The queue of
            large triangles adds an eighth. Scratch memory grows to what was needed and is kept.
    """

    def __init__(
        self,
        meshes: Mesh | Sequence[Mesh],
        *,
        shading: Shading | None = None,
        supersample: int = 1,
        device: Device | None = None,
        object_points: bool = False,
        max_scratch_bytes: int = 256 << 20,
    ) -> None:
        super().__init__(meshes, shading=shading, supersample=supersample)
        if max_scratch_bytes < 1:
            raise InputError(f"max_scratch_bytes: wanted at least 1, got {max_scratch_bytes}")
        self.device: Device = CupyDevice() if device is None else device
        self.xp = self.device.xp
        self.max_scratch_bytes = int(max_scratch_bytes)
        self._object_points = bool(object_points)
        self._points: Array = None
        joint = _JointMeshes.of(self.meshes)
        upload = self.xp.asarray
        self._vertices, self._faces = upload(joint.vertices), upload(joint.faces)
        self._surfaces = Surfaces(*map(upload, (joint.corner_colors, joint.corner_uv, joint.texels, joint.textures)))
        self._first_face, self._n_faces = joint.first_face, joint.n_faces
        self._scratch: dict[str, Array] = {}

    def render(
        self,
        T_camera_object: ArrayLike,
        K: ArrayLike,
        size: int | tuple[int, int],
        *,
        mesh_index: ArrayLike | None = None,
    ) -> RenderResult:
        """Render as ``Renderer.render`` does; with ``object_points`` the result is a CudaRenderResult."""
        result = super().render(T_camera_object, K, size, mesh_index=mesh_index)
        if not self._object_points:
            return result
        points, self._points = self._points, None
        return CudaRenderResult(**vars(result), points=points)

    def _render(
        self, T_camera_centred: np.ndarray, K: np.ndarray, height: int, width: int, mesh_index: np.ndarray
    ) -> tuple[Array, Array, Array]:
        xp, n, s = self.xp, len(T_camera_centred), self.supersample
        rgb = xp.empty((n, height, width, 3), np.uint8)
        depth = xp.empty((n, height, width), np.float32)
        triangle_id = xp.empty((n, height, width), np.int32)
        self._points = xp.empty((n, height, width, 3), np.float32) if self._object_points else None
        centres = np.stack([m.centre for m in self.meshes])[mesh_index].reshape(n, 3)
        views = xp.asarray(_view_floats(T_camera_centred, K, s, centres))
        light = Light(np.float32(self.shading.ambient), np.float32(self.shading.diffuse))
        for first, last, row, rows in self._parts(n, height, width):
            ranges, blocks = self._ranges(mesh_index[first:last])
            scene = Scene(self._vertices, self._faces, views[first:last], xp.asarray(ranges), np.int32(last - first))
            band = Band(np.int32(width * s), np.int32(height * s), np.int32(row * s), np.int32(rows * s))
            buffer = self._buffer_for((last - first) * width * rows * s * s)
            rasterize(self.device, scene, band, buffer, blocks)
            outputs = rgb, depth, triangle_id, self._points
            image = Image(np.int32(s), np.int32(first), np.int32(height), *outputs)
            shade(self.device, scene, band, buffer.zbuffer, self._surfaces, light, image)
        return rgb, depth, triangle_id

    def _buffer_for(self, samples: int) -> Buffer:
        """Return an empty z-buffer of so many samples, and its queue, in scratch memory."""
        capacity = queue_capacity(samples)
        buffer = Buffer(
            self._buffer("zbuffer", samples, np.uint64),
            self._buffer("queue", 4 * capacity, np.int32),
            np.int32(capacity),
            self._buffer("queued", 1, np.uint64),
        )
        buffer.zbuffer.fill(_NOTHING)
        buffer.queued.fill(0)
        return buffer

    def _parts(self, n: int, height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (first view, last view, first row, rows), pixels, of parts whose z-buffers fit max_scratch_bytes."""
        row_bytes = 8 * width * self.supersample**2
        rows = max(1, min(height, self.max_scratch_bytes // row_bytes))
        views = max(1, self.max_scratch_bytes // (row_bytes * height)) if rows == height else 1
        for first in range(0, n, views):
            for row in range(0, height, rows):
                yield first, min(first + views, n), row, min(rows, height - row)

    def _ranges(self, mesh_index: np.ndarray) -> tuple[np.ndarray, int]:
        """Return per view int32 [n,4] = first face, faces, first block of raster_small, 0; and the number of blocks."""
        faces = self._n_faces[mesh_index]
        ends = np.cumsum(-(-faces // BLOCK))
        if ends[-1] >= 1 << 31:
            raise InputError(f"{len(mesh_index)} views need {ends[-1]} blocks, more than a launch can have; split them")
        starts = np.concatenate([[0], ends[:-1]])
        ranges = np.stack([self._first_face[mesh_index], faces, starts, np.zeros_like(faces)], axis=1)
        return ranges.astype(np.int32), int(ends[-1])

    def _buffer(self, name: str, size: int, dtype: type[np.generic]) -> Array:
        """Return uninitialised scratch memory of at least ``size`` elements, kept between calls."""
        if name not in self._scratch or self._scratch[name].size < size:
            self._scratch.pop(name, None)  # first free the old, then ask for more
            self._scratch[name] = self.xp.empty(size, dtype)
        return self._scratch[name][:size]


def _view_floats(T: np.ndarray, K: np.ndarray, samples: int, centres: np.ndarray) -> np.ndarray:
    """Return views for the kernels, float32 [n,22]: R, t, fx, skew, cx, fy, cy, 1/fx, 1/fy in samples, centre."""
    n = len(T)
    shift = (samples - 1) / 2
    fx, fy = samples * K[:, 0, 0], samples * K[:, 1, 1]
    cx, cy = samples * K[:, 0, 2] + shift, samples * K[:, 1, 2] + shift
    camera = np.stack([fx, samples * K[:, 0, 1], cx, fy, cy, 1 / fx, 1 / fy], axis=1)
    views = np.concatenate([T[:, :3, :3].reshape(n, 9), T[:, :3, 3], camera, centres], axis=1)
    with np.errstate(over="ignore"):  # an object 1e39 metres away is at infinity, and draws nothing
        return views.astype(np.float32)


@dataclass(frozen=True)
class _JointMeshes:
    """All meshes in joint buffers, in the layout that the kernels read."""

    vertices: np.ndarray  # float32 [V,4], the last is 0
    faces: np.ndarray  # int32 [F,4]: three joint vertex indices, joint texture index or -1
    corner_colors: np.ndarray  # uint8 [F,3,4], the last is 0
    corner_uv: np.ndarray  # float32 [F,3,2]
    texels: np.ndarray  # uint8 [M,4], the last is 0
    textures: np.ndarray  # int32 [n,4]: first texel, height, width, 0
    first_face: np.ndarray  # int64 [meshes]
    n_faces: np.ndarray  # int64 [meshes]

    @classmethod
    def of(cls, meshes: Sequence[Mesh]) -> _JointMeshes:
        """Join the meshes' arrays into one of each kind, and copy them to the device."""
        packed = [mesh.packed_textures() for mesh in meshes]
        n_faces = np.array([len(mesh.faces) for mesh in meshes])
        first_vertex = _starts([len(mesh.vertices) for mesh in meshes])
        first_texel = _starts([len(texels) for texels, _ in packed])
        first_texture = _starts([len(table) for _, table in packed])
        if max(n_faces.sum(), sum(len(m.vertices) for m in meshes), sum(len(t) for t, _ in packed)) >= 1 << 31:
            raise InputError("CudaRenderer: more than 2^31 faces, vertices or texels in all; use several renderers")
        faces = []
        for mesh, vertex, texture in zip(meshes, first_vertex, first_texture, strict=True):
            joint = np.where(mesh.face_texture >= 0, mesh.face_texture + texture, -1)
            faces.append(np.column_stack([mesh.faces + vertex, joint]))
        tables = [t + (first, 0, 0) for (_, t), first in zip(packed, first_texel, strict=True)]
        textures = np.concatenate([*tables, np.zeros((1, 3))])  # never empty: a pointer that can be taken
        return cls(
            vertices=_fourth(np.concatenate([mesh.vertices for mesh in meshes])),
            faces=np.concatenate(faces).astype(np.int32),
            corner_colors=_fourth(np.concatenate([mesh.corner_colors for mesh in meshes])),
            corner_uv=np.ascontiguousarray(np.concatenate([mesh.corner_uv for mesh in meshes])),
            texels=_fourth(np.concatenate([texels for texels, _ in packed])),
            textures=_fourth(textures.astype(np.int32)),
            first_face=_starts(n_faces),
            n_faces=n_faces,
        )


def _starts(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)


def _fourth(array: np.ndarray) -> np.ndarray:
    """Append a zero to vectors, [...,3] -> [...,4]: the GPU loads four components at once."""
    return np.concatenate([array, np.zeros((*array.shape[:-1], 1), array.dtype)], axis=-1)
