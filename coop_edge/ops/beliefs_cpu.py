"""Tells on the CPU what a crop's pixels say of an object, by their colours and their depth: compiled by Numba."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from coop_edge.base.jit import jit, stamp_of
from coop_edge.ops.outline import BINS, DEPTH_BELIEF, FLOOR, INSET, RING

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])

COLORS = BINS**3

SOURCES = (Path(__file__).parent / "outline.py", Path(__file__))
"""Files of the compiled code, constants included."""
_STAMP = stamp_of(SOURCES)


class Seen(NamedTuple):
    """What a crop shows, [S,S] each."""

    color: Array  # bin of each pixel, int16
    belief: Array  # 2 p - 1 of each bin, [COLORS]
    depth: Array  # of the render, 0 = nothing
    measured: Array  # depth, NaN = unknown; [0,0] without any
    tolerance: float  # metres


def compiled(function: F) -> F:
    """Compile with strict floating point."""
    return jit(function, _STAMP)


@compiled
def colors_of(query: Array) -> Array:
    """Return the bins of the colours of [3,S,S], int16 [S,S]."""
    size = query.shape[1]
    color = np.zeros((size, size), np.int16)
    for channel in range(3):
        for y in range(size):
            for x in range(size):
                level = int(255.0 * min(max(query[channel, y, x], 0.0), 1.0) + 0.5)
                color[y, x] = color[y, x] * BINS + level * BINS // 256
    return color


@compiled
def count_colors(color: Array, signed: Array, unit: float, histograms: Array) -> None:
    """Count colours inside the silhouette and in the ring around it, into [2,COLORS]."""
    inset, ring = np.float32(INSET * unit), np.float32(RING * unit)
    for y in range(len(signed)):
        for x in range(len(signed)):
            distance = signed[y, x]
            if distance < -inset:
                histograms[0, color[y, x]] += 1
            elif inset < distance < ring:
                histograms[1, color[y, x]] += 1


@compiled
def beliefs_of(histograms: Array) -> Array:
    """Compute 2 p - 1 for p the probability of the object where a colour is seen, float32 [COLORS].

    Counts are smoothed by (1, 2, 1) / 4 along each channel; what would leave a histogram stays in its last bin.
    """
    shares = np.empty((2, COLORS), np.float32)
    for side in range(2):
        total, smoothed = 0, np.zeros(COLORS, np.int64)
        for color in range(COLORS):
            count = histograms[side, color]
            if count:
                total += count
                for near in range(27):
                    i, j, k = near // 9 - 1, near // 3 % 3 - 1, near % 3 - 1
                    red, green = _limited(color // BINS**2 + i), _limited(color // BINS % BINS + j)
                    place = (red * BINS + green) * BINS + _limited(color % BINS + k)
                    smoothed[place] += count * (2 - abs(i)) * (2 - abs(j)) * (2 - abs(k))
        for color in range(COLORS):
            shares[side, color] = np.float32(smoothed[color]) / np.float32(64 * total)
    floor = np.float32(FLOOR)
    beliefs = np.empty(COLORS, np.float32)
    for color in range(COLORS):
        here, beyond = shares[0, color] + floor, shares[1, color] + floor
        beliefs[color] = (here - beyond) / (here + beyond)
    return beliefs


@compiled
def _limited(bin_index: int) -> int:
    return min(max(bin_index, 0), BINS - 1)


@compiled
def belief_at(seen: Seen, x: float, y: float, z: float) -> float:
    """Interpolate the belief at crop pixel (x, y), bilinear; 0 outside of the crop. z: where its line begins."""
    size, left, top = len(seen.color), math.floor(x), math.floor(y)
    total = 0.0
    for j in range(2):
        for i in range(2):
            column, row = int(left) + i, int(top) + j
            if 0 <= column < size and 0 <= row < size:
                total += (1.0 - abs(x - column)) * (1.0 - abs(y - row)) * _belief(seen, row, column, z)
    return total


@compiled
def _belief(seen: Seen, row: int, column: int, z: float) -> float:
    """Return 2 p - 1 of a pixel, by its colour and its depth as independent witnesses."""
    by_color = seen.belief[seen.color[row, column]]
    if not len(seen.measured):
        return by_color
    surface = seen.depth[row, column] if seen.depth[row, column] > 0.0 else z
    beyond = seen.measured[row, column] - surface
    if not beyond >= -seen.tolerance:  # nearer, or unknown
        return by_color
    by_depth = DEPTH_BELIEF if beyond <= seen.tolerance else -DEPTH_BELIEF
    return (by_color + by_depth) / (1.0 + by_color * by_depth)
