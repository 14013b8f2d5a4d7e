"""Says what ``Operations.outlines`` measures, the edges an image shows along rendered outlines, and by which numbers.

Region-based: the colours inside and outside of a rendered silhouette, as histograms, tell how probably a pixel shows
the object; the edge on a search line across the outline is where that probability changes. So an object needs no
texture, and no edge detector a threshold. (Tjaden et al., TPAMI 2018; Stoiber et al., SRT3D, IJCV 2022: smoothed step
functions, whose mean and variance make each line a measurement.)

Measured depth counts beside colours: a place where it is the surface's shows the object, one where it is farther off
shows the background. A nearer one, which may be an occluder, and an unknown one say nothing. The surface's depth is the
render's at the place, and beyond the outline the render's where the line begins.

Lengths named here, but for the blurs, are pixels of a crop of ``REFERENCE_SIZE`` and grow with the crop's size, so that
the same edge is found, and weighs the same in metres, at any resolution. ``kernels/outline.cuh`` repeats the numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.geometry.crop import REFERENCE_SIZE, CropCamera
from coop_edge.geometry.lens import LENS_NUMBERS

Array = Any
Floats = NDArray[np.float64]

LINES = 160
"""Search lines across an outline, at most; more are slower and hardly better."""
LEAST_LINES = 10
"""Pixels along the outline below which there is nothing to measure."""
LEAST_PIXELS = 30
"""Pixels on each side of the outline below which its colours say nothing."""

NORMAL_BLUR, EDGE_BLUR = 1.2, 1.0
"""Standard deviations of the Gaussians over the distance to the silhouette, whose gradient is the normal, and over the
silhouette itself, which places the outline to a fraction of a pixel. They are pixels of any crop: what they smooth is
the pixel grid, and more of it would round the object's corners."""
LEAST_SLOPE = 0.3
"""Length of that gradient (1 along a straight edge) below which sides meet, as on a wire, and there is no normal."""
LOGISTIC = 1.6
"""Slope of the logistic function that is the normal distribution's between -1 and 1."""

BINS = 16
"""Bins of a colour histogram per channel."""
INSET, RING = 1.5, 20.0
"""Distances from the outline: nearer pixels are blurred and are not counted, nor are farther ones outside."""
FLOOR = 1e-5
"""Added to a colour's share of either side: a colour never seen says nothing."""

REACH, SHIFT = 12, 9
"""Half the length of a search line, and how far along it the edge is looked for."""
BELIEF, SOFTNESS = 0.43, 0.8
"""The step function is 1/2 -+ BELIEF tanh(r / (2 SOFTNESS)): how far a colour is trusted, and the blur of the edge."""
DEPTH_BELIEF = 0.8
"""2 p - 1 for p the probability of the object where depth is the surface's; minus it where it is farther off."""
CONTRAST_SPAN = 4
"""Length on either side of an edge whose mean probabilities make its contrast."""

CLEAR, FAINT = 0.6, 0.2
"""Contrast from which a line has its full weight, and up to which it has none."""
NEUTRAL = 0.5
"""Contrast at an outline of which nothing is known, in ``Outlines.edge_contrast``. With 0.3 to 0.6 scores tell
right from wrong poses equally well (AUROC 0.88)."""
STANDS_OUT = 0.4
"""Contrast at the rendered outline from which the object stands out there."""
LEAST_VARIANCE = 0.25
"""Least variance of an edge's position, pixels^2: no line is better than half a pixel."""
LARGEST_SHIFT = 2.0
"""Shift of an edge beyond which its line is weighted as Huber's loss would have it."""
INFORMATION = 0.15
"""Share of each line's information that is its own, because neighbouring lines see the same edge."""


@dataclass(frozen=True, eq=False)
class Outlines:
    """Edges measured along M outlines, L = ``LINES`` places for search lines each; arrays are on the device.

    A hypothesis without an outline to speak of has 0 lines. Places beyond its lines hold zeros.
    """

    points: Array  # float32 [M,L,3] metres, object's frame: the surface at the rendered outline
    pixels: Array  # float32 [M,L,2] crop pixels (x, y): the edge in the image
    normals: Array  # float32 [M,L,2] unit, outwards
    weights: Array  # float32 [M,L] inverse standard deviations along the normals, 1/px; 0 = says nothing
    edges: Array  # float32 [M,L,4] shift along the normal (px), its variance, contrast there and at the outline
    verdict: Array  # float32 [M,3] number of lines, share where the object stands out, mean contrast at the outline

    def edge_contrast(self, xp: Any) -> Array:
        """Return how clearly the image's edges coincide with the rendered outlines, float32 [M] in [-1, 1].

        It is the mean contrast at the outline of those lines in the image that see a clear edge anywhere, and of
        ``LEAST_LINES`` more of ``NEUTRAL`` contrast: where the background is like the object there is no clear edge,
        which is no evidence, for the pose or against it.
        """
        clear = (self.edges[..., 2] > CLEAR) & (self.weights > 0)
        total = xp.where(clear, self.edges[..., 3], np.float32(0.0)).sum(axis=1)
        count = clear.sum(axis=1).astype(np.float32)
        return (total + np.float32(NEUTRAL * LEAST_LINES)) / (count + np.float32(LEAST_LINES))


class MeasuredEdges(NamedTuple):
    """Measured depth, as ``Operations.outlines`` takes it."""

    points: Array  # float32 [M,S,S,3] metres in the crops' axes, NaN = unknown, on the device (``depth_points``)
    tolerance: Floats  # [M] metres on the host: within it of the surface, depth is the surface's


class Windows(NamedTuple):
    """Weights over the pixels around an outline pixel, along one axis, float32 [11] each."""

    smooth: Array  # Gaussian of NORMAL_BLUR
    slope: Array  # its derivative
    blur: Array  # Gaussian of EDGE_BLUR


def windows() -> Windows:
    """Make the windows; Gaussians end at four standard deviations."""
    radius = int(4 * NORMAL_BLUR + 0.5)
    at = np.arange(-radius, radius + 1)

    def gaussian(sigma: float) -> Floats:
        weights = np.exp(-0.5 * (at / sigma) ** 2) * (np.abs(at) <= int(4 * sigma + 0.5))
        return np.asarray(weights / weights.sum())

    smooth = gaussian(NORMAL_BLUR)
    tables = smooth, smooth * at / NORMAL_BLUR**2, gaussian(EDGE_BLUR)
    return Windows(*(table.astype(np.float32) for table in tables))


def step_function() -> NDArray[np.float32]:
    """Return 2 BELIEF tanh(r / (2 SOFTNESS)) for r = -(REACH + SHIFT) .. REACH + SHIFT, float32 [43].

    A place on a line where the object is seen with probability p has, r beyond the edge, a likelihood in proportion to
    1 - (2 p - 1) times this.
    """
    r = np.arange(-REACH - SHIFT, REACH + SHIFT + 1)
    return (2 * BELIEF * np.tanh(r / (2 * SOFTNESS))).astype(np.float32)


def samples_per_place(size: int) -> int:
    """Return how many samples, about a pixel of a crop of ``size`` apart, are averaged for each place on a line."""
    return max(1, round(size / REFERENCE_SIZE))


def farthest(size: int) -> int:
    """Return the distance in whole pixels beyond which the outline's place doesn't matter in a crop of ``size``."""
    return int(RING * size / REFERENCE_SIZE) + 2


def view_numbers(crop: CropCamera, T_crop_object: Floats, image_size: tuple[int, int]) -> Floats:
    """Return what a measurement needs of each virtual camera, float64 [M,50].

    A pixel (u, v) at depth z shows the object's point A (u z, v z, z) + b: A row by row and b; the homography from
    crop to ideal pixels, row by row; the image's width and height; the lens' numbers, the first of which is ``NONE``
    where ideal pixels are those of the image.
    """
    R_object_crop = np.swapaxes(T_crop_object[:, :3, :3], 1, 2)
    A = R_object_crop @ np.linalg.inv(crop.K)
    b = -R_object_crop @ T_crop_object[:, :3, 3:]
    lens = np.zeros(LENS_NUMBERS) if crop.lens is None else crop.lens.numbers
    common = (np.broadcast_to(numbers, (len(A), len(numbers))) for numbers in (np.array(image_size, np.float64), lens))
    parts = A, b, np.linalg.inv(crop.H), *common
    return np.concatenate([part.reshape(len(A), math.prod(part.shape[1:])) for part in parts], axis=1)
