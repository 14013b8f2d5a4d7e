"""Opens frames for the command line: a video, or the pictures of a folder in the order of their names."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.cli.inputs import read_image
from coop_edge.cli.pictures import settle_bits
from coop_edge.errors import InputError

log = logging.getLogger("coop_edge")

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""What counts as a picture in a folder."""

Frame = tuple[str, NDArray[np.uint8]]
"""Name, and RGB uint8 [h,w,3]."""


class Shot(NamedTuple):
    """One frame of a camera: its name, RGB uint8 [h,w,3], and ``depth`` and ``depth_unit`` as ``Estimator.track`` takes
    them, where there is depth."""

    name: str
    image: NDArray[np.uint8]
    measured: Mapping[str, Any] = {}


def open_frames(source: str | Path) -> Iterator[Frame]:
    """Open a video, a camera or a stream (frames named by their numbers, from 000000 on), or a folder (by its files).

    A number is a camera of this machine, unless there is such a file; an address such as rtsp://HOST/PATH a stream. In
    a folder 2.png comes before 10.png. As the sensor saw them: orientation tags would not fit the intrinsics.

    Raises:
        InputError: at once where there is nothing to read, and later where a picture cannot be read.
    """
    if is_live(source):
        return _first_at_once(_video(source), source)
    path = Path(source)
    if path.is_dir():
        paths = sorted((each for each in path.iterdir() if is_picture(each)), key=lambda each: natural(each.name))
        if not paths:
            raise InputError(f"{path}: no pictures in this folder (wanted {', '.join(SUFFIXES)})")
        settle_bits(paths)
        return ((each.name, read_image(each)) for each in paths)
    if not path.is_file():
        raise InputError(f"{path}: no such video or folder")
    return _first_at_once(_video(path), path)


def is_live(source: str | Path) -> bool:
    """Tell whether ``source`` is a camera's number or a stream's address, which has no end of its own."""
    text = str(source)
    return "://" in text or (text.isascii() and text.isdigit() and not Path(text).exists())


def frame_rate(source: str | Path) -> float:
    """Return the frames per second that a video's file states; 30 where nothing is stated."""
    import cv2

    if is_live(source) or not Path(source).is_file():
        return 30.0
    capture = cv2.VideoCapture(str(source))
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return rate if 1.0 <= rate <= 1000.0 else 30.0


def _video(source: str | Path) -> Iterator[Frame]:
    import cv2

    live, text = is_live(source), str(source)
    capture = cv2.VideoCapture(int(text) if live and text.isdigit() else text)
    try:
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        if live:
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # frames that wait are old
        read, stated = 0, 0 if live else int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        while True:
            there, image = capture.read()
            if not there:
                break
            yield f"{read:06d}", np.ascontiguousarray(image[..., ::-1], np.uint8)
            read += 1
    finally:
        capture.release()
    if live and read:
        log.warning("%s: gave no frame after %d", source, read)
    elif read < stated:  # OpenCV says the same of the end and of a fault
        log.warning("%s: only %d of its %d frames could be read", source, read, stated)


def _first_at_once(frames: Iterator[Frame], source: str | Path) -> Iterator[Frame]:
    """``frames``, the first of which has been read already. Raises InputError if there is none."""
    first = next(frames, None)
    if first is None and is_live(source):
        kind = f"camera {source}" if str(source).isdigit() else f"{source}:"
        raise InputError(f"{kind} gives no picture; is it connected, and free of other programs?")
    if first is None:
        raise InputError(f"{source}: not a video that OpenCV reads; give a folder of its pictures instead")

    def all_frames() -> Iterator[Frame]:
        yield first
        yield from frames

    return all_frames()


def is_picture(path: Path) -> bool:
    """Tell whether a folder's file counts as one of its pictures."""
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")


def natural(name: str) -> list[str | int]:
    """Text and numbers in turn, numbers by their value."""
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(re.split(r"(\d+)", name))]
