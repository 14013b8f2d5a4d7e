"""Stage 2: render and compare until the pose stops moving (Co-op, section 3.2).

On the GPU an iteration's arrays stay there. The host waits for it twice: for how many rendered cells of each hypothesis
lie in the image, because those with too few are not shown to the network; and for poses, covariances and statuses of
the solver, by which the next crops are aimed and the stopping rule decides. What the score needs of the cells is
fetched once, after the last iteration, in one copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import AdvancedRefineConfig, EstimatorConfig
from coop_edge.geometry import se3
from coop_edge.geometry.crop import REFERENCE_SIZE
from coop_edge.ops.base import Array
from coop_edge.pnp.base import PnpSolver, PnpStatus
from coop_edge.runtime.base import Runner
from coop_edge.stages.batches import run_batched
from coop_edge.stages.comparison import Comparison, Matches, refine_step
from coop_edge.stages.flow import in_image
from coop_edge.stages.pairs import PairMaker, Pairs

Floats = NDArray[np.float64]

LEAST_CELLS = 8
"""Rendered cells that must lie inside the image; with fewer there is nothing to compare."""
TURN = np.pi / 2
"""By how much each crop is turned against the one before it where several are solved together: a quarter, radians."""
NO_START = "refine: no pose to start from"
OUT_OF_SIGHT = (
    "refine: the pose puts the object behind the camera, closer to it than 0.6 times its diameter, or more than 79 "
    "degrees off the optical axis"
)
OUTSIDE = "refine: the object lies outside the image"


@dataclass(frozen=True, eq=False)
class Refined:
    """M refined hypotheses on the host, in the order given.

    weight to residual_px describe each hypothesis' last iteration, P cells each: its final pose is judged by them.
    Without any iteration P = 0.
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
    used_depth: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))  # [M]; none is M times False

    def __post_init__(self) -> None:
        if len(self.used_depth) != len(self.reasons):
            object.__setattr__(self, "used_depth", np.zeros(len(self.reasons), np.bool_))

    def __len__(self) -> int:
        return len(self.reasons)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Tell which hypotheses have a pose, bool [M]."""
        return np.array([reason == "" for reason in self.reasons], np.bool_)

    def take(self, rows: NDArray[np.integer]) -> Refined:
        """Return the hypotheses at ``rows``."""
        return replace(
            self, reasons=tuple(self.reasons[i] for i in rows), **{k: a[rows] for k, a in self._arrays().items()}
        )

    def joined(self, other: Refined) -> Refined:
        """Return the hypotheses of both, those of ``other`` last; P of either may be 0."""
        parts: dict[str, Any] = {}
        for name, own in self._arrays().items():
            shape = tuple(max(sides) for sides in zip(own.shape[1:], getattr(other, name).shape[1:], strict=True))
            both = [
                a if a.shape[1:] == shape else np.zeros((len(a), *shape), a.dtype) for a in (own, getattr(other, name))
            ]
            parts[name] = np.concatenate(both)
        return replace(self, reasons=self.reasons + other.reasons, **parts)

    def _arrays(self) -> dict[str, Any]:
        """Return what has a row per hypothesis, but the reasons."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("reasons", "crop_size")}


def refine(
    maker: PairMaker,
    T_camera_object: Floats,
    object_index: NDArray[np.integer],
    *,
    runner: Runner,
    solver: PnpSolver,
    config: EstimatorConfig,
    radius_px: float,
    T_anchor: Floats | None = None,
    before: int = 0,
) -> Refined:
    """Refine M poses, all of them as one batch. M = 0 is legal.

    Args:
        maker: of the image.
        T_camera_object: float64 [M,4,4]; one that is not finite is passed on as failed.
        object_index: integers [M], the objects of ``maker``.
        runner: of ``refiner``, open.
        solver: of the device where ``maker`` works.
        config: ``refine.iterations``, ``advanced.refine`` and ``advanced.lm``.
        radius_px: R of the flow probability, pixels of the crop, of the bundle.
        T_anchor: float64 [M,4,4], the poses that the prior is about, where refinement began; by default where it starts
            now.
        before: iterations done before; the crops are turned on from theirs.
    """
    T = np.array(T_camera_object, np.float64).reshape(-1, 4, 4)
    anchor = T.copy() if T_anchor is None else np.asarray(T_anchor, np.float64).reshape(T.shape)
    state = _State(maker, T, anchor, np.asarray(object_index, np.int64))
    state.fail(np.logical_not(np.isfinite(state.T).all(axis=(1, 2))), NO_START)
    state.fail(~maker.in_sight(state.T, state.object_index), OUT_OF_SIGHT)
    for iteration in range(before, before + config.refine.iterations):
        if not state.active.size:
            break
        roll = (iteration % 4) * TURN if config.advanced.refine.joint_iterations > 1 else 0.0
        _iterate(state, roll, runner, solver, config, radius_px)
    return state.result()


def _iterate(
    state: _State, roll: float, runner: Runner, solver: PnpSolver, config: EstimatorConfig, radius_px: float
) -> None:
    """Render, compare and solve once for all active hypotheses, in crops turned by ``roll``, radians."""
    ops, xp, options = state.maker.ops, state.maker.ops.xp, config.advanced.refine
    stride = state.maker.size // runner.outputs["flow"].shape[-1]  # type: ignore[operator]  # not the batch axis
    pairs = state.maker.make(state.T[state.active], state.object_index[state.active], roll)
    points, cells = pairs.cells(stride)
    seen = xp.isfinite(points[..., 0]) & in_image(pairs, cells)
    hidden = ops.to_host(seen.sum(axis=1)) < LEAST_CELLS
    if hidden.any():
        state.fail_some(state.active[hidden], OUTSIDE)
        if not state.active.size:
            return
        shown = np.flatnonzero(~hidden)
        pairs, points = pairs.take(shown), points[xp.asarray(shown)]
    outputs = run_batched(ops, runner, {"query": pairs.query, "render": pairs.render}, options.micro_batch)
    anchor = state.anchor[state.active]
    parts: dict[str, Any] = {"solver": solver, "config": config, "radius_px": radius_px, "earlier": state.earlier()}
    state.advance(pairs, refine_step(pairs, points, cells, outputs, anchor, **parts), options)


@dataclass(eq=False)
class _State:
    """The state of M hypotheses between iterations."""

    maker: PairMaker
    T: Floats
    anchor: Floats
    object_index: NDArray[np.int64]
    active: NDArray[np.int64] = field(init=False)  # neither failed nor done
    cells: dict[str, Array] = field(default_factory=dict)
    said: list[tuple[NDArray[np.int64], Matches]] = field(default_factory=list)  # of which ones, latest first

    def __post_init__(self) -> None:
        m = len(self.T)
        self.active = np.arange(m)
        self.reasons = [""] * m
        self.covariance = np.full((m, 6, 6), np.nan)
        self.iterations = np.zeros(m, np.int64)
        self.shift_px = np.full(m, np.nan)
        self.image_px = np.full(m, np.nan)
        self.used_depth = np.zeros(m, np.bool_)

    def fail(self, which: NDArray[np.bool_], reason: str) -> None:
        """Fail the active ones among ``which``, bool [M]."""
        self.fail_some(np.intersect1d(self.active, np.flatnonzero(which)), reason)

    def fail_some(self, members: NDArray[np.integer], reason: str) -> None:
        """Fail the hypotheses at the rows ``members``, active or done; a reason given before stays."""
        for i in members:
            self.reasons[i] = self.reasons[i] or reason
        self.T[members] = np.nan
        self.covariance[members] = np.nan
        self.active = np.setdiff1d(self.active, members)

    def earlier(self) -> list[Matches]:
        """Return what earlier comparisons said of the active ones, latest first."""
        return [matches.take(np.searchsorted(of, self.active), self.maker.ops.xp) for of, matches in self.said]

    def advance(self, pairs: Pairs, now: Comparison, config: AdvancedRefineConfig) -> None:
        """Take the poses found for the active ones; fail those without, and end those that hardly moved."""
        a = self.active
        self.T[a], self.covariance[a] = now.T_camera_object, now.covariance
        self.iterations[a] += 1
        self.image_px[a] = pairs.image_px
        self.used_depth[a] = now.used_depth
        old, K = pairs.T_crop_object, pairs.crop.K
        space, pixels = shifts(old, now.T_crop_object, K, pairs.centre, pairs.diameter)
        self.shift_px[a] = pixels
        self._keep(now)
        self.said = [(a, now.matches), *self.said][: config.joint_iterations - 1]
        still = (pixels < config.stop_px * self.maker.size / REFERENCE_SIZE) & (space < config.stop_diameter)
        self.active = a[~still]
        for value in np.unique(now.status[now.status != PnpStatus.SOLVED]):
            self.fail_some(a[now.status == value], f"refine: {PnpStatus(int(value)).reason}")
        moved = a[now.status == PnpStatus.SOLVED]
        self.fail_some(moved[~self.maker.in_sight(self.T[moved], self.object_index[moved])], OUT_OF_SIGHT)

    def _keep(self, now: Comparison) -> None:
        """Keep on the device what the poses of the active ones are judged by."""
        values = {name: getattr(now.found, name) for name in ("weight", "agreement", "visible", "silhouette")}
        xp = self.maker.ops.xp
        rows = xp.asarray(self.active)
        for name, value in (values | {"residual_px": now.residual_px}).items():
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
            used_depth=self.used_depth,
        )


def shifts(T_old: Floats, T_new: Floats, K: Floats, centre: Floats, diameter: Floats) -> tuple[Floats, Floats]:
    """Bound how far a pose change moves the points of a ball of the object's diameter.

    Args:
        T_old, T_new: [M,4,4] in virtual cameras, which look at ``centre`` at T_old.
        K: [M,3,3] of these cameras.
        centre: [M,3] metres, object's frame.
        diameter: [M] metres.

    Returns:
        The largest shift in space [M], in diameters, and in the image [M], pixels.
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
