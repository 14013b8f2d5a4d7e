"""Views of objects of a stock, as tensors on its device: by the CUDA kernels, or on a CPU by the CPU renderer's.

Both follow ``coop_edge.render.base``. The CUDA kernels are those of ``CudaRenderer``, launched from what is on the
device already: poses, cameras and the choice of objects come from tensors, so that drawing pairs never waits for the
GPU. On a CPU views are drawn one after the other, and where several objects meet, only what is in front gets colours.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coop_edge.base.jit import jit, stamp_of
from coop_edge.kernels.device import CupyDevice, Device
from coop_edge.render.cuda import _BLOCK as BLOCK
from coop_edge.render.cuda import _LARGE_BLOCKS as LARGE_BLOCKS
from coop_edge.render.cuda import _MIN_SLOTS as MIN_SLOTS
from coop_edge.render.cuda import _SAMPLES_PER_SLOT as SAMPLES_PER_SLOT
from coop_edge.render.cuda import _SOURCE as SOURCE
from coop_edge.render.rasterize import rasterize, transform_vertices
from coop_edge.render.shade import shade
from export.data.objects import TrainingObject
from export.data.stock import ObjectStock

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Layers:
    """V views of size n x n."""

    rgb: Tensor  # uint8 [V,n,n,3], 0 where there is nothing
    depth: Tensor  # float32 [V,n,n] metres, 0 = nothing
    triangle: Tensor  # int32 [V,n,n], -1 = nothing


@dataclass(frozen=True, eq=False)
class Composite:
    """What is nearest in each of N views of several items; n x n pixels."""

    albedo: Tensor  # uint8 [N,n,n,3], 0 where there is nothing
    depth: Tensor  # float32 [N,n,n] metres of the scene, 0 = nothing
    item: Tensor  # int64 [N,n,n], -1 = nothing
    triangle: Tensor  # int32 [N,n,n], -1 = nothing


@dataclass(frozen=True, eq=False)
class Lights:
    """How each of V views is lit: float64 [V] each, and which are drawn in plain white instead of their colours."""

    ambient: Tensor
    diffuse: Tensor
    plain: Tensor  # bool [V]

    def rows(self, low: int, high: int) -> Lights:
        """Those of views low .. high - 1."""
        return Lights(self.ambient[low:high], self.diffuse[low:high], self.plain[low:high])


class StockRenderer(ABC):
    """Draws objects of one stock. Views are given by slots int64 [V] (-1: an empty view), T_camera_object [V,4,4] and K
    [V,3,3], float64."""

    @abstractmethod
    def unlit(self, slots: Tensor, T: Tensor, K: Tensor, size: int) -> Layers:
        """Draw albedo, which is colour without light."""

    @abstractmethod
    def lit(self, slots: Tensor, T: Tensor, K: Tensor, size: int, lights: Lights, samples: int = 1) -> Layers:
        """Draw with the renderers' light at the camera, ``samples`` per pixel side."""

    def depths(self, slots: Tensor, T: Tensor, K: Tensor, size: int) -> Tensor:
        """Draw depth alone, float32 [V,size,size], infinite where there is nothing."""
        layers = self.unlit(slots, T, K, size)
        return torch.where(layers.triangle >= 0, layers.depth, torch.inf)

    def nearest(self, slots: Tensor, T: Tensor, scale: Tensor, K: Tensor, size: int, colors: bool = True) -> Composite:
        """Draw N views of k items each and keep the nearest at each pixel, of equal depths the first item's.

        slots [N,k]; T [N,k,4,4]; scale [N,k]: depths in the scene over those of T; K [N,3,3]. colors: whether
        ``albedo`` is wanted; it means nothing otherwise.
        """
        n, k = slots.shape
        layers = self.unlit(slots.flatten(), T.flatten(0, 1), K[:, None].expand(n, k, 3, 3).flatten(0, 1), size)
        rgb, triangle = layers.rgb.unflatten(0, (n, k)), layers.triangle.unflatten(0, (n, k))
        depth = layers.depth.unflatten(0, (n, k)) * scale.float()[..., None, None]
        nearest, who = torch.where(triangle >= 0, depth, torch.inf).min(dim=1)
        there = torch.isfinite(nearest)
        albedo = rgb[:, 0].clone()
        for place in range(1, k):
            albedo = torch.where((who == place)[..., None], rgb[:, place], albedo)
        return Composite(
            albedo,
            torch.where(there, nearest, 0.0),
            torch.where(there, who, -1),
            triangle.gather(1, who[:, None])[:, 0],
        )


def stock_renderer(stock: ObjectStock) -> StockRenderer:
    """Make the renderer for the stock's device."""
    if stock.device.type != "cuda":
        return HostRenderer(stock)
    with torch.cuda.device(stock.device):
        return KernelRenderer(stock, CupyDevice())


class HostRenderer(StockRenderer):
    """Draws by the kernels of ``CpuRenderer``, one view after the other, on one thread."""

    def __init__(self, stock: ObjectStock) -> None:
        self._stock = stock
        self._textures: dict[int, tuple[TrainingObject, Any]] = {}

    def unlit(self, slots: Tensor, T: Tensor, K: Tensor, size: int) -> Layers:
        one, none = torch.ones(len(slots)), torch.zeros(len(slots))
        return self.lit(slots, T, K, size, Lights(one, none, none.bool()))

    def lit(self, slots: Tensor, T: Tensor, K: Tensor, size: int, lights: Lights, samples: int = 1) -> Layers:
        count = len(slots)
        rgb = np.zeros((count, size, size, 3), np.uint8)
        depth = np.zeros((count, size, size), np.float32)
        triangle = np.full((count, size, size), -1, np.int32)
        poses, cameras = self._centred(slots, T), _sample_cameras(K, samples)
        ambient, diffuse, plain = (t.tolist() for t in (lights.ambient, lights.diffuse, lights.plain))
        for i, slot in enumerate(slots.tolist()):
            if slot < 0:
                continue
            view = self._rasterized(slot, poses[i], cameras[i], size * samples)
            self._shade(slot, view, 0, samples, (ambient[i], diffuse[i]), plain[i], (rgb[i], depth[i], triangle[i]))
        return Layers(torch.from_numpy(rgb), torch.from_numpy(depth), torch.from_numpy(triangle))

    def depths(self, slots: Tensor, T: Tensor, K: Tensor, size: int) -> Tensor:
        depth = np.full((len(slots), size, size), np.inf, np.float32)
        poses, cameras = self._centred(slots, T), _sample_cameras(K, 1)
        for i, slot in enumerate(slots.tolist()):
            if slot >= 0:
                depth[i] = self._rasterized(slot, poses[i], cameras[i], size).depth
        return torch.from_numpy(depth)

    def nearest(self, slots: Tensor, T: Tensor, scale: Tensor, K: Tensor, size: int, colors: bool = True) -> Composite:
        n, k = slots.shape
        albedo = np.zeros((n, size, size, 3), np.uint8)
        depth = np.full((n, size, size), np.inf, np.float32)
        who = np.full((n, size, size), -1, np.int64)
        triangle = np.full((n, size, size), -1, np.int32)
        poses, cameras = self._centred(slots.flatten(), T.flatten(0, 1)), _sample_cameras(K, 1)
        factor = scale.float().numpy()
        for i, places in enumerate(slots.tolist()):
            views = []
            for place, slot in enumerate(places):
                if slot >= 0:
                    view = self._rasterized(slot, poses[i * k + place], cameras[i], size)
                    _keep_nearest(view.depth, view.triangle, factor[i, place], place, depth[i], who[i], triangle[i])
                    views.append((place, slot, view))
            for place, slot, view in views if colors else ():
                self._color(place, slot, view, who[i], triangle[i], albedo[i])
            depth[i][who[i] < 0] = 0.0
        return Composite(*(torch.from_numpy(a) for a in (albedo, depth, who, triangle)))

    def _centred(self, slots: Tensor, T: Tensor) -> Array:
        """Poses [V,4,4] of the meshes' own coordinates, which are about their centres."""
        R, centre = T[:, :3, :3], self._stock.centre[slots.clamp(min=0)]
        poses = T.clone()
        poses[:, :3, 3] += (R @ centre[..., None])[..., 0]
        return poses.numpy()

    def _rasterized(self, slot: int, T: Array, camera: Array, side: int) -> _View:
        thing = self._stock.things[slot]
        assert thing is not None
        mesh = thing.mesh
        xyz = np.empty((len(mesh.vertices), 3))
        fixed, code = np.empty((len(xyz), 2), np.int32), np.empty(len(xyz), np.uint8)
        transform_vertices(mesh.vertices, T, camera, side, side, xyz, fixed, code)
        depth, triangle = np.full((side, side), np.inf, np.float32), np.full((side, side), -1, np.int32)
        rasterize(mesh.faces, xyz, fixed, code, camera, 0, depth, triangle)
        return _View(xyz, camera, depth, triangle)

    def _shade(
        self, slot: int, view: _View, first: int, samples: int, light: tuple[float, float], plain: bool,
        out: tuple[Array, Array, Array],
    ) -> None:  # fmt: skip
        """Shade the samples of rows first, first + 1, ... into out: rgb, depth and triangle of those rows' pixels."""
        thing = self._stock.things[slot]
        assert thing is not None
        mesh = thing.mesh
        packed = self._textures.get(slot)
        if packed is None or packed[0] is not thing:
            packed = self._textures[slot] = (thing, mesh.packed_textures())
        colors, face_texture = mesh.corner_colors, mesh.face_texture
        if plain:
            colors, face_texture = np.full_like(colors, 255), np.full_like(face_texture, -1)
        shade(
            view.depth, view.triangle, first, samples, view.xyz, view.camera, mesh.faces, colors, mesh.corner_uv,
            face_texture, *packed[1], *light, *out,
        )  # fmt: skip

    def _color(self, place: int, slot: int, view: _View, who: Array, triangle: Array, albedo: Array) -> None:
        """Write the albedo of the pixels that an item is nearest at."""
        ids = np.empty_like(triangle)
        first, last = _own_triangles(who, place, triangle, ids)
        if first > last:
            return
        part = slice(first, last + 1)
        ids = ids[part]
        rgb, depth = np.empty((*ids.shape, 3), np.uint8), np.empty(ids.shape, np.float32)
        seen = _View(view.xyz, view.camera, view.depth[part], ids)
        self._shade(slot, seen, first, 1, (1.0, 0.0), False, (rgb, depth, ids))
        _put_colors(ids, rgb, albedo[part])


@dataclass(frozen=True, eq=False)
class _View:
    """A rasterised view: the mesh's vertices in the camera, the camera, depth (infinite: nothing) and triangles."""

    xyz: Array
    camera: Array
    depth: Array
    triangle: Array


def _sample_cameras(K: Tensor, samples: int) -> Array:
    """The CPU kernels' cameras of samples, float64 [V,7]; see ``coop_edge.render.rasterize``."""
    return _camera_floats(K, samples).numpy()


def _camera_floats(K: Tensor, samples: int) -> Tensor:
    """(fx, skew, cx, fy, cy, 1 / fx, 1 / fy) of the grids of samples, float64 [V,7]."""
    shift = (samples - 1) / 2
    fx, skew, fy = samples * K[:, 0, 0], samples * K[:, 0, 1], samples * K[:, 1, 1]
    cx, cy = samples * K[:, 0, 2] + shift, samples * K[:, 1, 2] + shift
    return torch.stack([fx, skew, cx, fy, cy, 1 / fx, 1 / fy], dim=1)


def _keep_nearest(
    depth: Array, triangle: Array, scale: float, place: int, nearest: Array, who: Array, winner: Array
) -> None:
    """Where an item's depth [n,n] times scale is nearer than ``nearest``, put it and its triangle in their place."""
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            if triangle[v, u] >= 0:
                z = depth[v, u] * scale
                if z < nearest[v, u]:
                    nearest[v, u] = z
                    who[v, u] = place
                    winner[v, u] = triangle[v, u]


def _own_triangles(who: Array, place: int, triangle: Array, own: Array) -> tuple[int, int]:
    """Write the triangles of the pixels that belong to a place into ``own`` [n,n], -1 elsewhere; the first and the last
    row that has any."""
    first, last = len(who), -1
    for v in range(who.shape[0]):
        for u in range(who.shape[1]):
            if who[v, u] == place:
                own[v, u] = triangle[v, u]
                first, last = min(first, v), v
            else:
                own[v, u] = -1
    return first, last


def _put_colors(triangle: Array, rgb: Array, albedo: Array) -> None:
    """Copy the colours of pixels that have a triangle."""
    for v in range(triangle.shape[0]):
        for u in range(triangle.shape[1]):
            if triangle[v, u] >= 0:
                for channel in range(3):
                    albedo[v, u, channel] = rgb[v, u, channel]


_STAMP = stamp_of([Path(__file__)])
_keep_nearest, _own_triangles, _put_colors = (jit(f, _STAMP) for f in (_keep_nearest, _own_triangles, _put_colors))


class KernelRenderer(StockRenderer):
    """Draws by ``kernels/raster.cu``, all views in three or four launches on PyTorch's current stream.

    Light is linear in its two shares, save for what is brighter than white: an image is the sum of one with ambient
    light alone and one with diffuse light alone, each weighted by its view's share. So every view has its own light, at
    the price of two roundings: half a grey level times the shares.
    """

    def __init__(self, stock: ObjectStock, device: Device) -> None:
        self._stock, self._device = stock, device

    def unlit(self, slots: Tensor, T: Tensor, K: Tensor, size: int) -> Layers:
        with self._stream():
            scene, zbuffer = self._rasterize(slots, slots < 0, T, K, size, 1)
            rgb, depth, triangle = self._shade(scene, zbuffer, len(slots), size, 1, 1.0, 0.0)
        return Layers(rgb, depth, triangle)

    def lit(self, slots: Tensor, T: Tensor, K: Tensor, size: int, lights: Lights, samples: int = 1) -> Layers:
        white = torch.where(lights.plain, slots + self._stock.capacity, slots)
        with self._stream():
            scene, zbuffer = self._rasterize(white, slots < 0, T, K, size, samples)
            flat, depth, triangle = self._shade(scene, zbuffer, len(slots), size, samples, 1.0, 0.0)
            facing, _, _ = self._shade(scene, zbuffer, len(slots), size, samples, 0.0, 1.0)
        ambient, diffuse = (share.float()[:, None, None, None] for share in (lights.ambient, lights.diffuse))
        rgb = (ambient * flat + diffuse * facing + 0.5).clamp(0, 255).to(torch.uint8)
        return Layers(rgb, depth, triangle)

    def _rasterize(
        self, slots: Tensor, empty: Tensor, T: Tensor, K: Tensor, size: int, samples: int
    ) -> tuple[tuple[Any, ...], Tensor]:
        """The kernels' scene, and the z-buffer int64 [V * (size * samples)^2] filled with the views."""
        stock, count, side = self._stock, len(slots), size * samples
        total = count * side * side
        which = (slots % stock.capacity).clamp(min=0)
        faces = torch.where(empty, 0, stock.face_count[which])
        starts = torch.cumsum((faces + BLOCK - 1) // BLOCK, dim=0)
        first = slots.clamp(min=0) * stock.limits.faces
        ranges = torch.stack([first, faces, starts.roll(1), torch.zeros_like(faces)], dim=1).int()
        ranges[:1, 2].fill_(0)
        views = _view_floats(T, K, samples, stock.centre[which])
        scene = tuple(self._array(t) for t in (stock.vertices, stock.surfaces.faces, views, ranges))
        zbuffer = torch.full((total,), -1, dtype=torch.int64, device=slots.device)  # all bits set: nothing
        capacity = max(total // SAMPLES_PER_SLOT, MIN_SLOTS)
        queue = torch.empty(4 * capacity, dtype=torch.int32, device=slots.device)
        queued = torch.zeros(1, dtype=torch.int64, device=slots.device)
        keys = (self._array(zbuffer).view(np.uint64), self._array(queue), np.int32(capacity))
        numbers = tuple(np.int32(v) for v in (count, side, side, 0, side))
        arguments = (*scene, *numbers, *keys, self._array(queued).view(np.uint64))
        # How many blocks have work is known on the device alone: those beyond find no triangle and return.
        blocks = max(count * -(-stock.limits.faces // BLOCK), 1)
        if count:
            self._device.kernel(SOURCE, "raster_small")((blocks,), (BLOCK,), arguments)
            self._device.kernel(SOURCE, "raster_large")((LARGE_BLOCKS,), (BLOCK,), arguments)
        return scene, zbuffer

    def _shade(
        self,
        scene: tuple[Any, ...],
        zbuffer: Tensor,
        count: int,
        size: int,
        samples: int,
        ambient: float,
        diffuse: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = zbuffer.device
        rgb = torch.empty((count, size, size, 3), dtype=torch.uint8, device=device)
        depth = torch.empty((count, size, size), device=device)
        triangle = torch.empty((count, size, size), dtype=torch.int32, device=device)
        side = size * samples
        own = self._stock.surfaces
        surface = tuple(self._array(t) for t in (own.colors, own.uv, own.texels, own.textures))
        if count:
            self._device.kernel(SOURCE, "shade")(
                (-(-count * size * size // BLOCK),),
                (BLOCK,),
                (*scene, *(np.int32(v) for v in (count, side, 0, side)), self._array(zbuffer).view(np.uint64), *surface)
                + (np.float32(ambient), np.float32(diffuse), np.int32(samples), np.int32(0), np.int32(size))
                + (self._array(rgb), self._array(depth), self._array(triangle), None),
            )
        return rgb, depth, triangle

    def _array(self, tensor: Tensor) -> Any:
        """The same memory as an array of the device's module."""
        return self._device.xp.asarray(tensor) if tensor.is_cuda else tensor.numpy()

    @contextlib.contextmanager
    def _stream(self) -> Iterator[None]:
        """PyTorch's current stream as CuPy's."""
        if self._stock.device.type != "cuda":
            yield
            return
        handle = torch.cuda.current_stream(self._stock.device).cuda_stream
        cuda = self._device.xp.cuda
        with cuda.Device(self._stock.device.index or 0), cuda.ExternalStream(handle) if handle else cuda.Stream.null:
            yield


def _view_floats(T: Tensor, K: Tensor, samples: int, centre: Tensor) -> Tensor:
    """What the kernels know of a view, float32 [V,22]; see ``raster_view.cuh``."""
    R = T[:, :3, :3]
    t = T[:, :3, 3] + (R @ centre[..., None])[..., 0]
    return torch.cat([R.flatten(1), t, _camera_floats(K, samples), centre], dim=1).float()
