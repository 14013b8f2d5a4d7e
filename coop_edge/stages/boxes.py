"""Computes with boxes (x, y, width, height) in an image, and how much they overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def overlaps(a: Floats, b: Floats) -> Floats:
    """Return the intersection over union of boxes [N,4] with boxes [M,4], [N,M]; 0 of boxes without an area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    shared = np.clip(high - low, 0.0, None).prod(axis=-1)
    union = a[:, None, 2:].prod(axis=-1) + b[None, :, 2:].prod(axis=-1) - shared
    return np.asarray(shared / np.maximum(union, np.finfo(np.float64).tiny))


def distinct(boxes: Floats, overlap: float, count: int) -> NDArray[np.int64]:
    """Return the rows of the first ``count`` boxes [M,4] that overlap no earlier one of them by ``overlap`` or more."""
    kept: list[int] = []
    alive = np.ones(len(boxes), np.bool_)
    while len(kept) < count and alive.any():
        i = int(np.argmax(alive))
        kept.append(i)
        alive &= overlaps(boxes[i : i + 1], boxes)[0] < overlap
        alive[i] = False
    return np.array(kept, np.int64)
