"""Chooses among the poses found in an image: no two of one object overlap, and no two objects are in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.ops.base import Operations
from coop_edge.render.base import Renderer
from coop_edge.stages.silhouettes import shared, silhouettes
from coop_edge.types import Camera, PoseEstimate

SAME = 0.5
"""Intersection over union of silhouettes from which on two poses of one object are one instance."""
SAME_PLACE = 0.8
"""The same of different objects: no two can be seen in one place."""


class Instance(NamedTuple):
    """A pose that is accepted, and what it covers of the image, reduced."""

    model: int
    result: PoseEstimate
    mask: NDArray[np.bool_]  # [h,w]


def instances(
    renderer: Renderer, camera: Camera, ops: Operations, i: int, results: Sequence[PoseEstimate], most: int
) -> list[Instance]:
    """Return the successful poses of object i that do not overlap, best first, at most ``most``.

    Args:
        renderer: has the objects' meshes.
        camera: of the image.
        ops: of the device.
        i: the object, its place among the meshes.
        results: of this object, in any order; ties go to the earlier one.
        most: how many.
    """
    order = sorted((result for result in results if result.success), key=lambda result: -result.presence)
    T = np.array([result.pose for result in order]).reshape(-1, 4, 4)
    masks = silhouettes(renderer, T, np.full(len(order), i), camera, ops)
    found: list[Instance] = []
    for result, mask in zip(order, masks, strict=True):
        if len(found) < most and all(shared(mask, other.mask) < SAME for other in found):
            found.append(Instance(i, result, mask))
    return found


def answers(
    index: NDArray[np.int64], found: Sequence[Instance], failures: Mapping[int, PoseEstimate]
) -> list[PoseEstimate]:
    """Return the results object by object, best first, where no two objects are in one place.

    Args:
        index: [O], the objects asked for.
        found: of all of them.
        failures: by object, of those without any.
    """
    kept: list[Instance] = []
    refused = dict(failures)
    for each in sorted(found, key=lambda one: -one.result.presence):  # stable: ties go to the earlier object
        rival = next(
            (one for one in kept if one.model != each.model and shared(each.mask, one.mask) >= SAME_PLACE), None
        )
        if rival is None:
            kept.append(each)
        else:
            name = each.result.object
            reason = f"find: not found ({rival.result.object!r} fits better at the place that looks most like {name!r})"
            score, presence = each.result.score, each.result.presence
            refused.setdefault(each.model, PoseEstimate(False, reason, score=score, presence=presence, object=name))
    out = []
    for i in index.tolist():
        out += [one.result for one in kept if one.model == i] or [refused[i]]
    return out
