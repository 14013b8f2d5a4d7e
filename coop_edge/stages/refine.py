"""Stage 2: render and compare until the pose stands (Co-op, section 3.2).

On the GPU an iteration's arrays stay there. The host waits for it twice: for how many rendered cells of each hypothesis
lie in the image, since those with too few do not get to the network; and for poses, covariances and statuses of the
solver, from which the next crops are aimed and the stopping rule decides. What the score needs of the cells is fetched
once, after the last iteration, in one copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import RefineConfig
from coop_edge.geometry import se3
from coop_edge.geometry.crop import REFERENCE_SIZE
from coop_edge.ops.base import Array
from coop_edge.pnp.base import LmResult, PnpSolver, PnpStatus, PosePrior
from coop_edge.runtime.base import Runner
from coop_edge.stages.batches import run_batched
from coop_edge.stages.flow import Correspondences, correspondences, in_image, residuals
from coop_edge.stages.objects import centres_and_diameters
from coop_edge.stages.pairs import PairMaker, Pairs
from coop_edge.stages.prior import lm_weights, pose_prior

Floats = NDArray[np.float64]

LEAST_CELLS = 8
"""Rendered cells that must lie inside the image; with fewer there is nothing to compare."""

LEAST_WEIGHTED = 3
"""Cells of positive weight; with fewer there is no evidence, and a prior alone is no refinement."""

NO_START = "refine: no pose to start from"
OUT_OF_SIGHT = "refine: the object lies behind the camera, less than 0.6 of its diameter before it, or far off its axis"
OUTSIDE = "refine: the object lies outside the image"


@dataclass(frozen=True, eq=False)
class Refined:
    """M refined hypotheses on the host, in the order given.

    The last five arrays are of each hypothesis' last iteration, P cells each: what its final pose is judged by. Without
    any iteration P = 0.
    """

    T_camera_object: Floats  # [M,4,4]; NaN where failed
    covariance: Floats  # [M,6,6] of (translation m, rotation rad) in camera axes; NaN where failed or unknown
    reasons: tuple[str, ...]  # "" where there is a pose
    iterations: NDArray[np.int64]  # [M] done
    shift_px: Floats  # [M] how far the last one moved the object's points, pixels of the crop
    image_px: Floats  # [M] image pixels per crop pixel
    crop_size: int
    weight: NDArray[np.float32]  # [M,P] W; 0 off the object
    agreement: NDArray[np.float32]  # [M,P] probability that the cell is visible and matched; 0 off the object
    visible: NDArray[np.bool_]  # [M,P] more probably visible in the image than not
    silhouette: NDArray[np.bool_]  # [M,P]
    residual_px: NDArray[np.float32]  # [M,P] reprojection error at the final pose, pixels of the crop; inf = undefined

    def __len__(self) -> int:
        return len(self.reasons)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """[M]"""
        return np.array([reason == "" for reason in self.reasons], np.bool_)


def refine(
    maker: PairMaker,
    T_camera_object: Floats,
    object_index: NDArray[np.integer],
    *,
    runner: Runner,
    solver: PnpSolver,
    config: RefineConfig,
    radius_px: float,
    T_anchor: Floats | None = None,
) -> Refined:
    """Refine M poses [M,4,4] of the objects at ``object_index`` [M], all of them as one batch. M = 0 is legal.

    A pose that is not finite is passed on as failed. runner: open, of ``refiner``. radius_px: R, of the bundle.
    T_anchor: poses [M,4,4] that the prior is about, where refinement began; by default T_camera_object.
    """
    T = np.array(T_camera_object, np.float64).reshape(-1, 4, 4)
    anchor = T.copy() if T_anchor is None else np.asarray(T_anchor, np.float64).reshape(T.shape)
    state = _State(maker, T, anchor, np.asarray(object_index, np.int64))
    state.fail(np.logical_not(np.isfinite(state.T).all(axis=(1, 2))), NO_START)
    state.fail(~maker.in_sight(state.T, state.object_index), OUT_OF_SIGHT)
    for _ in range(config.iterations):
        if not state.active.size:
            break
        _iterate(state, runner, solver, config, radius_px)
    return state.result()


def _iterate(state: _State, runner: Runner, solver: PnpSolver, config: RefineConfig, radius_px: float) -> None:
    """One render, comparison and pose for all active hypotheses."""
    maker, ops, xp = state.maker, state.maker.ops, state.maker.ops.xp
    stride = maker.size // runner.outputs["flow"].shape[-1]  # type: ignore[operator]  # not the batch axis: an integer
    pairs = maker.make(state.T[state.active], state.object_index[state.active])
    points, cells = pairs.cells(stride)
    seen = xp.isfinite(points[..., 0]) & in_image(pairs, cells, maker.camera)
    hidden = ops.to_host(seen.sum(axis=1)) < LEAST_CELLS
    if hidden.any():
        state.fail_some(state.active[hidden], OUTSIDE)
        if not state.active.size:
            return
        pairs = maker.make(state.T[state.active], state.object_index[state.active])
        points, cells = pairs.cells(stride)
    outputs = run_batched(ops, runner, {"query": pairs.query, "render": pairs.render}, config.micro_batch)
    found = correspondences(pairs, outputs, points, cells, maker.camera, radius_px)
    result = _solve(state, pairs, found, solver, config)
    blind = (found.weight > 0).sum(axis=1) < LEAST_WEIGHTED
    T_found = xp.where(blind[:, None, None], np.nan, result.T_camera_object)
    solved = T_found, result.covariance, result.statistics.status, blind
    T_crop, covariance, status, blind = ops.to_host_together(*solved)
    state.advance(pairs, T_crop, covariance, config)
    state.keep(found, residuals(pairs, found, T_found))
    status = np.where(blind & (status == PnpStatus.SOLVED), PnpStatus.TOO_FEW_POINTS, status)
    state.fail_statuses(status)


def _solve(state: _State, pairs: Pairs, found: Correspondences, solver: PnpSolver, config: RefineConfig) -> LmResult:
    """Poses of the active ones in their crops' cameras, where the prior stands as well."""
    xp = pairs.ops.xp
    centre, diameter = centres_and_diameters(state.maker.objects, state.object_index[state.active])
    prior = pose_prior(config, pairs.crop.to_crop(state.anchor[state.active]), centre, diameter)
    if prior is not None:
        prior = PosePrior(*map(xp.asarray, prior))
    weight = lm_weights(config, found.weight, found.precision)
    K, T = (xp.asarray(a) for a in (pairs.crop.K, pairs.T_crop_object))
    return solver.weighted_lm(found.points, found.pixels, weight, K, T, config.lm, prior=prior)


@dataclass(eq=False)
class _State:
    """Where M hypotheses stand between iterations."""

    maker: PairMaker
    T: Floats
    anchor: Floats
    object_index: NDArray[np.int64]
    active: NDArray[np.int64] = field(init=False)  # neither failed nor done
    last: NDArray[np.int64] = field(init=False)  # those that the last iteration advanced
    cells: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        m = len(self.T)
        self.active = self.last = np.arange(m)
        self.reasons = [""] * m
        self.covariance = np.full((m, 6, 6), np.nan)
        self.iterations = np.zeros(m, np.int64)
        self.shift_px = np.full(m, np.nan)
        self.image_px = np.full(m, np.nan)

    def fail(self, which: NDArray[np.bool_], reason: str) -> None:
        """Fail those of all M that are active."""
        self.fail_some(np.intersect1d(self.active, np.flatnonzero(which)), reason)

    def fail_some(self, members: NDArray[np.integer], reason: str) -> None:
        for i in members:
            self.reasons[i] = self.reasons[i] or reason
        self.T[members] = np.nan
        self.covariance[members] = np.nan
        self.active = np.setdiff1d(self.active, members)

    def fail_statuses(self, status: NDArray[np.integer]) -> None:
        """Fail what the solver could not solve of those last advanced, and what it moved out of sight."""
        for value in np.unique(status[status != PnpStatus.SOLVED]):
            self.fail_some(self.last[status == value], f"refine: {PnpStatus(int(value)).reason}")
        moved = self.last[status == PnpStatus.SOLVED]
        lost = ~self.maker.in_sight(self.T[moved], self.object_index[moved])
        self.fail_some(moved[lost], OUT_OF_SIGHT)

    def advance(self, pairs: Pairs, T_crop: Floats, cov: Floats, config: RefineConfig) -> None:
        """Take the poses solved for the active ones, and end those that hardly moved."""
        a = self.last = self.active
        self.T[a] = pairs.crop.to_camera(T_crop)
        self.covariance[a] = se3.turn_covariances(np.swapaxes(pairs.crop.R_crop_camera, 1, 2), cov)
        self.iterations[a] += 1
        K = self.maker.camera.K
        self.image_px[a] = np.sqrt(K[0, 0] * K[1, 1]) / pairs.crop.K[:, 0, 0]
        centre, diameter = centres_and_diameters(self.maker.objects, self.object_index[a])
        space, pixels = shifts(pairs.T_crop_object, T_crop, pairs.crop.K, centre, diameter)
        self.shift_px[a] = pixels
        still = (pixels < config.stop_px * self.maker.size / REFERENCE_SIZE) & (space < config.stop_diameter)
        self.active = a[~still]

    def keep(self, found: Correspondences, residual_px: Array) -> None:
        """Keep what the poses last advanced are judged by, where it is."""
        values = {name: getattr(found, name) for name in ("weight", "agreement", "visible", "silhouette")}
        xp = self.maker.ops.xp
        rows = xp.asarray(self.last)
        for name, value in (values | {"residual_px": residual_px}).items():
            if name not in self.cells:
                self.cells[name] = xp.zeros((len(self.T), value.shape[1]), value.dtype)
            self.cells[name][rows] = value

    def result(self) -> Refined:
        m = len(self.T)
        empty: dict[str, Any] = {name: np.zeros((m, 0), np.bool_) for name in ("visible", "silhouette")}
        empty |= {name: np.zeros((m, 0), np.float32) for name in ("weight", "agreement", "residual_px")}
        cells = zip(self.cells, self.maker.ops.to_host_together(*self.cells.values()), strict=True)
        return Refined(
            self.T,
            self.covariance,
            tuple(self.reasons),
            self.iterations,
            self.shift_px,
            self.image_px,
            self.maker.size,
            **(empty | dict(cells)),
        )


def shifts(T_old: Floats, T_new: Floats, K: Floats, centre: Floats, diameter: Floats) -> tuple[Floats, Floats]:
    """How far a pose change moves the points of a ball of the object's diameter, at most: [M] diameters, [M] pixels.

    T_old, T_new [M,4,4] and K [M,3,3] of the virtual cameras, which look at ``centre`` [M,3] (object's frame) at T_old.
    """
    c = centre[..., None]
    before = (T_old[:, :3, :3] @ c)[..., 0] + T_old[:, :3, 3]
    move = (T_new[:, :3, :3] @ c)[..., 0] + T_new[:, :3, 3] - before
    turn = np.full(len(T_old), np.nan)
    finite = np.isfinite(T_new).all(axis=(1, 2))
    turn[finite] = se3.rotation_angle(T_old[finite, :3, :3], T_new[finite, :3, :3])
    radius, depth = 0.5 * diameter, before[:, 2]
    space = (np.linalg.norm(move, axis=1) + turn * radius) / diameter
    sideways = np.hypot(move[:, 0], move[:, 1]) + turn * radius + np.abs(move[:, 2]) * radius / depth
    return space, K[:, 0, 0] * sideways / depth
