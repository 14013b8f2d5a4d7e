"""Stage 3: how far each hypothesis is to be believed, and the best one of each detection.

Score. With frozen features it is ``judge.FeatureJudge``'s. Without them, of a refined hypothesis with confidences W,
residuals e at its final pose and threshold r (``inlier_px``):

    q = sum of W over cells with e < r / sum of W                       (GoTrack's weighted inlier ratio)
    a = mean over the rendered cells of certainty (1 - exp(-R / b))     (the share expected to be visible and matched)
    score = (q min(1, a / full_support))^(1 - w) evidence^w

with the coarse evidence (matched probability of RANSAC's inliers, at most 1; see ``AdvancedCoarseConfig``) and w =
``coarse_weight``. While tracking there is no coarse evidence, and w = 0. Without refinement the score is the coarse
evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import AdvancedSelectConfig, EstimatorConfig
from coop_edge.geometry import se3
from coop_edge.geometry.crop import REFERENCE_SIZE
from coop_edge.runtime.covariance_map import CovarianceMap
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.refine import Refined
from coop_edge.types import PoseEstimate, StageTimes

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

LOST = "lost"
"""What the reason of a tracked object begins with whose evidence has dropped."""


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
    appearance: Floats | None = None  # [M] how much render and image look alike, -1 to 1; None: not known


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
        return Judged(inlier_scores(refined, fit, evidence, self.config))


@dataclass(frozen=True, eq=False)
class Selection:
    """The answer for each of N detections, and the score and the reason of rejection ("" = none) of each hypothesis."""

    hypothesis: NDArray[np.int64]  # [N] chosen, or the best one rejected; -1 = the detection has none
    T_camera_object: Floats  # [N,4,4]; NaN where not successful
    covariance: Floats  # [N,6,6]; NaN where not successful or unknown
    scores: Floats  # [N]
    n_inliers: NDArray[np.int64]  # [N]
    rms_px: Floats  # [N] pixels of the image; NaN if unknown
    used_depth: NDArray[np.bool_]  # [N] whether measured depth bore on the pose
    reasons: tuple[str, ...]  # [N] "" = success
    hypothesis_scores: Floats  # [M]
    hypothesis_reasons: tuple[str, ...]  # [M]

    def __len__(self) -> int:
        return len(self.reasons)

    def with_covariance(self, covariance_map: CovarianceMap | None, diameters: Floats) -> Selection:
        """Return the same answers with covariances that the errors of poses have; diameters [N], metres."""
        if covariance_map is None:
            return self
        return replace(self, covariance=covariance_map.apply(self.covariance, self.T_camera_object, diameters))

    def estimates(self, names: Sequence[str], times: StageTimes | None = None) -> list[PoseEstimate]:
        """Make PoseEstimates of them, ``names`` [N] being those of the objects."""
        out = []
        for i, (name, reason) in enumerate(zip(names, self.reasons, strict=True)):
            values: dict[str, Any] = {"score": float(self.scores[i]), "n_inliers": int(self.n_inliers[i])}
            values["used_depth"] = bool(self.used_depth[i])
            if np.isfinite(self.rms_px[i]):
                values["reprojection_rms_px"] = float(self.rms_px[i])
            if not reason:
                values["T_camera_object"] = self.T_camera_object[i]
                values["covariance"] = self.covariance[i] if np.isfinite(self.covariance[i]).all() else None
            out.append(PoseEstimate(not reason, reason, times=times, object=name, **values))
        return out


def select(
    refined: Refined,
    detection: NDArray[np.integer],
    count: int,
    objects: Sequence[ObjectModel],
    object_index: NDArray[np.integer],
    config: EstimatorConfig,
    *,
    evidence: Floats | None = None,
    reasons: Sequence[str] | None = None,
    T_previous: Floats | None = None,
    judge: Judge | None = None,
    least: float | None = None,
) -> Selection:
    """Score M hypotheses, reject what disagrees, keep the best of each of ``count`` detections.

    Among the poses of a symmetric object that look the same the one nearest to T_previous is returned, without it the
    one least turned against the camera. Of equal scores the earlier hypothesis wins.

    Args:
        detection: integers [M].
        object_index: integers [M].
        config: ``select`` and ``advanced.select``.
        evidence: [M], of the coarse stage; None: there was none.
        reasons: [M], of the coarse stage; None: there was none.
        T_previous: [M,4,4] the poses tracked from; failures then are ``LOST``, and why.
        judge: scores the hypotheses; None: ``FitJudge``.
        least: weight (``Fit``) of a pose that is believed, where no box says that the object is there; None:
            ``advanced.select.min_weight`` while tracking, else 0.
    """
    index, detection = np.asarray(object_index, np.int64), np.asarray(detection, np.int64)
    if least is None:
        least = 0.0 if T_previous is None else config.advanced.select.min_weight
    found = measure_fit(refined, config.advanced.select)
    judged = (judge or FitJudge(config.advanced.select)).score(refined, index, found, evidence)
    scores = judged.score
    rejected = tuple(
        (reasons[i] if reasons else "")
        or refined.reasons[i]
        or _rejection(refined, found, judged, config, i, least=least)
        for i in range(len(refined))
    )
    chosen = np.full(count, -1, np.int64)
    rank = np.where(np.array([r == "" for r in rejected], bool), scores + 2.0, scores)  # any accepted before any other
    for i in range(len(refined)):
        d = detection[i]
        if chosen[d] < 0 or rank[i] > rank[chosen[d]]:
            chosen[d] = i
    return _selection(refined, found, scores, rejected, chosen, objects, index, T_previous)


def survivors(scores: Floats, ok: NDArray[np.bool_], detection: Indices, kept: int) -> Indices:
    """Return the rows, ascending, of the ``kept`` best scored hypotheses of each detection.

    Failed ones are kept only where there are no others; ties go to the earlier one.

    Args:
        scores: float64 [M], in [0, 1].
        ok: bool [M], whether a hypothesis has a pose.
        detection: integers [M].
        kept: at most, of each detection.
    """
    order = np.lexsort((np.arange(len(scores)), -(scores + ok), detection))
    grouped = detection[order]
    place = np.arange(len(order)) - np.searchsorted(grouped, grouped)  # within the own detection
    return np.sort(order[place < kept])


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


def _rejection(refined: Refined, found: Fit, judged: Judged, config: EstimatorConfig, i: int, *, least: float) -> str:
    """Return why hypothesis i, which has a pose, is not to be believed; "" if it is.

    least: weight that it needs. Without a box little evidence is not enough, however well it agrees: nothing says that
    the object is there, and the pose starts where it would be.
    """
    if refined.iterations[i] and (reason := _too_little(refined, found, config, i, least=least)):
        return f"select: {reason}"
    score, min_score = judged.score[i], config.select.min_score
    if score < min_score:
        return f"select: score {score:.3f} is below select.min_score = {min_score:g}"
    looks, wanted = judged.appearance, config.advanced.select.min_appearance
    if min_score and refined.iterations[i] and looks is not None and looks[i] < wanted:
        return f"select: render and image do not look alike (similarity {looks[i]:.2f}, wanted at least {wanted:g})"
    return ""


def _too_little(refined: Refined, found: Fit, config: EstimatorConfig, i: int, *, least: float) -> str:
    """Return what hypothesis i, which was refined, has too little of; "" if nothing."""
    options, advanced = config.select, config.advanced.select
    size_px = refined.image_px[i] * refined.crop_size / config.advanced.refine.margin
    if size_px < advanced.min_size_px:
        return f"the object is too small in the image ({size_px:.1f} px, wanted at least {advanced.min_size_px:g})"
    if found.inlier_ratio[i] < options.min_inlier_ratio:
        ratio = f"weighted inlier ratio {found.inlier_ratio[i]:.2f}, wanted at least {options.min_inlier_ratio:g}"
        return f"render and image disagree ({ratio})"
    area = (refined.crop_size / REFERENCE_SIZE) ** 2  # as the number of cells grows
    if found.n_inliers[i] < (wanted := math.ceil(options.min_inliers * area)):
        return f"too little of the object matches the image ({found.n_inliers[i]} inliers, wanted at least {wanted})"
    if found.weight[i] < least * area:
        weight = f"inlier weight {found.weight[i]:.1f}, wanted at least {least * area:g}"
        return f"too little of the object is matched with certainty ({weight})"
    return ""


def _selection(
    refined: Refined,
    found: Fit,
    scores: Floats,
    rejected: tuple[str, ...],
    chosen: NDArray[np.int64],
    objects: Sequence[ObjectModel],
    index: NDArray[np.int64],
    T_previous: Floats | None,
) -> Selection:
    n = len(chosen)
    T, covariance = np.full((n, 4, 4), np.nan), np.full((n, 6, 6), np.nan)
    reasons = []
    for d, i in enumerate(chosen):
        reason = "no candidate pose" if i < 0 else rejected[i]
        if not reason:
            reference = None if T_previous is None else T_previous[i]
            pose, spread = refined.T_camera_object[i], refined.covariance[i]
            T[d], covariance[d] = one_of_the_same(objects[index[i]], pose, spread, reference)
        reasons.append(f"{LOST}: {reason}" if reason and T_previous is not None else reason)
    has = chosen >= 0

    def of_chosen(values: NDArray[Any], missing: float) -> NDArray[Any]:
        out = np.full(n, missing, values.dtype)
        out[has] = values[chosen[has]]
        return out

    return Selection(
        hypothesis=chosen,
        T_camera_object=T,
        covariance=covariance,
        scores=of_chosen(scores, 0.0),
        n_inliers=of_chosen(found.n_inliers, 0),
        rms_px=of_chosen(found.rms_px, np.nan),
        used_depth=of_chosen(refined.used_depth, False),
        reasons=tuple(reasons),
        hypothesis_scores=scores,
        hypothesis_reasons=rejected,
    )


def one_of_the_same(
    model: ObjectModel, T_camera_object: Floats, covariance: Floats, T_reference: Floats | None
) -> tuple[Floats, Floats]:
    """Return the pose nearest to a reference among those that look like T by symmetry, and its covariance.

    Args:
        model: the object.
        T_camera_object: T, [4,4] metres.
        covariance: [6,6] of T.
        T_reference: [4,4]; None: R = I at the same place.

    Returns:
        T' [4,4] and its covariance [6,6].

    With T' = T S and S = [R_s t_s; 0 1] the translation is t' = R t_s + t, so rho' = rho - (R t_s) x phi.
    """
    if model.symmetries.trivial:
        return T_camera_object, covariance
    if T_reference is None:
        centre = T_camera_object[:3, :3] @ model.centre + T_camera_object[:3, 3]
        T_reference = se3.from_rt(np.eye(3), centre - model.centre)
    T = model.symmetries.nearest_symmetric(T_camera_object, T_reference)
    A = np.eye(6)
    A[:3, 3:] = -se3.hat(T[:3, 3] - T_camera_object[:3, 3])
    return T, A @ covariance @ A.T
