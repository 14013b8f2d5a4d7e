"""Reads what detectors return, by the names of its fields; none of them is imported.

Pixels of detectors have their corner at (0, 0), so that a box from x0 to x1 covers the columns x0 .. x1 - 1: as ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.base.plain import floats
from coop_edge.errors import InputError
from coop_edge.geometry.masks import decode_rle, fill_polygons


class Found(NamedTuple):
    """The fields of a Detection."""

    object: str
    bbox: tuple[float, float, float, float] | None
    mask: NDArray[np.bool_] | None = None
    score: float = 1.0


Objects = Mapping[Any, str] | None
"""Detector's class (its name or number) -> object; other classes are left out. None: classes are called as objects."""


def corners_to_box(xyxy: Any, name: str = "xyxy") -> tuple[float, float, float, float]:
    """Return (x, y, width, height) of (x0, y0, x1, y1).

    Raises:
        InputError: it is not four numbers, or the second corner is not below and right of the first.
    """
    box = host(xyxy, name)
    if box.shape != (4,):
        raise InputError(f"{name}: wanted (x0, y0, x1, y1), got shape {list(box.shape)}")
    x0, y0, x1, y1 = box.tolist()
    if not (x1 > x0 and y1 > y0):
        raise InputError(f"{name}: wanted x1 > x0 and y1 > y0, got {box.tolist()}; is it (x, y, width, height)?")
    return x0, y0, x1 - x0, y1 - y0


def host(array: Any, name: str) -> NDArray[np.float64]:
    """Return an array, or a tensor on any device, in NumPy."""
    for method in ("detach", "cpu", "numpy"):
        if hasattr(array, method):
            array = getattr(array, method)()
    return floats(array, name)


def from_ultralytics(results: Any, objects: Objects) -> Iterator[Found]:
    """Yield what ``model(image)`` of Ultralytics found in one image.

    Raises:
        InputError: it is no such result, or that of several images.
    """
    if isinstance(results, (list, tuple)):
        if len(results) != 1:
            raise InputError(f"results: wanted those of one image, got a list of {len(results)}; pass results[i]")
        results = results[0]
    boxes, names = getattr(results, "boxes", None), getattr(results, "names", None)
    if boxes is None or names is None:
        raise InputError(f"results: wanted Ultralytics' Results with boxes and names, got {type(results).__name__}")
    corners, scores = host(boxes.xyxy, "boxes.xyxy").reshape(-1, 4), host(boxes.conf, "boxes.conf")
    polygons = getattr(getattr(results, "masks", None), "xy", None)
    for i, number in enumerate(host(boxes.cls, "boxes.cls").astype(int).tolist()):
        if (known := _object(number, names[number], objects)) is None:
            continue
        mask = None
        if polygons is not None and len(polygons[i]):
            mask = fill_polygons([polygons[i]], *(int(side) for side in results.orig_shape[:2]))
        yield _found(known, corners[i], mask, scores[i], i)


def from_supervision(detections: Any, objects: Objects) -> Iterator[Found]:
    """Yield the entries of supervision's ``Detections``.

    Raises:
        InputError: it is no such object.
    """
    if not hasattr(detections, "xyxy"):
        raise InputError(f"detections: wanted supervision's Detections with xyxy, got {type(detections).__name__}")
    corners = host(detections.xyxy, "xyxy").reshape(-1, 4)
    names = (getattr(detections, "data", None) or {}).get("class_name")
    numbers, scores, masks = (getattr(detections, name, None) for name in ("class_id", "confidence", "mask"))
    for i in range(len(corners)):
        number = None if numbers is None else int(numbers[i])
        if (known := _object(number, None if names is None else str(names[i]), objects)) is None:
            continue
        mask = None if masks is None or not np.any(masks[i]) else np.asarray(masks[i], np.bool_)
        yield _found(known, corners[i], mask, 1.0 if scores is None else scores[i], i)


def from_coco(content: Any, image_id: int | None, objects: Objects) -> Iterator[Found]:
    """Yield the annotations of one image of a COCO file's content, or of a list of annotations or results.

    Raises:
        InputError: no such content, or several images and no ``image_id``.
    """
    whole = content if isinstance(content, Mapping) else {"annotations": content}
    annotations = whole.get("annotations")
    if not isinstance(annotations, Sequence) or isinstance(annotations, (str, bytes)):
        raise InputError("coco: wanted a COCO file's content with annotations, or a list of them")
    names = {entry["id"]: entry["name"] for entry in whole.get("categories", [])}
    sizes = {entry["id"]: (int(entry["height"]), int(entry["width"])) for entry in whole.get("images", [])}
    if image_id is None and len(ids := {entry.get("image_id") for entry in annotations}) > 1:
        raise InputError(f"coco: holds {len(ids)} images; say which with image_id=")
    for i, entry in enumerate(annotations):
        if image_id is not None and entry.get("image_id") != image_id:
            continue
        number = entry.get("category_id")
        if (known := _object(number, names.get(number), objects)) is None:
            continue
        mask = _coco_mask(entry.get("segmentation"), sizes.get(entry.get("image_id")))
        box = tuple(floats(entry["bbox"], f"annotation {i}: bbox").tolist()) if "bbox" in entry else None
        yield Found(known, box, mask, float(entry.get("score", 1.0)))


def _coco_mask(segmentation: Any, size: tuple[int, int] | None) -> NDArray[np.bool_] | None:
    if isinstance(segmentation, Mapping):
        mask = decode_rle(segmentation)
    elif segmentation and size is not None:
        mask = fill_polygons(segmentation, *size)
    else:
        return None  # polygons of an image of unknown size: the box says where it is
    return mask if mask.any() else None


def _found(known: str, corners: Any, mask: NDArray[np.bool_] | None, score: Any, index: int) -> Found:
    return Found(
        known, corners_to_box(corners, f"detection {index}: xyxy"), mask, float(np.clip(float(score), 0.0, 1.0))
    )


def _object(number: Any, name: str | None, objects: Objects) -> str | None:
    """Return the object that a class stands for; None if it is to be left out. Raises InputError: no name."""
    if objects is not None:
        return objects.get(name, objects.get(number)) if name is not None else objects.get(number)
    if name is None:
        raise InputError(f"class {number} has no name; pass objects={{{number}: NAME}}")
    return name
