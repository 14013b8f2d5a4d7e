"""Draws views of a stock on a GPU by the CUDA kernels of ``CudaRenderer``, launched from what is on the device already.

Poses, cameras and the choice of objects come from tensors, so that drawing pairs never waits for the GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

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
    Scene,
    Surfaces,
    queue_capacity,
    rasterize,
    shade,
)
from export.data.render import Layers, Lights, StockRenderer, camera_floats
from export.data.stock import ObjectStock

_AMBIENT = Light(np.float32(1), np.float32(0))
_DIFFUSE = Light(np.float32(0), np.float32(1))


class _Drawn(NamedTuple):
    """Views in a z-buffer, ready to be shaded."""

    scene: Scene
    band: Band
    zbuffer: Any  # uint64 [views * rows * width]


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
            return Layers(*self._shade(drawn, size, 1, _AMBIENT))

    def lit(self, slots: Tensor, T: Tensor, K: Tensor, size: int, lights: Lights, samples: int = 1) -> Layers:
        white = torch.where(lights.plain, slots + self._stock.capacity, slots)
        with self._stream():
            drawn = self._rasterize(white, slots < 0, T, K, size, samples)
            flat, depth, triangle = self._shade(drawn, size, samples, _AMBIENT)
            facing, _, _ = self._shade(drawn, size, samples, _DIFFUSE)
        ambient, diffuse = (share.float()[:, None, None, None] for share in (lights.ambient, lights.diffuse))
        rgb = (ambient * flat + diffuse * facing + 0.5).clamp(0, 255).to(torch.uint8)
        return Layers(rgb, depth, triangle)

    def _rasterize(self, slots: Tensor, empty: Tensor, T: Tensor, K: Tensor, size: int, samples: int) -> _Drawn:
        """Draw the views into a new z-buffer."""
        stock, count, side = self._stock, len(slots), size * samples
        which = (slots % stock.capacity).clamp(min=0)
        faces = torch.where(empty, 0, stock.face_count[which])
        starts = torch.cumsum((faces + BLOCK - 1) // BLOCK, dim=0)
        first = slots.clamp(min=0) * stock.limits.faces
        ranges = torch.stack([first, faces, starts.roll(1), torch.zeros_like(faces)], dim=1).int()
        ranges[:1, 2].fill_(0)
        views = _view_floats(T, K, samples, stock.centre[which])
        vertices, joint_faces = self._array(stock.vertices), self._array(stock.surfaces.faces)
        scene = Scene(vertices, joint_faces, self._array(views), self._array(ranges), np.int32(count))
        band = Band(np.int32(side), np.int32(side), np.int32(0), np.int32(side))
        buffer = self._buffer_for(count * side * side)
        # How many blocks have work is known on the device alone: those beyond find no triangle and return.
        if count:
            rasterize(self._device, scene, band, buffer, max(count * -(-stock.limits.faces // BLOCK), 1))
        return _Drawn(scene, band, buffer.zbuffer)

    def _buffer_for(self, samples: int) -> Buffer:
        """Return an empty z-buffer of so many samples, and its queue."""
        device, capacity = self._stock.vertices.device, queue_capacity(samples)
        zbuffer = torch.full((samples,), -1, dtype=torch.int64, device=device)  # all bits set: nothing
        queue = torch.empty(4 * capacity, dtype=torch.int32, device=device)
        queued = torch.zeros(1, dtype=torch.int64, device=device)
        keys, count = (self._array(t).view(np.uint64) for t in (zbuffer, queued))
        return Buffer(keys, self._array(queue), np.int32(capacity), count)

    def _shade(self, drawn: _Drawn, size: int, samples: int, light: Light) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images uint8 [V,size,size,3], and depths float32 and triangles int32 [V,size,size]."""
        shape, own = (int(drawn.scene.n_views), size, size), self._stock.surfaces
        device = self._stock.vertices.device
        rgb = torch.empty((*shape, 3), dtype=torch.uint8, device=device)
        depth = torch.empty(shape, device=device)
        triangle = torch.empty(shape, dtype=torch.int32, device=device)
        surfaces = Surfaces(*(self._array(t) for t in (own.colors, own.uv, own.texels, own.textures)))
        outputs = self._array(rgb), self._array(depth), self._array(triangle)
        image = Image(np.int32(samples), np.int32(0), np.int32(size), *outputs, None)
        if shape[0]:
            shade(self._device, drawn.scene, drawn.band, drawn.zbuffer, surfaces, light, image)
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
