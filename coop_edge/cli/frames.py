"""Frames for the command line: a video, or the pictures of a folder in the order of their names."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coop_edge.cli.inputs import read_image
from coop_edge.errors import InputError

log = logging.getLogger("coop_edge")

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""What counts as a picture in a folder."""

Frame = tuple[str, NDArray[np.uint8]]
"""Name, and RGB uint8 [h,w,3]."""


def open_frames(source: Path) -> Iterator[Frame]:
    """The frames of a video (named by their numbers, from 000000 on) or of a folder (named by their files).

    In a folder 2.png comes before 10.png. As the sensor saw them: orientation tags would not fit the intrinsics.
    Raises InputError at once where there is nothing to read, and later where a picture cannot be read.
    """
    if source.is_dir():
        paths = sorted((path for path in source.iterdir() if _is_picture(path)), key=lambda path: _natural(path.name))
        if not paths:
            raise InputError(f"{source}: no pictures in this folder (wanted {', '.join(SUFFIXES)})")
        return ((path.name, read_image(path)) for path in paths)
    if not source.is_file():
        raise InputError(f"{source}: no such video or folder")
    return _first_at_once(_video(source), source)


def _video(source: Path) -> Iterator[Frame]:
    import cv2

    capture = cv2.VideoCapture(str(source))
    try:
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        read, stated = 0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        while True:
            there, image = capture.read()
            if not there:
                break
            yield f"{read:06d}", np.ascontiguousarray(image[..., ::-1], np.uint8)
            read += 1
    finally:
        capture.release()
    if read < stated:  # OpenCV says the same of the end and of a fault
        log.warning("%s: only %d of its %d frames could be read", source, read, stated)


def _first_at_once(frames: Iterator[Frame], source: Path) -> Iterator[Frame]:
    """``frames``, the first of which has been read already. Raises InputError if there is none."""
    first = next(frames, None)
    if first is None:
        raise InputError(f"{source}: not a video that OpenCV reads; give a folder of its pictures instead")

    def all_frames() -> Iterator[Frame]:
        yield first
        yield from frames

    return all_frames()


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")


def _natural(name: str) -> list[str | int]:
    """Text and numbers in turn, numbers by their value."""
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(re.split(r"(\d+)", name))]
