"""Judges refined hypotheses by frozen features: does the render at a pose look like the image there?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coop_edge.runtime.score_map import ScoreMap
from coop_edge.stages.features import MAPS, FeatureExtractor, coverage, similarity
from coop_edge.stages.pairs import PairMaker
from coop_edge.stages.refine import Refined
from coop_edge.stages.select import Fit

Floats = NDArray[np.float64]

COMPARED = ("s8", "s16")
"""Maps whose similarities are evidence."""


@dataclass(frozen=True, eq=False)
class FeatureJudge:
    """Turns the evidence for M hypotheses of one image into scores; a ``select.Judge``.

    The evidence is the similarity of crop and render in two maps, and the refiner's own (``Fit``). score_map: from
    evidence to a probability, of the bundle; without one (None) the score is similarity_8 (1 + q min(1, a)) / 2, which
    ranks hypotheses and is no probability.
    """

    maker: PairMaker
    features: FeatureExtractor
    score_map: ScoreMap | None

    def __call__(
        self, refined: Refined, object_index: NDArray[np.int64], fit: Fit, evidence: Floats | None
    ) -> Floats:
        """See ``select.Judge``; the coarse evidence takes no part, the render says more."""
        found = self.evidence(refined, object_index, fit)
        if self.score_map is None:
            own = found["inlier_ratio"] * np.minimum(1.0, found["support"])
            score = np.clip(found["similarity_8"], 0.0, 1.0) * (1.0 + own) / 2.0
        else:
            score = self.score_map.probability(found)
        return np.where(refined.ok, score, 0.0)

    def evidence(self, refined: Refined, object_index: NDArray[np.int64], fit: Fit) -> dict[str, Floats]:
        """Return the evidence by name, each [M]; similarities of failed hypotheses are 0."""
        shown = np.flatnonzero(refined.ok)
        pairs = self.maker.make(refined.T_camera_object[shown], np.asarray(object_index)[shown])
        ops, xp = self.maker.ops, self.maker.ops.xp
        seen = self.features.maps(xp.concatenate([pairs.query, pairs.render]), *COMPARED)
        alike = [
            similarity(maps[: len(shown)], maps[len(shown) :], coverage(pairs.depth, MAPS[name], xp), xp)
            for name, maps in zip(COMPARED, seen, strict=True)
        ]
        out = {"inlier_ratio": fit.inlier_ratio, "support": fit.support}
        for name, values in zip(COMPARED, ops.to_host_together(*alike), strict=True):
            out[f"similarity_{MAPS[name]}"] = np.zeros(len(refined))
            out[f"similarity_{MAPS[name]}"][shown] = values
        return out
