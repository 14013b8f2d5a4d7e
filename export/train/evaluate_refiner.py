"""The refiner on held-out objects: flow, calibration, and the pose error over render-and-compare iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from coop_edge.config import EstimatorConfig
from coop_edge.runtime.base import Runner
from coop_edge.stages.batches import run_batched
from coop_edge.stages.refine import refine
from coop_edge.stages.turns import turns
from export.data.batch import RefinerBatch
from export.data.rerender import PairRecord, centres_of
from export.networks import RefinerNet
from export.networks.refiner import cell_pixels
from export.train.poses import SOLVER, RerenderedPairs, pairs_of
from export.train.report import mean_or_none, median_or_none, present
from export.train.runner import RefinerRunner

Array = np.ndarray[Any, Any]

ITERATIONS = 5
"""Renders and comparisons per pair."""
BINS = 10
"""Of the calibration figures."""


def evaluate_refiner(
    net: RefinerNet,
    batches: Sequence[tuple[RefinerBatch, Sequence[PairRecord]]],
    device: torch.device,
    config: EstimatorConfig | None = None,
) -> dict[str, float]:
    """Compute figures over all pairs; ``batches`` are those of a stream with ``keep_scenes=True``.

    Pairs go through the estimator's refinement and outline stage by ``config``, by default the estimator's, with
    ``ITERATIONS`` in all, each in an upright crop and solved alone: the figures are the network's. A pair that these
    give up counts where it was before: after one iteration, or at the start.

    Returns:
        error_before, error_after_1, error_after_5: medians over pairs of the mean distance of model points to their
        true place, as a share of the diameter; reduction_1, _5: error_before over them; improved_5: share of pairs that
        got better. error_aligned, reduction_aligned: the same where the five iterations and the outline stage take
        turns; aligned: share of pairs whose pose that stage took in the last turn.

        flow_epe: median over visible pixels of the flow's end-point error, px, at the start pose; flow_epe_before: that
        of a flow of zero. certainty_accuracy: share of silhouette pixels on the right side of one half.
        flow_calibration_error, certainty_calibration_error: mean over pixels of |predicted probability - observed
        share| of its decile bin; for the flow the probability is P_R, the event an error below R along one axis.
    """
    config = _with_iterations(config or EstimatorConfig(), ITERATIONS).updated(["advanced.refine.joint_iterations=1"])
    parts: list[dict[str, Array]] = []
    for batch, records in batches:
        with RefinerRunner(net, batch.query.shape[1], device) as runner:
            pairs = pairs_of(batch, centres_of(records))
            feed = {"query": pairs.query, "render": pairs.render}
            outputs = run_batched(pairs.ops, runner, feed, config.advanced.refine.micro_batch)
            parts.append(_pixel_figures(net, batch, outputs) | _pose_errors(net, batch, records, runner, config))
    if not parts:
        return {}
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _pose_figures(joined) | _flow_figures(joined)


def _pose_errors(
    net: RefinerNet, batch: RefinerBatch, records: Sequence[PairRecord], runner: Runner, config: EstimatorConfig
) -> dict[str, Array]:
    """Return the pose errors [N] at the start, after refinement alone, and after turns with the outline stage."""
    maker, index, start = RerenderedPairs(batch, records), np.arange(len(batch.query)), batch.T_init
    stages: dict[str, Any] = {"runner": runner, "solver": SOLVER, "radius_px": net.config.radius_px}

    def refined(T: Array, iterations: int) -> Array:
        found = refine(maker, T, index, config=_with_iterations(config, iterations), T_anchor=start, **stages)
        return np.where(found.ok[:, None, None], found.T_camera_object, T)

    once = refined(start, 1)
    last = refined(once, ITERATIONS - 1)
    left = turns(maker, start, index, config=config, **stages)
    aligned = np.where(left.refined.ok[:, None, None], left.refined.T_camera_object, last)
    poses = {"before": start, "once": once, "last": last, "turns": aligned}
    return {name: pose_error(batch, T) for name, T in poses.items()} | {"aligned": left.aligned}


def _with_iterations(config: EstimatorConfig, iterations: int) -> EstimatorConfig:
    """Return the options with another number of refinement iterations."""
    return replace(config, refine=replace(config.refine, iterations=iterations))


def pose_error(batch: RefinerBatch, T_camera_object: Array) -> Array:
    """Return mean distances [N] of model points at ``T_camera_object`` [N,4,4] to their true place, in diameters."""
    difference = np.asarray(T_camera_object, np.float64) - batch.T_true
    moved = batch.model_points @ np.swapaxes(difference[:, :3, :3], 1, 2) + difference[:, None, :3, 3]
    return np.linalg.norm(moved, axis=-1).mean(axis=-1) / batch.diameter


def _pixel_figures(net: RefinerNet, batch: RefinerBatch, outputs: Mapping[str, Array]) -> dict[str, Array]:
    cells = cell_pixels(net.config.stride)
    silhouette = np.isfinite(batch.object_points[:, cells, cells, 0])
    visible = batch.visible[:, cells, cells] & silhouette
    truth = batch.flow[:, :, cells, cells].astype(np.float64)
    difference = outputs["flow"] - truth
    radius = net.config.radius_px
    return {
        "epe": np.linalg.norm(difference, axis=1)[visible],
        "epe_before": np.linalg.norm(truth, axis=1)[visible],
        "flow_probability": -np.expm1(-radius / outputs["scale"][:, 0])[visible],
        "flow_hit": (np.abs(difference) < radius).mean(axis=1)[visible],
        "certainty": outputs["certainty"][:, 0][silhouette],
        "seen": visible[silhouette].astype(np.float64),
    }


def _pose_figures(p: dict[str, Array]) -> dict[str, float]:
    before, once, last, aligned = (median_or_none(p[name]) for name in ("before", "once", "last", "turns"))
    ratio = lambda after: before / after if before is not None and after else None  # noqa: E731
    return present(
        {
            "error_before": before,
            "error_after_1": once,
            "error_after_5": last,
            "reduction_1": ratio(once),
            "reduction_5": ratio(last),
            "improved_5": mean_or_none(p["last"] < p["before"]),
            "within_10_percent_5": mean_or_none(p["last"] < 0.1),
            "error_aligned": aligned,
            "reduction_aligned": ratio(aligned),
            "aligned": mean_or_none(p["aligned"]),
        }
    )


def _flow_figures(p: dict[str, Array]) -> dict[str, float]:
    return present(
        {
            "flow_epe_before": median_or_none(p["epe_before"]),
            "flow_epe": median_or_none(p["epe"]),
            "certainty_accuracy": mean_or_none((p["certainty"] > 0.5) == (p["seen"] > 0.5)),
            "flow_calibration_error": calibration_error(p["flow_probability"], p["flow_hit"]),
            "certainty_calibration_error": calibration_error(p["certainty"], p["seen"]),
        }
    )


def calibration_error(probability: Array, outcome: Array) -> float | None:
    """Return the expected calibration error over ``BINS`` bins of equal width, values in [0, 1]; None without any."""
    if not probability.size:
        return None
    which = np.minimum((probability * BINS).astype(int), BINS - 1)
    count = np.bincount(which, minlength=BINS)
    gap = np.bincount(which, weights=probability - outcome, minlength=BINS)
    return float(np.abs(gap).sum() / count.sum())
