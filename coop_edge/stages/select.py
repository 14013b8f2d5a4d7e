"""Stage 3: rejects hypotheses that are not to be believed, and keeps the best one of each detection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import EstimatorConfig
from coop_edge.geometry import se3
from coop_edge.runtime.covariance_map import CovarianceMap
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.refine import Refined
from coop_edge.stages.rejection import Least, rejection
from coop_edge.stages.scoring import Fit, FitJudge, Judge, Judged, measure_fit
from coop_edge.types import PoseEstimate, StageTimes

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

LOST = "lost"
"""Beginning of the reason of a tracked object that is lost."""


@dataclass(frozen=True, eq=False)
class Selection:
    """The answer for each of N detections, and presence and reason of rejection ("" = none) of each hypothesis."""

    hypothesis: NDArray[np.int64]  # [N] chosen, or the best one rejected; -1 = the detection has none
    T_camera_object: Floats  # [N,4,4]; NaN where not successful
    covariance: Floats  # [N,6,6]; NaN where not successful or unknown
    scores: Floats  # [N]
    presence: Floats  # [N]
    n_inliers: NDArray[np.int64]  # [N]
    rms_px: Floats  # [N] pixels of the image; NaN if unknown
    used_depth: NDArray[np.bool_]  # [N] whether measured depth bore on the pose
    reasons: tuple[str, ...]  # [N] "" = success
    hypothesis_presence: Floats  # [M]
    hypothesis_reasons: tuple[str, ...]  # [M]

    def __len__(self) -> int:
        return len(self.reasons)

    def with_covariance(self, plain: CovarianceMap | None, with_depth: CovarianceMap | None) -> Selection:
        """Return the same answers with covariances that the errors of poses have.

        Args:
            plain, with_depth: maps for poses on which measured depth had no bearing, and for the others; None: as
                solved.
        """
        covariance = self.covariance
        for found, concerned in ((plain, ~self.used_depth), (with_depth, self.used_depth)):
            if found is not None:
                covariance = np.where(concerned[:, None, None], found.apply(self.covariance), covariance)
        return replace(self, covariance=covariance)

    def estimates(self, names: Sequence[str], times: StageTimes | None = None) -> list[PoseEstimate]:
        """Make PoseEstimates of them, ``names`` [N] being those of the objects."""
        out = []
        for i, (name, reason) in enumerate(zip(names, self.reasons, strict=True)):
            values: dict[str, Any] = {"score": float(self.scores[i]), "presence": float(self.presence[i])}
            values["n_inliers"] = int(self.n_inliers[i])
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
    judge: Judge | Judged | None = None,
    least: Least | None = None,
    filled: Floats | None = None,
) -> Selection:
    """Score M hypotheses, reject what disagrees, keep the one of each of ``count`` detections with the most presence.

    Among the poses of a symmetric object that look the same the one nearest to T_previous is returned, without it the
    one least turned against the camera. Of equal ones the earlier hypothesis wins.

    Args:
        detection: integers [M].
        object_index: integers [M].
        config: ``select`` and ``advanced.select``.
        evidence: [M], of the coarse stage; None: there was none.
        reasons: [M], of the coarse stage; None: there was none.
        T_previous: [M,4,4] the poses tracked from; failures then are ``LOST``, and why.
        judge: scores the hypotheses, or what it said of them; None: ``FitJudge``.
        least: of a pose that is believed; None: ``Least.of``.
        filled: [M] share of the detection's box that lies in the object's box at the pose; NaN, None: not known.
    """
    index, detection = np.asarray(object_index, np.int64), np.asarray(detection, np.int64)
    if least is None:
        least = Least.of(config, tracking=T_previous is not None)
    judge = judge or FitJudge(config.advanced.select)
    found, judged, rejected = _judged(
        refined, index, config, judge, evidence=evidence, reasons=reasons, least=least, filled=filled
    )
    chosen = np.full(count, -1, np.int64)
    rank = judged.presence + 2.0 * np.array([r == "" for r in rejected])  # any accepted before any other
    for i in range(len(refined)):
        d = detection[i]
        if chosen[d] < 0 or rank[i] > rank[chosen[d]]:
            chosen[d] = i
    return _selection(refined, found, judged, rejected, chosen, objects, index, T_previous)


def trusted(
    refined: Refined,
    object_index: NDArray[np.integer],
    config: EstimatorConfig,
    judge: Judge,
    *,
    evidence: Floats | None = None,
) -> NDArray[np.bool_]:
    """Tell which of M hypotheses are accepted and so surely right that no others are tried, bool [M].

    They have at least ``advanced.select.trusted_presence``, and those that are judged by measured depth too
    ``advanced.select.settled_with_depth``.

    Args:
        object_index: integers [M].
        config: ``select`` and ``advanced.select``.
        judge: scores the hypotheses.
        evidence: [M], of the coarse stage; None: there was none.
    """
    least = Least.of(config, tracking=False)
    index = np.asarray(object_index, np.int64)
    _, judged, rejected = _judged(refined, index, config, judge, evidence=evidence, reasons=None, least=least)
    accepted = np.array([reason == "" for reason in rejected], np.bool_)
    options, with_depth = config.advanced.select, judged.with_depth
    wanted = np.full(len(refined), options.trusted_presence)
    if with_depth is not None:
        wanted[with_depth] = max(options.trusted_presence, options.settled_with_depth)
    return accepted & (judged.presence >= wanted)


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


def _judged(
    refined: Refined,
    index: Indices,
    config: EstimatorConfig,
    judge: Judge | Judged,
    *,
    evidence: Floats | None,
    reasons: Sequence[str] | None,
    least: Least,
    filled: Floats | None = None,
) -> tuple[Fit, Judged, tuple[str, ...]]:
    """Return fit, judgement and reasons of rejection [M] ("" = none) of M hypotheses; arguments as of ``select``."""
    found = measure_fit(refined, config.advanced.select)
    judged = judge if isinstance(judge, Judged) else judge.score(refined, index, found, evidence)
    rejected = tuple(
        (reasons[i] if reasons else "")
        or refined.reasons[i]
        or rejection(refined, found, judged, config, i, least=least, filled=filled)
        for i in range(len(refined))
    )
    return found, judged, rejected


def _selection(
    refined: Refined,
    found: Fit,
    judged: Judged,
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
        scores=of_chosen(judged.score, 0.0),
        presence=of_chosen(judged.presence, 0.0),
        n_inliers=of_chosen(found.n_inliers, 0),
        rms_px=of_chosen(found.rms_px, np.nan),
        used_depth=of_chosen(refined.used_depth, False),
        reasons=tuple(reasons),
        hypothesis_presence=judged.presence,
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
