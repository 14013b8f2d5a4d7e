"""Entries of BOP's and COCO's files, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.types import Camera

MM = 1e-3
"""Metres per millimetre, BOP's unit."""


def camera_entry(camera: Camera) -> dict[str, Any]:
    """Return the entry of scene_camera.json; distortion, which BOP does not know, stands beside it if there is any."""
    entry: dict[str, Any] = {"cam_K": camera.K.ravel().tolist(), "depth_scale": 1.0}
    if camera.distortion is not None:
        entry |= {"distortion": np.asarray(camera.distortion).tolist(), "fisheye": camera.fisheye}
    return entry


def pose_entry(object_id: int, T_camera_object: NDArray[np.float64]) -> dict[str, Any]:
    """Return the entry of scene_gt.json: model to camera, millimetres."""
    R, t = T_camera_object[:3, :3], T_camera_object[:3, 3] / MM
    return {"cam_R_m2c": R.ravel().tolist(), "cam_t_m2c": t.tolist(), "obj_id": object_id}


def pose_of(entry: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return T_camera_object [4,4], metres, of an entry of scene_gt.json.

    Raises:
        InputError: cam_R_m2c or cam_t_m2c is missing, or not a rotation and three numbers.
    """
    try:
        R = np.array(entry["cam_R_m2c"], np.float64).reshape(3, 3)
        t = np.array(entry["cam_t_m2c"], np.float64).reshape(3) * MM
    except (KeyError, TypeError, ValueError):
        raise InputError(f"wanted cam_R_m2c and cam_t_m2c, got {entry!r:.80}") from None
    return se3.check_transform(se3.from_rt(R, t))


def coco_annotation(
    number: int, image_id: int, category_id: int, info: Mapping[str, Any], rle: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """Return an annotation of COCO's file: the visible box and mask.

    Args:
        more: further keys, such as a score.
    """
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": info["bbox_visib"],
        "area": info["px_count_visib"],
        "iscrowd": 0,
        "segmentation": dict(rle),
        **more,
    }


def coco_document(
    images: list[dict[str, Any]], annotations: list[dict[str, Any]], objects: Mapping[str, int]
) -> dict[str, Any]:
    """Return a COCO file's content.

    Args:
        objects: name -> id.
    """
    categories = [{"id": number, "name": name, "supercategory": "object"} for name, number in objects.items()]
    return {
        "info": {"description": "poses of coop_edge", "version": "1.0"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
