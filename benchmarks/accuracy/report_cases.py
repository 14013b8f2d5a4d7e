"""The report's pictures: which targets are shown, and the outlines of estimate and truth over the image."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.evaluate import Evaluation, TargetResult
from benchmarks.accuracy.summary import pose_difference
from coop_edge.render import CpuRenderer
from coop_edge.visual.canvas import Canvas

ESTIMATE = (255, 176, 0)
TRUTH = (0, 200, 255)
"""Amber and cyan: apart for every kind of colour vision, and on light and dark pictures with their black rims."""
PICTURE = 320
"""Side of a picture, pixels."""
ROOM = 1.5
"""Side of what is shown over the longer side of the object."""
WIDEST = 3.0
"""At most so many times the object is shown for the sake of an estimate that lies beside it."""
_QUALITY = 82


def worst(evaluation: Evaluation, count: int) -> list[TargetResult]:
    """Return the targets that meet the fewest thresholds.

    Of equal ones those with a pose come before those without, then the more visible, then the larger error. Objects
    take turns, so that one that always fails does not fill the page.
    """
    missed = [t for t in evaluation.targets if t.ar < 1.0]
    by_object: dict[int, list[TargetResult]] = {}
    for target in sorted(missed, key=_badness):
        by_object.setdefault(target.obj_id, []).append(target)
    rounds = itertools.zip_longest(*by_object.values())
    return [target for one in rounds for target in one if target is not None][:count]


def typical(evaluation: Evaluation, count: int, without: Sequence[TargetResult] = ()) -> list[TargetResult]:
    """Return targets at equal distances in the order of their errors, best first: each stands for as many others."""
    taken = {id(t) for t in without}
    rest = sorted((t for t in evaluation.targets if id(t) not in taken), key=lambda t: (-t.ar, t.mssd / t.diameter))
    count = min(count, len(rest))
    return [rest[int((i + 0.5) * len(rest) / count)] for i in range(count)]


def caption(dataset: BopDataset, target: TargetResult, reasons: Mapping[tuple[int, int, int], str]) -> list[str]:
    """Return what is said of a target, line by line. reasons: why there is no pose, by scene, image and object."""
    lines = [f"object {target.obj_id}, image {target.scene_id}/{target.im_id}"]
    if target.truth.visib_fract is not None:
        lines.append(f"{target.truth.visib_fract:.0%} visible")
    difference = pose_difference(dataset, target)
    if target.row is None or difference is None:
        key = (target.scene_id, target.im_id, target.obj_id)
        return [*lines, f"no pose: {reasons.get(key, 'none was given')}"]
    lines.append(f"MSSD {_short(target.mssd / target.diameter)} diameters, MSPD {_short(target.mspd_640)} px")
    return [*lines, f"turned by {difference[0]:.0f} degrees, score {target.row.score:.2f}"]


class Overlays:
    """Pictures of targets; meshes and images are kept between them."""

    def __init__(self, dataset: BopDataset) -> None:
        self._dataset = dataset
        self._renderers: dict[int, CpuRenderer] = {}
        self._images: dict[tuple[int, int], np.ndarray] = {}

    def picture(self, target: TargetResult) -> np.ndarray:
        """Draw the surroundings of the object with outlines of truth and estimate, uint8 [PICTURE,PICTURE,3]."""
        image, camera = self._image(target.scene_id, target.im_id), self._dataset.camera(target.scene_id, target.im_id)
        if target.obj_id not in self._renderers:
            mesh = self._dataset.models[target.obj_id].load_mesh(evaluation=True)
            self._renderers[target.obj_id] = CpuRenderer(mesh, threads=1)
        renderer = self._renderers[target.obj_id]
        poses = [target.truth.T_camera_object, *([] if target.row is None else [target.row.T_camera_object])]
        masks = renderer.render(np.stack(poses), camera.K, (camera.height, camera.width)).mask
        left, top, side = frame(masks, target.truth.bbox_obj, camera.size)
        # Pixel centres are whole numbers: what is at u in the image is at s (u - left + 1/2) - 1/2 in the picture.
        s = PICTURE / side
        to_picture = np.array([[s, 0.0, s * (0.5 - left) - 0.5], [0.0, s, s * (0.5 - top) - 0.5], [0.0, 0.0, 1.0]])
        kind = cv2.INTER_AREA if s < 1 else cv2.INTER_CUBIC
        shown = _cut(image, left, top, side)
        resized = np.asarray(cv2.resize(shown, (PICTURE, PICTURE), interpolation=kind), np.uint8)
        canvas = Canvas(resized, to_picture @ camera.K, 1.0)
        outlines = renderer.render(np.stack(poses), canvas.K, PICTURE).mask
        for mask, color in zip(outlines, (TRUTH, ESTIMATE), strict=False):  # without an estimate the truth alone
            canvas.outline(mask, (0, 0, 0), 3.2)
            canvas.outline(mask, color, 1.8)
        return canvas.image

    def _image(self, scene_id: int, im_id: int) -> np.ndarray:
        key = (scene_id, im_id)
        if key not in self._images:
            self._images[key] = self._dataset.image(*key)
        return self._images[key]


def frame(
    masks: np.ndarray, box: tuple[float, float, float, float] | None, size: tuple[int, int]
) -> tuple[int, int, int]:
    """Return (left, top, side) in whole pixels of the square to show.

    It lies around the truth, masks[0], and, as far as ``WIDEST`` allows, around the estimate, masks[1]. box: used where
    nothing of the truth is in the image; the image without.
    """
    bounds = [b for b in map(_bounds, masks) if b is not None]
    truth = _bounds(masks[0])
    if truth is None:
        x, y, w, h = box or (0.0, 0.0, *size)
        truth = np.array([x, y, x + w, y + h])
        bounds.append(truth)
    side = ROOM * max(truth[2:] - truth[:2])
    low = np.min([b[:2] for b in bounds], axis=0)
    high = np.max([b[2:] for b in bounds], axis=0)
    both = 1.1 * max(high - low)
    centre = (truth[:2] + truth[2:]) / 2
    if side < both:
        centre = (low + high) / 2 if both <= WIDEST * side / ROOM else centre
        side = min(both, WIDEST * side / ROOM)
    whole = max(8, round(float(side)))
    left, top = np.rint(centre - whole / 2).astype(int).tolist()
    return left, top, whole


def data_uri(picture: np.ndarray) -> str:
    """Encode a picture, RGB uint8, as a JPEG within an address."""
    done, buffer = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done  # of an array in memory
    return "data:image/jpeg;base64," + base64.b64encode(buffer.tobytes()).decode()


def reasons_of(summary: Mapping[str, Any]) -> dict[tuple[int, int, int], str]:
    """Return why targets have no pose, from the summary's misses."""
    missed = [miss for miss in summary["misses"] if "score" not in miss]
    return {(m["scene_id"], m["im_id"], m["obj_id"]): m["why"] for m in missed}


def _badness(target: TargetResult) -> tuple[float, bool, float, float]:
    visible = target.truth.visib_fract
    return target.ar, target.row is None, -(1.0 if visible is None else visible), -target.mssd / target.diameter


def _bounds(mask: np.ndarray) -> np.ndarray | None:
    """(left, top, right, bottom) of a silhouette, the last two one past the end; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def _cut(image: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """A square of the image, black where it reaches beyond."""
    height, width = image.shape[:2]
    out = np.zeros((side, side, 3), np.uint8)
    x0, y0 = min(max(left, 0), width), min(max(top, 0), height)
    x1, y1 = max(min(left + side, width), x0), max(min(top + side, height), y0)
    if x1 > x0 and y1 > y0:
        out[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    return out


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}" if np.isfinite(value) else "infinite"
