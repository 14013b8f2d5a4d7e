"""The coarse network on held-out objects: matches, no matches, and poses after EPnP + RANSAC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from coop_edge.geometry.patches import template_pixels
from coop_edge.pnp.base import PnpStatus
from export.data.batch import PATCH, CoarseBatch, take
from export.networks import CoarseNet
from export.train.poses import match_poses
from export.train.report import mean_or_none, present
from export.train.task import to_tensors

Array = np.ndarray[Any, Any]

POSE_MATCHES = 8
"""A pair counts for the pose if at least so many query patches truly have a match."""


@torch.no_grad()
def evaluate_coarse(net: CoarseNet, batches: Sequence[CoarseBatch], device: torch.device) -> dict[str, float]:
    """Compute figures over all pairs; a figure that nothing defines is left out.

    Returns:
        class_accuracy: share of the truly matched patches whose most likely template patch (*no match* aside) is the
        right one. within_5px, within_16px: share of them whose match, offset included, lies so near the truth in
        template pixels. match_recall: share of them not called *no match*. no_match_accuracy: share of the others that
        are. pose_recall_10, _20: share of the pairs with at least 8 true matches whose pose after EPnP + RANSAC moves
        the points of the template by less than 10 % or 20 % of the diameter in the mean; pose_pairs: how many those
        are.
    """
    parts: list[dict[str, Array]] = []
    for batch in batches:
        tensors = to_tensors(batch, device)
        query, template = net.encode(tensors["query"]), net.encode(tensors["template"])
        probability, index, offset = (x.cpu().numpy() for x in net.decode(query, template))
        parts.append(_matches(batch, probability, index, offset) | _poses(batch, probability, index, offset))
    if not parts:
        return {}
    joined = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    return _figures(joined)


def _matches(batch: CoarseBatch, probability: Array, index: Array, offset: Array) -> dict[str, Array]:
    count = batch.match_index.shape[1]
    side = round(count**0.5)
    matched = batch.match_index < count
    truth = template_pixels(np.where(matched, batch.match_index, 0), batch.offset, side, PATCH)
    distance = np.linalg.norm(template_pixels(index, offset, side, PATCH) - truth, axis=-1)
    return {
        "right": (index == batch.match_index)[matched],
        "distance": distance[matched],
        "found": (probability > 0)[matched],
        "rejected": (probability == 0)[~matched],
    }


def _poses(batch: CoarseBatch, probability: Array, index: Array, offset: Array) -> dict[str, Array]:
    """Mean distance of the template's points, in diameters, of the pairs that count; infinite where unsolved."""
    rows = np.flatnonzero((batch.match_index < batch.match_index.shape[1]).sum(axis=1) >= POSE_MATCHES)
    found = match_poses(take(batch, rows), probability[rows], index[rows], offset[rows])
    errors = np.full(len(rows), np.inf)
    for i, row in enumerate(rows):
        if found.status[i] == PnpStatus.SOLVED:
            model = batch.template_points[row][np.isfinite(batch.template_points[row, ..., 0])].astype(np.float64)
            difference = found.T_crop_object[i] - batch.T_query[row]
            moved = model @ difference[:3, :3].T + difference[:3, 3]
            errors[i] = np.linalg.norm(moved, axis=-1).mean() / batch.diameter[row]
    return {"pose_error": errors}


def _figures(joined: dict[str, Array]) -> dict[str, float]:
    error = joined["pose_error"]
    return present(
        {
            "class_accuracy": mean_or_none(joined["right"]),
            "within_5px": mean_or_none(joined["distance"] < 5),
            "within_16px": mean_or_none(joined["distance"] < 16),
            "match_recall": mean_or_none(joined["found"]),
            "no_match_accuracy": mean_or_none(joined["rejected"]),
            "pose_recall_10": mean_or_none(error < 0.1),
            "pose_recall_20": mean_or_none(error < 0.2),
            "pose_pairs": float(len(error)),
        }
    )
