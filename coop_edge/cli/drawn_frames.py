"""Where `track` puts the frames that it draws: a folder of pictures, or a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from coop_edge.base.files import Replacement
from coop_edge.errors import InputError
from coop_edge.visual.draw import write_image

CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "MJPG", ".avi": "MJPG"}
"""Suffix of a video to the codec it is written with; OpenCV's wheels bring these."""

Put = Callable[[str, NDArray[np.uint8]], None]
"""Takes a frame's name and its picture, RGB uint8 [h,w,3]."""


@contextmanager
def open_output(path: Path, frames_per_second: float) -> Iterator[Put]:
    """Give what takes the frames: into a video if ``path`` has a video's suffix, else into a folder, a picture each.

    A video is there when the block ends, with the frames until then, also if it ends by an error or Ctrl-C.

    Raises:
        InputError: no such video can be written.
        OSError: it cannot be written, or is a folder, device, pipe or socket.
    """
    if path.suffix.lower() not in CODECS:
        yield lambda name, image: write_image(path / _picture_name(name), image)
        return
    video = _Video(path, frames_per_second)
    try:
        yield video.put
    finally:
        video.close()


class _Video:
    def __init__(self, path: Path, frames_per_second: float) -> None:
        self._path, self._rate = path, frames_per_second
        self._writer: Any = None
        self._file = Replacement(path, path.suffix.lower())

    def put(self, _: str, image: NDArray[np.uint8]) -> None:
        """Append a frame."""
        if self._writer is None:
            self._writer = self._opened(image.shape[1], image.shape[0])
        self._writer.write(np.ascontiguousarray(image[..., ::-1]))

    def close(self) -> None:
        """Give the video its name, if it has a frame."""
        if self._writer is None:
            self._file.discard()
            return
        self._writer.release()
        self._file.finish()

    def _opened(self, width: int, height: int) -> Any:
        codec = cv2.VideoWriter.fourcc(*CODECS[self._path.suffix.lower()])
        writer = cv2.VideoWriter(str(self._file.temporary), codec, self._rate, (width, height))
        if not writer.isOpened():
            raise InputError(
                f"--overlay: {self._path}: OpenCV cannot write such a video of {width}x{height} here; give a folder, "
                f"or a file ending in {', '.join(CODECS)}"
            )
        return writer


def _picture_name(frame: str) -> str:
    """The frame's own name where such a picture can be written: two frames never share one."""
    return frame if Path(frame).suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".bmp") else f"{frame}.png"
