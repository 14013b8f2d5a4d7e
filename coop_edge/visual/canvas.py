"""Draws lines and silhouettes on an image at sub-pixel positions, anti-aliased, and clips what OpenCV cannot draw.

The centre of the top-left pixel is (0, 0). What lies behind the camera is clipped at the renderers' near plane.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.geometry.lens import Lens
from coop_edge.render.base import NEAR

Image = NDArray[np.uint8]
Array = NDArray[np.float64]
Color = tuple[int, int, int]

_SHIFT = 4  # OpenCV draws at 1/16 pixel
_BENT = 33  # points of a line behind a lens


class Canvas:
    """Draws lines and contours on an image. Coordinates: pixels, or camera points in metres. unit: 1 at 640 x 480.

    Args:
        lens: of the camera, None without distortion; it bends lines between camera points.
    """

    def __init__(self, image: Image, K: ArrayLike, unit: float, lens: Lens | None = None) -> None:
        self.image, self.lens = image, lens
        self.K = np.asarray(K, np.float64)
        self.unit = unit

    def width(self, at_vga: float) -> int:
        """Return the width in pixels of a line that is ``at_vga`` wide in an image of 640 x 480."""
        return max(1, round(at_vga * self.unit))

    def segment(self, start: Array, end: Array, color: Color, at_vga: float, opacity: float = 1.0) -> None:
        """Draw a straight line between two camera points [3], metres, clipped at the near plane and at the image."""
        pixels = project_segment(self.K, start, end, self.lens)
        if pixels is not None:
            self.polyline(pixels, color, at_vga, opacity)

    def polyline(self, pixels: Array, color: Color, at_vga: float, opacity: float = 1.0) -> None:
        """Draw straight lines between pixels [N,2]."""
        width = self.width(at_vga)
        height, across = self.image.shape[:2]
        kept = clip_segments(pixels, (across, height), margin=2.0 * width)
        if not kept:
            return
        fixed = [np.rint(s * (1 << _SHIFT)).astype(np.int32) for s in kept]
        if opacity >= 1.0:
            cv2.polylines(self.image, fixed, False, color, width, cv2.LINE_AA, _SHIFT)
            return
        ends = np.concatenate(kept)
        low = np.clip(np.floor(ends.min(axis=0)).astype(int) - width - 1, 0, (across, height))
        high = np.clip(np.ceil(ends.max(axis=0)).astype(int) + width + 2, low, (across, height))
        under = self.image[low[1] : high[1], low[0] : high[0]]
        if under.size == 0:
            return
        layer = under.copy()
        inside = [(s - low * (1 << _SHIFT)).astype(np.int32) for s in fixed]
        cv2.polylines(layer, inside, False, color, width, cv2.LINE_AA, _SHIFT)
        under[:] = cv2.addWeighted(layer, opacity, under, 1.0 - opacity, 0.0)

    def outline(self, mask: NDArray[np.bool_], color: Color, at_vga: float) -> None:
        """Draw the boundary of a silhouette, holes included, along its outermost pixels."""
        found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        fixed = [np.rint(contour.astype(np.float64) * (1 << _SHIFT)).astype(np.int32) for contour in found]
        if fixed:
            cv2.polylines(self.image, fixed, True, color, self.width(at_vga), cv2.LINE_AA, _SHIFT)


def project_segment(K: Array, start: Array, end: Array, lens: Lens | None = None) -> Array | None:
    """Project a line between two camera points [3], metres, to a polyline of pixels [N,2].

    None if all is behind the near plane, or where the lens shows nothing. N = 2 without a lens.
    """
    a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
    if a[2] < NEAR and b[2] < NEAR:
        return None
    if min(a[2], b[2]) < NEAR:
        cut = a + (b - a) * ((NEAR - a[2]) / (b[2] - a[2]))
        a, b = (cut, b) if a[2] < NEAR else (a, cut)
    share = np.linspace(0.0, 1.0, 2 if lens is None else _BENT)[:, None]
    points = a + share * (b - a) if lens is not None else np.stack([a, b])
    pixels: Array = (points @ K.T)[:, :2] / points[:, 2:]
    if lens is None:
        return pixels
    pixels = np.asarray(lens.distort(pixels))
    seen = np.isfinite(pixels).all(axis=1)
    return pixels[seen] if np.count_nonzero(seen) > 1 else None


def clip_segments(pixels: Array, size: tuple[int, int], margin: float) -> list[Array]:
    """Keep what of a polyline [N,2] lies in the image, as segments [2,2]: OpenCV fails on points that are too far out.

    Args:
        size: (width, height).
        margin: pixels around it that still count (Liang and Barsky, A new concept and method for line clipping, 1984).
    """
    points = np.asarray(pixels, np.float64)
    kept = []
    for a, b in itertools.pairwise(points):
        first, last = 0.0, 1.0
        for k in range(2):
            low, high, step = -margin - a[k], size[k] - 1 + margin - a[k], b[k] - a[k]
            if step == 0.0:
                if low > 0.0 or high < 0.0:
                    last = -1.0
                continue
            enter, leave = sorted((low / step, high / step))
            first, last = max(first, enter), min(last, leave)
        if first <= last:
            kept.append(np.stack([a + first * (b - a), a + last * (b - a)]))
    return kept
