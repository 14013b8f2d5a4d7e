"""Holds what is looked for, and what is known of it beforehand: a region, distances, depth, sizes of boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import FindConfig
from coop_edge.errors import InputError
from coop_edge.types import Camera

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]

STEP = 1.5
"""Ratio of the sizes of boxes at neighbouring levels."""


@dataclass(frozen=True)
class Bounds:
    """What is known beforehand of where objects are; ``allows`` applies it.

    Attributes:
        region: (x, y, width, height), pixels of the image, in which the middle of a box lies.
        near: metres, distance of objects' centres along the optical axis.
        far: metres, distance of objects' centres along the optical axis.
        depth: float32 [height,width] metres, 0 = unknown, or None.
        focal: of the image's camera, pixels.
    """

    region: Box
    near: float
    far: float
    focal: float
    depth: NDArray[np.float32] | None = None

    def inside(self, box: Floats, slack: Floats) -> NDArray[np.bool_]:
        """Tell which boxes [M,4] have their middle in the region, or no farther off than ``slack`` [M] pixels."""
        middle, (x, y, width, height) = box[:, :2] + box[:, 2:] / 2, self.region
        offset, slack = middle - (x, y), slack[:, None]
        return np.asarray(((offset >= -slack) & (offset <= (width, height) + slack)).all(axis=1))

    def allows(self, middle: Floats, side: Floats, z: Floats, diameter: float) -> NDArray[np.bool_]:
        """Tell at which places an object can be as far away as views say, bool [P,V].

        Depth allows a place if anything that it shows near the middle is where the object's surface would be, or if
        nothing is known there.

        Args:
            middle: [P,2] of the places, pixels of the image.
            side: [P] of what is looked at around it, pixels of the image.
            z: [P,V] distances of the object's centre, metres.
            diameter: of the object, metres.
        """
        allowed = (z >= self.near) & (z <= self.far)
        if self.depth is None:
            return allowed
        steps = np.linspace(-0.25, 0.25, 5)
        around = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        pixel = np.floor(middle[:, None] + side[:, None, None] * around).astype(np.int64)
        height, width = self.depth.shape
        seen = ((pixel >= 0) & (pixel < (width, height))).all(axis=-1)
        x, y = np.clip(pixel[..., 0], 0, width - 1), np.clip(pixel[..., 1], 0, height - 1)
        found = np.where(seen, self.depth[y, x], 0.0)  # [P,25]
        fits: NDArray[np.bool_] = np.zeros(z.shape, np.bool_)
        for each in found.T[:, :, None]:
            fits |= (each > 0) & (each > z - 0.75 * diameter) & (each < z + 0.5 * diameter)
        unknown = ~(found > 0).any(axis=1, keepdims=True)
        return allowed & (fits | unknown)


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is looked for, and where.

    Attributes:
        index: [O] objects, places in ``Frame.models``.
        max_instances: per object.
        region: (x, y, width, height) pixels.
    """

    index: NDArray[np.int64]
    max_instances: int
    region: Box

    @classmethod
    def checked(cls, index: NDArray[np.int64], max_instances: Any, region: Any, camera: Camera) -> Wanted:
        """Make it of what a user gives; a region of None is the whole image.

        Raises:
            InputError: ``max_instances`` is less than 1, or ``region`` is not four numbers.
        """
        if isinstance(max_instances, bool) or not isinstance(max_instances, int) or max_instances < 1:
            raise InputError(f"max_instances: wanted an integer >= 1, got {max_instances!r}")
        if region is None:
            return cls(index, max_instances, (0.0, 0.0, float(camera.width), float(camera.height)))
        try:
            x, y, width, height = (float(number) for number in region)
        except (TypeError, ValueError):
            raise InputError(f"region: wanted (x, y, width, height), got {region!r:.80}") from None
        return cls(index, max_instances, (x, y, width, height))


def box_sides(camera: Camera, config: FindConfig, largest: float) -> Floats:
    """Return the longer sides of boxes at the levels, pixels, rising.

    Args:
        largest: longer side of the largest box over the image's shorter side.

    Raises:
        InputError: if there are no levels.
    """
    smallest = config.smallest * max(camera.size)
    largest_px = largest * min(camera.size)
    if largest_px < smallest:
        raise InputError(
            f"find: the smallest box looked for ({smallest:.0f} px, find.smallest) is larger than the largest "
            f"({largest_px:.0f} px, advanced.find.largest) in an image of {camera.width}x{camera.height}"
        )
    count = 1 + int(np.floor(np.log(largest_px / smallest) / np.log(STEP)))
    return np.asarray(smallest * STEP ** (np.arange(count) + 0.5))


def search_bounds(camera: Camera, region: Box, config: FindConfig, depth: NDArray[np.float32] | None = None) -> Bounds:
    """Return what is known beforehand.

    Raises:
        InputError: a region outside the image, ``far`` nearer than ``near``.
    """
    if config.far and config.far <= config.near:
        raise InputError(
            f"find.far = {config.far:g}: wanted more than find.near = {config.near:g} m, or 0 for no bound"
        )
    x, y, width, height = region
    if not (np.isfinite(region).all() and width > 0 and height > 0):
        raise InputError(f"region: wanted finite numbers, width and height positive, got {list(region)}")
    if x + width <= 0 or y + height <= 0 or x >= camera.width or y >= camera.height:
        raise InputError(
            f"region: {list(region)} (x, y, width, height) lies outside the {camera.width}x{camera.height} image"
        )
    focal = float(np.sqrt(camera.K[0, 0] * camera.K[1, 1]))
    return Bounds(region, config.near, config.far or np.inf, focal, depth)


def check_size(name: str, diameter: float, bounds: Bounds, camera: Camera) -> None:
    """Raise InputError if an object (diameter in metres) is larger than the image holds, however far away it may be."""
    size_px = bounds.focal * diameter / bounds.far
    if size_px > 2 * max(camera.size):
        raise InputError(
            f"find: {name!r} (diameter {diameter:.3g} m) is {size_px:.0f} px large at find.far = {bounds.far:g} m, the "
            f"image has {camera.width}x{camera.height}; wanted a larger find.far, or the right unit of its mesh"
        )
