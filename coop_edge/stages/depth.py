"""Measured depth in all stages: of matches, distances to start from, residuals, and what a pose has to show for it.

A hypothesis uses depth where enough of its rendered surface has any (``LEAST_KNOWN``); elsewhere it goes the way of
colour alone. A sensor's standard deviation grows with the square of the distance, as triangulation makes it
(``DepthConfig.noise``).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import DepthConfig
from coop_edge.geometry.crop import CropCamera
from coop_edge.ops.base import Array, Operations
from coop_edge.ops.depth import BINS, BINS_PER_DIAMETER, SIDE, SurfaceLimits, Surfaces
from coop_edge.pnp.base import DepthTargets, MeasuredDepths
from coop_edge.stages.flow import Correspondences
from coop_edge.stages.pairs import PairMaker, Pairs

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

LEAST_KNOWN = 0.2
"""Share of the rendered surface with known depth from which depth is used."""
LEAST_PLACES = 20
"""Places (of 43 x 43 in a crop) with known depth from which it is used."""
TOLERANCE = 0.04
"""Distance from the rendered surface within which measured depth agrees with it, in diameters."""
MATCH_GATE = 0.3
"""Difference of depth within which a match of the refiner may be of the object, in diameters."""
MATCH_SIGMAS = 3.0
"""Standard deviations of the sensor by which the depth of a right match is off at most."""
GATES = 0.2, 0.05
"""Gates of the first and the last iteration of an alignment, in diameters."""
SIZE_SIGMA = 0.2
"""Standard deviation of the logarithm of a hypothesis' distance, which comes from how large the object looks."""
SPREAD = 2
"""Bins on either side of a distance whose places support it: an eighth of a diameter."""
BLOCKED = 0.25
"""How much a place counts against a distance at which it would lie before what was measured."""


class Evidence(NamedTuple):
    """What measured depth says of M poses, on the host; all 0 where it is not used."""

    used: Flags  # [M]
    agreement: Floats  # [M] share of the surface with known depth that agrees
    clear: Floats  # [M] share of it that does not lie before what was measured there


def compare(pairs: Pairs, config: DepthConfig, gate: float) -> Surfaces:
    """Compare the rendered surfaces of pairs with measured depth.

    Args:
        gate: in diameters; see ``SurfaceLimits``.
    """
    diameter = pairs.diameter
    sensor = sensor_sigma(config, pairs.T_crop_object, pairs.centre)
    limits = SurfaceLimits(
        diameter,
        np.maximum(gate * diameter, 4.0 * sensor),
        TOLERANCE * diameter,
        config.noise,
        config.floor,
        config.information,
    )
    return pairs.ops.surfaces(pairs.depth, pairs.measured, pairs.crop, pairs.T_crop_object, limits)


def sensor_sigma(config: DepthConfig, T_crop_object: Floats, centre: Floats) -> Floats:
    """Return the sensor's standard deviation at the objects' centres, [M] metres."""
    z = (T_crop_object[:, 2:3, :3] @ centre[..., None])[:, 0, 0] + T_crop_object[:, 2, 3]
    return np.asarray(np.hypot(config.floor, config.noise * z * z))


def gate_of(iteration: int, iterations: int) -> float:
    """Return the gate of an iteration of alignment, in diameters: it closes from the first of ``GATES`` to the last."""
    share = min(iteration / max(iterations - 1, 1), 1.0)
    return float(GATES[0] ** (1.0 - share) * GATES[1] ** share)


def is_used(tally: Array) -> Array:
    """Tell from tallies [M,5] of ``Surfaces``, on any device, which hypotheses use depth, bool [M]."""
    rendered, known = tally[:, 0], tally[:, 1]
    return (known >= LEAST_PLACES) & (known >= LEAST_KNOWN * rendered)


def evidence(tally: NDArray[np.integer]) -> Evidence:
    """Return what tallies [M,5] of ``Surfaces`` say of poses."""
    used = is_used(tally)
    known = np.maximum(tally[:, 1], 1).astype(np.float64)
    agreement = np.where(used, tally[:, 2] / known, 0.0)
    return Evidence(used, agreement, np.where(used, 1.0 - tally[:, 4] / known, 0.0))


def targets(surfaces: Surfaces) -> DepthTargets:
    """Return the residuals of the measured places."""
    return DepthTargets(surfaces.points, surfaces.places, surfaces.normals, surfaces.weights)


def approach(
    maker: PairMaker, T_camera_object: Floats, object_index: NDArray[np.integer], config: DepthConfig
) -> tuple[Floats, Flags]:
    """Move poses along their lines of sight to where the measured depth puts them. M = 0 is legal.

    A pose comes from a box, which tells the distance by how large the object looks. The render at that pose is held
    against the depth measured there: every place of it says by how much it would have to be moved. Places on the object
    say nearly the same; those on the background or on what hides the object say other things, and not all the same. So
    the pose moves by what most places agree on, weighed by how far that is from what its size says, less the places
    that would then lie before what was measured behind them.

    Args:
        maker: of an image with depth.
        T_camera_object: float64 [M,4,4]; what is not finite or not in sight stays as it is.
        object_index: integers [M], the objects of ``maker``.
        config: of the sensor.

    Returns:
        Poses [M,4,4], and which of them depth has placed, bool [M].
    """
    T, index = np.array(T_camera_object, np.float64).reshape(-1, 4, 4), np.asarray(object_index, np.int64)
    used = np.zeros(len(T), np.bool_)
    rows = np.flatnonzero(np.isfinite(T).all(axis=(1, 2)))
    rows = rows[maker.in_sight(T[rows], index[rows])]
    if not len(rows):
        return T, used
    pairs = maker.make(T[rows], index[rows])
    seen = compare(pairs, config, 1.0)
    tally, gaps = pairs.ops.to_host_together(seen.tally, seen.gaps)
    used[rows] = is_used(tally)
    centre = (pairs.T_crop_object[:, :3, :3] @ pairs.centre[..., None])[..., 0] + pairs.T_crop_object[:, :3, 3]
    shift = best_shift(gaps, tally[:, 0], pairs.diameter, centre[:, 2])
    T_crop = pairs.T_crop_object.copy()
    T_crop[:, :3, 3] += np.where(used[rows], shift / centre[:, 2], 0.0)[:, None] * centre
    T[rows] = np.where(used[rows, None, None], pairs.crop.to_camera(T_crop), T[rows])
    return T, used


def best_shift(gaps: NDArray[np.integer], rendered: NDArray[np.integer], diameter: Floats, distance: Floats) -> Floats:
    """Return by how much depth the objects are to be moved, [M] metres.

    Args:
        gaps: [M,BINS] of ``Surfaces``.
        rendered: integers [M], places rendered.
        diameter: [M] metres.
        distance: [M] depths of the objects' centres, metres.
    """
    counts = gaps.astype(np.float64)
    padded = np.pad(counts, ((0, 0), (SPREAD, SPREAD)))
    kernel = SPREAD + 1.0 - np.abs(np.arange(-SPREAD, SPREAD + 1))
    support = sum(weight * padded[:, i : i + BINS] for i, weight in enumerate(kernel / kernel[SPREAD]))
    behind = counts.sum(axis=1, keepdims=True) - np.cumsum(counts, axis=1)
    later = np.pad(behind, ((0, 0), (0, 2 * SPREAD)), mode="constant")[:, 2 * SPREAD :]
    offset = (np.arange(BINS) - BINS // 2) / BINS_PER_DIAMETER * diameter[:, None]
    ratio = 1.0 + offset / distance[:, None]
    plausible = np.exp(-0.5 * (np.log(np.maximum(ratio, 1e-3)) / SIZE_SIGMA) ** 2)
    score = (support - BLOCKED * later) / np.maximum(rendered, 1)[:, None]
    best = np.where(ratio > 0.2, score * np.where(score > 0, plausible, 1.0), -np.inf).argmax(axis=1)
    near = np.abs(np.arange(BINS) - best[:, None]) <= SPREAD
    total = (counts * near).sum(axis=1)
    mean = (counts * near * offset).sum(axis=1) / np.maximum(total, 1.0)
    return np.where(total > 0, mean, 0.0)


def patch_depths(depth: Array | None, crop: CropCamera, patch: int, ops: Operations) -> Array | None:
    """Return the depth measured at the middles of the patches of N crops, float32 [N,T] metres along the crops' axes,
    NaN = unknown; None without a depth image.

    Args:
        depth: float32 [height,width] metres on the device, 0 = unknown; or None.
        crop: the N cameras.
        patch: pixels.
        ops: of the device.
    """
    if depth is None:
        return None
    middle = slice(patch // 2, None, patch)
    return ops.depth_points(depth, crop)[:, middle, middle, 2].reshape(len(crop), (crop.size // patch) ** 2)


def depths_of_matches(z: Array, focal: Floats, threshold_px: float, config: DepthConfig, xp: Any) -> MeasuredDepths:
    """Return measured depths as RANSAC scores them.

    A match is off by the threshold if its depth is off by ``MATCH_SIGMAS`` of the sensor's standard deviations, and by
    as far along the line of sight as the threshold reaches across it, together.

    Args:
        z: float32 [N,T] metres, NaN = unknown.
        focal: [N] of the crops, pixels.
        threshold_px: of reprojection errors.
        config: of the sensor.
        xp: the array module.
    """
    known = xp.isfinite(z)
    z = xp.where(known, z, np.float32(0.0)).astype(np.float64)
    across = z * (threshold_px / xp.asarray(focal)[:, None])
    sensor2 = config.floor**2 + (config.noise * z * z) ** 2
    weights = threshold_px / xp.sqrt(MATCH_SIGMAS**2 * sensor2 + across**2)
    return MeasuredDepths(z.astype(np.float32), xp.where(known, weights, 0.0).astype(np.float32))


def cells_used(pairs: Pairs, silhouette: Array) -> Array:
    """Tell which of M pairs use depth, bool [M] on the device, by the refiner's cells; none without a depth image.

    Args:
        silhouette: bool [M,P], the cells on the rendered object.
    """
    m, p = silhouette.shape
    if pairs.measured is None:
        return pairs.ops.xp.zeros(m, np.bool_)
    stride = pairs.crop.size // math.isqrt(p)
    first = stride // 2
    known = pairs.ops.xp.isfinite(pairs.measured[:, first::stride, first::stride, 2]).reshape(m, p) & silhouette
    rendered, count = silhouette.sum(axis=1), known.sum(axis=1)
    return (count * SIDE**2 >= LEAST_PLACES * p) & (count >= LEAST_KNOWN * rendered)


def match_targets(
    pairs: Pairs, found: Correspondences, weight: Array, scale: Array, used: Array, config: DepthConfig
) -> DepthTargets | None:
    """Return the differences between the depth of matched cells and what was measured where the refiner finds them.

    The standard deviation is the sensor's and, beside it, that of a match as it would be along the line of sight. None
    without a depth image.

    Args:
        pairs: of an image with depth or without.
        found: the matches, P cells each.
        weight: [M,P] of the cells' pixels, see ``prior.lm_weights``.
        scale: [M,P] of the flow, pixels of the crop.
        used: bool [M], of ``cells_used``; the others' targets weigh nothing.
        config: of the sensor.
    """
    if pairs.measured is None:
        return None
    xp, ops = pairs.ops.xp, pairs.ops
    m, size = len(pairs), pairs.crop.size
    known = xp.isfinite(found.pixels).all(axis=2)
    pixel = xp.clip(xp.rint(xp.where(known[..., None], found.pixels, np.float32(0.0))), 0, size - 1).astype(np.int64)
    row = xp.arange(m, dtype=np.int64)[:, None] * (size * size)
    measured = pairs.measured.reshape(m * size * size, 3)[row + pixel[..., 1] * size + pixel[..., 0]]
    T = xp.asarray(pairs.T_crop_object[:, 2:3])
    z = (ops.linear(T[:, :, :3], found.points) + T[:, None, :, 3])[..., 0]
    focal = xp.asarray(pairs.crop.K[:, 0, 0])[:, None]
    gate = xp.asarray(MATCH_GATE * pairs.diameter)[:, None]
    off = measured[..., 2] - z
    sigma2 = config.floor**2 + (config.noise * z * z) ** 2 + (scale * z / focal) ** 2
    robust = xp.maximum(1.0 - (off / gate) ** 2, 0.0)
    counts = known & xp.isfinite(off) & used[:, None]
    w = xp.where(counts, weight * scale * robust / xp.sqrt(sigma2), 0.0).astype(np.float32)
    normal = xp.broadcast_to(xp.asarray(np.array([0.0, 0.0, 1.0], np.float32)), found.points.shape)
    return DepthTargets(found.points, measured, normal, w)
