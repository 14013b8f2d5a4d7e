"""Stage 1: from detections to pose hypotheses by matching with the templates (Co-op, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import CoarseConfig, RansacConfig
from coop_edge.geometry import se3
from coop_edge.pnp.base import PnpSolver, PnpStatus, RansacResult
from coop_edge.runtime.base import Runner
from coop_edge.stages.arrays import array_module, on_host, run_batched
from coop_edge.stages.crop import Crops
from coop_edge.stages.matches import decode, lift, patch_centres
from coop_edge.stages.objects import ObjectModel

REFERENCE_SIZE = 128
"""Side of the crop, pixels, for which ``RansacConfig.threshold_px`` is meant; it grows with the crop."""
MATCHES_PER_CHANCE_INLIER = 48
"""Among outliers alone the best pose's inliers grow by about one with as many matches; see ``CoarseConfig``."""


@dataclass(frozen=True, eq=False)
class CoarseHypotheses:
    """M = N k hypotheses on the host, those of detection 0 first, each detection's in the order of template score."""

    detection: NDArray[np.int64]  # [M]
    object_index: NDArray[np.int64]  # [M]
    template: NDArray[np.int64]  # [M]
    T_camera_object: NDArray[np.float64]  # [M,4,4]; NaN where not solved
    status: NDArray[np.int32]  # [M] PnpStatus
    template_score: NDArray[np.float64]  # [M] sum of matched probability over the query's patches
    n_matches: NDArray[np.int64]  # [M] correspondences given to RANSAC
    n_inliers: NDArray[np.int64]  # [M]
    evidence: NDArray[np.float64]  # [M] in [0, 1]: the inliers' share of the matched probability; 0 where not solved

    def __len__(self) -> int:
        return len(self.detection)

    @property
    def solved(self) -> NDArray[np.bool_]:
        """[M]"""
        return np.asarray(self.status == PnpStatus.SOLVED)

    def reason(self, i: int) -> str:
        """Why hypothesis i has no pose, one readable line; "" if it has one."""
        if self.solved[i]:
            return ""
        figures = f"{self.n_inliers[i]} inliers of {self.n_matches[i]} matches"
        return f"coarse: {PnpStatus(int(self.status[i])).reason} ({figures})"


def estimate_coarse(
    crops: Crops,
    objects: Sequence[ObjectModel],
    object_index: NDArray[np.integer],
    *,
    encoder: Runner,
    decoder: Runner,
    solver: PnpSolver,
    config: CoarseConfig,
    ransac: RansacConfig,
    patch: int,
) -> CoarseHypotheses:
    """Hypotheses for N crops [N,3,S,S], of the objects at ``object_index`` [N]. N = 0 is legal.

    encoder, decoder: open runners of ``coarse_encoder`` and ``coarse_decoder``. patch: pixels, of the bundle.
    """
    object_index = np.asarray(object_index, np.int64).reshape(-1)
    tokens = run_batched(encoder, {"image": crops.images}, config.micro_batch)["tokens"]
    decoded = decode(decoder, tokens, objects, object_index, crops.trusted, config.micro_batch)
    scores = on_host(decoded.probability.sum(axis=-1)).astype(np.float64)  # [N,V]
    best = np.argsort(-scores, axis=1, kind="stable")[:, : config.hypotheses]
    points, valid, probability = lift(decoded, best, objects, object_index, patch, config.min_probability)
    n, k, count = valid.shape
    centres = np.broadcast_to(patch_centres(crops.camera.size, patch).astype(np.float32), (k, count, 2))
    settings = replace(ransac, threshold_px=ransac.threshold_px * crops.camera.size / REFERENCE_SIZE)
    parts = []
    for i in range(n):
        # One call per detection: samples are drawn by a problem's place in its call, which must not depend on what
        # else is in the batch.
        xp = array_module(points)
        K = xp.asarray(np.broadcast_to(crops.camera.K[i], (k, 3, 3)))
        result = solver.ransac_epnp(points[i], xp.asarray(centres), valid[i], K, settings)
        parts.append(_on_host(result))
    return _hypotheses(crops, object_index, best, scores, on_host(valid), on_host(probability), parts, config)


def _hypotheses(
    crops: Crops,
    object_index: NDArray[np.int64],
    best: NDArray[np.integer],
    scores: NDArray[np.float64],
    valid: NDArray[np.bool_],
    probability: NDArray[np.float32],
    parts: Sequence[tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int32]]],
    config: CoarseConfig,
) -> CoarseHypotheses:
    n, k, count = valid.shape
    T = np.array([part[0] for part in parts]).reshape(n, k, 4, 4)
    inlier = np.array([part[1] for part in parts], np.bool_).reshape(n, k, count)
    status = np.array([part[2] for part in parts], np.int32).reshape(n, k)
    matches, inliers = valid.sum(axis=2), inlier.sum(axis=2)
    chance = config.min_inliers + matches // MATCHES_PER_CHANCE_INLIER
    status = np.where((status == PnpStatus.SOLVED) & (inliers < chance), np.int32(PnpStatus.TOO_FEW_INLIERS), status)
    solved = status == PnpStatus.SOLVED
    R_camera_crop = np.swapaxes(crops.camera.R_crop_camera, 1, 2)[:, None]
    T = np.where(solved[..., None, None], se3.compose(se3.from_rt(R_camera_crop, np.zeros(3)), T), np.nan)
    mass = probability.astype(np.float64)
    share = (mass * inlier).sum(axis=2) / np.maximum(mass.sum(axis=2), np.finfo(np.float64).tiny)
    return CoarseHypotheses(
        detection=np.repeat(np.arange(n), k),
        object_index=np.repeat(object_index, k),
        template=best.reshape(-1).astype(np.int64),
        T_camera_object=T.reshape(-1, 4, 4),
        status=status.reshape(-1).astype(np.int32),
        template_score=np.take_along_axis(scores, best, axis=1).reshape(-1),
        n_matches=matches.reshape(-1),
        n_inliers=inliers.reshape(-1),
        evidence=np.where(solved, share, 0.0).reshape(-1),
    )


def _on_host(result: RansacResult) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int32]]:
    return on_host(result.T_camera_object), on_host(result.inliers), on_host(result.statistics.status)
