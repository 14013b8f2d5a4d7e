"""Makes pose hypotheses of detections by matching with the templates (stage 1; Co-op, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import EstimatorConfig
from coop_edge.geometry import se3
from coop_edge.geometry.crop import REFERENCE_SIZE
from coop_edge.geometry.patches import patch_centres
from coop_edge.ops.base import Array, Operations
from coop_edge.pnp.base import MeasuredDepths, PnpSolver, PnpStatus
from coop_edge.runtime.base import Runner
from coop_edge.stages.batches import run_batched
from coop_edge.stages.crop import Crops
from coop_edge.stages.depth import depths_of_matches, patch_depths
from coop_edge.stages.matches import decode
from coop_edge.stages.objects import ObjectModel

CHANCE_THRESHOLD_PX, MATCHES_PER_CHANCE_INLIER = 10.0, 7
"""Among outliers alone the best pose's inliers grow by about one with as many matches at this threshold (pixels of the
reference crop); below it the share goes with the area of a threshold's circle. See
``AdvancedCoarseConfig.min_inliers``."""


class CoarsePoses(NamedTuple):
    """Poses of B problems in the crops' cameras, and what they rest on; on the host."""

    T_crop_object: NDArray[np.float64]  # [B,4,4]; NaN where not solved
    status: NDArray[np.int32]  # [B] PnpStatus
    n_matches: NDArray[np.int64]  # [B] correspondences given to RANSAC
    n_inliers: NDArray[np.int64]  # [B]
    support: NDArray[np.float64]  # [B] the inliers' matched probability, summed; 0 where not solved


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
        """Tell which hypotheses have a pose, bool [M]."""
        return np.asarray(self.status == PnpStatus.SOLVED)

    def best(self, candidates: int, kept: int) -> CoarseHypotheses:
        """Keep the ``kept`` best supported of each detection's ``candidates``; ties go to the earlier one."""
        support = self.support.reshape(len(self) // max(candidates, 1), candidates)  # no -1: there may be none
        order = np.argsort(-support, axis=1, kind="stable")[:, :kept]
        return self.take((order + candidates * np.arange(len(order))[:, None]).ravel())

    def take(self, rows: NDArray[np.integer]) -> CoarseHypotheses:
        """Return the hypotheses at ``rows``."""
        return CoarseHypotheses(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def appended(self, other: CoarseHypotheses) -> CoarseHypotheses:
        """Return the hypotheses of both, those of ``other`` last, in no order of detections."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return CoarseHypotheses(**{name: np.concatenate(pair) for name, pair in pairs.items()})

    def joined(self, other: CoarseHypotheses) -> CoarseHypotheses:
        """Join hypotheses of the same detections, one detection after the other, those of ``other`` last of each."""
        whole = self.appended(other)
        return whole.take(np.argsort(whole.detection, kind="stable"))

    def reason(self, i: int) -> str:
        """Say in one line why hypothesis i has no pose; "" if it has one."""
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
    config: EstimatorConfig,
    patch: int,
    depth: Array | None = None,
) -> CoarseHypotheses:
    """Make hypotheses for N crops. A detection's are the same, whatever else is in the batch; N = 0 is legal.

    The sum of matched probability ranks templates (Co-op, section 3.1), but it also ranks high those with many matches
    that fit no pose. So more templates are solved than hypotheses are wanted, and the poses with the most matched
    probability among their inliers are kept.

    Correspondences and RANSAC stay on the device, and the host waits for it twice: for the templates' scores (V float32
    per detection), by which it chooses templates, and for the results (20 float64 per candidate, one copy).

    Args:
        crops: N crops of one image.
        objects: all objects.
        object_index: integers [N], the object of each crop.
        ops: of the device where crops are and networks run.
        encoder, decoder: runners of ``coarse_encoder`` and ``coarse_decoder``, open.
        solver: of that device.
        config: ``schedule``, ``ransac``, ``depth`` and what is under ``advanced`` for them.
        patch: pixels, of the bundle.
        depth: of the image, float32 [height,width] metres on the device, 0 = unknown; None: there is none.
    """
    object_index = np.asarray(object_index, np.int64).reshape(-1)
    kept, advanced = config.schedule.hypotheses, config.advanced.coarse
    tokens = run_batched(ops, encoder, {"image": crops.images}, advanced.micro_batch)["tokens"]
    decoded = decode(ops, decoder, tokens, objects, object_index, crops.trusted, advanced.micro_batch)
    scores = ops.to_host(decoded.probability.sum(axis=-1)).astype(np.float64)  # [N,V]
    best = np.argsort(-scores, axis=1, kind="stable")[:, : max(advanced.candidates, kept)]
    maps = [objects[i].object_points for i in object_index.tolist()]
    matches = ops.lift(decoded, best, maps, patch, advanced.min_probability)
    found = coarse_poses(
        *matches,
        crops.camera.K,
        ops=ops,
        solver=solver,
        config=config,
        size=crops.camera.size,
        patch=patch,
        depths=patch_depths(depth, crops.camera, patch, ops),
    )
    full = advanced.full_evidence * decoded.probability.shape[2]
    return _hypotheses(crops, object_index, best, scores, found, full).best(best.shape[1], kept)


def coarse_poses(
    points: Array,
    valid: Array,
    probability: Array,
    K: NDArray[np.float64],
    *,
    ops: Operations,
    solver: PnpSolver,
    config: EstimatorConfig,
    size: int,
    patch: int,
    depths: Array | None = None,
) -> CoarsePoses:
    """Solve for the pose that the matches of N crops with each of k templates agree on: N k problems in one call.

    A problem's result does not depend on the others. A pose with fewer inliers than chance gives (``least_inliers``) is
    none: TOO_FEW_INLIERS.

    Args:
        points, valid, probability: of ``Operations.lift``, [N,k,T,3], [N,k,T] and [N,k,T], on the device of ``ops``.
        K: float64 [N,3,3] of the crops, on the host.
        ops, solver: of one device.
        config: ``ransac``, ``depth``, ``advanced.ransac`` and ``advanced.coarse.min_inliers``.
        size, patch: sides of a crop and of its patches, pixels.
        depths: measured at the patches' middles, float32 [N,T] metres, NaN = unknown, on that device; None: no image.
    """
    xp, ransac = ops.xp, config.ransac
    n, k, count = valid.shape
    threshold_px = ransac.threshold_px * size / REFERENCE_SIZE
    measured = None
    if depths is not None:
        each = depths_of_matches(depths, K[:, 0, 0], threshold_px, config.depth, xp)
        measured = MeasuredDepths(*(xp.repeat(a, k, axis=0) for a in each))
    solved = solver.ransac_epnp(
        points.reshape(n * k, count, 3),
        xp.broadcast_to(xp.asarray(patch_centres(size, patch).astype(np.float32)), (n * k, count, 2)),
        valid.reshape(n * k, count),
        xp.asarray(np.repeat(K, k, axis=0)),
        replace(ransac, threshold_px=threshold_px),
        search=config.advanced.ransac,
        # A problem draws its samples by its place among those of its own crop.
        substreams=xp.asarray(np.tile(np.arange(k, dtype=np.uint32), n)),
        measured=measured,
    )
    support = (probability.astype(np.float64) * solved.inliers.reshape(valid.shape)).sum(axis=2).reshape(-1)
    given = valid.sum(axis=2).reshape(-1)
    statistics = solved.statistics
    columns = solved.T_camera_object, statistics.status, given, statistics.n_inliers, support
    T, status, matches, inliers, support = ops.to_host_together(*columns)
    matches, inliers = matches.astype(np.int64), inliers.astype(np.int64)
    least = least_inliers(matches, config.advanced.coarse.min_inliers, ransac.threshold_px)
    few = (status == PnpStatus.SOLVED) & (inliers < least)
    status = np.where(few, PnpStatus.TOO_FEW_INLIERS, status).astype(np.int32)
    found = status == PnpStatus.SOLVED
    T = np.where(found[:, None, None], T, np.nan)
    return CoarsePoses(T, status, matches, inliers, np.where(found, support, 0.0))


def least_inliers(n_matches: NDArray[np.number], constant: int, threshold_px: float) -> NDArray[np.int64]:
    """Return the inliers [M] below which a pose may be chance; threshold_px: of a crop of ``REFERENCE_SIZE``."""
    share = min(threshold_px / CHANCE_THRESHOLD_PX, 1.0) ** 2 / MATCHES_PER_CHANCE_INLIER
    return constant + (n_matches * share).astype(np.int64)


def _hypotheses(
    crops: Crops,
    object_index: NDArray[np.int64],
    best: NDArray[np.integer],
    scores: NDArray[np.float64],
    found: CoarsePoses,
    full: float,
) -> CoarseHypotheses:
    n, k = best.shape
    R_camera_crop = np.repeat(np.swapaxes(crops.camera.R_crop_camera, 1, 2), k, axis=0)
    return CoarseHypotheses(
        detection=np.repeat(np.arange(n), k),
        object_index=np.repeat(object_index, k),
        template=best.reshape(-1).astype(np.int64),
        T_camera_object=se3.compose(se3.from_rt(R_camera_crop, np.zeros(3)), found.T_crop_object),
        status=found.status,
        template_score=np.take_along_axis(scores, best, axis=1).reshape(-1),
        n_matches=found.n_matches,
        n_inliers=found.n_inliers,
        support=found.support,
        evidence=np.minimum(found.support / full, 1.0),
    )
