"""Finds objects in a whole image, without boxes: places where they may be, and poses there.

Places come from frozen features (``stages.places``). At each the best views become hypotheses, all go through one
iteration of refinement, and those of the best places are refined to the end and scored as any pose is. Where one
instance is wanted, the likeliest places come first, and the search ends with the first pose that is trusted. Where the
best pose is in doubt the object is estimated once more in its box, as in a box that is given. What remains are poses
that do not overlap (``stages.instances``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import EstimatorConfig
from coop_edge.errors import BundleError
from coop_edge.pipeline import Pipeline
from coop_edge.stages.bounds import Wanted, box_sides, check_size, search_bounds
from coop_edge.stages.boxes import distinct
from coop_edge.stages.clock import StageClock
from coop_edge.stages.crop import crop_detections
from coop_edge.stages.depth import approach
from coop_edge.stages.features import FeatureExtractor
from coop_edge.stages.frame import Frame
from coop_edge.stages.image_maps import Level, image_levels
from coop_edge.stages.instances import SAME, SAME_PLACE, Instance, answers, instances
from coop_edge.stages.places import find_places
from coop_edge.stages.refine import Refined
from coop_edge.stages.rejection import Least
from coop_edge.stages.retrieve import retrieve
from coop_edge.stages.scoring import measure_fit
from coop_edge.stages.select import Selection, select, survivors
from coop_edge.stages.views import MARGIN
from coop_edge.types import Detection, PoseEstimate

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Box = tuple[float, float, float, float]
Progress = Callable[[int, int], object]
"""Called with the number of objects done and that of all."""

AROUND = (2.0, 5.0)
"""Regions around a box that gave no pose: their sides over the longer side of the box."""
FIRST = 4
"""Places that are tried first. Of 338 searches of the synthetic set 161 found a pose, and 106 ended there."""
LIKELY = 0.45
"""Views that look less like the image than so much of the best one are not refined. In the same searches these were
28 % of all, and 5 of the 141 that led to a right pose."""
HOPELESS = 0.1
"""Presence below which a place is not looked at again: of 101 such searches of the synthetic set 2 found the pose."""


class _Tried(NamedTuple):
    """Poses after one iteration, one per place, best first."""

    T_camera_object: Floats  # [M,4,4]
    similarity: Floats  # [M]
    box: Floats  # [M,4] of the object at the pose, pixels
    finished: NDArray[np.bool_]  # [M] whether they have been refined to the end
    likeness: float  # of the most alike view of all places, as ``retrieve`` has it

    def joined(self, other: _Tried) -> _Tried:
        """Return the poses of both, those apart that are at one place."""
        T, similarity, box, finished = (np.concatenate(parts) for parts in zip(self[:4], other[:4], strict=True))
        order = np.argsort(-similarity, kind="stable")
        kept = order[distinct(box[order], SAME_PLACE, len(order))]
        return _Tried(T[kept], similarity[kept], box[kept], finished[kept], max(self.likeness, other.likeness))


class _Finished(NamedTuple):
    """Poses refined to the end."""

    chosen: Selection  # each for itself
    poses: tuple[Floats, Floats]  # of those that did not fail, accepted or not: T_camera_object [M,4,4], presence [M]


@dataclass(frozen=True, eq=False)
class Finder:
    """Runs the search over the parts of a ``Pipeline``.

    Raises:
        BundleError: its engines have no ``features``.
    """

    pipeline: Pipeline

    def __post_init__(self) -> None:
        if self.pipeline.features is None:
            bundle = self.pipeline.bundle
            raise BundleError(
                f"engines {bundle.name} {bundle.version} have no network 'features', by which objects are found "
                "without boxes; give boxes to estimate(), or take engines that have it"
            )

    @property
    def features(self) -> FeatureExtractor:
        assert self.pipeline.features is not None
        return self.pipeline.features

    def find(
        self, frame: Frame, wanted: Wanted, progress: Progress | None = None
    ) -> tuple[list[PoseEstimate], list[Detection]]:
        """Find the poses of objects, at least one result per object: a failure with the reason where nothing was found.

        Returns the results, and the boxes of all places that were tried, as ``detect`` has them.

        Raises:
            InputError: an object that cannot be in the image as it is wanted.
        """
        found: list[Instance] = []
        boxes: list[Detection] = []
        failures: dict[int, PoseEstimate] = {}
        for i, clock, places in self._each(frame, wanted, progress):
            poses, failure, tried = self._search(frame, i, places, wanted.max_instances, clock)
            found += poses
            boxes += _boxes(frame.models[i].name, tried)
            if failure is not None:
                failures[i] = failure
        return answers(wanted.index, found, failures), boxes

    def detect(self, frame: Frame, wanted: Wanted, progress: Progress | None = None) -> list[Detection]:
        """Return boxes of objects by falling score, at most ``wanted.max_instances`` per object, object by object.

        The score is how far the image and a render agree in the box, 0 to 1; it ranks boxes and is no probability.

        Raises:
            InputError: as ``find`` does.
        """
        out: list[Detection] = []
        for i, clock, places in self._each(frame, wanted, progress):
            out += _boxes(frame.models[i].name, self._try(frame, i, places, clock))[: wanted.max_instances]
        return out

    def recover(self, frame: Frame, result: PoseEstimate, detection: Detection, i: int) -> PoseEstimate:
        """Look around a box of object i, farther and farther, if it gave no pose; else return ``result`` as it is."""
        if result.success:
            return result
        assert detection.bbox is not None
        x, y, width, height = detection.bbox
        for factor in AROUND:
            side = factor * max(width, height)
            region = (x + (width - side) / 2, y + (height - side) / 2, side, side)
            (found,), _ = self.find(frame, Wanted(np.array([i]), 1, region))
            if found.success:
                return replace(found, recovered=True)
        return replace(result, reason=f"{result.reason}; nor was it found around the box")

    def _each(
        self, frame: Frame, wanted: Wanted, progress: Progress | None
    ) -> Iterator[tuple[int, StageClock, Floats]]:
        """Yield the objects with the boxes [M,4] of the places where they may be, best first."""
        config = self.pipeline.config.find
        clock = StageClock()
        depth = None if frame.depth is None else self.pipeline.ops.to_host(frame.depth)
        bounds = search_bounds(frame.camera, wanted.region, config, depth)
        for i in wanted.index.tolist():
            check_size(frame.models[i].name, frame.models[i].diameter, bounds, frame.camera)
        with clock("coarse"):
            levels = self._levels(frame, wanted.region)
        for done, i in enumerate(wanted.index.tolist()):
            if progress is not None:
                progress(done, len(wanted.index))
            with clock("coarse"):
                views, diameter = frame.models[i].views, frame.models[i].diameter
                assert views is not None
                count = config.places + 2 * (wanted.max_instances - 1)
                places = find_places(levels, views, diameter, count, bounds=bounds, ops=self.pipeline.ops)
            yield i, clock, places.box
            clock = StageClock()  # that of the first object has the image's features in it
        if progress is not None:
            progress(len(wanted.index), len(wanted.index))

    def _levels(self, frame: Frame, region: Box) -> list[Level]:
        size = self.pipeline.bundle.input_size
        config = self.pipeline.config
        scales = size / MARGIN / box_sides(frame.camera, config.find, config.advanced.find.largest)
        return list(image_levels(frame.image, frame.camera.size, scales, region, size // 2, features=self.features))

    def _try(self, frame: Frame, i: int, boxes: Floats, clock: StageClock, likeness: float = 0.0) -> _Tried:
        """Make poses in boxes [M,4] of object i, refine each once and keep the best of each box, best first.

        likeness: of a view found before, with which those here compete.
        """
        pipeline, config, count = self.pipeline, self.pipeline.config, self.pipeline.config.advanced.find.views
        name, size, patch = frame.models[i].name, pipeline.bundle.input_size, pipeline.bundle.patch_size
        detections = [Detection(name, tuple(box)) for box in boxes.tolist()]
        with clock("crop"):
            crops = crop_detections(
                frame.image, frame.camera, detections, size, ops=pipeline.ops, margin=config.coarse.margin, patch=patch
            )
        with clock("coarse"):
            index = np.full(len(boxes), i, np.int64)
            seen = retrieve(frame.image, crops, frame.models, index, features=self.features, count=count)
            hypotheses = seen.hypotheses(crops.camera, index)
            likeness = max(likeness, float(seen.similarity.max(initial=0.0)))
            hypotheses = hypotheses.take(np.flatnonzero(hypotheses.support >= LIKELY * likeness))
        first = replace(
            config,
            refine=replace(config.refine, iterations=min(1, config.refine.iterations)),
            outline=replace(config.outline, iterations=0),
        )
        refined, rank = self._refine(frame, hypotheses.T_camera_object, i, first, clock)
        kept = survivors(rank, refined.ok, hypotheses.detection, 1)
        kept = kept[np.argsort(-rank[kept], kind="stable")]
        kept = kept[refined.ok[kept]]
        T = refined.T_camera_object[kept]
        box = frame.boxes(T, np.full(len(T), i))
        visible = np.isfinite(box).all(axis=1)
        kept, T, box = kept[visible], T[visible], box[visible]
        apart = distinct(box, SAME_PLACE, len(box))
        return _Tried(T[apart], rank[kept][apart], box[apart], np.zeros(len(apart), np.bool_), likeness)

    def _refine(
        self, frame: Frame, T: Floats, i: int, config: EstimatorConfig, clock: StageClock
    ) -> tuple[Refined, Floats]:
        """Refine poses [M,4,4] of object i, each for itself, and rank them; measured depth places them first."""
        maker = self.pipeline.maker(frame, config)
        judge = self.pipeline.judge(maker)
        index = np.full(len(T), i, np.int64)
        if frame.depth is not None:
            with clock("coarse"):
                T, _ = approach(maker, T, index, config.depth)
        refined = self.pipeline.refine(maker, judge, T, index, config, clock).refined
        with clock("select"):
            rank = judge.rank(refined, index, measure_fit(refined, config.advanced.select), None)
        return refined, rank

    def _search(
        self, frame: Frame, i: int, boxes: Floats, most: int, clock: StageClock
    ) -> tuple[list[Instance], PoseEstimate | None, _Tried]:
        """Look for object i in boxes [M,4], best first: at most ``most`` poses, or why there is none, and all tried."""
        config, name = self.pipeline.config, frame.models[i].name
        done: list[_Finished] = []
        first = min(FIRST, len(boxes)) if most == 1 else len(boxes)
        tried = self._try(frame, i, boxes[:first], clock)
        if most == 1 and len(tried.box):
            done.append(self._finish(frame, i, tried.T_camera_object[:1], clock))
            tried.finished[0] = True
            results = done[0].chosen.estimates([name], clock.times())
            if results[0].success and results[0].presence >= config.advanced.select.trusted_presence:
                return self._apart(frame, i, results, most, clock), None, tried
        if first < len(boxes):
            tried = tried.joined(self._try(frame, i, boxes[first:], clock, tried.likeness))
        rows = np.arange(min(len(tried.box), config.advanced.find.survivors + most - 1))
        rows = rows[~tried.finished[rows]]
        if len(rows):
            done.append(self._finish(frame, i, tried.T_camera_object[rows], clock))
        if not done:
            return [], PoseEstimate(False, f"find: no place in the image where {name!r} may be", object=name), tried
        T, presence = (np.concatenate(parts) for parts in zip(*(one.poses for one in done), strict=True))
        chosen = [*(one.chosen for one in done), self._again(frame, i, T, presence, most, clock)]
        results = [result for each in chosen for result in each.estimates([name] * len(each), clock.times())]
        found = self._apart(frame, i, results, most, clock)
        if found:
            return found, None, tried
        best = max(results, key=lambda result: result.presence)
        return [], replace(best, reason=f"find: not found ({best.reason})"), tried

    def _finish(self, frame: Frame, i: int, T: Floats, clock: StageClock) -> _Finished:
        """Refine poses [M,4,4] of object i, which went through one iteration, to the end; each is judged for itself."""
        pipeline, config = self.pipeline, self.pipeline.config
        left = max(config.refine.iterations - 1, min(1, config.refine.iterations))
        rest = replace(config, refine=replace(config.refine, iterations=left))
        maker = pipeline.maker(frame, rest)
        judge, index = pipeline.judge(maker), np.full(len(T), i, np.int64)
        refined = pipeline.refine(maker, judge, T, index, rest, clock).refined
        least = Least.found(config)
        with clock("select"):
            chosen = select(
                refined, np.arange(len(T)), len(T), frame.models, index, rest, judge=judge, least=least
            ).with_covariance(*pipeline.bundle.covariance_maps)
        return _Finished(chosen, (refined.T_camera_object[refined.ok], chosen.presence[refined.ok]))

    def _apart(
        self, frame: Frame, i: int, results: Sequence[PoseEstimate], most: int, clock: StageClock
    ) -> list[Instance]:
        """Return at most ``most`` of the results of object i that are successful, where they do not overlap."""
        with clock("select"):
            return instances(frame.renderer, frame.camera, self.pipeline.ops, i, results, most)

    def _again(self, frame: Frame, i: int, T: Floats, presence: Floats, most: int, clock: StageClock) -> Selection:
        """Estimate object i in the boxes of the best of its poses [M,4,4], at most ``most``, as in given boxes.

        Where the object is may be clear before its pose is: more views are tried there than at every place. A pose that
        is trusted stays as it is: of 18 on the synthetic set none came out with another score (by 0.07). So does one
        that is ``HOPELESS``.
        """
        box = frame.boxes(T, np.full(len(T), i))
        order = np.argsort(-presence, kind="stable")
        order = order[np.isfinite(box[order]).all(axis=1)]
        best = order[distinct(box[order], SAME, most)]
        trusted = self.pipeline.config.advanced.select.trusted_presence
        box = box[best[(presence[best] >= HOPELESS) & (presence[best] < trusted)]]
        detections = [Detection(frame.models[i].name, tuple(each)) for each in box.tolist()]
        least = Least.found(self.pipeline.config)
        return self.pipeline.estimated(frame, detections, np.full(len(box), i), clock, least=least, once=True)


def _boxes(name: str, tried: _Tried) -> list[Detection]:
    """Return the boxes of an object's places, best first."""
    pairs = zip(tried.box.tolist(), tried.similarity.tolist(), strict=True)
    return [Detection(name, tuple(box), score=score) for box, score in pairs]
