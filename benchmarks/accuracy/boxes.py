"""Reads the boxes that methods are given: of the truth, or of a detector's file in BOP's form."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.files import numbers, read_json
from benchmarks.accuracy.masks import decode_mask
from benchmarks.accuracy.records import Box, ImageKey
from coop_edge.errors import InputError

log = logging.getLogger(__name__)


def read_boxes(dataset: BopDataset, boxes: str | Path) -> dict[ImageKey, list[Box]]:
    """Return at most ``inst_count`` boxes per target, by image; [] where there is none.

    boxes: "visib" or "obj" for those of the truth (around the visible part, or all of the object), or a file in the
    form of BOP's detections.
    """
    return _of_truth(dataset, str(boxes)) if boxes in ("visib", "obj") else _of_file(dataset, Path(boxes))


def _of_truth(dataset: BopDataset, kind: str) -> dict[ImageKey, list[Box]]:
    """Boxes around the visible part ("visib") or the whole object ("obj") of what is sought."""
    found: dict[ImageKey, list[Box]] = {image: [] for image in dataset.images}
    known = 0
    for target in dataset.targets:
        for truth in dataset.sought(target):
            bbox = truth.bbox_visib if kind == "visib" else truth.bbox_obj
            known += truth.visib_fract is not None or bbox is not None
            if bbox is not None and _overlaps(bbox, dataset.camera(*target.image).size):
                found[target.image].append(Box(target.obj_id, bbox))
    if dataset.targets and not known:
        raise InputError(
            f"{dataset.folder}: no scene_gt_info.json, which holds the boxes of the truth; give a file of detections"
        )
    return found


def _of_file(dataset: BopDataset, path: Path) -> dict[ImageKey, list[Box]]:
    """The highest-scoring detections of each target, ``inst_count`` at most, of a file in BOP's form:
    a list of {scene_id, image_id, category_id, bbox, score, segmentation (optional)}. Raises InputError.

    Masks that cannot be decoded are left out, and it is logged: the box remains.
    """
    entries = read_json(path, list, "wanted 'visib', 'obj' or a file of detections in BOP's form")
    by_target: dict[tuple[int, int, int], list[tuple[float, int]]] = {}
    for i, entry in enumerate(entries):
        key, score = _key(entry, f"{path}: detection {i}")
        by_target.setdefault(key, []).append((-score, i))
    found: dict[ImageKey, list[Box]] = {image: [] for image in dataset.images}
    unread: list[str] = []
    for target in dataset.targets:
        best = sorted(by_target.get((*target.image, target.obj_id), []))[: target.inst_count]
        size = dataset.camera(*target.image).size
        boxes = [_detected(entries[i], target.obj_id, size, f"{path}: detection {i}", unread) for _, i in best]
        found[target.image] += [box for box in boxes if box is not None]
    if unread:
        log.warning("%d masks are left out, their boxes are used; the first: %s", len(unread), unread[0])
    if dataset.targets and not any(found.values()):
        raise InputError(f"{path}: none of its {len(entries)} detections is of an image and object among the targets")
    return found


def _key(entry: Any, where: str) -> tuple[tuple[int, int, int], float]:
    try:
        key = int(entry["scene_id"]), int(entry["image_id"]), int(entry["category_id"])
        return key, float(entry.get("score", 1.0))
    except (TypeError, KeyError, ValueError, AttributeError):
        raise InputError(
            f"{where}: wanted scene_id, image_id, category_id, bbox and score, got {entry!r:.80}"
        ) from None


def _detected(entry: Any, obj_id: int, size: tuple[int, int], where: str, unread: list[str]) -> Box | None:
    x, y, width, height = numbers(entry.get("bbox"), 4, f"{where}: bbox").tolist()
    bbox = (x, y, width, height)
    if width <= 0 or height <= 0 or not _overlaps(bbox, size):
        return None  # a detector's slip: the target counts as missed
    mask = None
    if entry.get("segmentation"):
        try:
            mask = decode_mask(entry["segmentation"], size)
        except InputError as error:
            unread.append(f"{where}: {error}")
    return Box(obj_id, bbox, mask if mask is not None and np.any(mask) else None)


def _overlaps(bbox: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    x, y, width, height = bbox
    return x + width > 0 and y + height > 0 and x < size[0] and y < size[1]
