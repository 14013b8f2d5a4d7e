"""Depth images that the command line reads: 16-bit pictures and NumPy files, one a frame."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.cli.frames import natural
from coop_edge.errors import InputError, quoted

SUFFIXES = (".png", ".tif", ".tiff", ".npy")
"""What counts as a depth image in a folder."""
BOP_SCALE = "depth_scale"
"""Of a camera's JSON file: millimetres per step of the depth images, as the BOP benchmark writes it."""


def read_depth_file(path: Path) -> NDArray[Any]:
    """Read a depth image as it is, uint16 or floating point [h,w] (a .npy file: also [N,h,w]).

    Raises:
        InputError: no such file, or neither a picture of 16 bits nor an array of numbers.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such depth image")
    if path.suffix.lower() == ".npy":
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: not an array that NumPy reads: {quoted(error)}") from None
        if not isinstance(array, np.ndarray) or array.ndim not in (2, 3):
            raise InputError(f"{path}: wanted depth [height,width] or [frames,height,width], got {np.shape(array)}")
        return array
    import cv2

    image: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if path.stat().st_size else None
    if image is None:
        raise InputError(f"{path}: not a picture that OpenCV reads")
    if image.ndim != 2 or image.dtype not in (np.uint16, np.float32):
        raise InputError(
            f"{path}: wanted a picture of one 16-bit channel, got {image.dtype} {list(image.shape)}; is it a coloured "
            "view of the depth?"
        )
    return np.asarray(image)


class Depths:
    """The depth images of a sequence of frames, in their order."""

    def __init__(self, images: Iterator[NDArray[Any]], unit: str | float | None) -> None:
        self._images, self._unit = images, unit

    def of(self, frame: str) -> dict[str, Any]:
        """Return the arguments of ``Estimator.estimate`` for the next frame.

        Raises:
            InputError: there are no more.
        """
        depth = next(self._images, None)
        if depth is None:
            raise InputError(
                f"frame {frame}: there are fewer depth images than frames; wanted one for each, in their order"
            )
        return {"depth": depth, "depth_unit": self._unit}


def open_depths(source: Path, unit: str | float | None) -> Depths:
    """Open the depth images of a sequence: of a folder in the order of their names (2.png before 10.png), those of a
    .npy file [N,h,w], or the one picture that is given.

    Raises:
        InputError: at once where there is nothing to read.
    """
    if source.is_dir():
        return Depths(map(read_depth_file, _in_order(source)), unit)
    return Depths(iter(_stack(source)), unit)


def depths_by_number(
    depth: Path, unit: str | float | None, source: Path, names: Sequence[str]
) -> Callable[[int], dict[str, Any]]:
    """Return what gives the arguments of ``Estimator.estimate`` for the images of a picture, a folder or a video.

    Args:
        depth: of ``--depth``. A file: of the one picture, or [N,h,w] in the order of the images. A folder: for pictures
            the files of their names, for a video its files in the order of their names.
        unit: of ``depth_unit``.
        source: the picture, folder or video.
        names: of the images, in their order.

    Raises:
        InputError: nothing to read, or fewer depth images than images.
    """
    if depth.is_dir() and (source.is_dir() or len(names) == 1):
        return lambda i: {"depth": depth_of_image(depth, Path(names[i])), "depth_unit": unit}
    images: Sequence[Any] = _in_order(depth) if depth.is_dir() else list(_stack(depth))
    if len(images) < len(names):
        raise InputError(f"{depth}: depth images: {len(images)}, images in {source}: {len(names)}; wanted one for each")
    return lambda i: {
        "depth": read_depth_file(images[i]) if isinstance(images[i], Path) else images[i],
        "depth_unit": unit,
    }


def _in_order(folder: Path) -> list[Path]:
    """Return the depth images of a folder in the order of their names. Raises InputError where there are none."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not paths:
        raise InputError(f"{folder}: no depth images in this folder (wanted {', '.join(SUFFIXES)})")
    return sorted(paths, key=lambda path: natural(path.name))


def _stack(path: Path) -> NDArray[Any]:
    """Return the depth images of a file, [N,h,w]."""
    array = read_depth_file(path)
    return array[None] if array.ndim == 2 else array


def depth_of_image(source: Path, image: Path) -> NDArray[Any]:
    """Return the depth of one image: a file, or in a folder the file of the image's name.

    Raises:
        InputError: no such file, none of that name in the folder, or depth of several images.
    """
    if not source.is_dir():
        depth = read_depth_file(source)
        if depth.ndim != 2:
            raise InputError(f"{source}: wanted the depth of one image, got {list(depth.shape)}")
        return depth
    for suffix in SUFFIXES:
        if (path := source / f"{image.stem}{suffix}").is_file():
            return read_depth_file(path)
    raise InputError(f"{source}: no depth image {image.stem}{'|'.join(SUFFIXES)} in this folder")


def depth_unit(text: str | None, camera: str, depth: Path | None) -> str | float | None:
    """Return the unit of depth images for ``Estimator.estimate``.

    Args:
        text: of ``--depth-unit``: "m", "cm", "mm" or metres per step; None: as the camera's file says (``BOP_SCALE``).
        camera: of ``--camera``.
        depth: of ``--depth``.

    Raises:
        InputError: a unit without depth.
    """
    if depth is None:
        if text is not None:
            raise InputError(f"--depth-unit {text}: wanted with --depth; there is no depth to read")
        return None
    if text is not None:
        try:
            return float(text)
        except ValueError:
            return text
    name, _, entry = camera.partition("#")
    path = Path(name)
    if path.suffix.lower() != ".json" or not path.is_file():
        return None
    values: Any = json.loads(path.read_text())  # read, and checked, as a camera before
    if isinstance(values, dict) and isinstance(values.get(entry), dict):
        values = values[entry]  # of a BOP scene, by the image's number
    scale = values.get(BOP_SCALE) if isinstance(values, dict) else None
    return float(scale) / 1000.0 if isinstance(scale, (int, float)) else None
