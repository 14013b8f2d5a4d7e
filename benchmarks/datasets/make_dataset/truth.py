"""What is stated of a picture: masks, boxes, visible shares; and whether our renderer agrees with Mitsuba on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.datasets.demo_scene.agreement import Agreement, agreement
from benchmarks.datasets.make_dataset.arrange import View
from coop_edge.labels.instances import info_of
from coop_edge.mesh import Mesh
from coop_edge.render import CpuRenderer

LEAST_VISIBLE = 0.1
"""Visible share from which an object is a target, as in BOP."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Truth of one object in one picture. info: entry of scene_gt_info.json; checked: None where too little is seen."""

    mask: np.ndarray  # bool [h,w], as if nothing stood before it
    mask_visib: np.ndarray  # bool [h,w], as Mitsuba sees it
    info: dict[str, Any]
    checked: Agreement | None


def truths(
    meshes: Sequence[Mesh], poses: Sequence[np.ndarray], targets: Sequence[bool], view: View, owner: np.ndarray,
    depth: np.ndarray,
) -> list[Truth]:  # fmt: skip
    """Return the truth of every target among the objects ``meshes`` at ``poses`` (T_camera_object).

    owner, depth [h,w]: what Mitsuba's ray through each pixel's centre met, by index into ``meshes``. The whole
    silhouette comes from our renderer, on a canvas three times as large as the picture, as BOP counts it.
    """
    width, height = view.size
    canvas = view.K + np.array([[0.0, 0, width], [0, 0, height], [0, 0, 0]])
    nearest, ours = np.full(owner.shape, np.inf), np.full(owner.shape, -1)
    silhouettes = []
    for i, (mesh, T) in enumerate(zip(meshes, poses, strict=True)):
        seen = CpuRenderer(mesh, threads=1).render(np.asarray(T)[None], canvas, (3 * height, 3 * width))
        inside = np.s_[height : 2 * height, width : 2 * width]
        z = np.where(seen.mask[0][inside], seen.depth[0][inside], np.inf)
        ours[z < nearest] = i
        nearest = np.minimum(nearest, z)
        silhouettes.append(seen.mask[0])
    found = []
    for i, whole in enumerate(silhouettes):
        if targets[i]:
            visible = owner == i
            info = gt_info(whole, visible, depth, (width, height))
            found.append(Truth(whole[inside], visible, info, check(ours == i, visible)))
    return found


def check(ours: np.ndarray, theirs: np.ndarray) -> Agreement | None:
    """Compare two masks bool [h,w] of what is visible of an object; None where either shows less than 200 pixels."""
    if min(ours.sum(), theirs.sum()) < 200:
        return None
    rows, columns = (np.flatnonzero((ours | theirs).any(axis=k)) for k in (1, 0))
    around = np.s_[max(0, rows[0] - 30) : rows[-1] + 31, max(0, columns[0] - 30) : columns[-1] + 31]
    a, b = (np.pad(m[around].astype(float), 24) for m in (ours, theirs))
    return agreement(a, b)


def gt_info(whole: np.ndarray, visible: np.ndarray, depth: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """Return an entry of scene_gt_info.json.

    whole bool [3h,3w]: the silhouette about the picture; visible bool [h,w]; depth [h,w], 0 where unknown; size (width,
    height).
    """
    width, height = size
    return info_of(whole[height : 2 * height, width : 2 * width], visible, (whole, width, height), depth)
