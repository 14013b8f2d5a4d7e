"""Stage 1: from detections to pose hypotheses by matching with the templates (Co-op, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import CoarseConfig, RansacConfig
from coop_edge.geometry import se3
from coop_edge.geometry.crop import REFERENCE_SIZE
from coop_edge.geometry.patches import patch_centres
from coop_edge.ops.base import Array, Operations
from coop_edge.pnp.base import PnpSolver, PnpStatus, RansacResult
from coop_edge.runtime.base import Runner
from coop_edge.stages.batches import run_batched
from coop_edge.stages.crop import Crops
from coop_edge.stages.matches import decode
from coop_edge.stages.objects import ObjectModel

CHANCE_THRESHOLD_PX, MATCHES_PER_CHANCE_INLIER = 10.0, 7
"""Among outliers alone the best pose's inliers grow by about one with as many matches at this threshold (pixels of the
reference crop); below it the share goes with the area of a threshold's circle. See ``CoarseConfig.min_inliers``."""


@dataclass(frozen=True, eq=False)
class CoarseHypotheses:
    """M = N k hypotheses on the host, those of detection 0 first, each detection's in the order of ``support``."""

    detection: NDArray[np.int64]  # [M]
    object_index: NDArray[np.int64]  # [M]
    template: NDArray[np.int64]  # [M]
    T_camera_object: NDArray[np.float64]  # [M,4,4]; NaN where not solved
    status: NDArray[np.int32]  # [M] PnpStatus
    template_score: NDArray[np.float64]  # [M] sum of matched probability over the query's patches
    n_matches: NDArray[np.int64]  # [M] correspondences given to RANSAC
    n_inliers: NDArray[np.int64]  # [M]
    support: NDArray[np.float64]  # [M] the inliers' matched probability, summed; 0 where not solved
    evidence: NDArray[np.float64]  # [M] in [0, 1]: support, 1 where it is that of ``full_evidence`` of the patches

    def __len__(self) -> int:
        return len(self.detection)

    @property
    def solved(self) -> NDArray[np.bool_]:
        """[M]"""
        return np.asarray(self.status == PnpStatus.SOLVED)

    def best(self, candidates: int, kept: int) -> CoarseHypotheses:
        """Of each detection's ``candidates`` the ``kept`` of most support; of equal ones those that came first."""
        support = self.support.reshape(len(self) // max(candidates, 1), candidates)  # no -1: there may be none
        order = np.argsort(-support, axis=1, kind="stable")[:, :kept]
        return self.take((order + candidates * np.arange(len(order))[:, None]).ravel())

    def take(self, rows: NDArray[np.integer]) -> CoarseHypotheses:
        """Those at ``rows``."""
        return CoarseHypotheses(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

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
    ops: Operations,
    encoder: Runner,
    decoder: Runner,
    solver: PnpSolver,
    config: CoarseConfig,
    ransac: RansacConfig,
    patch: int,
) -> CoarseHypotheses:
    """Make hypotheses for N crops [N,3,S,S], of the objects at ``object_index`` [N]. N = 0 is legal.

    ops: of the device where crops are and networks run. encoder, decoder: open runners of ``coarse_encoder`` and
    ``coarse_decoder``. patch: pixels, of the bundle.

    The sum of matched probability ranks templates (Co-op, section 3.1), but also those with many matches that fit no
    pose. So more templates are solved than hypotheses are wanted, and the poses with the most matched probability among
    their inliers are kept.

    All N ``candidates`` problems go to the solver in one call; a detection's hypotheses are the same, to the last bit
    of the solver, whatever else is in the batch. Correspondences and RANSAC stay on the device, and the host waits for
    it twice: for the templates' scores (V float32 per detection), by which it chooses templates, and for the results
    (20 float64 per candidate, one copy).
    """
    object_index = np.asarray(object_index, np.int64).reshape(-1)
    tokens = run_batched(ops, encoder, {"image": crops.images}, config.micro_batch)["tokens"]
    decoded = decode(ops, decoder, tokens, objects, object_index, crops.trusted, config.micro_batch)
    scores = ops.to_host(decoded.probability.sum(axis=-1)).astype(np.float64)  # [N,V]
    best = np.argsort(-scores, axis=1, kind="stable")[:, : max(config.candidates, config.hypotheses)]
    maps = [objects[i].object_points for i in object_index.tolist()]
    points, valid, probability = ops.lift(decoded, best, maps, patch, config.min_probability)
    solved = _solve(ops, solver, points, valid, crops, ransac, patch)
    mass = probability.astype(np.float64)
    support = (mass * solved.inliers.reshape(valid.shape)).sum(axis=2)
    columns = {
        "T": solved.T_camera_object,
        "status": solved.statistics.status,
        "n_inliers": solved.statistics.n_inliers,
        "n_matches": valid.sum(axis=2).reshape(-1),
        "support": support.reshape(-1),
    }
    found = dict(zip(columns, ops.to_host_together(*columns.values()), strict=True))
    least = least_inliers(found["n_matches"], config.min_inliers, ransac.threshold_px)
    full = config.full_evidence * mass.shape[2]
    return _hypotheses(crops, object_index, best, scores, found, least, full).best(best.shape[1], config.hypotheses)


def least_inliers(n_matches: NDArray[np.number], constant: int, threshold_px: float) -> NDArray[np.int64]:
    """Inliers [M] below which a hypothesis may be chance; threshold_px: of a crop of ``REFERENCE_SIZE``."""
    share = min(threshold_px / CHANCE_THRESHOLD_PX, 1.0) ** 2 / MATCHES_PER_CHANCE_INLIER
    return constant + (n_matches * share).astype(np.int64)


def _solve(
    ops: Operations, solver: PnpSolver, points: Array, valid: Array, crops: Crops, ransac: RansacConfig, patch: int
) -> RansacResult:
    """Solve points [N,k,T,3], valid [N,k,T], in the axes of each crop: B = N k problems of RANSAC."""
    xp = ops.xp
    n, k, count = valid.shape
    size = crops.camera.size
    centres = xp.asarray(patch_centres(size, patch).astype(np.float32))
    K = xp.asarray(np.repeat(crops.camera.K, k, axis=0))
    # A problem draws its samples by its place in its own detection: what else is in the batch has no part in it.
    place = xp.asarray(np.tile(np.arange(k, dtype=np.uint32), n))
    return solver.ransac_epnp(
        points.reshape(n * k, count, 3),
        xp.broadcast_to(centres, (n * k, count, 2)),
        valid.reshape(n * k, count),
        K,
        replace(ransac, threshold_px=ransac.threshold_px * size / REFERENCE_SIZE),
        substreams=place,
    )


def _hypotheses(
    crops: Crops,
    object_index: NDArray[np.int64],
    best: NDArray[np.integer],
    scores: NDArray[np.float64],
    found: Mapping[str, NDArray[Any]],
    least: NDArray[np.int64],
    full: float,
) -> CoarseHypotheses:
    n, k = best.shape
    matches, inliers = found["n_matches"].astype(np.int64), found["n_inliers"].astype(np.int64)
    few = (found["status"] == PnpStatus.SOLVED) & (inliers < least)
    status = np.where(few, PnpStatus.TOO_FEW_INLIERS, found["status"]).astype(np.int32)
    solved = status == PnpStatus.SOLVED
    support = np.where(solved, found["support"], 0.0)
    R_camera_crop = np.repeat(np.swapaxes(crops.camera.R_crop_camera, 1, 2), k, axis=0)
    T = se3.compose(se3.from_rt(R_camera_crop, np.zeros(3)), found["T"])
    return CoarseHypotheses(
        detection=np.repeat(np.arange(n), k),
        object_index=np.repeat(object_index, k),
        template=best.reshape(-1).astype(np.int64),
        T_camera_object=np.where(solved[:, None, None], T, np.nan),
        status=status,
        template_score=np.take_along_axis(scores, best, axis=1).reshape(-1),
        n_matches=matches,
        n_inliers=inliers,
        support=support,
        evidence=np.minimum(support / full, 1.0),
    )
