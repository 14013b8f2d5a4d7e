"""Draws views of a stock on a GPU by the CUDA kernels of ``CudaRenderer``, launched from what is on the device already.

Poses, cameras and the choice of objects come from tensors, so that drawing pairs never waits for the GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coop_edge.kernels.device import Device
from coop_edge.render.cuda import _BLOCK as BLOCK
from coop_edge.render.cuda import _LARGE_BLOCKS as LARGE_BLOCKS
from coop_edge.render.cuda import _MIN_SLOTS as MIN_SLOTS
from coop_edge.render.cuda import _SAMPLES_PER_SLOT as SAMPLES_PER_SLOT
from coop_edge.render.cuda import _SOURCE as SOURCE
from export.data.render import Layers, Lights, StockRenderer, camera_floats
from export.data.stock import ObjectStock


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
    return torch.cat([R.flatten(1), t, camera_floats(K, samples), centre], dim=1).float()
