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

MAP = "s8"
"""The map by which render and image are compared; a finer or a coarser one beside it adds nothing."""


@dataclass(frozen=True, eq=False)
class FeatureJudge:
    """Turns the evidence for M hypotheses of one image into scores; a ``select.Judge``.

    The evidence is the similarity of crop and render (``features.similarity``), and the refiner's own: inlier ratio q
    and support a (``Fit``). score_map: from evidence to a probability, of the bundle; without one (None) the score is
    similarity (1 + q a) / 2, which ranks hypotheses and is no probability.
    """

    maker: PairMaker
    features: FeatureExtractor
    score_map: ScoreMap | None

    def rank(self, refined: Refined, object_index: NDArray[np.integer], fit: Fit, evidence: Floats | None) -> Floats:
        """See ``Judge.rank``: by the similarity alone, since after one iteration the refiner cannot tell yet."""
        return np.clip(self.similarity(refined, object_index), 0.0, 1.0)

    def score(self, refined: Refined, object_index: NDArray[np.integer], fit: Fit, evidence: Floats | None) -> Floats:
        """See ``Judge.score``; the coarse evidence takes no part, the render says more.

        Without refinement there is no evidence of the refiner's, and the score is the similarity alone.
        """
        found = self.evidence(refined, object_index, fit)
        if self.score_map is None:
            own = found["inlier_ratio"] * found["support"]
            score = np.clip(found["similarity"], 0.0, 1.0) * (1.0 + own) / 2.0
        else:
            score = self.score_map.probability(found)
        score = np.where(refined.iterations > 0, score, np.clip(found["similarity"], 0.0, 1.0))
        return np.where(refined.ok, score, 0.0)

    def evidence(self, refined: Refined, object_index: NDArray[np.integer], fit: Fit) -> dict[str, Floats]:
        """Return the evidence for each pose by its names in ``ScoreMap``, each [M]; 0 of failed hypotheses."""
        alike = self.similarity(refined, object_index)
        return {"similarity": alike, "inlier_ratio": fit.inlier_ratio, "support": fit.support}

    def similarity(self, refined: Refined, object_index: NDArray[np.integer]) -> Floats:
        """Return the similarity of crop and render at each pose, [M]; 0 of failed hypotheses."""
        out, shown = np.zeros(len(refined)), np.flatnonzero(refined.ok)
        pairs = self.maker.make(refined.T_camera_object[shown], np.asarray(object_index)[shown])
        ops, xp = self.maker.ops, self.maker.ops.xp
        (maps,) = self.features.maps(xp.concatenate([pairs.query, pairs.render]), MAP)
        covered = coverage(pairs.depth, MAPS[MAP], xp)
        out[shown] = ops.to_host(similarity(maps[: len(shown)], maps[len(shown) :], covered, xp))
        return out
