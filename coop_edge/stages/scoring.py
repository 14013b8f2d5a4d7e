"""Scores refined hypotheses: how far each is to be believed, by what the refiner says of its own matches.

With frozen features the score is ``judge.FeatureJudge``'s. Without them, of a refined hypothesis with confidences W,
residuals e at its final pose and threshold r (``inlier_px``):

    q = sum of W over cells with e < r / sum of W                       (GoTrack's weighted inlier ratio)
    a = mean over the rendered cells of certainty (1 - exp(-R / b))     (the share expected to be visible and matched)
    score = (q min(1, a / full_support))^(1 - w) evidence^w

with the coarse evidence (matched probability of RANSAC's inliers, at most 1; see ``AdvancedCoarseConfig``) and w =
``coarse_weight``. While tracking there is no coarse evidence, and w = 0. Without refinement the score is the coarse
evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import AdvancedSelectConfig
from coop_edge.geometry.crop import REFERENCE_SIZE
from coop_edge.stages.refine import Refined

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fit:
    """How well M refined hypotheses fit the image, on the host; 0 (``rms_px`` NaN) for those that failed."""

    inlier_ratio: Floats  # [M] q
    support: Floats  # [M] a
    n_inliers: NDArray[np.int64]  # [M] cells more probably visible than not, and below the threshold
    rms_px: Floats  # [M] of those, pixels of the image
    weight: Floats  # [M] sum of W over the cells below the threshold


class Judged(NamedTuple):
    """How far M hypotheses are to be believed."""

    score: Floats  # [M] in [0, 1]; 0 of what failed
    presence: Floats  # [M] the score as it would be at six diameters (``ScoreMap.presence``)
    appearance: Floats | None = None  # [M] how much render and image look alike, -1 to 1; NaN, None: not known
    with_depth: NDArray[np.bool_] | None = None  # [M] whether measured depth is part of it; None: of none

    def joined(self, other: Judged) -> Judged:
        """Return what both say, ``other`` last; the same judge said it, of the same image."""
        return Judged(
            np.concatenate([self.score, other.score]),
            np.concatenate([self.presence, other.presence]),
            _appended(self.appearance, other.appearance),
            _appended(self.with_depth, other.with_depth),
        )


class Judge(Protocol):
    """Says how far M refined hypotheses are to be believed, in [0, 1]; 0 of what failed.

    object_index [M]; fit: of the last iteration; evidence [M] of the coarse stage, None: there was none.
    """

    def rank(self, refined: Refined, object_index: NDArray[np.integer], fit: Fit, evidence: Floats | None) -> Floats:
        """Return by what hypotheses are compared that are to be refined further, [M]."""
        ...

    def score(self, refined: Refined, object_index: NDArray[np.integer], fit: Fit, evidence: Floats | None) -> Judged:
        """Judge final poses."""
        ...


@dataclass(frozen=True)
class FitJudge:
    """Judges by what the refiner says of itself, and by the coarse evidence; see the module's docstring."""

    config: AdvancedSelectConfig

    def rank(self, refined: Refined, object_index: NDArray[np.integer], fit: Fit, evidence: Floats | None) -> Floats:
        """Score by the equation in the module's docstring; see ``Judge.rank``."""
        return inlier_scores(refined, fit, evidence, self.config)

    def score(self, refined: Refined, object_index: NDArray[np.integer], fit: Fit, evidence: Floats | None) -> Judged:
        """Score by the equation in the module's docstring; see ``Judge.score``."""
        score = inlier_scores(refined, fit, evidence, self.config)
        return Judged(score, score)


def measure_fit(refined: Refined, config: AdvancedSelectConfig) -> Fit:
    """Measure the hypotheses of the last iteration at their final poses."""
    threshold = config.inlier_px * refined.crop_size / REFERENCE_SIZE
    ok = refined.ok[:, None]
    fits = ok & (refined.residual_px < threshold)
    weight = refined.weight.astype(np.float64)
    total = weight.sum(axis=1)
    agreeing = (weight * fits).sum(axis=1)
    ratio = agreeing / np.maximum(total, np.finfo(np.float64).tiny)
    cells = np.maximum((refined.silhouette & ok).sum(axis=1), 1)
    support = (refined.agreement.astype(np.float64) * ok).sum(axis=1) / cells
    inliers = fits & refined.visible
    count = inliers.sum(axis=1)
    squares = np.square(refined.residual_px, where=inliers, out=np.zeros(inliers.shape), dtype=np.float64).sum(axis=1)
    rms = np.where(count > 0, np.sqrt(squares / np.maximum(count, 1)) * refined.image_px, np.nan)
    return Fit(ratio, support, count, rms, agreeing)


def inlier_scores(refined: Refined, found: Fit, evidence: Floats | None, config: AdvancedSelectConfig) -> Floats:
    """Return scores [M] in [0, 1], by the equation in the module's docstring; 0 of what failed."""
    coarse = np.ones(len(refined)) if evidence is None else np.asarray(evidence, np.float64)
    weight = 0.0 if evidence is None else config.coarse_weight
    fit = found.inlier_ratio * np.minimum(1.0, found.support / config.full_support)
    score = np.where(refined.iterations > 0, fit ** (1.0 - weight) * coarse**weight, coarse)
    return np.where(refined.ok, np.clip(score, 0.0, 1.0), 0.0)


def _appended(a: Any, b: Any) -> Any:
    return None if a is None or b is None else np.concatenate([a, b])
