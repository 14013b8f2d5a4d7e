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
from coop_edge.render.raster_kernels import (
    BLOCK,
    Band,
    Buffer,
    Image,
    Light,
    Surfaces,
    Views,
    queue_capacity,
    rasterize,
    shade,
)
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
            drawn = self._rasterize(slots, slots < 0, T, K, size, 1)
            rgb, depth, triangle = self._shade(drawn, size, 1, 1.0, 0.0)
        return Layers(rgb, depth, triangle)

    def lit(self, slots: Tensor, T: Tensor, K: Tensor, size: int, lights: Lights, samples: int = 1) -> Layers:
        white = torch.where(lights.plain, slots + self._stock.capacity, slots)
        with self._stream():
            drawn = self._rasterize(white, slots < 0, T, K, size, samples)
            flat, depth, triangle = self._shade(drawn, size, samples, 1.0, 0.0)
            facing, _, _ = self._shade(drawn, size, samples, 0.0, 1.0)
        ambient, diffuse = (share.float()[:, None, None, None] for share in (lights.ambient, lights.diffuse))
        rgb = (ambient * flat + diffuse * facing + 0.5).clamp(0, 255).to(torch.uint8)
        return Layers(rgb, depth, triangle)

    def _rasterize(
        self, slots: Tensor, empty: Tensor, T: Tensor, K: Tensor, size: int, samples: int
    ) -> tuple[Views, Band, Buffer]:
        """Draw V views. Returns what was drawn, the frame and the z-buffer of V * (size * samples)^2 samples."""
        stock, count, side = self._stock, len(slots), size * samples
        total = count * side * side
        which = (slots % stock.capacity).clamp(min=0)
        faces = torch.where(empty, 0, stock.face_count[which])
        starts = torch.cumsum((faces + BLOCK - 1) // BLOCK, dim=0)
        first = slots.clamp(min=0) * stock.limits.faces
        ranges = torch.stack([first, faces, starts.roll(1), torch.zeros_like(faces)], dim=1).int()
        ranges[:1, 2].fill_(0)
        views = _view_floats(T, K, samples, stock.centre[which])
        vertices, faces = self._array(stock.vertices), self._array(stock.surfaces.faces)
        scene = Views(vertices, faces, self._array(views), self._array(ranges), np.int32(count))
        band = Band(np.int32(side), np.int32(side), np.int32(0), np.int32(side))
        capacity = queue_capacity(total)
        zbuffer = torch.full((total,), -1, dtype=torch.int64, device=slots.device)  # all bits set: nothing
        queue = torch.empty(4 * capacity, dtype=torch.int32, device=slots.device)
        queued = torch.zeros(1, dtype=torch.int64, device=slots.device)
        keys, count_queued = (self._array(t).view(np.uint64) for t in (zbuffer, queued))
        buffer = Buffer(keys, self._array(queue), np.int32(capacity), count_queued)
        # How many blocks have work is known on the device alone: those beyond find no triangle and return.
        if count:
            rasterize(self._device, scene, band, buffer, max(count * -(-stock.limits.faces // BLOCK), 1))
        return scene, band, buffer

    def _shade(
        self, drawn: tuple[Views, Band, Buffer], size: int, samples: int, ambient: float, diffuse: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shade what ``_rasterize`` drew. Returns rgb uint8 [V,size,size,3], depth and triangle [V,size,size]."""
        count, device = int(drawn[0].n_views), self._stock.device
        rgb = torch.empty((count, size, size, 3), dtype=torch.uint8, device=device)
        depth = torch.empty((count, size, size), device=device)
        triangle = torch.empty((count, size, size), dtype=torch.int32, device=device)
        own = self._stock.surfaces
        surfaces = Surfaces(*(self._array(t) for t in (own.colors, own.uv, own.texels, own.textures)))
        outputs = self._array(rgb), self._array(depth), self._array(triangle)
        image = Image(np.int32(samples), np.int32(0), np.int32(size), *outputs, None)
        if count:
            shade(self._device, *drawn, surfaces, Light(np.float32(ambient), np.float32(diffuse)), image)
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
