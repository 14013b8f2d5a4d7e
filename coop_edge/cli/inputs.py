"""What the command line reads: images, cameras, objects and detections. Errors name the file or the option."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError, quoted
from coop_edge.types import Camera, Detection

if TYPE_CHECKING:
    from coop_edge.estimator import Estimator

_PINHOLE = ("fx", "fy", "cx", "cy")
_CAMERA_KEYS = ("K", "cam_K", *_PINHOLE, "width", "height", "distortion", "fisheye")
_IGNORED_KEYS = ("depth_scale", "cam_R_w2c", "cam_t_w2c")  # of BOP's files: they do not bear on a pose in one RGB image
_DETECTION_KEYS = ("object", "bbox", "mask", "score")


class ObjectArgument(NamedTuple):
    """One ``--object``, with its file of ``--templates`` if there is one."""

    name: str
    mesh: Path
    unit: str
    templates: Path | None = None


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a picture as RGB uint8 [h,w,3]. Raises InputError.

    An orientation tag is not applied: the intrinsics are of the image as the sensor saw it.
    """
    import cv2

    if not path.is_file():
        raise InputError(f"{path}: no such image")
    data = np.fromfile(path, np.uint8)
    if data.size == 0:
        raise InputError(f"{path}: the file is empty")
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # such as one of more pixels than OpenCV takes
        raise InputError(f"{path}: OpenCV does not read it: {quoted(error)}") from None
    if image is None:
        raise InputError(f"{path}: not an image that OpenCV reads")
    return np.ascontiguousarray(image[..., ::-1], np.uint8)


def read_camera(text: str, image: NDArray[np.uint8]) -> Camera:
    """Read a camera from ``FX,FY,CX,CY`` or from a JSON file; its size is the image's where the file does not say it.

    The file holds K (3 x 3 or 9 numbers, row by row; BOP's name cam_K too) or fx, fy, cx, cy; and may hold width,
    height, distortion and fisheye. What else BOP writes there (depth_scale, the camera's place) is skipped. Raises
    InputError.
    """
    height, width = image.shape[:2]
    parts = text.split(",")
    if len(parts) == len(_PINHOLE):
        try:
            numbers = [float(part) for part in parts]
        except ValueError as error:
            raise InputError(
                f"--camera: wanted four numbers FX,FY,CX,CY or a JSON file, got {text!r} ({error})"
            ) from None
        return Camera(_matrix(dict(zip(_PINHOLE, numbers, strict=True))), width, height)
    path = Path(text)
    values = _read_json(path, "--camera: wanted FX,FY,CX,CY or a JSON file")
    if not isinstance(values, dict):
        raise InputError(f"{path}: wanted a JSON object with K, or fx, fy, cx and cy; got a {type(values).__name__}")
    values = {key: value for key, value in values.items() if key not in _IGNORED_KEYS}
    _check_keys(path, values, _CAMERA_KEYS)
    optional: dict[str, Any] = {"width": width, "height": height}
    optional |= {key: values[key] for key in ("width", "height", "distortion", "fisheye") if key in values}
    camera = Camera(_intrinsics(path, values), **optional)
    if camera.size != (width, height):
        raise InputError(f"{path}: its camera has {camera.width}x{camera.height} pixels, the image {width}x{height}")
    return camera


def parse_objects(arguments: Sequence[str], templates: Sequence[str] = ()) -> list[ObjectArgument]:
    """Read arguments of the form ``NAME=MESH:UNIT``, and the ``NAME=TEMPLATES.npz`` of some of them. Raises InputError.

    Meshes and templates are not opened yet.
    """
    objects: dict[str, ObjectArgument] = {}
    for text in arguments:
        name, _, rest = text.partition("=")
        mesh, _, unit = rest.rpartition(":")
        if not (name and mesh and unit):
            raise InputError(f"--object: wanted NAME=MESH:UNIT, such as cup=cup.ply:mm, got {text!r}")
        if name in objects:
            raise InputError(f"--object: there is an object {name!r} already; wanted each name once")
        objects[name] = ObjectArgument(name, Path(mesh), unit)
    for text in templates:
        name, _, path = text.partition("=")
        if name not in objects or not path:
            known = ", ".join(objects)
            raise InputError(f"--templates: wanted NAME=TEMPLATES.npz with NAME one of {known}, got {text!r}")
        if (before := objects[name].templates) is not None:
            raise InputError(f"--templates: wanted one file for {name!r}, got {str(before)!r} and {path!r}")
        objects[name] = objects[name]._replace(templates=Path(path))
    return list(objects.values())


def add_objects(estimator: Estimator, objects: Sequence[ObjectArgument]) -> None:
    """Register the objects. Raises what ``Estimator.add_object`` raises."""
    for each in objects:
        estimator.add_object(each.name, each.mesh, unit=each.unit, templates=each.templates)


def read_detections(path: Path) -> list[Detection]:
    """Read a JSON list of {"object", "bbox" and/or "mask", "score"}. Raises InputError that says which entry is wrong.

    A mask is a picture, its path relative to the file's folder; what is not black in it is the object.
    """
    entries = _read_json(path, "--detections: wanted a JSON file")
    if not isinstance(entries, list):
        raise InputError(f'{path}: wanted a JSON list of {{"object": ..., "bbox": [x, y, width, height]}}')
    detections = []
    for i, entry in enumerate(entries):
        try:
            detections.append(_detection(path, entry))
        except InputError as error:
            raise InputError(f"{path}: detection {i}: {error}") from None
    return detections


def _detection(path: Path, entry: Any) -> Detection:
    if not isinstance(entry, dict):
        raise InputError(f"wanted a JSON object, got {entry!r:.60}")
    _check_keys(None, entry, _DETECTION_KEYS)
    mask = entry.get("mask")
    if mask is not None and not isinstance(mask, str):
        raise InputError(f"mask: wanted the path of a picture, got {mask!r:.60}")
    return Detection(
        entry.get("object", ""),
        entry.get("bbox"),
        None if mask is None else np.asarray(read_image(path.parent / mask).any(axis=2)),
        entry.get("score", 1.0),
    )


def _intrinsics(path: Path, values: Mapping[str, Any]) -> Any:
    given = [key for key in ("K", "cam_K") if key in values]
    pinhole = [key for key in _PINHOLE if key in values]
    if len(given) == 1 and not pinhole:
        K = values[given[0]]
        return [K[:3], K[3:6], K[6:]] if isinstance(K, list) and len(K) == 9 else K
    if given or len(pinhole) != len(_PINHOLE):
        raise InputError(f"{path}: wanted either K or all of fx, fy, cx and cy, got {', '.join(values) or 'nothing'}")
    return _matrix(values)


def _matrix(values: Mapping[str, Any]) -> Any:
    return [[values["fx"], 0.0, values["cx"]], [0.0, values["fy"], values["cy"]], [0.0, 0.0, 1.0]]


def _check_keys(path: Path | None, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if unknown := [key for key in values if key not in known]:
        where = f"{path}: " if path else ""
        raise InputError(f"{where}unknown key {unknown[0]!r} (known: {', '.join(known)})")


def _read_json(path: Path, wanted: str) -> Any:
    if not path.is_file():
        raise InputError(f"{wanted}, got {str(path)!r}, which is no file")
    try:
        return json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
