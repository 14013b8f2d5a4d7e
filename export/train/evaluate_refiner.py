"""The refiner on held-out objects: flow, calibration, and the pose error over render-and-compare iterations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from scipy import stats

from coop_edge.config import OutlineConfig, RefineConfig
from export.data.batch import RefinerBatch
from export.data.rerender import centres_of, rerender
from export.networks import RefinerNet, SelectorNet
from export.networks.refiner import cell_pixels
from export.train.evaluate_outline import aligned_poses
from export.train.poses import refined_step
from export.train.report import mean_or_none, median_or_none, present
from export.train.task import to_tensors

Array = np.ndarray[Any, Any]

ITERATIONS = 5
"""Renders and comparisons per pair."""
BINS = 10
"""Of the calibration figures."""


@torch.no_grad()
def evaluate_refiner(
    net: RefinerNet,
    batches: Sequence[tuple[RefinerBatch, Sequence[Any]]],
    device: torch.device,
    config: RefineConfig | None = None,
) -> dict[str, float]:
    """Figures over all pairs; ``batches`` are those of a stream with ``keep_scenes=True``.

    Pairs are refined as at run time: one prior about the start pose for all iterations, of ``config``'s widths and
    weights (by default the estimator's). Where the estimator would give up, a pair stays where it has got to.

    error_before, error_after_1, error_after_5: medians over pairs of the mean distance of model points to their true
    place, as a share of the diameter; reduction_1, _5: error_before over them; improved_5: share of pairs that got
    better. error_aligned, reduction_aligned: the same where the five iterations and the outline stage take turns as in
    the estimator; aligned: share of pairs whose pose that stage took in the last turn.

    flow_epe: median over visible pixels of the flow's end-point error, px, at the start pose; flow_epe_before: that of
    a flow of zero. certainty_accuracy: share of silhouette pixels on the right side of one half.
    flow_calibration_error, certainty_calibration_error: mean over pixels of |predicted probability - observed share|
    of its decile bin; for the flow the probability is P_R, the event an error below R along one axis.
    """
    config = config or RefineConfig()
    errors: list[list[Array]] = [[] for _ in range(ITERATIONS + 1)]
    pixels: list[dict[str, Array]] = []
    aligned: list[tuple[Array, Array]] = []
    for batch, scenes in batches:
        steps = list(islice(_steps(net, batch, scenes, config, device), ITERATIONS))
        pixels.append(_pixel_figures(net, batch, steps[0].outputs))
        errors[0].append(pose_error(batch, batch.T_init))
        for iteration, step in enumerate(steps, 1):
            errors[iteration].append(pose_error(step.batch, step.T))
        aligned.append(_aligned_in_turns(net, steps, scenes, config, device))
    if not pixels:
        return {}
    error = [np.concatenate(e) for e in errors]
    outline = _outline_figures(error[0], *(np.concatenate(part) for part in zip(*aligned, strict=True)))
    return (
        _pose_figures(error) | outline | _flow_figures({k: np.concatenate([p[k] for p in pixels]) for k in pixels[0]})
    )


@dataclass(frozen=True, eq=False)
class _Step:
    """One iteration of refinement: what was compared, what the network said, the poses found [N,4,4], covariances."""

    batch: RefinerBatch
    outputs: dict[str, Array]
    T: Array
    covariance: Array


def _steps(
    net: RefinerNet, batch: RefinerBatch, scenes: Sequence[Any], config: RefineConfig, device: torch.device
) -> Iterator[_Step]:
    """Render and compare without end; the prior stays about where ``batch`` starts."""
    anchor, centre = batch.T_init, centres_of(scenes)
    while True:
        outputs = _predict(net, batch, device)
        T, solved, covariance = refined_step(batch, outputs, centre, net.config.stride, config, anchor)
        T = np.where(solved[:, None, None], T, batch.T_init)
        yield _Step(batch, outputs, T, covariance)
        before, batch = batch, rerender(batch, scenes, T)
        anchor = in_camera_of(batch, before, anchor)


def _aligned_in_turns(
    net: RefinerNet, steps: Sequence[_Step], scenes: Sequence[Any], config: RefineConfig, device: torch.device
) -> tuple[Array, Array]:
    """Pose errors [N] after refinement and alignment in turns, and which poses the last alignment took, bool [N].

    steps: of refinement alone; the first turn is theirs.
    """
    first, *others = OutlineConfig().turns(ITERATIONS)
    step = steps[first - 1]
    T, taken = aligned_poses(step.batch, scenes, step.T, covariance=step.covariance)
    for iterations in others:
        *_, step = islice(_steps(net, rerender(step.batch, scenes, T), scenes, config, device), iterations)
        T, taken = aligned_poses(step.batch, scenes, step.T, covariance=step.covariance)
    return pose_error(step.batch, T), taken


def pose_error(batch: RefinerBatch, T_camera_object: Array) -> Array:
    """Mean distance of model points at ``T_camera_object`` [N,4,4] to their true place, in diameters, [N]."""
    difference = np.asarray(T_camera_object, np.float64) - batch.T_true
    moved = batch.model_points @ np.swapaxes(difference[:, :3, :3], 1, 2) + difference[:, None, :3, 3]
    return np.linalg.norm(moved, axis=-1).mean(axis=-1) / batch.diameter


def in_camera_of(after: RefinerBatch, before: RefinerBatch, T_camera_object: Array) -> Array:
    """Poses [N,4,4] of the cameras of ``before`` in those of ``after``, the same pairs: the truth is known in both."""
    return np.asarray(after.T_true @ np.linalg.inv(before.T_true) @ T_camera_object)


def _predict(net: RefinerNet, batch: RefinerBatch, device: torch.device) -> dict[str, Array]:
    tensors = to_tensors(batch, device)
    out = net(tensors["query"], tensors["render"])
    values = {
        "flow": out.flow,
        "scale": out.scale,
        "certainty": out.certainty_logit.sigmoid(),
        "sensitivity": out.sensitivity,
        "confidence": net.confidence(out),
    }
    return {k: v.double().cpu().numpy() for k, v in values.items()}


def _pixel_figures(net: RefinerNet, batch: RefinerBatch, outputs: dict[str, Array]) -> dict[str, Array]:
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


def _pose_figures(error: list[Array]) -> dict[str, float]:
    before, once, last = (median_or_none(error[i]) for i in (0, 1, ITERATIONS))
    ratio = lambda after: before / after if before is not None and after else None  # noqa: E731
    return present(
        {
            "error_before": before,
            "error_after_1": once,
            "error_after_5": last,
            "reduction_1": ratio(once),
            "reduction_5": ratio(last),
            "improved_5": mean_or_none(error[ITERATIONS] < error[0]),
            "within_10_percent_5": mean_or_none(error[ITERATIONS] < 0.1),
        }
    )


def _outline_figures(before: Array, after: Array, taken: Array) -> dict[str, float]:
    start, end = median_or_none(before), median_or_none(after)
    reduction = start / end if start is not None and end else None
    return present({"error_aligned": end, "reduction_aligned": reduction, "aligned": mean_or_none(taken)})


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
    """Expected calibration error over ``BINS`` bins of equal width, all values in [0, 1]; None of nothing."""
    if not probability.size:
        return None
    which = np.minimum((probability * BINS).astype(int), BINS - 1)
    count = np.bincount(which, minlength=BINS)
    gap = np.bincount(which, weights=probability - outcome, minlength=BINS)
    return float(np.abs(gap).sum() / count.sum())


@torch.no_grad()
def evaluate_selector(
    net: SelectorNet, batches: Sequence[tuple[RefinerBatch, Sequence[Any]]], device: torch.device
) -> dict[str, float]:
    """rank_correlation: Spearman's, of score and minus the pose error, over all pairs."""
    scores, errors = [], []
    for batch, _ in batches:
        tensors = to_tensors(batch, device)
        scores.append(net(tensors["query"], tensors["render"]).cpu().numpy())
        errors.append(pose_error(batch, batch.T_init))
    if not scores or sum(map(len, scores)) < 2:
        return {}
    return present({"rank_correlation": float(stats.spearmanr(np.concatenate(scores), -np.concatenate(errors))[0])})
