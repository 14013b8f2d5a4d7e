"""Everything that a run has to say, as plain data for a JSON file."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.accuracy import metrics
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.evaluate import Evaluation, Scores, TargetResult
from benchmarks.accuracy.records import Box, ImageKey
from benchmarks.accuracy.results import ImageResult
from coop_edge.geometry import se3

NO_BOX = "no box was given"
NO_ESTIMATE = "no estimate"
VISIBILITY = (0.0, 0.3, 0.6, 0.9, 1.0)
"""Bounds of the classes that recalls are broken down by."""
_TURNS = ((30.0, "less than 30"), (150.0, "30 to 150"), (180.0, "more than 150"))
_NUMBER = re.compile(r"\d+(\.\d+)?")


def summary(
    dataset: BopDataset,
    evaluation: Evaluation,
    images: Sequence[ImageResult],
    boxes: Mapping[ImageKey, Sequence[Box]] | None = None,
) -> dict[str, Any]:
    """Return scores in all and per object, times, classes of visibility, and what was missed and why.

    images: of the run; empty if published poses are scored. boxes: that the method was given, None if unknown.
    """
    return {
        "targets": {"images": len(dataset.images), "instances": evaluation.total.count},
        "thresholds": {"mssd_diameters": metrics.SHARES.tolist(), "mspd_px_640": metrics.PIXELS.tolist()},
        "ar_of": ["mssd", "mspd", *(["vsd"] if evaluation.has_vsd else [])],
        "total": scores(evaluation.total),
        "per_object": {str(obj_id): scores(each) for obj_id, each in evaluation.per_object.items()},
        "by_visibility": _by_visibility(evaluation.targets),
        "time": _times(images),
        "poses": _pose_errors(dataset, evaluation.targets),
        **_misses(dataset, evaluation, images, boxes),
    }


def scores(values: Scores) -> dict[str, Any]:
    """Return average recalls and the curves behind them."""
    out: dict[str, Any] = {
        "instances": values.count,
        "ar": values.ar,
        "ar_mssd": values.ar_mssd,
        "ar_mspd": values.ar_mspd,
        "ar_vsd": values.ar_vsd,
        "add_recall": values.recall_add,
        "recall_mssd": values.recall_mssd.tolist(),
        "recall_mspd": values.recall_mspd.tolist(),
    }
    if values.recall_vsd is not None:
        out["recall_vsd"] = values.recall_vsd.tolist()
    return out


def pose_difference(dataset: BopDataset, result: TargetResult) -> tuple[float, float, float] | None:
    """Return how far a pose is from the nearest of those that look like the truth; None without a pose.

    Returns:
        Degrees, metres in all, and metres along the line of sight, of the object's own origin.
    """
    if result.row is None:
        return None
    T, truth = result.row.T_camera_object, result.truth.T_camera_object
    nearest = dataset.models[result.obj_id].symmetries.nearest_symmetric(truth, T)
    gap = T[:3, 3] - nearest[:3, 3]
    sight = nearest[:3, 3] / np.linalg.norm(nearest[:3, 3])
    angle = float(np.rad2deg(se3.rotation_angle(nearest[:3, :3], T[:3, :3])))
    return angle, float(np.linalg.norm(gap)), float(abs(gap @ sight))


def _times(images: Sequence[ImageResult]) -> dict[str, Any] | None:
    """Medians over the images with detections; None if there are none. Stages are one batch per image."""
    timed = [image for image in images if image.count]
    if not timed:
        return None
    stages = [image for image in timed if image.stages]
    names = list(stages[0].stages) if stages else []
    return {
        "image_s": _percentiles([image.time for image in timed]),
        "object_s": _percentiles([image.time / image.count for image in timed]),
        "objects_per_image": float(np.mean([image.count for image in timed])),
        "stages_ms_per_image": {name: float(np.median([i.stages[name] for i in stages])) for name in names},
        "stages_ms_per_object": {name: float(np.median([i.stages[name] / i.count for i in stages])) for name in names},
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    p50, p90 = np.percentile(values, (50, 90))
    return {"p50": float(p50), "p90": float(p90), "mean": float(np.mean(values))}


def _by_visibility(targets: Sequence[TargetResult]) -> list[dict[str, Any]]:
    known = [(t.truth.visib_fract, t.ar) for t in targets if t.truth.visib_fract is not None]
    out = []
    for low, high in itertools.pairwise(VISIBILITY):
        last = high == VISIBILITY[-1]
        inside = [ar for visible, ar in known if low <= visible and (visible < high or last)]
        mean = float(np.mean(inside)) if inside else None
        out.append({"from": low, "to": high, "instances": len(inside), "ar": mean})
    return out


def _pose_errors(dataset: BopDataset, targets: Sequence[TargetResult]) -> dict[str, Any] | None:
    """Percentiles over all poses that were given, symmetries taken into account."""
    found = [(difference, t) for t in targets if (difference := pose_difference(dataset, t))]
    if not found:
        return None
    return {
        "count": len(found),
        "rotation_deg": _percentiles([d[0] for d, _ in found]),
        "translation_diameters": _percentiles([d[1] / t.diameter for d, t in found]),
        "depth_diameters": _percentiles([d[2] / t.diameter for d, t in found]),
    }


def _misses(
    dataset: BopDataset,
    evaluation: Evaluation,
    images: Sequence[ImageResult],
    boxes: Mapping[ImageKey, Sequence[Box]] | None,
) -> dict[str, Any]:
    """Instances that meet no threshold at all, each with its cause, and how often each cause occurs."""
    reasons: dict[tuple[ImageKey, int], list[str]] = {}
    for result in images:
        for failure in result.failures:
            reasons.setdefault((result.image, failure.obj_id), []).append(failure.reason)
    misses = []
    for target in evaluation.targets:
        if target.ar > 0:
            continue
        image = (target.scene_id, target.im_id)
        given = None if boxes is None else sum(box.obj_id == target.obj_id for box in boxes.get(image, ()))
        difference = pose_difference(dataset, target)
        if difference is not None:
            why = f"pose turned by {next(text for bound, text in _TURNS if difference[0] <= bound + 1e-6)} degrees"
        elif given == 0:
            why = NO_BOX
        else:
            left = reasons.get((image, target.obj_id), [])
            why = left.pop(0) if left else NO_ESTIMATE
        misses.append(_miss(target, why, difference))
    counts = Counter(miss["why"] if "score" in miss else _NUMBER.sub("#", miss["why"]) for miss in misses)
    return {"miss_counts": dict(counts.most_common()), "misses": misses}


def _miss(target: TargetResult, why: str, difference: tuple[float, float, float] | None) -> dict[str, Any]:
    out: dict[str, Any] = {
        "scene_id": target.scene_id,
        "im_id": target.im_id,
        "obj_id": target.obj_id,
        "visib_fract": target.truth.visib_fract,
        "why": why,
    }
    if target.row is not None and difference is not None:
        out |= {
            "score": target.row.score,
            "mssd_diameters": target.mssd / target.diameter,
            "mspd_px_640": target.mspd_640 if np.isfinite(target.mspd) else None,
            "rotation_deg": difference[0],
            "depth_diameters": difference[2] / target.diameter,
        }
    return out
