"""Makes pairs for render-and-compare: a crop of the image and a render of the object, both by one virtual camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

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
    """M pairs; images and depth are on the device of ``ops``, all else is on the host."""

    query: Array  # float32 [M,3,S,S] RGB in [0, 1]
    render: Array  # float32 [M,3,S,S]
    depth: Array  # float32 [M,S,S] metres of the render, 0 = nothing
    crop: CropCamera
    T_crop_object: Floats  # [M,4,4]
    centre: Floats  # [M,3] of the objects, metres, object's frame
    diameter: Floats  # [M] metres
    image_size: tuple[int, int]  # width and height of the image that the queries are crops of
    image_px: Floats  # [M] image pixels per crop pixel
    ops: Operations
    measured: Array | None = None  # float32 [M,S,S,3] metres in the crops' axes, NaN = unknown; None: no depth image

    def __len__(self) -> int:
        return len(self.T_crop_object)

    def take(self, rows: NDArray[np.integer]) -> Pairs:
        """Return the pairs at ``rows``."""
        names = ("query", "render", "depth") + (() if self.measured is None else ("measured",))
        images = {name: getattr(self, name)[self.ops.xp.asarray(rows)] for name in names}
        poses = {name: getattr(self, name)[rows] for name in ("T_crop_object", "centre", "diameter", "image_px")}
        return replace(self, **images, **poses, crop=self.crop.take(rows))

    def cells(self, stride: int) -> tuple[Array, Array]:
        """Return what the refiner's cells stand for, row by row.

        Cell (i, j) stands for rendered pixel (stride j + stride // 2, stride i + stride // 2).

        Returns:
            Object points float32 [M,P,3] (metres, object's frame, NaN off the object) and pixels float64 [P,2] (x, y),
            both on the device.
        """
        first = stride // 2
        depth = self.depth[:, first::stride, first::stride]
        to_cells = np.array([[1 / stride, 0, -first / stride], [0, 1 / stride, -first / stride], [0, 0, 1]])
        xp = self.ops.xp
        points = back_project(depth, self.T_crop_object, to_cells @ self.crop.K, xp)
        x, y = xp.meshgrid(*[xp.arange(first, self.crop.size, stride, dtype=np.float64)] * 2)
        return points.reshape(len(self), x.size, 3), xp.stack([x.ravel(), y.ravel()], axis=1)


class PairMaker(Protocol):
    """What refinement and alignment need of an image and the objects in it. M = 0 is legal everywhere."""

    @property
    def ops(self) -> Operations:
        """Return the operations of the device where the pairs are made."""
        ...

    @property
    def size(self) -> int:
        """Return S, the side of the pairs, pixels."""
        ...

    def centres_and_diameters(self, object_index: NDArray[np.integer]) -> tuple[Floats, Floats]:
        """Return centres [M,3] (object's frame) and diameters [M], metres, of the objects at ``object_index`` [M]."""
        ...

    def in_sight(self, T_camera_object: Floats, object_index: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Tell which poses [M,4,4] a camera can be aimed at, bool [M]; see ``crop.in_sight``."""
        ...

    def make(self, T_camera_object: Floats, object_index: NDArray[np.integer], roll: float = 0.0) -> Pairs:
        """Make pairs at poses [M,4,4] in sight, of the objects at ``object_index`` [M].

        roll: by which the virtual cameras are turned about their axes, radians (``CropCamera.rolled``).
        """
        ...


@dataclass(frozen=True, eq=False)
class ImagePairMaker:
    """The ``PairMaker`` of one image.

    Attributes:
        image: uint8 [height,width,3], checked.
        objects: in the order of the renderer's meshes.
        size: S, pixels.
        margin: side of the crops over the image of the object's diameter.
        ops: of the device that holds the image and renders.
        measured: depth, float32 [height,width] metres, 0 = unknown; None: there is none.
    """

    image: Array
    camera: Camera
    objects: Sequence[ObjectModel]
    renderer: Renderer
    size: int
    margin: float
    ops: Operations
    measured: Array | None = None

    def centres_and_diameters(self, object_index: NDArray[np.integer]) -> tuple[Floats, Floats]:
        """Return centres and diameters; see ``PairMaker``.

        Raises:
            InputError: no such object.
        """
        return centres_and_diameters(self.objects, object_index)

    def in_sight(self, T_camera_object: Floats, object_index: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Tell which poses can be shown; see ``PairMaker.in_sight``."""
        return in_sight(T_camera_object, *self.centres_and_diameters(object_index))

    def make(self, T_camera_object: Floats, object_index: NDArray[np.integer], roll: float = 0.0) -> Pairs:
        """Make pairs; see ``PairMaker.make``."""
        centre, diameter = self.centres_and_diameters(object_index)
        crop = pose_crop(self.camera, T_camera_object, centre, diameter, self.size, self.margin)
        if roll:
            crop = crop.rolled(np.full(len(crop), roll))
        T_crop = crop.to_crop(T_camera_object)
        seen = self.renderer.render(T_crop, crop.K, self.size, mesh_index=object_index)
        return Pairs(
            query=self.ops.warp(self.image, crop.H, self.size, crop.lens),
            render=self.ops.as_network_image(seen.rgb),
            depth=seen.depth,
            crop=crop,
            T_crop_object=T_crop,
            centre=centre,
            diameter=diameter,
            image_size=self.camera.size,
            image_px=np.sqrt(self.camera.K[0, 0] * self.camera.K[1, 1]) / crop.K[:, 0, 0],
            ops=self.ops,
            measured=None if self.measured is None else self.ops.depth_points(self.measured, crop),
        )
