"""Finds where in an image an object may be: its views correlated with the whole image's features at several sizes.

First at half the resolution, in all places of all levels; then around the best places at full resolution. A view likes
some surroundings better than others, whatever is in them, so each view's similarities are compared with what it says of
this image on the whole: a score is a number of standard deviations above the view's mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.ops.base import Array, Operations
from coop_edge.stages.bounds import Bounds
from coop_edge.stages.boxes import distinct
from coop_edge.stages.image_maps import CELL, Level
from coop_edge.stages.views import Views

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
PEAKS = 50
"""Places that are looked at again at full resolution."""
CANDIDATES = 3000
"""Places of the highest scores among which peaks are sought."""
OVERLAP = 0.5
"""Intersection over union from which on two boxes are one place."""
SAMPLE = 256
"""Places, spread over the image, of which the views' means and standard deviations at full resolution are taken."""
NEARBY = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))
"""Moves of a place when it is looked at again, cells."""


class Places(NamedTuple):
    """M places where an object may be, best first; on the host."""

    box: Floats  # [M,4] (x, y, width, height), pixels of the image
    score: Floats  # [M] standard deviations above the mean
    view: Indices  # [M] the view that looks most alike


def find_places(
    levels: Sequence[Level], views: Views, diameter: float, count: int, *, bounds: Bounds, ops: Operations
) -> Places:
    """Find at most ``count`` places where an object may be.

    Args:
        levels: of the image.
        views: of the object.
        diameter: of the object, metres.
        count: largest number of places.
        bounds: what is known beforehand.
        ops: of the device that holds ``levels`` and ``views``.
    """
    search = _Search(levels, views, diameter, bounds, ops)
    return search.again(search.everywhere(), count)


class _Search:
    """The search for one object in one image. A place is (level, row, column) of a window's first cell."""

    def __init__(self, levels: Sequence[Level], views: Views, diameter: float, bounds: Bounds, ops: Operations) -> None:
        self.views, self.diameter, self.bounds, self.ops = views, diameter, bounds, ops
        self.side = views.descriptors.shape[1]  # of a window, cells
        self.pool = 2 if self.side % 2 == 0 else 1
        self.reach = self.side // 2 // self.pool * self.pool  # cells around the image where a window may begin
        self.levels = levels
        self.origin = np.array([[level.x, level.y] for level in levels])
        self.scale = np.array([level.scale for level in levels])
        self.padded = [self._padded(level.maps) for level in levels]

    def everywhere(self) -> Indices:
        """Return the best places [M,3] of all, at reduced resolution."""
        xp, side = self.ops.xp, self.side // self.pool
        templates = xp.moveaxis(_reduced(xp.moveaxis(self.views.descriptors, -1, 1), self.pool), 1, -1)
        templates = xp.ascontiguousarray(templates).reshape(len(templates), 1, -1)
        scores, places = [], []
        for i, maps in enumerate(self.padded):
            windows, shape = _windows(_reduced(maps, self.pool), side, xp)
            scores.append(self.ops.inner_products(windows[:, None], templates)[0])
            row, column = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
            place = np.stack([row, column], axis=1) * self.pool - self.reach
            places.append(np.concatenate([np.full((len(place), 1), i), place], axis=1))
        self.all = np.concatenate(places)
        score, view = self._best(_normalised(xp.concatenate(scores), None, xp), self.all)
        return self.all[self._peaks(self.all, view, score, PEAKS, step=self.pool)]

    def again(self, places: Indices, count: int) -> Places:
        """Return the best places around those given, at full resolution."""
        xp, full = self.ops.xp, self.views.descriptors.reshape(len(self.views.descriptors), 1, -1)
        around = (places[:, None] + np.insert(np.array(NEARBY), 0, 0, axis=1)).reshape(-1, 3)
        around = np.unique(around[self._exists(around)], axis=0)
        spread = self.all[:: max(1, len(self.all) // SAMPLE)]
        spread = spread[self._exists(spread)]
        (everything,) = self.ops.inner_products(self._at(np.concatenate([around, spread]))[:, None], full)
        scores = _normalised(everything[: len(around)], everything[len(around) :], xp)
        score, view = self._best(scores, around)
        kept = self._peaks(around, view, score, count, step=1)
        return Places(self._boxes(around[kept], view[kept]), score[kept], view[kept])

    def _best(self, scores: Array, places: Indices) -> tuple[Floats, Indices]:
        """Return the highest score of each place [M] and the view that has it, of scores [M,V]; -inf if none may be."""
        xp = self.ops.xp
        if not len(places):
            return np.zeros(0), np.zeros(0, np.int64)
        if self._bounded:
            scores = xp.where(xp.asarray(self._allowed(places)), scores, np.float32(-np.inf))
        best, score = self.ops.to_host_together(scores.argmax(axis=1), scores.max(axis=1).astype(np.float64))
        return score, best

    @property
    def _bounded(self) -> bool:
        bounds = self.bounds
        return bounds.depth is not None or bounds.near > 0 or np.isfinite(bounds.far)

    def _allowed(self, places: Indices) -> NDArray[np.bool_]:
        scale = self.scale[places[:, 0]]
        z = self.views.depths() * (self.bounds.focal * scale)[:, None]
        middle = self._corner(places) + (self.side * CELL / 2 / scale)[:, None]
        return self.bounds.allows(middle, self.side * CELL / scale, z, self.diameter)

    def _peaks(self, places: Indices, view: Indices, score: Floats, count: int, *, step: int) -> Indices:
        """Return the rows of the best places whose boxes are distinct and in the region, best first.

        step: cells between places, by half of which the middle of a box may be off.
        """
        order = np.argsort(-score, kind="stable")[:CANDIDATES]
        order = order[np.isfinite(score[order])]
        boxes = self._boxes(places[order], view[order])
        inside = self.bounds.inside(boxes, step * CELL / 2 / self.scale[places[order, 0]])
        return np.asarray(order[inside][distinct(boxes[inside], OVERLAP, count)])

    def _corner(self, places: Indices) -> Floats:
        """Return the top left corners [M,2] of windows, pixels of the image."""
        i = places[:, 0]
        return (self.origin[i] + CELL * places[:, :0:-1]) / self.scale[i][:, None]

    def _boxes(self, places: Indices, view: Indices) -> Floats:
        """Return the boxes [M,4] of views in windows, pixels of the image."""
        scale = self.scale[places[:, 0]][:, None]
        sides = self.views.sides[view]
        return np.concatenate([self._corner(places) + (self.side * CELL - sides) / 2 / scale, sides / scale], axis=1)

    def _padded(self, maps: Array) -> Array:
        """Surround maps [C,h,w] by zeros, so that every cell is some window's middle, and to a multiple of the pool."""
        xp, reach, (channels, height, width) = self.ops.xp, self.reach, maps.shape
        more = [2 * reach + -(length + 2 * reach) % self.pool for length in (height, width)]
        out = xp.zeros((channels, height + more[0], width + more[1]), np.float32)
        out[:, reach : reach + height, reach : reach + width] = maps
        return out

    def _exists(self, places: Indices) -> NDArray[np.bool_]:
        """Tell which windows lie within the padded maps, bool [M]."""
        last = np.array([maps.shape[1:] for maps in self.padded])[places[:, 0]] - self.reach - self.side
        return np.asarray(((places[:, 1:] >= -self.reach) & (places[:, 1:] <= last)).all(axis=1))

    def _at(self, places: Indices) -> Array:
        """Return the windows at places, float32 [M,side side C]."""
        xp, step = self.ops.xp, np.arange(self.side)
        out = xp.empty((len(places), self.padded[0].shape[0] * self.side**2), np.float32)
        for i, maps in enumerate(self.padded):
            rows = np.flatnonzero(places[:, 0] == i)
            if not len(rows):
                continue
            y, x = places[rows, 1:].T + self.reach
            cut = maps[:, xp.asarray(y[:, None, None] + step[:, None]), xp.asarray(x[:, None, None] + step)]
            out[xp.asarray(rows)] = xp.moveaxis(cut, 0, -1).reshape(len(rows), -1)
        return out


def _reduced(maps: Array, pool: int) -> Array:
    """Return the means of pool x pool cells of maps [...,h,w]."""
    *rest, height, width = maps.shape
    return maps.reshape(*rest, height // pool, pool, width // pool, pool).mean(axis=(-3, -1))


def _windows(maps: Array, side: int, xp: Array) -> tuple[Array, tuple[int, int]]:
    """Return all windows of side x side cells in maps [C,h,w], float32 [P,side side C], and their rows and columns."""
    rows, columns = maps.shape[1] - side + 1, maps.shape[2] - side + 1
    if rows < 1 or columns < 1:
        return xp.zeros((0, maps.shape[0] * side**2), np.float32), (0, 0)
    moved = [maps[:, y : y + rows, x : x + columns] for y in range(side) for x in range(side)]
    windows = xp.stack(moved).reshape(-1, rows * columns)  # [side side C,P]
    return xp.ascontiguousarray(windows.T), (rows, columns)


def _normalised(scores: Array, sample: Array | None, xp: Array) -> Array:
    """Return scores [P,V] in standard deviations above each view's mean, those of ``sample`` (None: of the scores)."""
    of = scores if sample is None else sample
    if not len(of):
        return scores
    return (scores - of.mean(axis=0)) / xp.maximum(of.std(axis=0), np.float32(1e-6))
