"""Pairs for render-and-compare: a crop of the image and a render of the object, both by one virtual camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coop_edge.geometry.crop import CropCamera
from coop_edge.ops.base import Array, Operations
from coop_edge.render.base import Renderer, back_project
from coop_edge.stages.crop import in_sight, pose_crop
from coop_edge.stages.objects import ObjectModel, centres_and_diameters
from coop_edge.types import Camera

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """M pairs; images and depth are on the device of ``ops``."""

    query: Array  # float32 [M,3,S,S] RGB in [0, 1]
    render: Array  # float32 [M,3,S,S]
    depth: Array  # float32 [M,S,S] metres of the render, 0 = nothing
    crop: CropCamera
    T_crop_object: Floats  # [M,4,4]
    ops: Operations

    def __len__(self) -> int:
        return len(self.T_crop_object)

    def cells(self, stride: int) -> tuple[Array, Array]:
        """Return the refiner's cells, row by row: object points float32 [M,P,3] (metres, object's frame, NaN off the
        object) and pixels float64 [P,2] (x, y), both on the device.

        Cell (i, j) stands for rendered pixel (stride j + stride // 2, stride i + stride // 2).
        """
        first = stride // 2
        depth = self.depth[:, first::stride, first::stride]
        to_cells = np.array([[1 / stride, 0, -first / stride], [0, 1 / stride, -first / stride], [0, 0, 1]])
        xp = self.ops.xp
        points = back_project(depth, self.T_crop_object, to_cells @ self.crop.K, xp)
        x, y = xp.meshgrid(*[xp.arange(first, self.crop.size, stride, dtype=np.float64)] * 2)
        return points.reshape(len(self), -1, 3), xp.stack([x.ravel(), y.ravel()], axis=1)


@dataclass(frozen=True, eq=False)
class PairMaker:
    """One image, and what it takes to see objects in it.

    image: uint8 [height,width,3], checked. objects: in the order of the renderer's meshes. size: S, pixels. margin:
    side of the crops over the image of the object's diameter. ops: of the device that holds the image and renders.
    """

    image: Array
    camera: Camera
    objects: Sequence[ObjectModel]
    renderer: Renderer
    size: int
    margin: float
    ops: Operations

    def in_sight(self, T_camera_object: Floats, object_index: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Tell which poses [M,4,4] a camera can be aimed at, bool [M]; see ``crop.in_sight``."""
        return in_sight(T_camera_object, *centres_and_diameters(self.objects, object_index))

    def make(self, T_camera_object: Floats, object_index: NDArray[np.integer]) -> Pairs:
        """Make pairs at poses [M,4,4] in sight, of the objects at ``object_index`` [M]. M = 0 is legal."""
        centre, diameter = centres_and_diameters(self.objects, object_index)
        crop = pose_crop(self.camera, T_camera_object, centre, diameter, self.size, self.margin)
        T_crop = crop.to_crop(T_camera_object)
        seen = self.renderer.render(T_crop, crop.K, self.size, mesh_index=object_index)
        query = self.ops.warp(self.image, crop.H, self.size)
        return Pairs(query, self.ops.as_network_image(seen.rgb), seen.depth, crop, T_crop, self.ops)
