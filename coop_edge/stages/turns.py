"""Runs the cascade from hypotheses to poses: all are refined once, a few are kept, and take turns with alignment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import EstimatorConfig
from coop_edge.geometry import se3
from coop_edge.pnp.base import PnpSolver
from coop_edge.runtime.base import Runner
from coop_edge.stages.outline import align
from coop_edge.stages.pairs import PairMaker
from coop_edge.stages.refine import Refined, refine
from coop_edge.stages.scoring import FitJudge, Judge, measure_fit
from coop_edge.stages.select import survivors, trusted

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
SURER = 4.0
"""Factor on the information that refinement has about a pose, in the last alignment of several: it has then seen what
the outline set right before, and the outline moves the pose less."""
Clock = Callable[[str], AbstractContextManager[object]]
"""Measures the time of a ``with`` block and adds it to a stage's."""


class Turns(NamedTuple):
    """What is left of the hypotheses after all turns."""

    rows: Indices  # [K] which ones are left, ascending
    refined: Refined  # K of them; poses are aligned, what they are judged by is of the last refinement
    aligned: NDArray[np.bool_]  # [K] whether the last alignment was taken

    def joined(self, other: Turns) -> Turns:
        """Return the hypotheses of both, in the order of their rows."""
        rows = np.concatenate([self.rows, other.rows])
        order = np.argsort(rows)
        refined = self.refined.joined(other.refined).take(order)
        return Turns(rows[order], refined, np.concatenate([self.aligned, other.aligned])[order])


def turns(
    maker: PairMaker,
    T_camera_object: Floats,
    object_index: NDArray[np.integer],
    *,
    runner: Runner,
    solver: PnpSolver,
    config: EstimatorConfig,
    radius_px: float,
    detection: Indices | None = None,
    evidence: Floats | None = None,
    early: NDArray[np.bool_] | None = None,
    judge: Judge | None = None,
    clock: Clock = nullcontext,
) -> Turns:
    """Refine M hypotheses and align them with the objects' outlines. M = 0 is legal.

    Where a detection has more hypotheses than the schedule's survivors, all go through one iteration of refinement
    and the best go on. These are refined and aligned in turns (``OutlineConfig.rounds``), which share the iterations.
    The prior of refinement is about the poses given; in later turns it is about the poses last aligned. A hypothesis
    that fails in one turn has failed, and keeps the reason.

    Some of a detection's hypotheses may be ``early``: the best one of those is refined to the end before the others
    are looked at, and if it is to be trusted (``select.trusted``) they are not: most objects are found by their most
    likely views.

    Args:
        maker: of the image.
        T_camera_object: float64 [M,4,4]; NaN where there is no pose.
        object_index: integers [M], the objects of ``maker``.
        runner: of ``refiner``, open.
        solver: of the device where ``maker`` works.
        config: options of refinement, outline and score; see also ``tracking``.
        radius_px: R of the flow probability, pixels of the crop, of the bundle.
        detection: integers [M] of those that compete; None: each hypothesis is of a detection of its own.
        evidence: float64 [M] of the coarse stage; None: there is none.
        early: bool [M]; None: none is.
        judge: says which hypotheses go on; None: ``FitJudge``.
        clock: measures the stages "refine", "outline" and "select".
    """
    T, index = np.asarray(T_camera_object, np.float64), np.asarray(object_index, np.int64)
    parts: dict[str, Any] = {"runner": runner, "solver": solver, "radius_px": radius_px}
    race = _Race(maker, T, index, config, parts, judge or FitJudge(config.advanced.select), evidence, clock)
    everything, kept = np.arange(len(T)), config.schedule.survivors
    rivals = everything if detection is None else np.asarray(detection, np.int64)
    if config.refine.iterations <= 1 or np.bincount(rivals).max(initial=0) <= kept:
        return race.finish(everything, config.refine.iterations)
    if early is None or kept == 1:
        race.start(everything)
        return race.finish(race.best(everything, rivals, kept))
    race.start(np.flatnonzero(early))
    first = race.finish(race.best(np.flatnonzero(early), rivals, 1))
    others = np.flatnonzero(~np.isin(rivals, rivals[first.rows[race.trusted(first)]]))
    if not len(others):
        return first
    race.start(others[~early[others]])
    others = np.setdiff1d(others, first.rows)
    return first.joined(race.finish(race.best(others, rivals, kept - 1)))


@dataclass(eq=False)
class _Race:
    """Hypotheses that compete: all that ran start with one iteration, and some finish."""

    maker: PairMaker
    T: Floats  # [M,4,4], after ``start`` of those that started
    object_index: Indices
    config: EstimatorConfig
    parts: dict[str, Any]  # of ``refine``
    judge: Judge
    evidence: Floats | None
    clock: Clock

    def __post_init__(self) -> None:
        self.anchor, self.T = self.T, self.T.copy()
        self.rank, self.reasons = np.zeros(len(self.T)), np.full(len(self.T), "", object)

    def start(self, rows: Indices) -> None:
        """Refine the hypotheses at ``rows`` once, and rank them."""
        first = self._refined(rows, self.T[rows], self.anchor[rows], 1)
        fit = measure_fit(first, self.config.advanced.select)
        with self.clock("select"):
            self.rank[rows] = self.judge.rank(first, self.object_index[rows], fit, self._evidence(rows))
        self.T[rows], self.reasons[rows] = first.T_camera_object, first.reasons

    def best(self, rows: Indices, rivals: Indices, kept: int) -> Indices:
        """Return the ``kept`` best of each detection among ``rows``, which have started."""
        return rows[survivors(self.rank[rows], self.reasons[rows] == "", rivals[rows], kept)]

    def finish(self, rows: Indices, iterations: int | None = None) -> Turns:
        """Refine and align the hypotheses at ``rows`` in turns; iterations: by default those left after ``start``."""
        config, maker, index = self.config, self.maker, self.object_index[rows]
        turned = 1 if iterations is None else 0
        iterations = config.refine.iterations - 1 if iterations is None else iterations
        T, anchor, reasons = self.T[rows], self.anchor[rows], self.reasons[rows].tolist()
        done = np.zeros(len(T), np.int64)
        shares = config.outline.turns(iterations)
        earlier: list[Floats] = []
        for turn, share in enumerate(shares):
            refined, aligned = self._refined(rows, T, anchor, share, turned), np.zeros(len(T), np.bool_)
            found = refined.T_camera_object
            turned += share
            if iterations and config.outline.iterations:  # without refinement the coarse poses are asked for
                surer = SURER if 0 < turn == len(shares) - 1 else 1.0
                with self.clock("outline"):
                    refined, aligned = _align(maker, refined, index, self.parts["solver"], config, surer)
            done += refined.iterations
            reasons = [before or now for before, now in zip(reasons, refined.reasons, strict=True)]
            T = anchor = refined.T_camera_object
            earlier += [found, T] if turn < len(shares) - 1 else []
        covariance = refined.covariance + scatter(earlier, T)
        return Turns(rows, replace(refined, covariance=covariance, iterations=done, reasons=tuple(reasons)), aligned)

    def trusted(self, finished: Turns) -> NDArray[np.bool_]:
        """Tell which of the hypotheses that finished are to be trusted, bool [K]."""
        rows = finished.rows
        with self.clock("select"):
            return trusted(
                finished.refined, self.object_index[rows], self.config, self.judge, evidence=self._evidence(rows)
            )

    def _refined(self, rows: Indices, T: Floats, anchor: Floats, iterations: int, before: int = 0) -> Refined:
        options = replace(self.config, refine=replace(self.config.refine, iterations=iterations))
        parts: dict[str, Any] = self.parts | {"config": options, "T_anchor": anchor, "before": before}
        with self.clock("refine"):
            return refine(self.maker, T, self.object_index[rows], **parts)

    def _evidence(self, rows: Indices) -> Floats | None:
        return None if self.evidence is None else self.evidence[rows]


def tracking(config: EstimatorConfig) -> EstimatorConfig:
    """Return the options of ``turns`` while tracking: one turn of ``track_iterations`` each, and depth held tighter."""
    prior = config.advanced.refine
    if prior.prior_depth:
        prior = replace(prior, prior_depth=config.advanced.track.prior_depth)
    return replace(
        config,
        advanced=replace(config.advanced, refine=prior),
        refine=replace(config.refine, iterations=config.refine.track_iterations),
        outline=replace(config.outline, iterations=config.outline.track_iterations, rounds=1),
    )


def _align(
    maker: PairMaker, refined: Refined, index: Indices, solver: PnpSolver, config: EstimatorConfig, surer: float
) -> tuple[Refined, NDArray[np.bool_]]:
    """Align poses; what they are judged by stays that of the refined ones.

    surer: how many times as sure as it says refinement is taken to be.
    """
    found = align(
        maker,
        refined.T_camera_object,
        index,
        solver=solver,
        config=config.outline,
        iterations=config.outline.iterations,
        covariance=refined.covariance / surer,
        depth=config.depth,
    )
    spread = found.covariance if surer == 1.0 else _told_once(found.covariance, refined.covariance, surer)
    covariance = np.where(found.aligned[:, None, None], spread, refined.covariance)
    used = refined.used_depth | found.used_depth
    aligned = replace(refined, T_camera_object=found.T_camera_object, covariance=covariance, used_depth=used)
    return aligned, found.aligned


def scatter(earlier: Sequence[Floats], T_camera_object: Floats) -> Floats:
    """Return the scatter [M,6,6] of the poses that earlier turns found, about the last ones.

    It is to be added to the solver's covariance: where a later turn moves the pose again, it is less sure than the
    solver says. The sum of the outer products of all moves (translation m, rotation rad), camera axes; 0 where a pose
    is missing.

    Args:
        earlier: poses [M,4,4] of refinement and of the outline, NaN where there is none.
        T_camera_object: [M,4,4], the last.
    """
    total = np.zeros((len(T_camera_object), 6, 6))
    for T in earlier:
        move = np.zeros((len(T), 6))
        known = np.isfinite(T).all(axis=(1, 2)) & np.isfinite(T_camera_object).all(axis=(1, 2))
        old, new = T[known], T_camera_object[known]
        move[known, :3] = old[:, :3, 3] - new[:, :3, 3]
        move[known, 3:] = se3.so3_log(old[:, :3, :3] @ np.swapaxes(new[:, :3, :3], 1, 2))
        total += move[:, :, None] * move[:, None]
    return total


def _told_once(covariance: Floats, known: Floats, times: float) -> Floats:
    """Return covariances [M,6,6] in which what is ``known`` beforehand counts once, where it counted ``times``."""
    out = covariance.copy()
    for i in np.flatnonzero(np.isfinite(covariance).all(axis=(1, 2)) & np.isfinite(known).all(axis=(1, 2))):
        values, vectors = np.linalg.eigh(np.linalg.inv(covariance[i]) - (times - 1.0) * np.linalg.inv(known[i]))
        # The pose has moved a little since, so that the difference may leave less than nothing somewhere.
        out[i] = (vectors / np.maximum(values, 1e-9 * values.max())) @ vectors.T if values.min() > 0 else times * out[i]
    return out
