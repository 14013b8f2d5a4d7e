"""Edges along one rendered outline, by the formulas of ``coop_edge.ops.outline``: NumPy and SciPy, float64, slow."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from coop_edge.geometry.crop import REFERENCE_SIZE
from coop_edge.ops import outline as o
from tests.oracles.warp import through


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Pixels to the outline, negative inside; infinite where there is none."""
    if mask.all() or not mask.any():
        return np.where(mask, -np.inf, np.inf)
    within, without = (ndimage.distance_transform_edt(side) for side in (mask, ~mask))
    return np.where(mask, 0.5 - within, without - 0.5)


def find_lines(mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """Outline pixels (x, y) [P,2] that have lines, the lines' centres [P,2] and normals [P,2]."""
    border = mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), border_value=1)
    border[[0, -1]] = border[:, [0, -1]] = False
    y, x = np.nonzero(border)
    distance = np.clip(signed_distance(mask), -o.farthest(len(mask)), o.farthest(len(mask)))
    axes = (0, 1), (1, 0)
    gradient = [ndimage.gaussian_filter(distance, o.NORMAL_BLUR, order=order, mode="nearest") for order in axes]
    normal = np.stack([g[y, x] for g in gradient], axis=1)
    length = np.linalg.norm(normal, axis=1)
    kept = np.flatnonzero(length > o.LEAST_SLOPE)
    if len(kept) > o.LINES:
        kept = kept[np.floor(np.linspace(0, len(kept) - 1, o.LINES) + 0.5).astype(int)]
    pixel, normal = np.stack([x, y], axis=1)[kept], normal[kept] / length[kept, None]
    share = ndimage.gaussian_filter(mask.astype(float), o.EDGE_BLUR, mode="nearest")[pixel[:, 1], pixel[:, 0]]
    share = share.clip(0.05, 0.95)
    inside = o.EDGE_BLUR / o.LOGISTIC * np.log(share / (1 - share))
    return pixel, pixel + normal * inside[:, None], normal


def object_probability(image: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """How probably each pixel of uint8 [S,S,3] shows the object, [S,S]; None where a side has too few pixels."""
    unit = len(mask) / REFERENCE_SIZE
    signed = signed_distance(mask)
    shares = []
    for side in (signed < -o.INSET * unit, (signed > o.INSET * unit) & (signed < o.RING * unit)):
        if np.count_nonzero(side) < o.LEAST_PIXELS * unit**2:
            return None
        histogram = np.histogramdd(image[side] // 16, [np.arange(o.BINS + 1)] * 3)[0]
        for axis in range(3):
            histogram = ndimage.convolve1d(histogram, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
        shares.append(histogram[tuple(np.moveaxis(image // 16, -1, 0))] / np.count_nonzero(side) + o.FLOOR)
    return shares[0] / (shares[0] + shares[1])


def with_depth(probability: np.ndarray, surface: np.ndarray, measured: np.ndarray, tolerance: float) -> np.ndarray:
    """The probability of the object, [S,S], where measured depth says something too: by odds, as of two witnesses."""
    odds = (1 + o.DEPTH_BELIEF) / (1 - o.DEPTH_BELIEF)
    beyond = measured - surface
    odds = np.where(np.abs(beyond) <= tolerance, odds, np.where(beyond > tolerance, 1 / odds, 1.0))
    return probability * odds / (probability * odds + 1 - probability)


def find_edge(probability: np.ndarray, centre: np.ndarray, normal: np.ndarray) -> tuple[float, float, float, float]:
    """Shift, its variance, and the contrasts there and at the centre, of one line, by Bayes' rule."""
    unit = len(probability) / REFERENCE_SIZE
    along, m = np.arange(-o.REACH, o.REACH + 1), max(1, round(unit))
    between = (np.arange(m) + 0.5) / m - 0.5
    places = centre + unit * (along[:, None, None] + between[:, None]) * normal  # [25,m,2]
    p = ndimage.map_coordinates(probability, np.moveaxis(places, -1, 0)[::-1], order=1, mode="grid-constant", cval=0.5)
    p = p.mean(axis=1)
    shifts = np.arange(-o.SHIFT, o.SHIFT + 1)
    step = 0.5 - o.BELIEF * np.tanh((along - shifts[:, None]) / (2 * o.SOFTNESS))
    likelihood = np.prod(step * p + (1 - step) * (1 - p), axis=1)
    posterior = likelihood / likelihood.sum()
    mean = posterior @ shifts
    variance = posterior @ (shifts - mean) ** 2

    def contrast(place: int) -> float:
        known = np.pad(p, o.CONTRAST_SPAN, constant_values=0.5)
        k = o.REACH + place + o.CONTRAST_SPAN
        return known[k - o.CONTRAST_SPAN : k].mean() - known[k + 1 : k + 1 + o.CONTRAST_SPAN].mean()

    return unit * mean, unit**2 * variance, contrast(round(mean)), contrast(0)


def measure(
    query, depth, K, T_crop_object, H, image_size, camera=None, measured=None, tolerance=0.0
) -> dict[str, np.ndarray] | None:
    """The lines of one hypothesis, as the fields of ``Outlines``; None where there is no outline to speak of."""
    unit = len(depth) / REFERENCE_SIZE
    pixel, centre, normal = find_lines(depth > 0)
    probability = object_probability(np.rint(255 * np.moveaxis(query, 0, -1)).astype(np.uint8), depth > 0)
    if len(pixel) < o.LEAST_LINES * unit or probability is None:
        return None
    edges = []
    for (x, y), c, n in zip(pixel, centre, normal, strict=True):
        seen = probability
        if measured is not None:
            seen = with_depth(seen, np.where(depth > 0, depth, depth[y, x]), measured, tolerance)
        edges.append(find_edge(seen, c, n))
    edges = np.array(edges)
    shift, variance, contrast, here = edges.T
    rays = np.c_[centre, np.ones(len(centre))] @ np.linalg.inv(K).T
    seen = rays * depth[pixel[:, 1], pixel[:, 0], None]
    points = (seen - T_crop_object[:3, 3]) @ T_crop_object[:3, :3]
    inside = np.ones(len(centre), bool)
    for end in (-1, 1):
        q = np.c_[centre + end * o.CONTRAST_SPAN * unit * normal, np.ones(len(centre))] @ np.linalg.inv(H).T
        uv = q[:, :2] / q[:, 2:]
        if camera is not None:
            uv = np.array([through(camera, *ideal) for ideal in uv])
        inside &= (q[:, 2] > 0) & (uv >= 0).all(axis=1) & (uv <= np.array(image_size) - 1).all(axis=1)
    clear = np.clip((contrast - o.FAINT) / (o.CLEAR - o.FAINT), 0, 1)
    huber = np.minimum(1, o.LARGEST_SHIFT * unit / np.maximum(np.abs(shift), 1e-9))
    information = inside * clear * huber * o.INFORMATION / np.maximum(variance, o.LEAST_VARIANCE * unit**2)
    total = max(inside.sum(), 1)
    share = (inside & (here > o.STANDS_OUT)).sum() / total
    return {
        "points": points,
        "pixels": centre + shift[:, None] * normal,
        "normals": normal,
        "weights": np.sqrt(information),
        "edges": edges,
        "verdict": np.array([len(centre), share, (inside * here.clip(0, 1)).sum() / total]),
    }
