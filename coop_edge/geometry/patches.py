"""Numbers the patches of an image as the coarse network does: (row r, column c) has index ``side r + c`` and its
centre at x = patch (c + 1/2) - 1/2 pixels, y likewise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def template_pixels(index: NDArray[np.integer], offset: ArrayLike, side: int, patch: int) -> NDArray[np.float64]:
    """Return the pixels [...,2] (x, y) at an offset from patch centres.

    Args:
        index: integers [...] of the patches.
        offset: [...,2] (x, y), patches.
        side: of the image, patches.
        patch: pixels.
    """
    cell = np.stack([index % side, index // side], axis=-1).astype(np.float64)
    return np.asarray(patch * (cell + 0.5 + np.asarray(offset)) - 0.5)


def patch_centres(size: int, patch: int) -> NDArray[np.float64]:
    """Return the pixels [T,2] (x, y) of the patch centres of an image ``size`` pixels wide, row by row."""
    side = size // patch
    return template_pixels(np.arange(side * side), np.zeros((side * side, 2)), side, patch)
