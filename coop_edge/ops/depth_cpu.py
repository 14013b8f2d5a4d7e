"""Measures depth in crops and under rendered surfaces on the CPU, compiled by Numba; ``ops.depth`` says what."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from coop_edge.base.jit import jit, stamp_of
from coop_edge.geometry.lens import NONE
from coop_edge.ops.depth import BENT, BINS, BINS_PER_DIAMETER, STEEP, TUKEY, Surfaces, places_per_side
from coop_edge.ops.lens_cpu import SOURCES, to_image

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])

_STAMP = stamp_of((*SOURCES, *(Path(__file__).parent / name for name in ("depth.py", "depth_cpu.py"))))


def compiled(function: F) -> F:
    """Compile with strict floating point."""
    return jit(function, _STAMP)


def points(depth: Array, numbers: Array, size: int) -> Array:
    """Return measured points in N crops, float32 [N,size,size,3].

    Args:
        numbers: ``depth.point_numbers``.
    """
    out = np.empty((len(numbers), size, size, 3), np.float32)
    for i in range(len(numbers)):
        _points_one(depth, numbers[i], out[i])
    return out


def surfaces(depth: Array, measured: Array, numbers: Array) -> Surfaces:
    """Compare M surfaces; contiguous arrays.

    Args:
        numbers: ``depth.surface_numbers``.
    """
    count, (side, step) = len(depth), places_per_side(depth.shape[1])
    vectors = [np.zeros((count, side * side, 3), np.float32) for _ in range(3)]
    weights, tally = np.zeros((count, side * side), np.float32), np.zeros((count, 5), np.int32)
    gaps = np.zeros((count, BINS), np.int32)
    for m in range(count):
        _compare_one(
            depth[m], measured[m], numbers[m], side, step,
            vectors[0][m], vectors[1][m], vectors[2][m], weights[m], tally[m], gaps[m],
        )  # fmt: skip
    return Surfaces(vectors[0], vectors[1], vectors[2], weights, tally, gaps)


@compiled
def _points_one(depth: Array, numbers: Array, out: Array) -> None:
    """Write the points [S,S,3] of one crop."""
    height, width = depth.shape
    h, a, lens = numbers[:9], numbers[9:18], numbers[18:]
    for y in range(len(out)):
        for x in range(len(out)):
            u, v, w = h[0] * x + h[1] * y + h[2], h[3] * x + h[4] * y + h[5], h[6] * x + h[7] * y + h[8]
            out[y, x, 0] = out[y, x, 1] = out[y, x, 2] = np.float32(np.nan)
            if not w > 0.0:
                continue
            ideal_u, ideal_v = u / w, v / w
            seen_u, seen_v = ideal_u, ideal_v
            if lens[0] != NONE:
                seen_u, seen_v = to_image(ideal_u, ideal_v, lens)
            if not (-0.5 <= seen_u < width - 0.5 and -0.5 <= seen_v < height - 0.5):
                continue
            column, row = min(int(seen_u + 0.5), width - 1), min(int(seen_v + 0.5), height - 1)
            z = np.float64(depth[row, column])
            u, v = np.float64(column), np.float64(row)
            if lens[0] != NONE:
                u, v = ideal_u + (u - seen_u), ideal_v + (v - seen_v)
            if z > 0.0:
                for k in range(3):
                    out[y, x, k] = z * (a[3 * k] * u + a[3 * k + 1] * v + a[3 * k + 2])


@compiled
def _slope(depth: Array, x: int, y: int, dx: int, dy: int, ray: Array, bent: float, out: Array) -> bool:
    """Compute the difference of rendered points along (dx, dy), between neighbours on the surface; False if none."""
    size, z = len(depth), np.float64(depth[y, x])
    ends = np.zeros((2, 3))
    found = 0
    for side in range(2):
        sign = 2 * side - 1
        i, j = x + sign * dx, y + sign * dy
        near, u, v = z, np.float64(x), np.float64(y)
        if 0 <= i < size and 0 <= j < size:
            other = np.float64(depth[j, i])
            if other > 0.0 and abs(other - z) <= bent:
                near, u, v = other, np.float64(i), np.float64(j)
                found += 1
        for k in range(3):
            ends[side, k] = near * (ray[3 * k] * u + ray[3 * k + 1] * v + ray[3 * k + 2])
    for k in range(3):
        out[k] = ends[1, k] - ends[0, k]
    return found > 0


@compiled
def _normal(depth: Array, x: int, y: int, ray: Array, bent: float, place: Array, normal: Array) -> bool:
    """Compute the unit normal towards the camera of the surface at a rendered place; False where it cannot be told."""
    along, down = np.empty(3), np.empty(3)
    if not (_slope(depth, x, y, 1, 0, ray, bent, along) and _slope(depth, x, y, 0, 1, ray, bent, down)):
        return False
    normal[0] = along[1] * down[2] - along[2] * down[1]
    normal[1] = along[2] * down[0] - along[0] * down[2]
    normal[2] = along[0] * down[1] - along[1] * down[0]
    length = math.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
    facing = normal[0] * place[0] + normal[1] * place[1] + normal[2] * place[2]
    distance = math.sqrt(place[0] ** 2 + place[1] ** 2 + place[2] ** 2)
    if not abs(facing) >= STEEP * length * distance or length == 0.0:
        return False
    scale = -math.copysign(1.0 / length, facing)
    for k in range(3):
        normal[k] *= scale
    return True


@compiled
def _is_flying(measured: Array, x: int, y: int, step: int, place: Array, normal: Array, gate: float) -> bool:
    """Tell whether a measured place lies beside a hole or an edge: two neighbours unknown, or one beyond the gate."""
    unknown = 0
    for side in range(4):
        i, j = x + (side == 0) * step - (side == 1) * step, y + (side == 2) * step - (side == 3) * step
        if not (0 <= i < len(measured) and 0 <= j < len(measured)):
            unknown += 1
            continue
        off = 0.0
        for k in range(3):
            off += normal[k] * (np.float64(measured[j, i, k]) - place[k])
        if not math.isfinite(off):
            unknown += 1
        elif abs(off) > gate:
            return True
    return unknown > 1


@compiled
def _compare_one(
    depth: Array, measured: Array, numbers: Array, side: int, step: int,
    points: Array, places: Array, normals: Array, weights: Array, tally: Array, gaps: Array,
) -> None:  # fmt: skip
    """Compare one surface: depth [S,S], measured [S,S,3], numbers [28]; the other arrays hold zeros."""
    ray, turn, origin = numbers[:9], numbers[9:18], numbers[18:21]
    diameter, gate, tolerance, noise, floor, information = (
        numbers[21], numbers[22], numbers[23], numbers[24], numbers[25], numbers[26],
    )  # fmt: skip
    place, normal = np.empty(3), np.empty(3)
    for index in range(side * side):
        x, y = step // 2 + step * (index % side), step // 2 + step * (index // side)
        z = np.float64(depth[y, x])
        if not z > 0.0:
            continue
        tally[0] += 1
        q = measured[y, x]
        if not math.isfinite(q[2]):
            continue
        tally[1] += 1
        for k in range(3):
            place[k] = z * (ray[3 * k] * x + ray[3 * k + 1] * y + ray[3 * k + 2])
        gap = np.float64(q[2]) - z
        at = gap / diameter * BINS_PER_DIAMETER + 0.5 + BINS // 2
        if 0.0 <= at < BINS:
            gaps[int(at)] += 1
        has_normal = _normal(depth, x, y, ray, BENT * diameter, place, normal)
        off = gap
        if has_normal:
            off = 0.0
            for k in range(3):
                off += normal[k] * (np.float64(q[k]) - place[k])
        sigma2 = floor * floor + (noise * z * z) ** 2
        if abs(off) <= max(tolerance, 3.0 * math.sqrt(sigma2)):
            tally[2] += 1
        elif gap < 0.0:
            tally[3] += 1
        else:
            tally[4] += 1
        if not (has_normal and abs(off) < gate) or _is_flying(measured, x, y, step, place, normal, gate):
            continue
        robust = 1.0 - (off / gate) ** 2
        sigma2 += (gate * TUKEY) ** 2
        weights[index] = robust * math.sqrt(information / sigma2)
        for k in range(3):
            points[index, k] = (
                turn[3 * k] * place[0] + turn[3 * k + 1] * place[1] + turn[3 * k + 2] * place[2] + origin[k]
            )
            places[index, k] = q[k]
            normals[index, k] = normal[k]
