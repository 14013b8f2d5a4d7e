"""Launch the kernels of ``kernels/raster.cu``; the NamedTuples are their structures, of the same names and members."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from coop_edge.kernels.device import Device

Array = Any

BLOCK = 128  # kBlock
_SOURCE = "raster.cu"
_LARGE_BLOCKS = 512  # of raster_large: 2048 warps, which go through the queue in strides
_SAMPLES_PER_SLOT = 16  # one entry of the queue of large triangles (16 bytes) per so many samples (8 bytes each)
_MIN_SLOTS = 4096


class Scene(NamedTuple):
    """Views of meshes that lie in joint buffers on the device."""

    vertices: Array  # float32 [V,4]
    faces: Array  # int32 [F,4]
    views: Array  # float32 [n,22], see ``raster_view.cuh``
    ranges: Array  # int32 [n,4] first face, faces, first block of raster_small, 0
    n_views: np.int32


class Band(NamedTuple):
    """The frame, and the rows of it that the z-buffer holds, in samples."""

    width: np.int32
    height: np.int32
    first_row: np.int32
    rows: np.int32


class Buffer(NamedTuple):
    """The z-buffer, and the queue of large triangles."""

    zbuffer: Array  # uint64 [views * rows * width]
    queue: Array  # int32 [4 * capacity]
    capacity: np.int32
    queued: Array  # uint64 [1]


class Surfaces(NamedTuple):
    """The colours of all meshes, in joint buffers on the device."""

    corner_colors: Array  # uint8 [F,3,4]
    corner_uv: Array  # float32 [F,3,2]
    texels: Array  # uint8 [M,4]
    textures: Array  # int32 [n,4] first texel, height, width, 0


class Light(NamedTuple):
    """``Shading`` as the kernel takes it."""

    ambient: np.float32
    diffuse: np.float32


class Image(NamedTuple):
    """What ``shade`` writes: views from ``first_view`` on, ``height`` rows of pixels each."""

    samples: np.int32  # per side of a pixel
    first_view: np.int32
    height: np.int32
    rgb: Array  # uint8 [N,H,W,3]
    depth: Array  # float32 [N,H,W]
    triangle_id: Array  # int32 [N,H,W]
    points: Array | None  # float32 [N,H,W,3]


def queue_capacity(samples: int) -> int:
    """Return how many entries the queue of large triangles gets for a z-buffer of so many samples."""
    return max(samples // _SAMPLES_PER_SLOT, _MIN_SLOTS)


def rasterize(device: Device, scene: Scene, band: Band, buffer: Buffer, blocks: int) -> None:
    """Draw the views into the z-buffer, which starts empty, on the device's current stream.

    Args:
        blocks: of ``raster_small``, at least 1; those that no view's range has do nothing.
    """
    arguments = tuple(device.pack(structure) for structure in (scene, band, buffer))
    device.kernel(_SOURCE, "raster_small")((blocks,), (BLOCK,), arguments)
    device.kernel(_SOURCE, "raster_large")((_LARGE_BLOCKS,), (BLOCK,), arguments)


def shade(
    device: Device, scene: Scene, band: Band, zbuffer: Array, surfaces: Surfaces, light: Light, image: Image
) -> None:
    """Write the pixels of the views that ``rasterize`` drew into ``zbuffer``, on the device's current stream."""
    pixels = int(scene.n_views) * int(band.rows) * int(band.width) // int(image.samples) ** 2
    arguments = (*map(device.pack, (scene, band)), zbuffer, *map(device.pack, (surfaces, light, image)))
    device.kernel(_SOURCE, "shade")((-(-pixels // BLOCK),), (BLOCK,), arguments)
