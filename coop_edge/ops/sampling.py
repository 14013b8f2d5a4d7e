"""How a crop samples an image under a homography; what all implementations of ``Operations.warp`` follow.

Where a crop pixel spans 1.5 image pixels or more, it is the mean of m x m bilinear samples, m being its span in image
pixels, rounded; otherwise it is one bilinear sample. So samples are at most 1.5 image pixels apart, and what a crop
cannot resolve is averaged instead of aliased, as in the training pairs. What lies outside the image or behind the
camera is black.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_SAMPLES = 16
"""Upper bound of m: beyond it a crop spans more pixels than images have."""


def samples_per_side(H: Floats, size: int) -> NDArray[np.integer]:
    """Return m, integers [...], for homographies [...,3,3]: how many image pixels the crop's middle pixel spans."""
    middle = (size - 1) / 2
    ends = np.linalg.inv(H) @ np.array([[middle, middle + 1, middle], [middle, middle, middle + 1], [1.0, 1.0, 1.0]])
    pixels = ends[..., :2, :] / ends[..., 2:, :]
    span = np.linalg.norm(pixels[..., 1:] - pixels[..., :1], axis=-2).max(axis=-1)
    return np.asarray(np.clip(np.rint(span), 1, MOST_SAMPLES).astype(np.int64))


def finer(H: Floats, size: int) -> tuple[int, Floats]:
    """Return m, and the homography [3,3] to a crop that has m x m pixels in the place of each."""
    m = int(samples_per_side(H, size))
    return m, np.array([[m, 0.0, (m - 1) / 2], [0.0, m, (m - 1) / 2], [0.0, 0.0, 1.0]]) @ H


def blacken_behind(crop: NDArray[np.uint8], H: Floats) -> None:
    """Set the pixels of a crop [S,S,...] whose rays look backwards to 0: the homography mirrors them into the image."""
    size = len(crop)
    a, b, c = np.linalg.inv(H)[2]  # of the third homogeneous coordinate, positive in front
    far = size - 1
    if min(c, a * far + c, b * far + c, a * far + b * far + c) <= 0.0:
        u = np.arange(size)
        crop[(a * u + b * u[:, None] + c) <= 0.0] = 0
