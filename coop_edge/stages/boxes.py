"""Computes with boxes (x, y, width, height) in an image, and how much they overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def within(boxes: Floats, size: tuple[int, int]) -> Floats:
    """Return the parts of boxes [M,4] that lie in an image of this width and height, or no area."""
    low, high = (np.clip(corner, 0.0, size) for corner in (boxes[:, :2], boxes[:, :2] + boxes[:, 2:]))
    return np.concatenate([low, high - low], axis=1)


def filled(boxes: Floats, by: Floats) -> Floats:
    """Return the share of each box [M,4] that the box of ``by`` [M,4] in its row covers, [M]; NaN where that is NaN."""
    low = np.maximum(boxes[:, :2], by[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], by[:, :2] + by[:, 2:])
    area = np.maximum(boxes[:, 2:].prod(axis=-1), np.finfo(np.float64).tiny)
    return np.asarray(np.clip(high - low, 0.0, None).prod(axis=-1) / area)


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
