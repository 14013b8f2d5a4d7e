"""Measures outlines on a GPU: the launches of ``kernels/outline.cu``. ``ops.outline`` says what is measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from coop_edge.geometry.crop import REFERENCE_SIZE
from coop_edge.kernels.device import Device
from coop_edge.ops.outline import (
    BINS,
    INSET,
    LINES,
    RING,
    Array,
    MeasuredEdges,
    Outlines,
    farthest,
    samples_per_place,
    step_function,
    windows,
)

_SOURCE = "outline.cu"
_BLOCK = 128  # kBlock
_COLORS = BINS**3


class OutlineKernels:
    """Measures outlines on ``device``, where its tables stay."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._tables: tuple[Array, Array] | None = None

    def measure(self, query: Array, depth: Array, views: Array, measured: MeasuredEdges | None) -> Outlines:
        """Measure M outlines in five launches; arrays are checked.

        Args:
            views: ``outline.view_numbers``, on the device.
        """
        xp = self._device.xp
        count, size = depth.shape[:2]
        shapes = (LINES, 3), (LINES, 2), (LINES, 2), (LINES,), (LINES, 4), (3,)
        results = [xp.empty((count, *shape), dtype=np.float32) for shape in shapes]
        if not count:
            return Outlines(*results)
        self._tables = self._tables or (xp.asarray(np.stack(windows())), xp.asarray(step_function()))
        around, step = self._tables
        rows = xp.empty((count, size, size), dtype=np.uint16)
        distance, border = (xp.empty((count, size, size, *k), dtype=np.float32) for k in ((), (3,)))
        counters = xp.zeros((count, 2 * _COLORS + 2 + size), dtype=np.int32)
        beliefs = xp.empty((count, _COLORS), dtype=np.float32)
        side, far, unit = np.int32(size), np.int32(farthest(size)), size / REFERENCE_SIZE
        inset, ring = np.float32(INSET * unit), np.float32(RING * unit)
        per_pixel, per_color = (-(-size * size // _BLOCK), count), (_COLORS // _BLOCK, count)
        self._launch("outline_columns", per_pixel, depth, side, far, rows)
        self._launch("outline_colors", per_pixel, query, depth, rows, side, far, inset, ring, distance, counters)
        self._launch("outline_border", per_pixel, distance, around, side, border, counters)
        self._launch("outline_beliefs", per_color, counters, side, beliefs)
        seen, tolerance = depth, xp.zeros(count, dtype=np.float32)  # which no kernel reads without measured depth
        if measured is not None:
            seen = xp.ascontiguousarray(measured.points[..., 2])
            tolerance = xp.asarray(measured.tolerance.astype(np.float32))
        read = query, depth, seen, tolerance, border, counters, beliefs, views, step
        numbers = np.int32(measured is not None), side, np.float32(unit), np.int32(samples_per_place(size))
        self._launch("outline_lines", (count,), *read, *numbers, *results, block=LINES)
        return Outlines(*results)

    def _launch(self, kernel: str, grid: tuple[int, ...], *arguments: Any, block: int = _BLOCK) -> None:
        self._device.kernel(_SOURCE, kernel)(grid, (block,), arguments)
