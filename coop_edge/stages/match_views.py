"""Matches crops with views found by retrieval, as Co-op does: the crop is turned upright as the template is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import EstimatorConfig
from coop_edge.ops.base import Array, Decoded, Operations
from coop_edge.pnp.base import PnpSolver
from coop_edge.runtime.base import Runner
from coop_edge.stages.batches import run_batched
from coop_edge.stages.coarse import CoarseHypotheses, coarse_poses
from coop_edge.stages.crop import Crops, patches_touched
from coop_edge.stages.depth import patch_depths
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.retrieve import Retrieved
from coop_edge.stages.views import TURNS


def match_views(
    image: Array,
    crops: Crops,
    objects: Sequence[ObjectModel],
    object_index: NDArray[np.integer],
    found: Retrieved,
    *,
    ops: Operations,
    encoder: Runner,
    decoder: Runner,
    solver: PnpSolver,
    config: EstimatorConfig,
    patch: int,
    count: int,
    depth: Array | None = None,
) -> CoarseHypotheses:
    """Make ``count`` hypotheses for each of N crops by matching with the best views; N = 0 is legal.

    The crop is turned by as much as the view is, the other way, and has the size at which the view was found.

    Args:
        image: uint8 [height,width,3] on the device.
        crops: of that image.
        objects: all objects.
        object_index: integers [N], the object of each crop.
        found: at least ``count`` views of each crop.
        ops: of the device where networks run.
        encoder, decoder: runners of ``coarse_encoder`` and ``coarse_decoder``, open.
        solver: of that device.
        config: ``ransac``, ``depth``, ``advanced.ransac`` and ``advanced.coarse``.
        patch: pixels, of the bundle.
        count: views matched, those of the highest similarity.
        depth: of the image, float32 [height,width] metres on the device, 0 = unknown; None: there is none.
    """
    xp, advanced = ops.xp, config.advanced.coarse
    index = np.repeat(np.asarray(object_index, np.int64), count)
    detection = np.repeat(np.arange(len(crops.masks)), count)
    viewpoint, turn = np.divmod(found.view[:, :count].reshape(-1), TURNS)
    camera = crops.camera.take(detection).zoomed(1.0 / found.scale[:, :count].reshape(-1))
    camera = camera.rolled(2.0 * np.pi * turn / TURNS)
    images = ops.warp(image, camera.H, camera.size, camera.lens)
    query = run_batched(ops, encoder, {"image": images}, advanced.micro_batch)["tokens"]
    models = [objects[i] for i in index.tolist()]
    each = list(zip(models, viewpoint.tolist(), strict=True))
    template = xp.stack([model.descriptors[v] for model, v in each]) if each else query
    outputs = run_batched(ops, decoder, {"query": query, "template": template}, advanced.micro_batch)
    decoded = Decoded(*(outputs[name][:, None] for name in Decoded._fields))
    trusted = patches_touched([crops.masks[d] for d in detection], camera, patch)
    decoded.probability[...] *= xp.asarray(trusted)[:, None]
    scores = ops.to_host(decoded.probability.sum(axis=-1)).astype(np.float64)[:, 0]
    maps = [model.object_points[v : v + 1] for model, v in each]
    matches = ops.lift(decoded, np.zeros((len(index), 1), np.int64), maps, patch, advanced.min_probability)
    given: dict[str, Any] = {"size": camera.size, "patch": patch, "depths": patch_depths(depth, camera, patch, ops)}
    poses = coarse_poses(*matches, camera.K, ops=ops, solver=solver, config=config, **given)
    full = advanced.full_evidence * trusted.shape[1]
    return CoarseHypotheses(
        detection=detection,
        object_index=index,
        template=viewpoint,
        T_camera_object=camera.to_camera(poses.T_crop_object),
        status=poses.status,
        template_score=scores,
        n_matches=poses.n_matches,
        n_inliers=poses.n_inliers,
        support=poses.support,
        evidence=np.minimum(poses.support / full, 1.0),
    )
