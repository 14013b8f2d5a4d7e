"""Finds where the pixels of a crop lie in the image of a camera whose lens distorts, on the CPU: compiled by Numba."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from coop_edge.base.jit import jit, stamp_of
from coop_edge.geometry import lens as geometry
from coop_edge.geometry.lens import Lens

Array = np.ndarray[Any, Any]
Floats = NDArray[np.float64]

SOURCES = (Path(geometry.__file__), Path(__file__))
"""Files of the compiled code, constants included."""
_STAMP = stamp_of(SOURCES)
_displacement = jit(geometry.displacement, _STAMP)
_NOWHERE = -1e4  # pixels: outside of every image


def to_image(u: float, v: float, numbers: Array) -> tuple[float, float]:
    """Return the image pixel of an ideal pixel, NaN beyond the limit.

    Args:
        numbers: of a lens with distortion.
    """
    x, y = (u - numbers[4]) / numbers[2], (v - numbers[5]) / numbers[3]
    if not x * x + y * y <= numbers[1]:
        return math.nan, math.nan
    dx, dy = _displacement(x, y, numbers)
    return u + numbers[2] * dx, v + numbers[3] * dy


to_image = jit(to_image, _STAMP)


def _fill(inverse: Array, numbers: Array, map_x: Array, map_y: Array) -> None:
    for row in range(map_x.shape[0]):
        for column in range(map_x.shape[1]):
            w = inverse[2, 0] * column + inverse[2, 1] * row + inverse[2, 2]
            map_x[row, column] = map_y[row, column] = _NOWHERE
            if w > 0.0:
                u = (inverse[0, 0] * column + inverse[0, 1] * row + inverse[0, 2]) / w
                v = (inverse[1, 0] * column + inverse[1, 1] * row + inverse[1, 2]) / w
                u, v = to_image(u, v, numbers)
                if abs(u) < 1e6 and abs(v) < 1e6:
                    map_x[row, column], map_y[row, column] = u, v


_fill = jit(_fill, _STAMP)


def crop_through(image: NDArray[np.uint8], H: Floats, size: int, lens: Lens, interpolation: int) -> NDArray[np.uint8]:
    """Resample an image [height,width,...] into a crop ``size`` pixels wide, black where nothing is seen.

    Args:
        H: float64 [3,3], ideal pixels -> crop pixels.
        interpolation: one of OpenCV's.
    """
    map_x, map_y = np.empty((2, size, size), np.float32)
    _fill(np.linalg.inv(H), lens.numbers, map_x, map_y)
    return np.asarray(cv2.remap(image, map_x, map_y, interpolation, borderMode=cv2.BORDER_CONSTANT), np.uint8)
