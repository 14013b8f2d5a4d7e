"""The poses that detections of one image lead to: refined, judged, and to be chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import EstimatorConfig
from coop_edge.stages.boxes import filled, overlaps, within
from coop_edge.stages.coarse import CoarseHypotheses
from coop_edge.stages.frame import Frame
from coop_edge.stages.refine import Refined
from coop_edge.stages.rejection import Least
from coop_edge.stages.scoring import Judge, Judged, measure_fit
from coop_edge.stages.select import Selection, select
from coop_edge.types import Detection

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

SAME_BOX = 0.8
"""Overlap (intersection over union) from which a pose's box is the one given. Of 110 targets of the synthetic set
15 % were tried again with it (balanced), with 0.9 29 %, for a mean of AR_MSSD and AR_MSPD of 0.742 and 0.745 (0.734
without; 0.694 with either, and 0.615 without, where boxes are off by a fifth of their sides)."""


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """M hypotheses of N detections that were refined to the end, and how far they are to be believed."""

    frame: Frame
    detections: Sequence[Detection]
    coarse: CoarseHypotheses  # M
    refined: Refined  # M
    judge: Judge
    judged: Judged  # M

    @classmethod
    def judged_by(
        cls,
        judge: Judge,
        frame: Frame,
        detections: Sequence[Detection],
        coarse: CoarseHypotheses,
        refined: Refined,
        config: EstimatorConfig,
    ) -> Hypotheses:
        """Judge M poses of N detections; see ``Judge.score``."""
        fit = measure_fit(refined, config.advanced.select)
        judged = judge.score(refined, coarse.object_index, fit, coarse.evidence)
        return cls(frame, detections, coarse, refined, judge, judged)

    def choose(self, config: EstimatorConfig, least: Least | None = None) -> Selection:
        """Choose one of each detection's hypotheses; see ``select``, for ``config`` and ``least`` too."""
        coarse = self.coarse
        return select(
            self.refined,
            coarse.detection,
            len(self.detections),
            self.frame.models,
            coarse.object_index,
            config,
            evidence=coarse.evidence,
            reasons=[coarse.reason(i) for i in range(len(coarse))],
            judge=self.judged,
            least=least,
            filled=self._filled,
        )

    def in_other_boxes(self, config: EstimatorConfig) -> tuple[Indices, list[Detection]]:
        """Return the detections whose best pose is in doubt and has another box than theirs: rows [K], and K of these
        boxes.

        A pose is in doubt that is refused or has less than ``advanced.select.trusted_presence``. A mask says where the
        object is: with one there is nothing to look for.
        """
        chosen = self.choose(config)
        sure = chosen.presence >= config.advanced.select.trusted_presence
        settled = [
            detection.mask is not None or (trusted and not reason)
            for detection, trusted, reason in zip(self.detections, sure, chosen.reasons, strict=True)
        ]
        rows = np.flatnonzero((chosen.hypothesis >= 0) & ~np.array(settled, np.bool_))
        best = chosen.hypothesis[rows]
        own = self.frame.boxes(self.refined.T_camera_object[best], self.coarse.object_index[best])
        given = self._given(rows)
        other = overlaps(own, given).diagonal() < SAME_BOX  # not where the pose has no box in the image (NaN)
        found = [
            Detection(self.detections[row].object, tuple(box))
            for row, box in zip(rows[other].tolist(), own[other].tolist(), strict=True)
        ]
        return rows[other], found

    def joined(self, other: Hypotheses, rows: Indices) -> Hypotheses:
        """Return the hypotheses of both, those last that ``other`` has of the detections at ``rows`` of these."""
        moved = replace(other.coarse, detection=rows[other.coarse.detection])
        return replace(
            self,
            coarse=self.coarse.appended(moved),
            refined=self.refined.joined(other.refined),
            judged=self.judged.joined(other.judged),
        )

    def _given(self, rows: Indices) -> Floats:
        """Return the boxes given of the detections at ``rows`` [K], as far as they lie in the image, [K,4]."""
        boxes = np.array([self.detections[row].bbox for row in rows.tolist()], np.float64).reshape(-1, 4)
        return within(boxes, self.frame.camera.size)

    @cached_property
    def _filled(self) -> Floats:
        """Return the share of its box that each hypothesis fills, [M], see ``select``; NaN of models whose looks are
        known, on which it has no bearing."""
        out, index = np.full(len(self.coarse), np.nan), self.coarse.object_index
        grey = np.array([model.plain_grey for model in self.frame.models], np.bool_)
        rows = np.flatnonzero(grey[index] & self.refined.ok)
        own = self.frame.boxes(self.refined.T_camera_object[rows], index[rows])
        out[rows] = filled(self._given(self.coarse.detection[rows]), own)
        return out
