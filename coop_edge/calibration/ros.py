"""Reads ROS's ``camera_info`` as YAML, by the calibrator (``camera_matrix``) or as a message (``k`` or ``K``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coop_edge.calibration.values import Calibration, matrix, numbers, positive, whole
from coop_edge.errors import InputError

_FISHEYE = ("equidistant", "fisheye")
_OPENCV = ("plumb_bob", "rational_polynomial", "thin_prism", "")


def is_ros(data: Mapping[str, Any]) -> bool:
    """Tell whether a file holds a camera_info."""
    by_calibrator = isinstance(data.get("camera_matrix"), Mapping) and "distortion_model" in data
    return by_calibrator or (_get(data, "k") is not None and "distortion_model" in data)


def read_ros(data: Mapping[str, Any], *, rectified: bool) -> Calibration:
    """Read a camera_info. Binning and the region of interest are applied.

    Args:
        data: what the file holds.
        rectified: whether to read the rectified image's camera, by P.

    Raises:
        InputError: a value that cannot be meant, or that does not fit the others.
    """
    width = positive(data.get("image_width", data.get("width")), "image_width")
    height = positive(data.get("image_height", data.get("height")), "image_height")
    if rectified:
        P = data.get("projection_matrix", _get(data, "p"))
        if P is None:
            raise InputError(
                "has no projection_matrix (P), which holds the camera of rectified images; leave out rectified=True "
                "(--camera FILE without #rectified) and give the raw images, or let ROS's calibrator write P"
            )
        K = matrix(P, "projection_matrix", 3, 4)[:, :3]
    else:
        K = matrix(data.get("camera_matrix", _get(data, "k")), "camera_matrix")
    if not K.any():
        raise InputError(
            f"{'projection_matrix' if rectified else 'camera_matrix'}: all zeros, which is how ROS says "
            "that the camera is not calibrated"
        )
    model = str(data.get("distortion_model") or "")
    D = numbers(data.get("distortion_coefficients", _get(data, "d")), "distortion_coefficients")
    distortion, fisheye = (None, False) if rectified else _distortion(model, D)
    K, width, height = _binned(*_of_region(K, width, height, data.get("roi") or {}), data)
    return Calibration(K, width, height, distortion, fisheye)


def _get(data: Mapping[str, Any], name: str) -> Any:
    """Return an entry by either name: ROS 2 writes k, ROS 1 wrote K."""
    return data.get(name, data.get(name.upper()))


def _distortion(model: str, D: list[float]) -> tuple[list[float] | None, bool]:
    if model.lower() in _FISHEYE:
        return (D or [0.0] * 4), True
    if not any(D) or model.lower() == "none":
        return None, False
    if model.lower() in _OPENCV:
        return D, False
    known = ", ".join(repr(name) for name in (*_OPENCV[:-1], *_FISHEYE, "none"))
    raise InputError(f"distortion_model: {model!r} is not known (known: {known})")


def _of_region(K: Any, width: int, height: int, roi: Mapping[str, Any]) -> tuple[Any, int, int]:
    x, y, w, h = (whole(roi.get(name) or 0, name) for name in ("x_offset", "y_offset", "width", "height"))
    if w == 0 and h == 0 and x == 0 and y == 0:
        return K, width, height
    w, h = w or width - x, h or height - y
    if min(x, y) < 0 or min(w, h) < 1 or x + w > width or y + h > height:
        raise InputError(f"roi: {w}x{h} from column {x}, row {y} does not fit into the image of {width}x{height}")
    K = np.array(K)
    K[:2, 2] -= x, y
    return K, w, h


def _binned(K: Any, width: int, height: int, data: Mapping[str, Any]) -> tuple[Any, int, int]:
    bins = [whole(data.get(name) or 1, name) for name in ("binning_x", "binning_y")]
    if min(bins) < 1 or width % bins[0] or height % bins[1]:
        raise InputError(f"binning: {bins[0]}x{bins[1]} pixels do not divide the image of {width}x{height}")
    K = np.array(K)
    for axis, b in enumerate(bins):  # the centre of a bin is the mean of its pixels' centres
        K[axis] /= b
        K[axis, 2] -= (b - 1) / (2.0 * b)
    return K, width // bins[0], height // bins[1]
