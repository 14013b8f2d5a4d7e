"""The poses that outputs lead to, and how far two sets of poses lie apart.

Coarse: encoder and decoder, matches lifted through the template's object points as the estimator does it, EPnP in
RANSAC with a fixed seed (the same samples for all engines, as far as the same patches are matched). Refined: one
iteration of the estimator's refinement from the start pose, its prior about that pose included.

Refined poses move smoothly with the outputs. Coarse ones do not: a match takes the object point of the nearest template
pixel, so that small differences of the outputs leave a pose exactly as it is, and larger ones make it jump. Where a
median of zero is all that is left of them, the share of poses that changed at all and the 90th percentile say more;
both are reported beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from coop_edge.config import EstimatorConfig, RansacConfig
from coop_edge.pnp.base import PnpStatus
from coop_edge.stages.comparison import refine_step
from export.data.batch import CoarseBatch, RefinerBatch
from export.train.poses import SOLVER, match_poses, pairs_of

Array = np.ndarray[Any, Any]

PX_BOUND = 0.1
"""On the median over pairs of the mean distance, in pixels of the crop, that a pose moves the model points' images."""
DIAMETER_BOUND = 1e-3
"""On the median over pairs of the mean distance that a pose moves the model points, in diameters."""
CONFIG = EstimatorConfig(ransac=RansacConfig(threshold_px=4.0))
"""RANSAC's threshold is narrower than the estimator's: a match that moves by a few pixels is then found by the pose."""
MIN_POSES = 16
"""Pairs with a pose from PyTorch that a verdict needs."""
MODEL_POINTS = 256
"""Points of the object that stand for it."""


@dataclass(frozen=True)
class CentredBatch(RefinerBatch):
    """Refiner pairs, and the point of each object whose place the prior is about."""

    centre: Any  # float64 [N,3] metres, object's frame


@dataclass(frozen=True)
class Poses:
    """T_camera_object [N,4,4] in the crop's camera, and which of them were solved [N]."""

    T: Array
    solved: Array


@dataclass(frozen=True)
class PoseRow:
    """One line of the report, over the pairs that PyTorch's outputs gave a pose for.

    pairs: drawn to find them. right: those of PyTorch's poses within a tenth of the diameter of the truth. changed:
    poses that are not exactly PyTorch's. lost: those of them that the engine gave none for; they count as infinitely
    far. px: pixels of the crop. diameters: the distance of model points.
    """

    engine: str
    kind: str
    pairs: int
    solved: int
    right: int
    changed: int
    lost: int
    median_px: float
    p90_px: float
    median_diameters: float
    p90_diameters: float
    enough: bool

    def passed(self, allow_few_poses: bool = False) -> bool:
        """Tell whether both medians keep their bounds; too few poses are judged by ``allow_few_poses`` alone."""
        if not self.enough:
            return allow_few_poses
        return self.median_px < PX_BOUND and self.median_diameters < DIAMETER_BOUND

    @property
    def complaint(self) -> str:
        """Say what is wrong, if it did not pass."""
        where = f"{self.engine}: {self.kind} pose"
        if not self.enough:
            return (
                f"{where}: not enough poses: PyTorch solves {self.solved} of {self.pairs} pairs, a verdict needs "
                f"{MIN_POSES}; train longer, or go by the outputs alone (--allow-few-poses)"
            )
        return (
            f"{where}: median difference {self.median_px:.3g} px and {self.median_diameters:.3%} of the diameter, "
            f"wanted below {PX_BOUND:g} px and {DIAMETER_BOUND:.1%}"
        )


def matched_poses(batch: CoarseBatch, outputs: Mapping[str, Array]) -> Poses:
    """Solve poses from ``probability`` [N,T], ``index`` [N,T] and ``offset`` [N,T,2]."""
    found = match_poses(batch, outputs["probability"], outputs["index"], outputs["offset"], CONFIG)
    return Poses(found.T_crop_object, found.status == PnpStatus.SOLVED)


def refined_poses(batch: CentredBatch, outputs: Mapping[str, Array], *, stride: int, radius_px: float) -> Poses:
    """Solve poses from the refiner's outputs, one step of the estimator's refinement from ``T_init``."""
    pairs = pairs_of(batch, batch.centre)
    parts: dict[str, Any] = {"solver": SOLVER, "config": CONFIG, "radius_px": radius_px}
    found = refine_step(pairs, *pairs.cells(stride), outputs, batch.T_init, **parts)
    solved = found.status == PnpStatus.SOLVED
    return Poses(np.where(solved[:, None, None], found.T_crop_object, np.nan), solved)


def model_points(batch: CoarseBatch | RefinerBatch) -> Array:
    """Return points [N,MODEL_POINTS,3] on each pair's object, metres; of a coarse pair, where its template shows it."""
    if isinstance(batch, RefinerBatch):
        return batch.model_points.astype(np.float64)
    chosen = np.full((len(batch.query), MODEL_POINTS, 3), np.nan)
    for i, shown in enumerate(batch.template_points):
        points = shown[np.isfinite(shown[..., 0])]
        if len(points):  # an object too thin for a single pixel has no match either, hence no pose
            chosen[i] = points[np.linspace(0, len(points) - 1, MODEL_POINTS).round().astype(int)]
    return chosen


def pose_shift(T_a: Array, T_b: Array, K: Array, points: Array) -> tuple[Array, Array]:
    """Return mean distances [N] between ``points`` [N,P,3] at T_a and T_b [N,4,4], in the image (pixels) and in metres.

    Infinite where a pose is NaN or, for the images, takes a point behind the camera.
    """
    a = points @ np.swapaxes(T_a[:, :3, :3], 1, 2) + T_a[:, None, :3, 3]
    b = points @ np.swapaxes(T_b[:, :3, :3], 1, 2) + T_b[:, None, :3, 3]
    metres = np.linalg.norm(a - b, axis=-1).mean(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = (p[..., :2] / np.where(p[..., 2:] > 0, p[..., 2:], np.nan) for p in (a, b))
    pixels = np.linalg.norm((u - v) @ np.swapaxes(K[:, :2, :2], 1, 2), axis=-1).mean(axis=-1)
    return np.where(np.isnan(pixels), np.inf, pixels), np.where(np.isnan(metres), np.inf, metres)


def compare_poses(
    engine: str,
    kind: str,
    batch: CoarseBatch | RefinerBatch,
    reference: Poses,
    given: Poses,
    *,
    drawn: int | None = None,
    minimum: int = MIN_POSES,
) -> PoseRow:
    """Compare one kind of pose ("coarse", "refined"), a row of the report.

    drawn: pairs that ``batch`` was chosen from; None: itself.
    """
    rows = np.flatnonzero(reference.solved)
    K, truth = (batch.K_query, batch.T_query) if isinstance(batch, CoarseBatch) else (batch.K, batch.T_true)
    points = model_points(batch)[rows]
    pixels, metres = pose_shift(reference.T[rows], given.T[rows], K[rows], points)
    lost = ~given.solved[rows]
    share = np.where(lost, np.inf, metres / batch.diameter[rows])
    pixels = np.where(lost, np.inf, pixels)
    error = pose_shift(reference.T[rows], truth[rows], K[rows], points)[1] / batch.diameter[rows]
    return PoseRow(
        engine=engine,
        kind=kind,
        pairs=len(batch.query) if drawn is None else drawn,
        solved=len(rows),
        right=int((error < 0.1).sum()),
        changed=int((share > 0).sum()),
        lost=int(lost.sum()),
        median_px=_quantile(pixels, 0.5),
        p90_px=_quantile(pixels, 0.9),
        median_diameters=_quantile(share, 0.5),
        p90_diameters=_quantile(share, 0.9),
        enough=len(rows) >= minimum,
    )


def _quantile(values: Array, q: float) -> float:
    """The value at rank ceil(q n): no interpolation, which infinite values would turn into NaN. NaN of nothing."""
    return float(np.quantile(values, q, method="inverted_cdf")) if values.size else math.nan
