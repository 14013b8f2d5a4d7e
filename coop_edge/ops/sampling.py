"""Says how a crop samples an image; all implementations of ``Operations.warp`` follow it.

A crop pixel's place in the image is that of the homography, and behind a lens that of the lens (``geometry.lens``).
Where the crop's middle pixel spans 1.5 image pixels or more, each pixel is the mean of m x m bilinear samples, m being
that span, rounded; otherwise, and where the lens shows nothing in the middle, it is one bilinear sample. So samples are
at most 1.5 image pixels apart, and what a crop cannot resolve is averaged instead of aliased, as in the training pairs.
What lies outside the image, behind the camera or beyond the lens' limit is black.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coop_edge.geometry.lens import Lens

Floats = NDArray[np.float64]

MOST_SAMPLES = 16
"""Upper bound of m: beyond it a crop spans more pixels than images have."""


def samples_per_side(H: Floats, size: int, lens: Lens | None = None) -> NDArray[np.integer]:
    """Return m, integers [...], for homographies [...,3,3]: how many image pixels the crop's middle pixel spans."""
    middle = (size - 1) / 2
    ends = np.linalg.inv(H) @ np.array([[middle, middle + 1, middle], [middle, middle, middle + 1], [1.0, 1.0, 1.0]])
    pixels = ends[..., :2, :] / ends[..., 2:, :]
    if lens is not None:
        pixels = np.swapaxes(lens.distort(np.swapaxes(pixels, -1, -2)), -1, -2)
    span = np.linalg.norm(pixels[..., 1:] - pixels[..., :1], axis=-2).max(axis=-1)
    span = np.where(np.isfinite(span), span, 1.0) if lens is not None else span  # the middle is beyond the limit
    return np.asarray(np.clip(np.rint(span), 1, MOST_SAMPLES).astype(np.int64))


def finer(H: Floats, size: int, lens: Lens | None = None) -> tuple[int, Floats]:
    """Return m, and the homography [3,3] to a crop that has m x m pixels in the place of each."""
    m = int(samples_per_side(H, size, lens))
    return m, np.array([[m, 0.0, (m - 1) / 2], [0.0, m, (m - 1) / 2], [0.0, 0.0, 1.0]]) @ H


def blacken_behind(crop: NDArray[np.uint8], H: Floats) -> None:
    """Set the pixels of a crop [S,S,...] whose rays look backwards to 0: the homography mirrors them into the image."""
    size = len(crop)
    a, b, c = np.linalg.inv(H)[2]  # of the third homogeneous coordinate, positive in front
    far = size - 1
    if min(c, a * far + c, b * far + c, a * far + b * far + c) <= 0.0:
        u = np.arange(size)
        crop[(a * u + b * u[:, None] + c) <= 0.0] = 0
