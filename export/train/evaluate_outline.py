"""Held-out pairs through the estimator's outline stage: what it makes of the poses that the refiner came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coop_edge.config import OutlineConfig
from coop_edge.geometry.crop import CropCamera
from coop_edge.ops.cpu import CpuOperations
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.stages.outline import align
from coop_edge.stages.pairs import Pairs
from coop_edge.types import Camera
from export.data.batch import RefinerBatch, take
from export.data.rerender import PairRecord, centres_of, rerender

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Target:
    centre: Array  # [3] metres, object's frame
    diameter: float


class _Views:
    """What ``align`` asks a ``PairMaker`` for, from pairs that are rendered and cropped again at each pose.

    Each pair is an object of its own; poses are those of the cameras of ``batch``. The photograph is larger than any
    crop of it, so the image ends nowhere.
    """

    def __init__(self, batch: RefinerBatch, scenes: Sequence[PairRecord]) -> None:
        self._batch, self._scenes = batch, scenes
        self.objects = [_Target(c, float(d)) for c, d in zip(centres_of(scenes), batch.diameter, strict=True)]
        size = batch.query.shape[1]
        self.camera = Camera(batch.K[0] if len(batch.K) else np.eye(3), size, size)

    def in_sight(self, T: Array, index: Array) -> Array:
        return np.asarray(np.isfinite(T).all(axis=(1, 2)))

    def make(self, T: Array, index: Array) -> Pairs:
        before = take(self._batch, index)
        seen = rerender(before, [self._scenes[i] for i in index], T)
        n, size = len(index), seen.query.shape[1]
        turn = seen.T_true[:, :3, :3] @ np.swapaxes(before.T_true[:, :3, :3], 1, 2)
        points = seen.object_points.astype(np.float64)
        z = np.einsum("nj,nhwj->nhw", seen.T_init[:, 2, :3], points) + seen.T_init[:, None, None, 2, 3]
        query = np.moveaxis(seen.query, -1, 1).astype(np.float32) / np.float32(255)
        crop = CropCamera(seen.K, turn, np.broadcast_to(np.eye(3), (n, 3, 3)), size)
        depth = np.nan_to_num(z).astype(np.float32)
        return Pairs(query, query, depth, crop, crop.to_crop(T), CpuOperations())


def aligned_poses(
    batch: RefinerBatch,
    scenes: Sequence[PairRecord],
    T_camera_object: Array,
    config: OutlineConfig | None = None,
    covariance: Array | None = None,
) -> tuple[Array, Array]:
    """Poses [N,4,4] in the cameras of ``batch`` aligned as the estimator does, and which were, bool [N].

    covariance: of the poses [N,6,6], as refinement gave it; None: unknown.
    """
    config = config or OutlineConfig()
    views: Any = _Views(batch, scenes)
    found = align(
        views,
        T_camera_object,
        np.arange(len(batch.query)),
        solver=CpuPnpSolver(threads=1),
        config=config,
        iterations=config.iterations,
        covariance=covariance,
    )
    return found.T_camera_object, found.aligned
