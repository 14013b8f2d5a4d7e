"""Cuts polygons into triangles, concave ones and ones with holes too, and checks each cut by its area.

The signed areas of any triangles whose edges add up to the polygon's add up to the polygon's area (Newell's formula).
So where all of them are positive, they tile a polygon that does not cross itself: that is the check.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

MAX_CORNERS = 20_000
"""A concave polygon of more corners is not cut properly but noted: the time grows with the square."""
_ROUNDS = 50  # how often all corners are asked anew where outlines touch themselves
_FLAT = 1e-9  # of the polygon's size, squared: below it an area is rounding


class Triangles(NamedTuple):
    """Triangles of P polygons, in their order.

    Attributes:
        corners: [T,3] places in the flat list of corners.
        polygon: [T] which polygon each is of.
        uncertain: number of polygons that cross themselves or bend, so that no cut has their area; they are cut as
            fans.
    """

    corners: NDArray[np.int64]
    polygon: NDArray[np.int64]
    uncertain: int


def triangulate(points: Points, sizes: NDArray[np.int64]) -> Triangles:
    """Cut polygons into triangles: convex ones as fans around their first corner, others by clipping ears.

    Args:
        points: positions of all corners [C,3], polygon by polygon.
        sizes: corners of each polygon [P]; those of fewer than three give no triangle.
    """
    starts = np.cumsum(sizes) - sizes
    counts = np.maximum(sizes - 2, 0)
    polygon = np.repeat(np.arange(len(sizes)), counts)
    step = np.arange(len(polygon)) - (np.cumsum(counts) - counts)[polygon]
    first = starts[polygon]
    corners = np.stack([first, first + step + 1, first + step + 2], axis=1).astype(np.int64)
    bad = _not_fans(points, corners, polygon, sizes)
    if not len(bad):
        return Triangles(corners, polygon, 0)
    uncertain, replaced = 0, [corners[~np.isin(polygon, bad)]]
    owners = [polygon[~np.isin(polygon, bad)]]
    for p in bad:
        cut = cut_outline(points[starts[p] : starts[p] + sizes[p]])
        if cut is None:
            uncertain += 1
            cut = corners[polygon == p] - starts[p]
        replaced.append(cut + starts[p])
        owners.append(np.full(len(cut), p))
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return Triangles(np.concatenate(replaced)[order], owner[order], uncertain)


def cut_outline(outline: Points, holes: list[Points] | None = None) -> NDArray[np.int64] | None:
    """Cut one polygon [n,3] with holes [m,3] into triangles [T,3]; None if no cut has its area.

    Indices count through the outline and then the holes, in order.
    """
    rings = [outline, *(holes or [])]
    points = np.concatenate(rings)
    n = len(points)
    if n > MAX_CORNERS or not np.isfinite(points).all():
        return None
    flat = _project(points - points[0], _newell(outline))
    if flat is None:
        return None
    ends = np.cumsum([len(ring) for ring in rings])
    loops = [list(range(end - len(ring), end)) for ring, end in zip(rings, ends, strict=True)]
    loop = _bridge(flat, loops[0], loops[1:])
    return None if loop is None else _clip_ears(flat, loop)


def _not_fans(
    points: Points, corners: NDArray[np.int64], polygon: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the polygons whose fans overlap: of some triangle the area is negative."""
    if not (sizes > 3).any():
        return np.zeros(0, np.int64)
    a, b, c = (points[corners[:, i]] for i in range(3))
    with np.errstate(all="ignore"):
        area = np.cross(b - a, c - a)
        whole = np.zeros((len(sizes), 3))
        np.add.at(whole, polygon, area)
        total = np.zeros(len(sizes))
        np.add.at(total, polygon, np.linalg.norm(area, axis=1))
        length = np.linalg.norm(whole, axis=1)
        along = np.einsum("ij,ij->i", area, whole[polygon]) / np.maximum(length[polygon], 1e-300)
        wrong = (sizes[polygon] > 3) & (along < -_FLAT * total[polygon])
        wrong |= (sizes[polygon] > 3) & (length[polygon] < _FLAT * total[polygon])
    return np.unique(polygon[wrong])


def _newell(ring: Points) -> Points:
    """Return twice the vector area of a polygon [n,3]."""
    local = ring - ring[0]
    return np.asarray(np.cross(local, np.roll(local, -1, axis=0)).sum(axis=0))


def _project(points: Points, normal: Points) -> Points | None:
    """Project [n,3] onto the plane across ``normal``, counter-clockwise as seen against it; None without a normal."""
    length = float(np.linalg.norm(normal))
    size = float(np.abs(points).max(initial=0.0))
    if not length > _FLAT * size**2:
        return None
    n = normal / length
    u = np.cross(n, np.eye(3)[np.abs(n).argmin()])
    u /= np.linalg.norm(u)
    return np.stack([points @ u, points @ np.cross(n, u)], axis=1) / size


def _bridge(flat: Points, outline: list[int], holes: list[list[int]]) -> list[int] | None:
    """Join holes to the outline, each by an edge that is walked both ways; None if one cannot be joined."""
    loop = list(outline)
    turned = [hole if _area(flat[hole]) < 0 else hole[::-1] for hole in holes]
    for hole in sorted(turned, key=lambda h: -flat[h, 0].max()):  # from the right: nothing lies in between
        start = int(flat[hole, 0].argmax())
        ring = hole[start:] + hole[:start]
        rest = [other for other in turned if other is not hole]
        edges = [(r[i - 1], r[i]) for r in [loop, ring, *rest] for i in range(len(r))]
        near = np.argsort(np.linalg.norm(flat[loop] - flat[ring[0]], axis=1), kind="stable")
        to = ring[0]
        at = next((int(k) for k in near if _inward(flat, loop, int(k), to) and _free(flat, loop[k], to, edges)), None)
        if at is None:
            return None
        loop[at + 1 : at + 1] = [*ring, ring[0], loop[at]]
        turned = rest
    return loop


def _inward(flat: Points, loop: list[int], k: int, j: int) -> bool:
    """Return whether corner ``j`` is seen from place ``k`` of the loop inside the angle that the loop makes there."""
    before, here, after = flat[loop[k - 1]], flat[loop[k]], flat[loop[(k + 1) % len(loop)]]
    left = _side(here, after, flat[j]) > 0, _side(before, here, flat[j]) > 0
    return all(left) if _side(before, here, after) > 0 else any(left)


def _free(flat: Points, i: int, j: int, edges: list[tuple[int, int]]) -> bool:
    """Return whether the segment i-j crosses or touches no edge but at its own ends."""
    a, b = flat[i], flat[j]
    p, q = flat[[e[0] for e in edges]], flat[[e[1] for e in edges]]
    o1, o2, o3, o4 = _side(a, b, p), _side(a, b, q), _side(p, q, a), _side(p, q, b)
    shared = ((p == a) | (q == a)).all(axis=1) | ((p == b) | (q == b)).all(axis=1)
    return not (((o1 * o2 <= 0) & (o3 * o4 <= 0)) & ~shared).any()


def _side(a: Points, b: Points, c: Points) -> Points:
    """Return twice the signed area of the triangles a, b, c."""
    return np.asarray((b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1])) - (b[..., 1] - a[..., 1]) * (
        c[..., 0] - a[..., 0]
    )


def _area(ring: Points) -> float:
    x, y = ring.T
    return float(0.5 * (x * np.roll(y, -1) - y * np.roll(x, -1)).sum())


def _clip_ears(flat: Points, loop: list[int]) -> NDArray[np.int64] | None:
    """Cut a loop of corners by clipping convex corners whose triangle holds no other; None where none is left."""
    loop = _without_spikes(flat, loop)
    if len(loop) < 3:
        return None
    outline = _Outline(flat[loop])
    places = np.array(loop, np.int64)
    waiting = deque(range(len(loop)))
    careful, rounds = True, 0
    triangles: list[tuple[int, int, int]] = []
    while outline.left > 3:
        if not waiting:  # corners on straight lines, and outlines that touch themselves
            flat_corner = outline.flat_corner()
            if flat_corner is not None:
                waiting.extend(outline.remove(flat_corner))
                continue
            rounds += 1
            if not careful or rounds > _ROUNDS:
                return None
            careful = False
            waiting.extend(outline.corners())
        corner = waiting.popleft()
        if outline.alive[corner] and outline.is_ear(corner, careful):
            triangles.append((outline.before[corner], corner, outline.after[corner]))
            waiting.extend(outline.remove(corner))
            careful = True
    last = outline.corners()
    turn = outline.turn(last[0])
    if turn > _FLAT:
        triangles.append((outline.before[last[0]], last[0], outline.after[last[0]]))
    return None if turn < -_FLAT else places[np.array(triangles, np.int64).reshape(-1, 3)]


class _Outline:
    """Corners that are left, each with its neighbours. Only corners that are not convex can lie in an ear.

    Clipping an ear changes what its two neighbours are, and no other corner: so each has to be asked a few times.
    """

    def __init__(self, points: Points) -> None:
        n = len(points)
        self.points, self.left = points, n
        self.before, self.after = [(i - 1) % n for i in range(n)], [(i + 1) % n for i in range(n)]
        self.alive = np.ones(n, bool)
        turns = _side(np.roll(points, 1, axis=0), points, np.roll(points, -1, axis=0))
        self._inward = np.asarray(turns <= _FLAT)  # not convex
        self._flat = np.asarray(np.abs(turns) <= _FLAT)

    def corners(self) -> list[int]:
        return [int(i) for i in np.flatnonzero(self.alive)]

    def turn(self, i: int) -> float:
        """Return twice the signed area of a corner and its neighbours."""
        return float(_side(self.points[self.before[i]], self.points[i], self.points[self.after[i]]))

    def flat_corner(self) -> int | None:
        """Return a corner on a straight line, which cuts off nothing."""
        found = np.flatnonzero(self._flat & self.alive)
        return int(found[0]) if len(found) else None

    def remove(self, i: int) -> tuple[int, int]:
        """Take a corner away; return its neighbours, which may be ears now."""
        before, after = self.before[i], self.after[i]
        self.after[before], self.before[after] = after, before
        self.alive[i] = self._inward[i] = False
        self.left -= 1
        for each in (before, after):
            turn = self.turn(each)
            self._inward[each], self._flat[each] = turn <= _FLAT, abs(turn) <= _FLAT
        return before, after

    def is_ear(self, i: int, careful: bool) -> bool:
        """Return whether a corner can be cut off: no other lies in its triangle; ``careful``: nor on its edges."""
        if self._inward[i]:
            return False
        a, b, c = self.points[[self.before[i], i, self.after[i]]]
        points = self.points[self._inward]
        sides = np.minimum(np.minimum(_side(a, b, points), _side(b, c, points)), _side(c, a, points))
        inside = points[sides >= -_FLAT if careful else sides > _FLAT]
        same = (inside == a).all(axis=1) | (inside == b).all(axis=1) | (inside == c).all(axis=1)
        return bool(same.all())


def _without_spikes(flat: Points, loop: list[int]) -> list[int]:
    """Drop corners that repeat the one before, and those from which the outline comes back to where it was."""
    points = [tuple(point) for point in flat.tolist()]
    kept: list[int] = []
    for i in loop:
        if len(kept) > 1 and points[kept[-2]] == points[i]:
            kept.pop()
        if not kept or points[kept[-1]] != points[i]:
            kept.append(i)
    while len(kept) > 2:  # the same where the end meets the beginning
        if points[kept[0]] == points[kept[-1]]:
            kept.pop()
        elif points[kept[1]] == points[kept[-1]]:
            kept = kept[1:-1]
        elif points[kept[-2]] == points[kept[0]]:
            kept = kept[:-2]
        else:
            break
    return kept
