"""Measures outlines on the CPU, one hypothesis after the other: compiled by Numba. ``ops.outline`` says what."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np

from coop_edge.base.jit import jit, stamp_of
from coop_edge.geometry.crop import REFERENCE_SIZE
from coop_edge.geometry.lens import NONE
from coop_edge.ops.beliefs_cpu import COLORS, Seen, belief_at, beliefs_of, colors_of, count_colors
from coop_edge.ops.beliefs_cpu import SOURCES as BELIEF_SOURCES
from coop_edge.ops.lens_cpu import SOURCES, to_image
from coop_edge.ops.outline import (
    CLEAR,
    CONTRAST_SPAN,
    EDGE_BLUR,
    FAINT,
    INFORMATION,
    LARGEST_SHIFT,
    LEAST_LINES,
    LEAST_PIXELS,
    LEAST_SLOPE,
    LEAST_VARIANCE,
    LINES,
    LOGISTIC,
    REACH,
    SHIFT,
    STANDS_OUT,
    MeasuredEdges,
    Outlines,
    Windows,
    farthest,
    samples_per_place,
    step_function,
    windows,
)

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])

PLACES = 2 * REACH + 1

_STAMP = stamp_of([*BELIEF_SOURCES, Path(__file__), *SOURCES])


class Tables(NamedTuple):
    """What depends on the crop's size alone."""

    windows: Windows
    step: Array  # ``outline.step_function``
    unit: float  # crop pixels per pixel of a crop of REFERENCE_SIZE
    samples: int  # ``outline.samples_per_place``


class Results(NamedTuple):
    """The arrays of ``Outlines``, of one hypothesis."""

    points: Array
    pixels: Array
    normals: Array
    weights: Array
    edges: Array
    verdict: Array


def compiled(function: F) -> F:
    """Compile with strict floating point."""
    return jit(function, _STAMP)


def measure(query: Array, depth: Array, views: Array, measured: MeasuredEdges | None) -> Outlines:
    """Measure M outlines; arrays are checked.

    Args:
        views: ``outline.view_numbers``.
    """
    count, size = depth.shape[:2]
    numbers = size / REFERENCE_SIZE, samples_per_place(size)
    tables = Tables(windows(), step_function(), *numbers)
    shapes = (LINES, 3), (LINES, 2), (LINES, 2), (LINES,), (LINES, 4), (3,)
    results = [np.zeros((count, *shape), np.float32) for shape in shapes]
    seen, tolerance = np.zeros((count, 0, 0), np.float32), np.zeros(count)
    if measured is not None:
        seen, tolerance = np.ascontiguousarray(measured.points[..., 2]), measured.tolerance
    for m in range(count):
        out = Results(*(array[m] for array in results))
        shown = query[m], depth[m], seen[m], float(tolerance[m])
        _measure_one(*shown, _signed_distance(depth[m] > 0), views[m], tables, out)
    return Outlines(*results)


def _signed_distance(covered: Array) -> Array:
    """Compute pixels to the outline between covered and other pixels, negative inside, float32 [S,S], clipped."""
    within, without = (
        cv2.distanceTransform(side.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for side in (covered, ~covered)
    )
    distance = np.where(covered, np.float32(0.5) - within, without - np.float32(0.5))
    most = farthest(len(covered))
    return np.clip(distance, -most, most)


@compiled
def _measure_one(
    query: Array,
    depth: Array,
    measured: Array,
    tolerance: float,
    signed: Array,
    view: Array,
    tables: Tables,
    out: Results,
) -> None:
    """Measure one outline: query [3,S,S], depth and signed distance [S,S], view [50]; ``out`` holds zeros.

    measured: depth [S,S] metres, NaN = unknown, [0,0] without any; tolerance: metres, see ``MeasuredEdges``.
    """
    border = _border(signed, tables.windows)
    color = colors_of(query)
    histograms = np.zeros((2, COLORS), np.int64)
    count_colors(color, signed, tables.unit, histograms)
    least = LEAST_PIXELS * tables.unit * tables.unit
    enough = min(histograms[0].sum(), histograms[1].sum()) >= least
    if len(border) < LEAST_LINES * tables.unit or not enough:
        return
    shown = Seen(color, beliefs_of(histograms), depth, measured, tolerance)
    lines = min(len(border), LINES)
    inside, outstanding, contrast = 0, 0, 0.0
    for i in range(lines):
        row = border[_chosen(i, len(border))]
        x, y = int(row[0]), int(row[1])
        centre_x, centre_y = x + row[2] * row[4], y + row[3] * row[4]
        z = float(depth[y, x])
        seen = np.zeros(PLACES)
        for k in range(PLACES * tables.samples):
            along = tables.unit * ((k + 0.5) / tables.samples - 0.5 - REACH)
            sample = belief_at(shown, centre_x + along * row[2], centre_y + along * row[3], z)
            seen[k // tables.samples] += sample / tables.samples
        edge = out.edges[i]
        _find_edge(seen, tables, edge)
        out.pixels[i, 0], out.pixels[i, 1] = centre_x + edge[0] * row[2], centre_y + edge[0] * row[3]
        out.normals[i, 0], out.normals[i, 1] = row[2], row[3]
        for axis in range(3):
            a = view[3 * axis : 3 * axis + 3]
            out.points[i, axis] = z * (a[0] * centre_x + a[1] * centre_y + a[2]) + view[9 + axis]
        span = CONTRAST_SPAN * tables.unit
        ends = span * row[2], span * row[3]
        if not (
            _in_image(view, centre_x + ends[0], centre_y + ends[1])
            and _in_image(view, centre_x - ends[0], centre_y - ends[1])
        ):
            continue
        out.weights[i] = _weight(edge, tables.unit)
        inside += 1
        outstanding += edge[3] > STANDS_OUT
        contrast += min(max(float(edge[3]), 0.0), 1.0)
    out.verdict[0] = lines
    out.verdict[1], out.verdict[2] = outstanding / max(inside, 1), contrast / max(inside, 1)


@compiled
def _border(signed: Array, around: Windows) -> Array:
    """Return the outline's pixels that have a normal, row by row, float64 [P,5]: x, y, unit normal, distance to it.

    The outline is where half of what is around is covered. A silhouette blurred by a Gaussian is the normal
    distribution of the distance to a straight edge, and that nearly a logistic one. ``signed`` itself counts from pixel
    to pixel, which would put slanted edges 0.1 px too far inside.
    """
    size, radius = len(signed), len(around.smooth) // 2
    found, count = np.empty((size * size, 5)), 0
    for y in range(1, size - 1):
        for x in range(1, size - 1):
            if signed[y, x] < -1.0 or signed[y, x] > 0.0:
                continue  # covered, and one of its eight neighbours is not: their centres are at most 1.42 away
            along_x, along_y, share = 0.0, 0.0, 0.0
            for j in range(2 * radius + 1):
                row = signed[min(max(y + j - radius, 0), size - 1)]
                slope, smooth, blur = 0.0, 0.0, 0.0
                for i in range(2 * radius + 1):
                    value = row[min(max(x + i - radius, 0), size - 1)]
                    slope += around.slope[i] * value
                    smooth += around.smooth[i] * value
                    if value < 0:
                        blur += around.blur[i]
                along_x += around.smooth[j] * slope
                along_y += around.slope[j] * smooth
                share += around.blur[j] * blur
            length = math.sqrt(along_x * along_x + along_y * along_y)
            if length > LEAST_SLOPE:
                share = min(max(share, 0.05), 0.95)
                found[count, 0], found[count, 1] = x, y
                found[count, 2], found[count, 3] = along_x / length, along_y / length
                found[count, 4] = EDGE_BLUR / LOGISTIC * math.log(share / (1.0 - share))
                count += 1
    return found[:count]


@compiled
def _chosen(line: int, border: int) -> int:
    """Return which of ``border`` pixels has the line: all in turn, or LINES evenly, rounded."""
    if border <= LINES:
        return line
    return (2 * line * (border - 1) + LINES - 1) // (2 * (LINES - 1))


@compiled
def _find_edge(seen: Array, tables: Tables, edge: Array) -> None:
    """Compute posterior mean and variance of the edge's place (uniform prior), and contrasts there and here."""
    likelihood, total, mean, variance = np.empty(2 * SHIFT + 1), 0.0, 0.0, 0.0
    for s in range(2 * SHIFT + 1):
        product = 1.0
        for k in range(PLACES):
            product *= 1.0 - tables.step[k - s + 2 * SHIFT] * seen[k]
        likelihood[s] = product
        total += product
        mean += product * (s - SHIFT)
    mean /= total
    for s in range(2 * SHIFT + 1):
        variance += likelihood[s] / total * (s - SHIFT - mean) ** 2
    edge[0], edge[1] = tables.unit * mean, tables.unit * tables.unit * variance
    edge[2], edge[3] = _contrast(seen, REACH + int(np.rint(mean))), _contrast(seen, REACH)


@compiled
def _contrast(seen: Array, place: int) -> float:
    """Compute the mean probability within an edge at ``place`` less that beyond it; unknown beyond the line's ends."""
    total = 0.0
    for step in range(1, CONTRAST_SPAN + 1):
        if place - step >= 0:
            total += seen[place - step]
        if place + step < PLACES:
            total -= seen[place + step]
    return total / (2 * CONTRAST_SPAN)


@compiled
def _in_image(view: Array, x: float, y: float) -> bool:
    """Tell whether crop pixel (x, y) lies in the image."""
    u = view[12] * x + view[13] * y + view[14]
    v = view[15] * x + view[16] * y + view[17]
    w = view[18] * x + view[19] * y + view[20]
    if view[23] != NONE:  # a lens distorts
        if not w > 0:
            return False
        u, v = to_image(u / w, v / w, view[23:])
        return 0 <= u <= view[21] - 1 and 0 <= v <= view[22] - 1
    return w > 0 and 0 <= u <= (view[21] - 1) * w and 0 <= v <= (view[22] - 1) * w


@compiled
def _weight(edge: Array, unit: float) -> float:
    """Return the inverse standard deviation of an edge's place, 1/px; 0 where the edge is faint."""
    clear = min(max((float(edge[2]) - FAINT) / (CLEAR - FAINT), 0.0), 1.0)
    huber = min(1.0, LARGEST_SHIFT * unit / max(abs(float(edge[0])), 1e-9))
    return math.sqrt(clear * huber * INFORMATION / max(float(edge[1]), LEAST_VARIANCE * unit * unit))
