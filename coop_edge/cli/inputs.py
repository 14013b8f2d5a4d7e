"""Reads what the command line gives: images, cameras, objects and detections. Errors name the file or the option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from coop_edge.base.plain import parse_json
from coop_edge.errors import InputError
from coop_edge.types import Camera, Detection

if TYPE_CHECKING:
    from coop_edge.estimator import Estimator

_DETECTION_KEYS = ("object", "bbox", "mask", "score")


class ObjectArgument(NamedTuple):
    """One ``--object``, with its file of ``--templates`` if there is one."""

    name: str
    mesh: Path
    unit: str
    templates: Path | None = None


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a picture as RGB uint8 [h,w,3], as ``pictures.decode`` does.

    Raises:
        InputError: no such file, an empty one, or one that OpenCV does not read.
    """
    from coop_edge.cli.pictures import decode

    if not path.is_file():
        raise InputError(f"{path}: no such image")
    data = np.fromfile(path, np.uint8)
    if data.size == 0:
        raise InputError(f"{path}: the file is empty")
    return decode(path, data)


def read_camera(text: str, image: NDArray[np.uint8]) -> Camera:
    """Read a camera from ``FX,FY,CX,CY`` or from a calibration file; its size is the image's where the file lacks it.

    The file is any that ``Camera.load`` knows; ``FILE#NAME`` is one of several cameras in it, ``FILE#rectified`` the
    rectified one of a ROS camera_info.

    Raises:
        InputError: neither four numbers nor a calibration file, or one of another image size.
    """
    size = image.shape[1], image.shape[0]
    parts = text.split(",")
    if len(parts) == 4:
        try:
            fx, fy, cx, cy = (float(part) for part in parts)
        except ValueError as error:
            raise InputError(
                f"--camera: wanted four numbers FX,FY,CX,CY or a calibration file, got {text!r} ({error})"
            ) from None
        return Camera(np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]), *size)
    path, _, name = text.partition("#")
    if not Path(path).is_file():
        raise InputError(f"--camera: wanted FX,FY,CX,CY or a calibration file, got {path!r}, which is no file")
    rectified = name == "rectified"
    return Camera.load(path, size=size, name=None if rectified else name or None, rectified=rectified)


def source_and_objects(
    given: Path | None, arguments: Sequence[str] | None, objects: Sequence[str] | None, kind: str
) -> tuple[str, list[str]]:
    """Return what is looked at, ``given`` or else the first of ``arguments``, and the objects, which are all others.

    Args:
        kind: what is looked at, for errors.

    Raises:
        InputError: either is missing.
    """
    first, *more = [*([str(given)] if given is not None else []), *(arguments or []), *(objects or [])] or [""]
    if not first or not more:
        missing = f"{kind} and an object" if not first else "an object"
        raise InputError(f"wanted {missing}, such as: {kind} cup.ply:mm --box X,Y,W,H --camera FX,FY,CX,CY")
    return first, more


def parse_objects(arguments: Sequence[str], templates: Sequence[str] = ()) -> list[ObjectArgument]:
    """Read arguments of the form ``[NAME=]MESH:UNIT``, and the ``NAME=TEMPLATES.npz`` of some of them.

    Without a name an object is called as its file.

    Meshes and templates are not opened yet.

    Raises:
        InputError: no unit, a name that is there twice, or templates of an object that is not given.
    """
    objects: dict[str, ObjectArgument] = {}
    for text in arguments:
        name, equals, rest = text.partition("=")
        mesh, _, unit = (rest if equals else text).rpartition(":")
        name = name if equals else Path(mesh).stem
        if not (name and mesh and unit):
            raise InputError(
                f"object {text!r}: wanted MESH:UNIT or NAME=MESH:UNIT, such as cup.ply:mm; UNIT is m, cm, mm or in"
            )
        if name in objects:
            raise InputError(f"--object: there is an object {name!r} already; wanted each name once, as NAME=MESH:UNIT")
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


def add_objects(
    estimator: Estimator,
    objects: Sequence[ObjectArgument],
    entries: Mapping[str, tuple[Path, int]] | None = None,
    *,
    ignore_colors: bool = False,
    allow_outside: bool = False,
) -> list[dict[str, Any]]:
    """Register the objects, and say on stderr what each of them is; return the same as plain data.

    Args:
        entries: file and entry of ``--models-info``, by name.
        ignore_colors: as ``Mesh.load`` has it; so is ``allow_outside``.

    Raises:
        CoopEdgeError: what ``Mesh.load`` and ``Estimator.add_object`` raise.
    """
    from coop_edge.cli.meshes import describe
    from coop_edge.cli.symmetries import symmetries_of
    from coop_edge.mesh import Mesh

    found = []
    for each in objects:
        mesh = Mesh.load(
            each.mesh, unit=each.unit, name=each.name, ignore_colors=ignore_colors, allow_outside=allow_outside
        )
        typer.echo(mesh.summary, err=True)
        symmetries = symmetries_of(each.name, entries or {}, mesh, each.unit)
        estimator.add_object(each.name, mesh, symmetries=symmetries, templates=each.templates)
        found.append(describe(mesh))
    return found


def wanted_detections(
    path: Path | None, boxes: Sequence[str] | None, objects: Sequence[ObjectArgument]
) -> list[Detection]:
    """Read where objects are, from a file of ``--detections``, from ``--box``, or both.

    Raises:
        InputError: neither boxes nor a file, or one of them is wrong.
    """
    if path is None and not boxes:
        raise InputError("wanted where to look: --box X,Y,W,H, or --detections FILE")
    found = [] if path is None else read_detections(path)
    return found + [parse_box(text, [each.name for each in objects]) for text in boxes or ()]


def parse_box(text: str, names: Sequence[str]) -> Detection:
    """Read ``[NAME=]X,Y,W,H``; without a name it is of the only object of ``names``.

    Raises:
        InputError: not four numbers, or of no object that is given.
    """
    name, equals, rest = text.rpartition("=")
    if not equals and len(names) != 1:
        known = f"NAME one of {', '.join(names)}" if names else "an object beside it"
        raise InputError(f"--box: wanted NAME=X,Y,W,H with {known}, got {text!r}")
    parts = rest.replace(",", " ").split()
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise InputError(f"--box: wanted left, top, width and height in pixels, such as 120,80,200,150, got {text!r}")
    x, y, w, h = numbers
    return Detection(name if equals else names[0], (x, y, w, h))


def read_detections(path: Path) -> list[Detection]:
    """Read a JSON list of {"object", "bbox" and/or "mask", "score"}.

    A mask is a picture, its path relative to the file's folder; what is not black in it is the object.

    Raises:
        InputError: the message says which entry is wrong.
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


def _check_keys(path: Path | None, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if unknown := [key for key in values if key not in known]:
        where = f"{path}: " if path else ""
        raise InputError(f"{where}unknown key {unknown[0]!r} (known: {', '.join(known)})")


def _read_json(path: Path, wanted: str) -> Any:
    if not path.is_file():
        raise InputError(f"{wanted}, got {str(path)!r}, which is no file")
    try:
        return parse_json(path.read_bytes())
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
