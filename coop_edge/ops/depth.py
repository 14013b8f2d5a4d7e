"""Measured depth under rendered surfaces: what ``Operations.depth_points`` and ``Operations.surfaces`` compute, and by
which numbers.

A depth camera's points are taken as they are, the nearest pixel's, and never interpolated: between an object and what
lies behind it there is nothing. Behind a lens a pixel's ray is found from the crop pixel's, as if the lens did not
distort over less than a pixel. Where a render and a measurement share a pixel of the virtual camera, the measured
point is held against the plane of the rendered surface there (projective association; point-to-plane, Chen and
Medioni, 1992): what a measurement is off along the surface does not count.

``kernels/depth.cuh`` repeats the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.geometry.crop import CropCamera
from coop_edge.geometry.lens import LENS_NUMBERS

Array = Any
Floats = NDArray[np.float64]

SIDE = 43
"""Places along a side of the crop, at most, at which surfaces are compared."""
BINS = 256
"""Of the histogram of gaps."""
BINS_PER_DIAMETER = 16
"""So the histogram reaches from -8 to 8 diameters."""
STEEP = 0.2
"""Cosine between a surface's normal and the ray, below which the surface is seen too much from the side."""
BENT = 0.1
"""Depth differences between the neighbours of a pixel, in diameters, from which they are not on one surface."""
TUKEY = 0.25
"""Share of the gate that counts as standard deviation beside the sensor's: the wider the gate, the less a place weighs,
and it weighs less by Tukey's biweight the nearer it lies to the gate."""


@dataclass(frozen=True, eq=False)
class Surfaces:
    """Measured depth under M rendered surfaces, at P places each; arrays are on the device.

    A place without rendered surface, without measured depth or beyond the gate has weight 0 and zeros.
    """

    points: Array  # float32 [M,P,3] metres, object's frame: rendered
    places: Array  # float32 [M,P,3] metres, crop camera: measured
    normals: Array  # float32 [M,P,3] unit, crop camera, of the rendered surface, towards the camera
    weights: Array  # float32 [M,P] inverse standard deviations along the normals, 1/m; 0 = says nothing
    tally: Array  # int32 [M,5] places rendered, with known depth, and of these: agreeing, hidden, violated
    gaps: Array  # int32 [M,BINS] places by measured less rendered depth, BINS_PER_DIAMETER, 0 in the middle


@dataclass(frozen=True, eq=False)
class SurfaceLimits:
    """By what M surfaces are compared; float64 on the host."""

    diameter: Floats  # [M] metres, of the objects
    gate: Floats  # [M] metres along the normal within which a measured point is taken for the surface's
    tolerance: Floats  # [M] metres within which it agrees
    noise: float  # standard deviation of the sensor at 1 m, metres; it grows with the square of the distance
    floor: float  # least standard deviation, metres
    information: float  # share of each place's information that is its own


def point_numbers(crop: CropCamera) -> Floats:
    """Return what the way from depth to points needs of each virtual camera, float64 [N,45].

    The homography from crop to ideal image pixels, row by row; the matrix that turns an ideal pixel (u, v, 1) at depth
    1 into a point in the crop's axes, row by row; the lens' numbers, the first of which is ``NONE`` without distortion.
    """
    lens = np.zeros(LENS_NUMBERS) if crop.lens is None else crop.lens.numbers
    both = np.concatenate([np.linalg.inv(crop.H), np.linalg.inv(crop.K) @ crop.H], axis=1).reshape(len(crop), 18)
    return np.concatenate([both, np.broadcast_to(lens, (len(crop), LENS_NUMBERS))], axis=1)


def surface_numbers(crop: CropCamera, T_crop_object: Floats, limits: SurfaceLimits) -> Floats:
    """Return what a comparison needs of each hypothesis, float64 [M,28].

    K^-1 of the crop, row by row; R^T and -R^T t of T_crop_object; diameter, gate, tolerance; noise, floor, information
    and a zero.
    """
    m = len(crop)
    R_t = np.swapaxes(T_crop_object[:, :3, :3], 1, 2)
    origin = -(R_t @ T_crop_object[:, :3, 3:])[..., 0]
    each = np.stack([limits.diameter, limits.gate, limits.tolerance], axis=1)
    shared = np.broadcast_to([limits.noise, limits.floor, limits.information, 0.0], (m, 4))
    return np.concatenate([np.linalg.inv(crop.K).reshape(m, 9), R_t.reshape(m, 9), origin, each, shared], axis=1)


def places_per_side(size: int) -> tuple[int, int]:
    """Return the number of places along a side of a crop of ``size`` pixels, and the pixels between them."""
    step = -(-size // SIDE)
    return (size - step // 2 + step - 1) // step, step
