"""Poses that the networks' outputs on pairs lead to: what the evaluation in training and the verification share.

The matches are lifted, weighted and solved as the estimator does it, by the package's own solvers in float64 on the
CPU, whatever ran the networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from coop_edge.config import LmConfig, RansacConfig, RefineConfig
from coop_edge.geometry.patches import patch_centres, template_pixels
from coop_edge.pnp import LmResult, PnpStatus, PosePrior, RansacResult, ransac_epnp, weighted_lm
from coop_edge.stages.coarse import REFERENCE_SIZE
from coop_edge.stages.prior import lm_weights, pose_prior
from coop_edge.stages.refine import LEAST_WEIGHTED
from export.data.batch import PATCH, CoarseBatch, RefinerBatch
from export.networks.refiner import cell_pixels

Array = np.ndarray[Any, Any]


def match_poses(
    batch: CoarseBatch, probability: Array, index: Array, offset: Array, config: RansacConfig | None = None
) -> tuple[RansacResult, Array]:
    """EPnP + RANSAC on the matches of each pair; also which matches it was given, bool [N,T].

    probability [N,T], index [N,T], offset [N,T,2]: of the coarse decoder; they may hold anything, NaN included. A match
    takes the object point of the nearest template pixel. config: the default one by default; as the estimator's, its
    threshold counts pixels of a crop of ``REFERENCE_SIZE`` and grows with the crop.
    """
    n, size = batch.query.shape[:2]
    there = np.nan_to_num(template_pixels(index, offset, size // PATCH, PATCH))
    pixel = np.clip(np.rint(there), 0, size - 1).astype(int)
    points = batch.template_points[np.arange(n)[:, None], pixel[..., 1], pixel[..., 0]].astype(np.float64)
    valid = (probability > 0) & np.isfinite(points).all(axis=-1)
    config = config or RansacConfig()
    config = replace(config, threshold_px=config.threshold_px * size / REFERENCE_SIZE)
    here = np.broadcast_to(patch_centres(size, PATCH), (*valid.shape, 2))
    return ransac_epnp(points, here, valid, batch.K_query, config), valid


def refined_step(
    batch: RefinerBatch,
    outputs: Mapping[str, Array],
    centre: Array,
    stride: int,
    config: RefineConfig,
    T_anchor: Array | None = None,
) -> tuple[Array, Array, Array]:
    """One iteration of refinement from ``T_init``: poses [N,4,4], NaN where there is none, where there is one, bool
    [N], and the poses' covariances [N,6,6] (``pnp.base``), NaN where there is no pose.

    outputs: ``flow`` [N,2,H,W] and ``scale`` in pixels, ``certainty``, ``sensitivity`` and ``confidence`` (W)
    [N,1,H,W]. centre: of the objects [N,3], metres, object's frame. T_anchor: what the prior is about [N,4,4], in the
    cameras of ``batch``; None: ``T_init``. Raises InputError as ``pnp.base.PnpSolver.weighted_lm`` does.

    As in ``coop_edge.stages.refine``, a pair with fewer than ``LEAST_WEIGHTED`` cells of positive W has no pose, though
    the prior alone would give one.
    """
    confidence = outputs["confidence"]
    weights = lm_weights(config, confidence, outputs["certainty"] * outputs["sensitivity"] / outputs["scale"])
    prior = pose_prior(config, batch.T_init if T_anchor is None else T_anchor, centre, batch.diameter)
    result = flow_poses(batch, outputs["flow"], weights, stride, config.lm, prior)
    cells = cell_pixels(stride)
    seen = (confidence[:, 0] > 0) & np.isfinite(batch.object_points[:, cells, cells, 0])
    blind = seen.sum(axis=(1, 2)) < LEAST_WEIGHTED
    solved = (np.asarray(result.statistics.status) == PnpStatus.SOLVED) & ~blind
    known = solved[:, None, None]
    return np.where(known, result.T_camera_object, np.nan), solved, np.where(known, result.covariance, np.nan)


def flow_poses(
    batch: RefinerBatch,
    flow: Array,
    confidence: Array,
    stride: int,
    config: LmConfig | None = None,
    prior: PosePrior | None = None,
) -> LmResult:
    """One weighted Levenberg-Marquardt from ``T_init``. flow [N,2,H,W] pixels, confidence [N,1,H,W]: W of each cell, or
    with a prior, which stands in the cameras of ``batch``, inverse standard deviations (1/px)."""
    cells = cell_pixels(stride)
    points = batch.object_points[:, cells, cells].astype(np.float64)
    n, height, width = points.shape[:3]
    weights = np.where(np.isfinite(points[..., 0]), confidence[:, 0], 0.0).astype(np.float64)
    pixel = np.arange(batch.query.shape[1], dtype=np.float64)[cells]
    image = flow.transpose(0, 2, 3, 1) + np.stack(np.meshgrid(pixel, pixel), axis=-1)
    shape = (n, height * width)
    points, image, weights = points.reshape(*shape, 3), image.reshape(*shape, 2), weights.reshape(shape)
    return weighted_lm(points, image, weights, batch.K, batch.T_init, config or LmConfig(), prior=prior)
