"""What is said of each object in an image, beside its pose: masks, boxes, visible share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.render.base import Renderer
from coop_edge.types import Camera
from coop_edge.visual.silhouette import depth_seen, rendered_depth

Mask = NDArray[np.bool_]
Poses = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Instance:
    """One object in an image.

    Attributes:
        mask: bool [height,width] of its silhouette as if nothing stood before it.
        visible: of it, what no other labelled object hides.
        info: its entry of BOP's scene_gt_info.json.
    """

    mask: Mask
    visible: Mask
    info: dict[str, Any]


def instances(
    camera: Camera,
    T_camera_object: Sequence[Poses],
    renderers: Sequence[Renderer],
    depth: NDArray[np.float32] | None = None,
) -> list[Instance]:
    """Return what is said of N objects at these poses [4,4] in one image; N = 0 is legal.

    Args:
        camera: of the image. Silhouettes go through its lens.
        T_camera_object: one per object, metres.
        renderers: one per object, of its mesh.
        depth: of the image, [height,width] metres, 0 = unknown; None without.
    """
    maps = [depth_seen(T, camera, renderer) for T, renderer in zip(T_camera_object, renderers, strict=True)]
    nearest = np.full((camera.height, camera.width), np.inf, np.float32)
    owner = np.full(nearest.shape, -1)
    for i, seen in enumerate(maps):
        before = (seen > 0) & (seen < nearest)
        owner[before], nearest[before] = i, seen[before]
    out = []
    for i, (T, renderer) in enumerate(zip(T_camera_object, renderers, strict=True)):
        mask, visible = np.asarray(maps[i] > 0), np.asarray(owner == i)
        out.append(Instance(mask, visible, info_of(mask, visible, _whole(T, camera, renderer, mask), depth)))
    return out


def _whole(T: Poses, camera: Camera, renderer: Renderer, mask: Mask) -> tuple[Mask, int, int]:
    """Return the silhouette on BOP's canvas, three times as large as the image, and where the image begins on it.

    Behind a lens it ends at the image's border: what the lens shows beyond is not known.
    """
    if camera.lens is not None:
        return mask, 0, 0
    width, height = camera.size
    K = camera.K + np.array([[0.0, 0, width], [0, 0, height], [0, 0, 0]])
    return np.asarray(rendered_depth(renderer, T, K, (3 * width, 3 * height)) > 0), width, height


def info_of(
    mask: Mask, visible: Mask, whole: tuple[Mask, int, int], depth: NDArray[np.floating] | None
) -> dict[str, Any]:
    """Return an object's entry of scene_gt_info.json.

    Args:
        mask, visible: of ``Instance``, bool [height,width].
        whole: its silhouette on a larger canvas, bool, and the column and row of it where the image begins.
        depth: of the image, [height,width], 0 = unknown; None without.
    """
    canvas, left, top = whole
    total, seen = int(canvas.sum()), int(visible.sum())
    x, y, w, h = bounding_box(canvas)
    valid = 0 if depth is None else int((mask & (np.nan_to_num(depth) > 0)).sum())
    return {
        "bbox_obj": [x - left, y - top, w, h] if total else [-1, -1, -1, -1],
        "bbox_visib": bounding_box(visible),
        "px_count_all": total,
        "px_count_valid": valid,
        "px_count_visib": seen,
        "visib_fract": min(1.0, seen / total) if total else 0.0,
    }


def bounding_box(mask: Mask) -> list[int]:
    """Return [x, y, width, height] of a mask: first column and row, then how many; four times -1 if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return [-1, -1, -1, -1]
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]
