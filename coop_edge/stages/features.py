"""Computes frozen image features (the bundle's ``features``): maps of crops, and how alike two maps are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coop_edge.ops.base import Array, Operations
from coop_edge.runtime.base import Runner
from coop_edge.runtime.network import FEATURES
from coop_edge.stages.batches import run_batched

MAPS = {name: cell for name, (_, cell) in FEATURES.items()}
"""Name of each map -> pixels of the crop per cell, along a side."""

BEST, COVERED = 70, 0.25
"""Of a similarity: how many percent of the cells count, and which share of a cell the render has to cover."""


@dataclass(frozen=True)
class FeatureExtractor:
    """Maps of images, by the open runner of ``features``.

    Attributes:
        ops: of the device where it runs.
        micro_batch: largest number of images in one run.
    """

    ops: Operations
    runner: Runner
    micro_batch: int

    @property
    def size(self) -> int:
        """Return S, the side of the images, pixels."""
        side = self.runner.inputs["image"].shape[-1]
        assert side is not None
        return side

    def maps(self, images: Array, *names: str) -> list[Array]:
        """Return the maps ``names`` of N images, each float32 [N,C,h,w].

        Args:
            images: float32 [N,3,S,S] RGB in [0, 1] on the device.
        """
        outputs = run_batched(self.ops, self.runner, {"image": images}, self.micro_batch)
        return [outputs[name] for name in names]


def unit_cells(maps: Array, xp: Array = np) -> Array:
    """Scale every cell of maps [N,C,h,w] to length 1; a cell of zeros stays one."""
    length = xp.sqrt(xp.square(maps).sum(axis=1, keepdims=True))
    return maps / xp.maximum(length, np.float32(1e-6))


def coverage(depth: Array, cell: int, xp: Array = np) -> Array:
    """Return the share of each cell that a render covers, float32 [N,S/cell,S/cell].

    Args:
        depth: [N,S,S] of the render, 0 = nothing.
        cell: its side, pixels; a divisor of S.
    """
    n, size = len(depth), depth.shape[-1] // cell
    return (depth > 0).reshape(n, size, cell, size, cell).mean(axis=(2, 4), dtype=np.float32)


def similarity(a: Array, b: Array, covered: Array, xp: Array = np) -> Array:
    """Return how alike two maps are where a render covers them, float32 [N] in [-1, 1]; 0 where it covers nothing.

    It is the mean cosine of the best cells, ``BEST`` percent of those that the render covers by more than ``COVERED``:
    an object may be partly hidden. The mean of the cells is taken off each map before: what differs everywhere alike,
    such as a grey model of a coloured object, or another light, does not count.

    Args:
        a, b: float32 [N,C,h,w].
        covered: float32 [N,h,w], the share of each cell that the render covers.
    """
    share = (covered / xp.maximum(covered.sum(axis=(1, 2), keepdims=True), np.float32(1e-6)))[:, None]
    a, b = (m - (m * share).sum(axis=(2, 3), keepdims=True) for m in (a, b))
    return appearance(a, b, covered, xp)


def appearance(a: Array, b: Array, covered: Array, xp: Array = np) -> Array:
    """Return ``similarity`` without taking the means off, float32 [N] in [-1, 1]: colours and light count.

    Where an object is not, what is there may have the same layout, but hardly the same looks. Arguments as of
    ``similarity``.
    """
    n, cells = len(a), covered.shape[1] * covered.shape[2]
    a, b = unit_cells(a, xp), unit_cells(b, xp)
    counted = covered.reshape(n, cells) > COVERED
    cosine = xp.where(counted, (a * b).sum(axis=1).reshape(counted.shape), np.float32(-2.0))
    falling = -xp.sort(-cosine, axis=1)
    kept = counted.sum(axis=1) * BEST // 100
    kept = xp.maximum(kept, counted.any(axis=1))
    best = xp.where(xp.arange(falling.shape[1]) < kept[:, None], falling, np.float32(0.0))
    return best.sum(axis=1) / xp.maximum(kept, 1).astype(np.float32)
