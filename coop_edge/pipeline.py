"""The stages: crop, coarse, refine and outline in turns, select; for tracking the last three alone, each once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import EFFORTS, EstimatorConfig
from coop_edge.mesh.mesh import Mesh
from coop_edge.ops.base import Operations
from coop_edge.pnp.base import PnpSolver
from coop_edge.render.base import Renderer
from coop_edge.runtime.base import Runner
from coop_edge.runtime.bundle import Bundle
from coop_edge.stages.clock import StageClock
from coop_edge.stages.coarse import CoarseHypotheses, estimate_coarse
from coop_edge.stages.crop import crop_detections
from coop_edge.stages.depth import approach
from coop_edge.stages.features import FeatureExtractor
from coop_edge.stages.frame import Frame
from coop_edge.stages.hypotheses import Hypotheses
from coop_edge.stages.judge import FeatureJudge
from coop_edge.stages.match_views import match_views
from coop_edge.stages.pairs import ImagePairMaker, PairMaker
from coop_edge.stages.rejection import Least
from coop_edge.stages.retrieve import retrieve
from coop_edge.stages.scoring import FitJudge, Judge
from coop_edge.stages.select import Selection, select
from coop_edge.stages.stand_in import stand_in
from coop_edge.stages.turns import Turns, tracking, turns
from coop_edge.types import Detection, PoseEstimate, StageTimes

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Runs the stages over the parts of one backend.

    On a GPU all work is queued on CuPy's current stream and arrays stay on the device. The host waits where it decides:
    in coarse for the templates' scores and for what RANSAC found; in refine and outline, see there. What one stage
    queues and the next one waits for counts into the next one's time, as crops do into that of coarse.

    Attributes:
        runners: open, by role, of the bundle's networks.
    """

    bundle: Bundle
    config: EstimatorConfig
    ops: Operations
    solver: PnpSolver
    runners: Mapping[str, Runner]
    features: FeatureExtractor | None = None  # of the bundle's ``features``

    def estimate(self, frame: Frame, detections: Sequence[Detection], index: Indices) -> list[PoseEstimate]:
        """Estimate the poses of N detections, of the objects at ``index`` [N], as one batch."""
        clock = StageClock()
        chosen = self.estimated(frame, detections, index, clock)
        return chosen.estimates([detection.object for detection in detections], clock.times())

    def estimated(
        self,
        frame: Frame,
        detections: Sequence[Detection],
        index: Indices,
        clock: StageClock,
        *,
        least: Least | None = None,
        once: bool = False,
    ) -> Selection:
        """Return the answers that ``estimate`` gives; ``least``: see ``select``, ``once``: see ``hypotheses``."""
        found = self.hypotheses(frame, detections, index, clock, once=once)
        with clock("select"):
            return found.choose(self.config, least).with_covariance(*self.bundle.covariance_maps)

    def retrieved(self, frame: Frame, detection: Detection, index: int, count: int) -> CoarseHypotheses | None:
        """Find the ``count`` views that look most like a detection, best first; None without features."""
        if self.features is None:
            return None
        options: dict[str, Any] = {"margin": self.config.coarse.margin, "patch": self.bundle.patch_size}
        crops = crop_detections(frame.image, frame.camera, [detection], self.bundle.input_size, ops=self.ops, **options)
        of, features = np.array([index]), self.features
        return retrieve(frame.image, crops, frame.models, of, features=features, count=count).hypotheses(
            crops.camera, of
        )

    def hypotheses(
        self,
        frame: Frame,
        detections: Sequence[Detection],
        index: Indices,
        clock: StageClock,
        *,
        once: bool = False,
    ) -> Hypotheses:
        """Do all that ``estimate`` does before it chooses.

        Where a detection's best pose is in doubt and its own box is another than the one given, the object is tried
        once more in that box: the pose may be wrong, and yet lie where the object is. Not so with effort "fast", nor if
        ``once``.
        """
        first = self._tried(frame, detections, index, clock)
        if once or self.config.effort == "fast" or not self._knows_trust:
            return first
        with clock("select"):
            rows, better = first.in_other_boxes(self.config)
        if not len(rows):
            return first
        second = self._tried(frame, better, index[rows], clock)
        return first.joined(second, rows)

    def _tried(self, frame: Frame, detections: Sequence[Detection], index: Indices, clock: StageClock) -> Hypotheses:
        """Return what the schedule leaves of each detection's hypotheses, in the boxes given."""
        coarse = self._match(frame, detections, index, clock)
        maker = self.maker(frame, self.config)
        judge = self.judge(maker)
        T, placed = coarse.T_camera_object, np.zeros(len(coarse), np.bool_)
        if frame.depth is not None:
            with clock("coarse"):
                T, placed = approach(maker, T, coarse.object_index, self.config.depth)
        competition = {"detection": coarse.detection, "evidence": coarse.evidence, "early": self._early(len(coarse))}
        left = self.refine(maker, judge, T, coarse.object_index, self.config, clock, **competition)
        used = left.refined.used_depth | placed[left.rows]
        with clock("select"):
            return Hypotheses.judged_by(
                judge, frame, detections, coarse.take(left.rows), replace(left.refined, used_depth=used), self.config
            )

    def track(self, frame: Frame, names: Sequence[str], index: Indices, T_previous: Floats) -> list[PoseEstimate]:
        """Estimate the poses of N objects from those before, as one batch; a failure says ``LOST`` and why.

        Args:
            T_previous: [N,4,4], or [N,K,4,4] of K poses to try for each; they go through one iteration, and the one
                that looks most like the image goes on.
        """
        clock = StageClock()
        chosen = self._follow(frame, index, T_previous, tracking(self.config), clock)
        return chosen.estimates(names, clock.times())

    def warmup(self, renderer: Callable[[Mesh], Renderer]) -> StageTimes:
        """Run every stage once on a black image and an object of its own, so that all is compiled and loaded.

        Args:
            renderer: the backend's.
        """
        clock, index = StageClock(), np.zeros(1, np.int64)
        frame, T = self._stand_in(renderer)
        self._match(frame, [Detection("stand-in", (0, 0, *frame.camera.size))], index, clock)
        config = tracking(self.config)
        twice = replace(config, refine=replace(config.refine, iterations=2))  # the second looks back at the first
        self._follow(frame, index, T, twice, clock)  # from a pose of its own: there is nothing to match in black
        return clock.times()

    def _stand_in(self, renderer: Callable[[Mesh], Renderer]) -> tuple[Frame, Floats]:
        """Return a black image, its only object a stand-in, and T_camera_object [1,4,4] of that, metres."""
        mesh, model, camera, T = stand_in(self.bundle, self.ops, with_views=self.features is not None)
        image = self.ops.upload(np.zeros((camera.height, camera.width, 3), np.uint8))
        return Frame(image, camera, (model,), renderer(mesh)), T

    def _match(
        self, frame: Frame, detections: Sequence[Detection], index: Indices, clock: StageClock
    ) -> CoarseHypotheses:
        size, patch = self.bundle.input_size, self.bundle.patch_size
        with clock("crop"):
            margin, ops = self.config.coarse.margin, self.ops
            crops = crop_detections(frame.image, frame.camera, detections, size, ops=ops, margin=margin, patch=patch)
        networks: dict[str, Any] = {
            "encoder": self.runners["coarse_encoder"],
            "decoder": self.runners["coarse_decoder"],
        }
        options: dict[str, Any] = {"ops": self.ops, "solver": self.solver, "config": self.config, "patch": patch}
        options["depth"] = frame.depth
        with clock("coarse"):
            if self.features is None:
                return estimate_coarse(crops, frame.models, index, **networks, **options)
            schedule = self.config.schedule
            models, count = frame.models, schedule.hypotheses
            found = retrieve(frame.image, crops, models, index, features=self.features, count=count)
            hypotheses = found.hypotheses(crops.camera, index)
            if not schedule.matched:
                return hypotheses
            matched = match_views(
                frame.image, crops, models, index, found, **networks, **options, count=schedule.matched
            )
            return hypotheses.joined(matched)

    @property
    def _knows_trust(self) -> bool:
        """Tell whether poses can be trusted: whether presence is a probability."""
        return self.features is not None and self.bundle.score_map is not None

    def _early(self, count: int) -> NDArray[np.bool_] | None:
        """Tell which of ``count`` hypotheses of ``_match`` effort "fast" has too, bool [M]; see ``turns``.

        None with effort "best", which tries all, and where no pose can be trusted.
        """
        if self.config.effort == "best" or not self._knows_trust:
            return None
        views, matched, _ = self.config.schedule
        few = EFFORTS["fast"]
        place = np.arange(count) % (views + matched)  # of each detection the views come first, best first
        return np.where(place < views, place < few.hypotheses, place - views < few.matched)

    def maker(self, frame: Frame, config: EstimatorConfig) -> ImagePairMaker:
        """Return what makes the pairs of an image."""
        size, margin = self.bundle.input_size, config.advanced.refine.margin
        return ImagePairMaker(
            frame.image, frame.camera, frame.models, frame.renderer, size, margin, self.ops, frame.depth
        )

    def judge(self, maker: ImagePairMaker) -> Judge:
        """Return who scores the hypotheses of ``maker``'s image."""
        if self.features is None:
            return FitJudge(self.config.advanced.select)
        bundle = self.bundle
        return FeatureJudge(
            maker,
            self.features,
            bundle.score_map,
            np.array([model.plain_grey for model in maker.objects], np.bool_),
            bundle.grey_score_map,
            self.config.depth,
            bundle.depth_score_map,
        )

    def refine(
        self,
        maker: PairMaker,
        judge: Judge,
        T: Floats,
        index: Indices,
        config: EstimatorConfig,
        clock: StageClock,
        **competition: Any,
    ) -> Turns:
        """Refine poses [M,4,4] of the objects at ``index`` [M]; see ``stages.turns.turns``, for ``competition`` too."""
        return turns(
            maker,
            T,
            index,
            runner=self.runners["refiner"],
            solver=self.solver,
            config=config,
            radius_px=self.bundle.radius_px,
            judge=judge,
            clock=clock,
            **competition,
        )

    def _follow(self, frame: Frame, index: Indices, T: Floats, config: EstimatorConfig, clock: StageClock) -> Selection:
        """Refine and select from poses [N,4,4], each the only hypothesis of its object, or [N,K,4,4], see ``track``."""
        maker = self.maker(frame, config)
        judge = self.judge(maker)
        tried = T.reshape(len(index), -1, 4, 4)
        detection = np.repeat(np.arange(len(index)), tried.shape[1])
        config = replace(config, refine=replace(config.refine, survivors=1))
        T = tried.reshape(-1, 4, 4)
        left = self.refine(maker, judge, T, index[detection], config, clock, detection=detection)
        with clock("select"):
            return select(
                left.refined,
                detection[left.rows],
                len(index),
                frame.models,
                index[detection[left.rows]],
                self.config,
                T_previous=T[left.rows],
                judge=judge,
            ).with_covariance(*self.bundle.covariance_maps)
