"""Turns what the refiner says about a pair into weighted 2D-3D correspondences, and measures how a pose fits them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from coop_edge.ops.base import Array
from coop_edge.stages.pairs import Pairs


class Correspondences(NamedTuple):
    """M sets of P cells; cells off the rendered object or matched outside the image have weight 0."""

    points: Array  # float32 [M,P,3] metres, object's frame; NaN off the object
    pixels: Array  # float32 [M,P,2] of the crop, where the network finds the points
    weight: Array  # float32 [M,P] W = certainty sensitivity (1 - exp(-R / b))
    precision: Array  # float32 [M,P] certainty sensitivity / b, 1/px: what W / R tends to where b is above R
    agreement: Array  # float32 [M,P] certainty (1 - exp(-R / b)): the probability that a cell is visible and matched
    visible: Array  # bool [M,P] certainty above one half
    silhouette: Array  # bool [M,P]


def correspondences(
    pairs: Pairs, outputs: Mapping[str, Array], points: Array, cells: Array, radius_px: float
) -> Correspondences:
    """Weight the refiner's matches for M pairs.

    Args:
        pairs: what the network was shown.
        outputs: ``flow`` [M,2,H,W], ``scale``, ``certainty`` and ``sensitivity`` [M,1,H,W], on the device.
        points, cells: of ``Pairs.cells``.
        radius_px: R of the flow probability, pixels of the crop.
    """
    xp = pairs.ops.xp
    m, p = points.shape[:2]
    flow = xp.moveaxis(outputs["flow"], 1, -1).reshape(m, p, 2)
    pixels = xp.asarray(cells, dtype=np.float32) + flow
    silhouette = xp.isfinite(points[..., 0])
    trusted = silhouette & in_image(pairs, pixels)
    scale = outputs["scale"].reshape(m, p)
    flow_probability = -xp.expm1(-radius_px / scale)
    certainty = xp.where(trusted, outputs["certainty"].reshape(m, p), np.float32(0.0))
    agreement = (certainty * flow_probability).astype(np.float32)
    sensitivity = outputs["sensitivity"].reshape(m, p)
    weight = agreement * sensitivity
    precision = (certainty * sensitivity / scale).astype(np.float32)
    return Correspondences(points, pixels, weight, precision, agreement, certainty > 0.5, silhouette)


def in_image(pairs: Pairs, pixels: Array) -> Array:
    """Tell whether crop pixels [M,P,2] or [P,2] lie in the image, bool [M,P]."""
    xp = pairs.ops.xp
    inverse = xp.asarray(np.linalg.inv(pairs.crop.H))
    q = pairs.ops.linear(inverse[:, :, :2], pixels) + inverse[:, None, :, 2]
    # Compared as products, so that nothing is divided by what lies beside or behind the camera.
    x, y, w = q[..., 0], q[..., 1], q[..., 2]
    if (lens := pairs.crop.lens) is not None:
        ahead = xp.where(w > 0, w, np.nan)
        seen = lens.distort(xp.stack([x / ahead, y / ahead], axis=-1), xp)
        x, y, w = seen[..., 0], seen[..., 1], xp.ones_like(w)
    right, bottom = ((side - 0.5) * w for side in pairs.image_size)
    return (w > 0) & (x >= -0.5 * w) & (x < right) & (y >= -0.5 * w) & (y < bottom)


def residuals(pairs: Pairs, found: Correspondences, T_crop_object: Array) -> Array:
    """Return the reprojection errors float32 [M,P] of all cells at poses [M,4,4], pixels of the crop.

    They are inf off the object, behind the camera, and where a pose is not finite.
    """
    xp, linear = pairs.ops.xp, pairs.ops.linear
    T, K = xp.asarray(T_crop_object), xp.asarray(pairs.crop.K)
    projected = linear(K, linear(T[:, :3, :3], found.points) + T[:, None, :3, 3])
    z = xp.where(projected[..., 2:] > 0, projected[..., 2:], np.nan)
    distance = xp.linalg.norm(projected[..., :2] / z - found.pixels, axis=-1)
    return xp.where(xp.isfinite(distance), distance, np.inf).astype(np.float32)
