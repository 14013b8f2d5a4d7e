"""Runs the cascade from hypotheses to poses: all are refined once, a few are kept, and take turns with alignment."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import EstimatorConfig
from coop_edge.pnp.base import PnpSolver
from coop_edge.runtime.base import Runner
from coop_edge.stages.outline import align
from coop_edge.stages.pairs import PairMaker
from coop_edge.stages.refine import Refined, refine
from coop_edge.stages.scoring import FitJudge, Judge, measure_fit
from coop_edge.stages.select import survivors

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Clock = Callable[[str], AbstractContextManager[object]]
"""Measures the time of a ``with`` block and adds it to a stage's."""


class Turns(NamedTuple):
    """What is left of the hypotheses after all turns."""

    rows: Indices  # [K] which ones are left, ascending
    refined: Refined  # K of them; poses are aligned, what they are judged by is of the last refinement
    aligned: NDArray[np.bool_]  # [K] whether the last alignment was taken


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
    judge: Judge | None = None,
    clock: Clock = nullcontext,
) -> Turns:
    """Refine M hypotheses and align them with the objects' outlines. M = 0 is legal.

    Where a detection has more hypotheses than the schedule's survivors, all go through one iteration of refinement
    and the best go on. These are refined and aligned in turns (``OutlineConfig.rounds``), which share the iterations.
    The prior of refinement is about the poses given; in later turns it is about the poses last aligned. A hypothesis
    that fails in one turn has failed, and keeps the reason.

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
        judge: says which hypotheses go on; None: ``FitJudge``.
        clock: measures the stages "refine", "outline" and "select".
    """
    T, index = np.asarray(T_camera_object, np.float64), np.asarray(object_index, np.int64)
    anchor, rows, reasons = T, np.arange(len(T)), [""] * len(T)
    iterations, kept = config.refine.iterations, config.schedule.survivors

    def refined_by(share: int) -> Refined:
        options = replace(config, refine=replace(config.refine, iterations=share))
        with clock("refine"):
            return refine(
                maker, T, index, runner=runner, solver=solver, config=options, radius_px=radius_px, T_anchor=anchor
            )

    rivals = rows if detection is None else detection
    if iterations > 1 and np.bincount(rivals).max(initial=0) > kept:
        first = refined_by(1)
        iterations -= 1
        with clock("select"):
            options = config.advanced.select
            scores = (judge or FitJudge(options)).rank(first, index, measure_fit(first, options), evidence)
            rows = survivors(scores, first.ok, rivals, kept)
        T, anchor, index = first.T_camera_object[rows], anchor[rows], index[rows]
        reasons = [first.reasons[i] for i in rows]
    done = np.zeros(len(T), np.int64)
    for share in config.outline.turns(iterations):
        refined, aligned = refined_by(share), np.zeros(len(T), np.bool_)
        if iterations and config.outline.iterations:  # without refinement the coarse poses are asked for
            with clock("outline"):
                refined, aligned = _align(maker, refined, index, solver, config)
        done += refined.iterations
        reasons = [before or now for before, now in zip(reasons, refined.reasons, strict=True)]
        T = anchor = refined.T_camera_object
    return Turns(rows, replace(refined, iterations=done, reasons=tuple(reasons)), aligned)


def tracking(config: EstimatorConfig) -> EstimatorConfig:
    """Return the options of ``turns`` while tracking: one turn of ``track_iterations`` each."""
    return replace(
        config,
        refine=replace(config.refine, iterations=config.refine.track_iterations),
        outline=replace(config.outline, iterations=config.outline.track_iterations, rounds=1),
    )


def _align(
    maker: PairMaker, refined: Refined, index: Indices, solver: PnpSolver, config: EstimatorConfig
) -> tuple[Refined, NDArray[np.bool_]]:
    """Align poses; what they are judged by stays that of the refined ones."""
    found = align(
        maker,
        refined.T_camera_object,
        index,
        solver=solver,
        config=config.outline,
        iterations=config.outline.iterations,
        covariance=refined.covariance,
        depth=config.depth,
    )
    covariance = np.where(found.aligned[:, None, None], found.covariance, refined.covariance)
    used = refined.used_depth | found.used_depth
    aligned = replace(refined, T_camera_object=found.T_camera_object, covariance=covariance, used_depth=used)
    return aligned, found.aligned
