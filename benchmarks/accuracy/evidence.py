"""Gathers the evidence for the hypotheses that the Estimator finds on a data set, and whether they are right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from benchmarks.accuracy import metrics
from benchmarks.accuracy.boxes import read_boxes
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.methods import object_name
from benchmarks.accuracy.records import Box, ImageKey
from benchmarks.accuracy.reliability import RIGHT
from benchmarks.accuracy.score_fit import FINISHED
from coop_edge import Detection, Estimator, EstimatorConfig
from coop_edge.base.files import atomic_write
from coop_edge.config import MOST_HYPOTHESES, Effort
from coop_edge.errors import InputError
from coop_edge.pipeline import Pipeline
from coop_edge.runtime.score_map import DEPTH_EVIDENCE, EVIDENCE
from coop_edge.stages.clock import StageClock
from coop_edge.stages.frame import Frame
from coop_edge.stages.judge import FeatureJudge
from coop_edge.stages.refine import Refined
from coop_edge.stages.scoring import Fit, Judged, measure_fit
from coop_edge.stages.select import select

TARGET = (("right", "?"), ("accepted", "?"), ("absent", "?"), ("effort", "U8"), ("group", "i4"), ("object", "i4"))
"""Fields of a table beside those of the evidence; see ``score_fit.fit_score``."""
ROW = np.dtype([*TARGET, *((name, "f8") for name in EVIDENCE)])
DEPTH_ROW = np.dtype([*TARGET, *((name, "f8") for name in DEPTH_EVIDENCE)])
"""Of a table whose hypotheses were found with measured depth; those that do not use it are not accepted."""


class Sought(NamedTuple):
    """A box and what is searched in it. T_camera_object [4,4]: of the truth, None where the object is not there."""

    group: int
    box: Box
    T_camera_object: np.ndarray | None


def sought_in(dataset: BopDataset, *, absent: bool) -> dict[ImageKey, list[Sought]]:
    """Return the boxes of the truth, around what is visible, of every target, by image; each a group of its own.

    absent: besides, each box with the model of another object, one that is not in the image where there is one.
    """
    found: dict[ImageKey, list[Sought]] = {}
    group, rng = 0, np.random.default_rng(0)
    for image, boxes in read_boxes(dataset, "visib").items():
        truths, each = dataset.truth(*image), []
        there = {truth.obj_id for truth in truths}
        for box in boxes:
            T = next(t.T_camera_object for t in truths if (t.obj_id, t.bbox_visib) == (box.obj_id, box.bbox))
            each.append(Sought(group, box, T))
            group += 1
            others = [o for o in dataset.object_ids if o != box.obj_id]
            if absent and others:
                other = int(rng.choice([o for o in others if o not in there] or others))
                each.append(Sought(group, box._replace(obj_id=other), None))
                group += 1
        found[image] = each
    return found


def gather(
    estimator: Estimator,
    dataset: BopDataset,
    efforts: Sequence[Effort],
    *,
    absent: bool = False,
    depth: str | None = None,
) -> Iterator[np.ndarray]:
    """Yield the hypotheses of each image in turn, as an array of ``ROW``, or with depth of ``DEPTH_ROW``.

    Those of effort ``FINISHED`` are all that "balanced" tries, each refined to the end; those of ``efforts`` are what
    their schedules leave over. Failed hypotheses are among them, as not accepted.

    Args:
        estimator: its objects are those of the data set (``OursMethod.add_objects``).
        dataset: with boxes of the truth.
        efforts: whose choices matter.
        absent: search also for objects that are not there, at ``efforts``.
        depth: folder of the depth images that the Estimator is given; None: none.

    Raises:
        InputError: the engines have no features.
    """
    sought = sought_in(dataset, absent=absent)
    for image in dataset.images:
        parts = [np.empty(0, ROW if depth is None else DEPTH_ROW)]
        with estimator._call("gather"):
            camera = dataset.camera(*image)
            measured = None if depth is None else dataset.depth(*image, folder=depth)
            picture, measured = estimator._read(dataset.image(*image), camera, measured, None)
            frame = estimator._frame(picture, camera, measured)
            for effort in (FINISHED, *efforts):
                each = [s for s in sought[image] if effort != FINISHED or s.T_camera_object is not None]
                if each:
                    index = estimator._registry.indices([object_name(s.box.obj_id) for s in each])
                    pipeline = replace(estimator._pipeline, config=schedule_of(estimator.config, effort))
                    parts.append(_rows(pipeline, frame, index, each, effort, dataset))
        yield np.concatenate(parts)


def schedule_of(config: EstimatorConfig, effort: Effort | Literal[""]) -> EstimatorConfig:
    """Return the options of an effort, or with ``FINISHED`` of refining to the end all that "balanced" tries.

    No score is too low.
    """
    refine = replace(config.refine, survivors=MOST_HYPOTHESES) if effort == FINISHED else config.refine
    return replace(config, effort=effort or "balanced", refine=refine, select=replace(config.select, min_score=0.0))


def write_table(path: str | Path, parts: Sequence[np.ndarray]) -> None:
    """Write arrays of rows, at least one, as one, in NumPy's format, whole or not at all."""
    with atomic_write(path) as file:
        np.save(file, np.concatenate(parts))


class _Even:
    """Believes every hypothesis: what is rejected then is so for other reasons. A ``scoring.Judge``."""

    def rank(self, refined: Refined, object_index: np.ndarray, fit: Fit, evidence: np.ndarray | None) -> np.ndarray:
        return np.ones(len(refined))

    def score(self, refined: Refined, object_index: np.ndarray, fit: Fit, evidence: np.ndarray | None) -> Judged:
        ones = np.ones(len(refined))
        return Judged(ones, ones)


def _rows(
    pipeline: Pipeline, frame: Frame, index: np.ndarray, sought: Sequence[Sought], effort: str, dataset: BopDataset
) -> np.ndarray:
    config, clock = pipeline.config, StageClock()
    detections = [Detection(object_name(s.box.obj_id), s.box.bbox) for s in sought]
    hypotheses = pipeline.hypotheses(frame, detections, index, clock, once=effort == FINISHED)
    coarse, refined, judge = hypotheses.coarse, hypotheses.refined, hypotheses.judge
    if not isinstance(judge, FeatureJudge):
        raise InputError(f"{pipeline.bundle.manifest}: wanted a bundle with features, whose score is to be fitted")
    judged = select(
        refined, coarse.detection, len(sought), frame.models, coarse.object_index, config,
        reasons=[coarse.reason(i) for i in range(len(coarse))], judge=_Even(),
    )  # fmt: skip
    found = judge.evidence(refined, coarse.object_index, measure_fit(refined, config.advanced.select))
    names, kind = (EVIDENCE, ROW) if frame.depth is None else (DEPTH_EVIDENCE, DEPTH_ROW)
    rows = np.empty(len(refined), kind)
    for name in names:
        rows[name] = np.where(refined.ok, found[name], 0.0)
    of = [sought[d] for d in coarse.detection]
    rows["accepted"] = [not reason for reason in judged.hypothesis_reasons]
    if frame.depth is not None:
        rows["accepted"] &= refined.used_depth
    rows["absent"] = [s.T_camera_object is None for s in of]
    rows["effort"] = effort
    rows["group"] = [s.group for s in of]
    rows["object"] = [s.box.obj_id for s in of]
    rows["right"] = [
        bool(ok) and is_right(T, s, dataset) for T, ok, s in zip(refined.T_camera_object, refined.ok, of, strict=True)
    ]
    return rows


def is_right(T_camera_object: np.ndarray, sought: Sought, dataset: BopDataset) -> bool:
    """Tell whether the MSSD of a pose [4,4] is below a tenth of the diameter; False where the object is not there."""
    if sought.T_camera_object is None:
        return False
    model, pose, truth = dataset.models[sought.box.obj_id], T_camera_object[None], sought.T_camera_object[None]
    some = model.vertices[:: 1 + len(model.vertices) // 100]  # of some points it is never larger: most end here
    return all(
        metrics.mssd(pose, truth, model.T_symmetries, points)[0] < RIGHT * model.diameter
        for points in (some, model.vertices)
    )
