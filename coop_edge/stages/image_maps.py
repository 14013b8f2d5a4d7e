"""Computes frozen features of a whole image at several sizes: what all objects are looked for in.

The network takes squares of S pixels, so that each size of the image is cut into squares which overlap: the outermost
cells of a square see its black surroundings, and are left out where a neighbour shows the same place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coop_edge.ops.base import Array
from coop_edge.stages.features import MAPS, FeatureExtractor, unit_cells
from coop_edge.stages.views import MAP

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]

BORDER = 1
"""Cells at each side of a square that are left out."""
CELL = MAPS[MAP]


@dataclass(frozen=True, eq=False)
class Level:
    """The image at one size. Cell (r, c) shows columns from ``x + CELL c`` and rows from ``y + CELL r`` of it."""

    scale: float  # of the image: pixels of this level per pixel of the image
    x: float  # left edge of the first cell, pixels of this level from the image's left edge
    y: float
    maps: Array  # float32 [C,h,w] unit cells on the device; zeros where the image does not reach


def image_levels(
    image: Array, size: tuple[int, int], scales: Floats, region: Box, reach: int, *, features: FeatureExtractor
) -> Iterator[Level]:
    """Describe an image at several sizes, one after the other.

    Args:
        image: uint8 [height,width,3] on the device.
        size: width and height of the image, pixels.
        scales: [L], pixels of a level per pixel of the image.
        region: (x, y, width, height) pixels of the image, whose surroundings are described as well.
        reach: how far around the region, pixels of each level.
        features: describes squares.
    """
    for scale in scales.tolist():
        low, high = _area(size, scale, region, reach)
        yield _level(image, scale, low, high, features)


def _area(size: tuple[int, int], scale: float, region: Box, reach: int) -> tuple[Floats, Floats]:
    """Return the corners (x, y) of what is described, pixels of a level: the region and ``reach``, within the image."""
    corner, extent = np.array(region[:2]), np.array(region[2:])
    low = np.maximum(scale * corner - reach, 0.0)
    high = np.minimum(scale * (corner + extent) + reach, scale * np.array(size, np.float64))
    return low, high


def _level(image: Array, scale: float, low: Floats, high: Floats, features: FeatureExtractor) -> Level:
    """Cut the area from ``low`` to ``high`` into squares, describe them and lay their inner cells side by side."""
    xp, side = features.ops.xp, features.size
    border = BORDER if side >= 4 * CELL else 0
    inner = side // CELL - 2 * border
    cells = np.ceil((high - low) / CELL).astype(np.int64)
    columns, rows = np.maximum(-(-cells // inner), 1).tolist()
    r, c = np.divmod(np.arange(rows * columns), columns)
    corner = low + CELL * (inner * np.stack([c, r], axis=1) - border)
    H = np.zeros((len(corner), 3, 3))  # pixel centres are at integers: the image's left edge is at -0.5
    H[:, 0, 0] = H[:, 1, 1] = scale
    H[:, :2, 2] = 0.5 * scale - 0.5 - corner
    H[:, 2, 2] = 1.0
    parts = []
    for first in range(0, len(H), features.micro_batch):
        squares = features.ops.warp(image, H[first : first + features.micro_batch], side)
        (maps,) = features.maps(squares, MAP)
        parts.append(maps[:, :, border : border + inner, border : border + inner])
    maps = xp.concatenate(parts).reshape(rows, columns, -1, inner, inner).transpose(2, 0, 3, 1, 4)
    maps = maps.reshape(1, len(maps), rows * inner, columns * inner)[..., : int(cells[1]), : int(cells[0])]
    return Level(scale, float(low[0]), float(low[1]), unit_cells(maps, xp)[0])
