"""Reads a calibration file, whichever of the known formats it has. Errors name the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coop_edge.base.plain import parse_json
from coop_edge.calibration import yaml
from coop_edge.calibration.realsense import is_realsense, read_realsense
from coop_edge.calibration.ros import is_ros, read_ros
from coop_edge.calibration.values import Calibration, matrix, numbers, one_of, pinhole, positive
from coop_edge.errors import InputError, quoted

_PINHOLE = ("fx", "fy", "cx", "cy")
_OWN = ("K", "cam_K", *_PINHOLE, "width", "height", "distortion", "fisheye")
_BESIDE = ("depth_scale", "cam_R_w2c", "cam_t_w2c")  # of BOP's files: they do not bear on a pose in one RGB image
_MATRICES = (
    "camera_matrix",
    "cameraMatrix",
    "Camera_Matrix",
    "K",
    "M",
    "intrinsics",
    "K1",
    "K2",
    "M1",
    "M2",
    "cameraMatrix1",
    "cameraMatrix2",
)
_DISTORTIONS = {  # of OpenCV's files, by the matrix beside which they stand
    "camera_matrix": ("distortion_coefficients", "dist_coeffs", "distCoeffs"),
    "cameraMatrix": ("distCoeffs", "distortion_coefficients"),
    "Camera_Matrix": ("Distortion_Coefficients",),
    "K1": ("D1",),
    "K2": ("D2",),
    "M1": ("D1",),
    "M2": ("D2",),
    "cameraMatrix1": ("distCoeffs1",),
    "cameraMatrix2": ("distCoeffs2",),
}


def read_calibration(path: Path, *, name: str | None = None, rectified: bool = False) -> Calibration:
    """Read intrinsics and distortion.

    JSON: ours (K or fx, fy, cx, cy; width, height, distortion, fisheye), BOP's camera.json and scene_camera.json,
    MegaPose's camera_data.json, Open3D's intrinsics, parameters and trajectories, RealSense's intrinsics. YAML: ROS'
    camera_info, Kalibr's. OpenCV's FileStorage as YAML, XML or JSON.

    Args:
        path: the file.
        name: which camera (Kalibr: "cam0"), stream (RealSense: "color"), image (BOP's scene_camera.json: "17") or
            matrix (OpenCV: "M1") or view (Open3D's trajectory: "0") of a file that holds several.
        rectified: whether a camera_info is to be read for rectified images.

    Raises:
        InputError: no such file, a format that is not known, or what it says cannot be meant.
    """
    if not path.is_file():
        raise InputError(f"{str(path)!r} is no file")
    try:
        text = path.read_text()
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: cannot be read as text: {quoted(error)}") from None
    try:
        return _read(path, text, name, rectified)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read(path: Path, text: str, name: str | None, rectified: bool) -> Calibration:
    if text.lstrip().startswith("<"):
        return _opencv(_file_storage(path), name)
    data = _parsed(text)
    if not isinstance(data, Mapping):
        raise InputError(f"wanted a JSON object with K, or fx, fy, cx and cy; got a {type(data).__name__}")
    if is_ros(data):
        return read_ros(data, rectified=rectified)
    if rectified:
        raise InputError("rectified=True is for ROS camera_info files, which this is not; leave it out")
    if is_realsense(data):
        return read_realsense(data, name=name)
    kalibr = {key: value for key, value in data.items() if isinstance(value, Mapping) and "camera_model" in value}
    if kalibr or "camera_model" in data:
        return _kalibr(data if not kalibr else one_of(kalibr, name, "camera"))
    if "intrinsic_matrix" in data or isinstance(data.get("intrinsic"), Mapping):
        return _open3d(data.get("intrinsic", data))
    if data.get("class_name") == "PinholeCameraTrajectory":
        return _open3d_trajectory(data, name)
    if any(_is_opencv_matrix(value) for value in data.values()):
        return _opencv(data, name)
    if "resolution" in data and "K" in data:
        return _megapose(data)
    if data and all(isinstance(value, Mapping) and "cam_K" in value for value in data.values()):
        return _bop_scene(data, name)
    return _own(data)


def _parsed(text: str) -> Any:
    if text.lstrip().startswith(("{", "[")):
        try:
            return parse_json(text)
        except ValueError as error:
            raise InputError(f"not JSON: {error}") from None
    return yaml.parse(text)


def _own(data: Mapping[str, Any]) -> Calibration:
    values = {key: value for key, value in data.items() if key not in _BESIDE}
    if unknown := [key for key in values if key not in _OWN]:
        raise InputError(f"unknown key {unknown[0]!r} (known: {', '.join(_OWN)})")
    given = [key for key in ("K", "cam_K") if key in values]
    if len(given) == 1 and not any(key in values for key in _PINHOLE):
        K = values[given[0]]
        K = [K[:3], K[3:6], K[6:]] if isinstance(K, list) and len(K) == 9 else K
    elif given or not all(key in values for key in _PINHOLE):
        raise InputError(f"wanted either K or all of fx, fy, cx and cy, got {', '.join(values) or 'nothing'}")
    else:
        K = pinhole(*(values[key] for key in _PINHOLE))
    fisheye = values.get("fisheye", False)
    return Calibration(K, values.get("width"), values.get("height"), values.get("distortion"), fisheye)


def _bop_scene(data: Mapping[str, Any], name: str | None) -> Calibration:
    matrices = {key: matrix(value["cam_K"], f"image {key}: cam_K") for key, value in data.items()}
    if name is None:
        first, *others = matrices.values()
        if all(np.array_equal(first, other) for other in others):
            return Calibration(first)
    elif name not in matrices and name.isdigit():
        name = str(int(name))  # image 000017 is "17"
    return Calibration(one_of(matrices, name, "image"))


def _megapose(data: Mapping[str, Any]) -> Calibration:
    resolution = numbers(data["resolution"], "resolution")
    if len(resolution) != 2:
        raise InputError(f"resolution: wanted [height, width], got {resolution}")
    return Calibration(matrix(data["K"], "K"), positive(resolution[1], "width"), positive(resolution[0], "height"))


def _open3d(data: Mapping[str, Any]) -> Calibration:
    K = matrix(data.get("intrinsic_matrix"), "intrinsic_matrix").T  # Eigen writes column by column
    if isinstance(data["intrinsic_matrix"][0], list):
        K = K.T
    return Calibration(K, positive(data.get("width"), "width"), positive(data.get("height"), "height"))


def _open3d_trajectory(data: Mapping[str, Any], name: str | None) -> Calibration:
    """Read the intrinsics that all views of a trajectory share, or those of one view. Where they were is not asked."""
    views = data.get("parameters")
    if not isinstance(views, list) or not views:
        raise InputError(f"parameters: wanted a list of views, each with its intrinsic, got {views!r:.60}")
    found = {}
    for i, view in enumerate(views):
        if not isinstance(view, Mapping) or not isinstance(view.get("intrinsic"), Mapping):
            raise InputError(f"parameters: view {i} has no intrinsic")
        found[str(i)] = _open3d(view["intrinsic"])
    first = found["0"]
    if name is None and all(np.array_equal(first.K, other.K) and first[1:3] == other[1:3] for other in found.values()):
        return first
    chosen: Calibration = one_of(found, name, "view")
    return chosen


def _kalibr(data: Mapping[str, Any]) -> Calibration:
    model, lens = str(data.get("camera_model")), str(data.get("distortion_model", "none"))
    if model != "pinhole" or lens not in ("none", "radtan", "equidistant"):
        raise InputError(
            f"camera_model {model!r} with distortion_model {lens!r} is not known (known: pinhole with none, radtan, "
            "equidistant)"
        )
    intrinsics, size = numbers(data.get("intrinsics"), "intrinsics"), numbers(data.get("resolution"), "resolution")
    if len(intrinsics) != 4 or len(size) != 2:
        raise InputError("wanted intrinsics: [fu, fv, pu, pv] and resolution: [width, height]")
    distortion = None if lens == "none" else numbers(data.get("distortion_coeffs"), "distortion_coeffs")
    width, height = positive(size[0], "width"), positive(size[1], "height")
    return Calibration(pinhole(*intrinsics), width, height, distortion, lens == "equidistant")


def _is_opencv_matrix(value: Any) -> bool:
    return isinstance(value, Mapping) and {"rows", "cols", "data"} <= set(value)


def _file_storage(path: Path) -> dict[str, Any]:
    """Return the numbers and matrices of one of OpenCV's XML files."""
    import cv2

    try:
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
        root = storage.root()
        values: dict[str, Any] = {}
        for key in root.keys():  # noqa: SIM118  (a FileNode is no mapping)
            node = root.getNode(key)
            if node.isMap():
                values[key] = node.mat()
            elif node.isInt() or node.isReal():
                values[key] = node.real()
        storage.release()
    except (cv2.error, SystemError) as error:
        raise InputError(f"OpenCV does not read it: {quoted(error)}") from None
    return {key: value for key, value in values.items() if value is not None}


def _opencv(data: Mapping[str, Any], name: str | None) -> Calibration:
    found = {key: key for key in _MATRICES if key in data}
    if name is not None and name in data:
        found = {name: name}
    if not found:
        raise InputError(
            f"has no camera matrix (wanted one called {', '.join(_MATRICES[:3])}; it has: {', '.join(data)})"
        )
    key = one_of(found, name, "matrix")
    beside = [other for other in (*_DISTORTIONS.get(key, ()), "distortion_coefficients", "D", "dist") if other in data]
    distortion = numbers(data[beside[0]], beside[0]) if beside else None
    size = [
        data.get(f"image_{side}", data.get(f"image_{side.capitalize()}", data.get(side)))
        for side in ("width", "height")
    ]
    width, height = (None if side is None else positive(side, "image size") for side in size)
    fisheye = bool(data.get("fisheye_model", data.get("fisheye", False)))
    return Calibration(matrix(data[key], key), width, height, distortion, fisheye)
