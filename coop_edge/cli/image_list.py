"""Images by number for the command line: of a picture, a folder or a video, in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.cli.frames import SUFFIXES, is_picture, natural
from coop_edge.cli.inputs import read_image
from coop_edge.cli.pictures import settle_bits
from coop_edge.errors import InputError


class Picture(NamedTuple):
    """One image of a source.

    Attributes:
        name: for people.
        read: reads it, RGB uint8 [h,w,3].
        path: of its file; of a frame the video's, and below it the frame's number.
    """

    name: str
    read: Callable[[], NDArray[np.uint8]]
    path: Path


def list_pictures(source: Path) -> list[Picture]:
    """List the images of a picture, a folder or a video; they can be read in any order.

    Named and ordered as ``open_frames`` does it.

    Raises:
        InputError: there is nothing to read.
    """
    if source.is_file() and source.suffix.lower() in SUFFIXES:
        return [Picture(source.name, partial(read_image, source), source)]
    if source.is_dir():
        paths = sorted((path for path in source.iterdir() if is_picture(path)), key=lambda path: natural(path.name))
        if not paths:
            raise InputError(f"{source}: no pictures in this folder (wanted {', '.join(SUFFIXES)})")
        settle_bits(paths)
        return [Picture(path.name, partial(read_image, path), path) for path in paths]
    if not source.is_file():
        raise InputError(f"{source}: no such image, video or folder")
    video = VideoReader(source)
    return [Picture(f"{i:06d}", partial(video.read, i), source / f"{i:06d}") for i in range(video.count)]


def first_image(pictures: Sequence[Picture]) -> NDArray[np.uint8]:
    """Return the first image that can be read.

    Raises:
        InputError: none can; the error is the first picture's.
    """
    failed: InputError | None = None
    for picture in pictures:
        try:
            return picture.read()
        except InputError as error:
            failed = failed or error
    raise failed or InputError("wanted at least one image")


class VideoReader:
    """Reads the frames of a video by number.

    One after the other it reads on; elsewhere it goes back to the start and counts, as seeking is not exact in every
    format.

    Raises:
        InputError: OpenCV does not read it.
    """

    def __init__(self, source: Path) -> None:
        import cv2

        self._source, self._capture = source, cv2.VideoCapture(str(source))
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        self._next = 0
        self.count = 0
        while self._capture.grab():
            self.count += 1
        if not self.count:
            raise InputError(f"{source}: not a video that OpenCV reads; give a folder of its pictures instead")
        self._reopen()

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return frame ``index``, RGB uint8 [h,w,3].

        Raises:
            InputError: there is no such frame.
        """
        if index < self._next:
            self._reopen()
        while self._next < index and self._capture.grab():
            self._next += 1
        there, image = self._capture.read()
        if not there:
            raise InputError(f"{self._source}: frame {index} cannot be read")
        self._next += 1
        return np.ascontiguousarray(image[..., ::-1], np.uint8)

    def _reopen(self) -> None:
        import cv2

        self._capture.release()
        self._capture = cv2.VideoCapture(str(self._source))
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        self._next = 0
