"""Measured depth in crops and under rendered surfaces, by the words of ``coop_edge.ops.depth``: float64, slow."""

from __future__ import annotations

import numpy as np

from coop_edge.geometry import se3
from coop_edge.ops import depth as d


def points(depth: np.ndarray, K: np.ndarray, H: np.ndarray, R: np.ndarray, size: int, lens=None) -> np.ndarray:
    """[size,size,3] of one crop: K of the image's camera, R turns its axes into the crop's, H its ideal
    pixels; lens: the way from these to the image's, or None. A pixel's ray is that of its exact middle."""
    out = np.full((size, size, 3), np.nan)
    for y in range(size):
        for x in range(size):
            u, v, w = np.linalg.inv(H) @ (x, y, 1.0)
            if w <= 0:
                continue
            seen = np.array([u / w, v / w])
            seen = seen if lens is None else lens.distort(seen)
            if not np.isfinite(seen).all():
                continue
            column, row = (int(np.floor(each + 0.5)) for each in seen)
            if 0 <= column < depth.shape[1] and 0 <= row < depth.shape[0] and depth[row, column] > 0:
                ideal = np.array([column, row]) if lens is None else lens.undistort(np.array([column, row]))
                out[y, x] = R @ (depth[row, column] * np.linalg.inv(K) @ (*ideal, 1.0))
    return out


def _normal(P: np.ndarray, depth: np.ndarray, x: int, y: int, bent: float) -> np.ndarray | None:
    sides = []
    for dx, dy in ((1, 0), (0, 1)):
        ends, found = [], 0
        for sign in (-1, 1):
            i, j = x + sign * dx, y + sign * dy
            inside = 0 <= i < len(depth) and 0 <= j < len(depth)
            on_surface = inside and depth[j, i] > 0 and abs(float(depth[j, i]) - float(depth[y, x])) <= bent
            ends.append(P[j, i] if on_surface else P[y, x])
            found += bool(on_surface)
        if not found:
            return None
        sides.append(ends[1] - ends[0])
    n = np.cross(*sides)
    if np.linalg.norm(n) == 0:
        return None
    n /= np.linalg.norm(n)
    cosine = n @ P[y, x] / np.linalg.norm(P[y, x])
    return None if abs(cosine) < d.STEEP else -np.sign(cosine) * n


def surfaces(
    depth: np.ndarray, measured: np.ndarray, K: np.ndarray, T: np.ndarray, limits: dict[str, float]
) -> dict[str, np.ndarray]:
    """One hypothesis: the arrays of ``Surfaces``. limits: by the names of ``SurfaceLimits``, of this hypothesis."""
    size = len(depth)
    side, step = d.places_per_side(size)
    v, u = np.mgrid[:size, :size]
    P = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(K).T * depth[..., None].astype(float)
    out = {name: np.zeros((side * side, 3)) for name in ("points", "places", "normals")}
    out |= {"weights": np.zeros(side * side), "tally": np.zeros(5, int), "gaps": np.zeros(d.BINS, int)}
    D, gate = limits["diameter"], limits["gate"]
    for index in range(side * side):
        x, y = (step // 2 + step * (index % side)), (step // 2 + step * (index // side))
        if not depth[y, x] > 0:
            continue
        out["tally"][0] += 1
        q = measured[y, x].astype(float)
        if not np.isfinite(q).all():
            continue
        out["tally"][1] += 1
        gap = q[2] - P[y, x, 2]
        bin_index = int(np.floor(gap / D * d.BINS_PER_DIAMETER + 0.5)) + d.BINS // 2
        if 0 <= bin_index < d.BINS:
            out["gaps"][bin_index] += 1
        n = _normal(P, depth, x, y, d.BENT * D)
        off = gap if n is None else n @ (q - P[y, x])
        sensor = np.hypot(limits["floor"], limits["noise"] * float(depth[y, x]) ** 2)
        kind = 2 if abs(off) <= max(limits["tolerance"], 3 * sensor) else 3 if gap < 0 else 4
        out["tally"][kind] += 1
        if n is None or abs(off) >= gate:
            continue
        around = [(x + step, y), (x - step, y), (x, y + step), (x, y - step)]
        inside = [measured[j, i].astype(float) for i, j in around if 0 <= i < size and 0 <= j < size]
        away = [abs(n @ (near - P[y, x])) for near in inside if np.isfinite(near).all()]
        if len(away) < 3 or max(away) > gate:
            continue
        sigma = np.hypot(sensor, d.TUKEY * gate)
        out["weights"][index] = (1 - (off / gate) ** 2) * np.sqrt(limits["information"]) / sigma
        out["points"][index] = se3.transform(se3.invert(T), P[y, x][None])[0]
        out["places"][index], out["normals"][index] = q, n
    return out
