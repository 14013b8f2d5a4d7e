"""Measures point sets."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import ConvexHull, QhullError

from coop_edge.errors import InputError

Points = NDArray[np.float64]

_FEW = 1024  # so few points are compared pair by pair
_PAIRS = 1 << 20  # distances computed at once


def diameter(vertices: ArrayLike) -> float:
    """Return the largest distance between two of the points [N,3], in their unit; 0 for fewer than two.

    It is exact: only corners of the convex hull can be that far apart (all points are kept where flatness leaves no
    hull), and of many corners only those that lie far out along some direction are compared: see ``_by_direction``.

    Raises:
        InputError: a wrong shape, NaN or infinity.
    """
    points = np.asarray(vertices, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"vertices: wanted points [N,3], got {list(points.shape)}")
    if not np.isfinite(points).all():
        raise InputError("vertices: hold NaN or infinity; wanted finite points")
    if len(points) > _FEW:
        try:
            points = points[ConvexHull(points).vertices]
        except QhullError:  # coplanar or collinear points span no volume
            points = np.unique(points, axis=0)
    if len(points) < 2:
        return 0.0
    squared = _farthest_pair(points, points) if len(points) <= _FEW else _by_direction(points)
    return float(np.sqrt(squared))


def _by_direction(points: Points) -> float:
    """Return the largest squared distance among many points, without comparing all pairs.

    Let d be the diameter, p - q its pair, L <= d known, and u a unit vector within the angle e of p - q. Then
    (p - q) . u >= d cos e >= L cos e: along u, p and q lie no further from the two ends of the point set than the
    set's width exceeds L cos e. The directions below leave no p - q (or q - p) further than e from all of them.
    """
    directions, cosine = _directions()
    best = _sweep(points)
    for u in directions:
        along = points @ u
        low, high = along.min(), along.max()
        slack = (high - low) - np.sqrt(best) * cosine
        # Rounding of the projections must not exclude the pair itself.
        slack += 1e-12 * (abs(low) + abs(high))
        if slack >= 0:
            best = max(best, _farthest_pair(points[along >= high - slack], points[along <= low + slack]))
    return best


def _farthest_pair(a: Points, b: Points) -> float:
    rows = max(1, _PAIRS // len(b))
    chunks = (a[s : s + rows, None] - b[None] for s in range(0, len(a), rows))
    return max(float(np.einsum("ijk,ijk->ij", c, c).max()) for c in chunks)


def _sweep(points: Points) -> float:
    """Return a squared distance that is nearly the largest: to the farthest point, and from there again."""
    best, at = 0.0, points[0]
    for _ in range(4):
        squared = ((points - at) ** 2).sum(1)
        far = int(squared.argmax())
        best, at = max(best, float(squared[far])), points[far]
    return best


@cache
def _directions(n: int = 24) -> tuple[Points, float]:
    """Return unit vectors [K,3], one of each antipodal pair, and the cosine of an angle within which they cover all.

    They are grid points of the surface of the cube [-1, 1]^3, spacing 2/n: a ray meets the surface at most (1/n, 1/n)
    beside one, and a segment of length s in a plane at distance 1 is seen under at most 2 atan(s / 2).
    """
    grid = np.linspace(-1.0, 1.0, n + 1)
    a, b = (g.ravel() for g in np.meshgrid(grid, grid, indexing="ij"))
    one = np.ones_like(a)
    faces = np.concatenate([np.stack(c, axis=1) for c in ((one, a, b), (a, one, b), (a, b, one))])
    return faces / np.linalg.norm(faces, axis=1, keepdims=True), float(np.cos(2.0 * np.arctan(np.sqrt(0.5) / n)))
