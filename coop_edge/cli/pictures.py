"""Decodes pictures as the sensor saw them: no orientation tag is applied, and bits are not lost in silence."""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError, quoted

log = logging.getLogger("coop_edge")

_ORIENTATION = 274
"""Number of the tag, in TIFF and in EXIF."""
_DEPTHS = (8, 10, 12, 14)
"""Bits of sensors whose pictures are kept in 16."""
_LOOKED_AT = 8
"""Frames by which the bits of all frames of a folder are decided."""
_SETTLED: dict[Path, int] = {}
"""Bits of the frames of a folder."""


def decode(path: Path, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode a picture's file as RGB uint8 [h,w,3].

    An orientation tag is not applied, since the intrinsics are of the image as the sensor saw it; a picture that has
    one is named in the log. Of 16 bits the upper 8 are taken, or of as few bits as the picture uses, if it is a
    sensor's of 10, 12 or 14, with a warning; of frames of one folder the same bits: see ``settle_bits``.

    Args:
        path: of the file, for errors and the log.
        data: its content.

    Raises:
        InputError: OpenCV does not read it.
    """
    try:
        image = cv2.imdecode(_upright(data), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # such as one of more pixels than OpenCV takes
        raise InputError(f"{path}: OpenCV does not read it: {quoted(error)}") from None
    if image is None:
        raise InputError(f"{path}: not an image that OpenCV reads")
    if _is_turned(data):
        size = f"{image.shape[1]}x{image.shape[0]}"
        _say(path, f"its orientation tag is not applied: box and camera must be of the {size} image, as it is stored")
    if image.dtype == np.uint16:
        image = _eight_bits(path, image)
    elif image.dtype != np.uint8:
        raise InputError(f"{path}: wanted a picture of 8 or 16 bits, got {image.dtype}; scale it to 0..255 first")
    return np.ascontiguousarray(image[..., ::-1], np.uint8)


def settle_bits(paths: Sequence[Path]) -> None:
    """Decide once for the frames of a folder how many of 16 bits they use, by a few of them.

    Else a dark frame of 12 bits, which none of its pixels needs, would come out brighter than the others.
    """
    bits = 0
    for i in np.unique(np.linspace(0, len(paths) - 1, _LOOKED_AT).astype(int)):
        try:
            image = cv2.imdecode(np.fromfile(paths[i], np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        except (cv2.error, OSError):  # said when the frame is read
            continue
        if image is not None and image.dtype != np.uint16:
            return
        bits = max(bits, 0 if image is None else _bits(image))
    _SETTLED[paths[0].parent] = bits


def _bits(image: NDArray[Any]) -> int:
    top = int(image.max())
    return next((depth for depth in _DEPTHS if top < 1 << depth), 16)


def _eight_bits(path: Path, image: NDArray[Any]) -> NDArray[np.uint8]:
    """The upper eight of the bits that are used."""
    own, settled = _bits(image), _SETTLED.get(path.parent, 0)
    bits = max(own, settled)
    if own > settled > 0:
        _SETTLED[path.parent] = own
        _say(path, f"uses {own} bits, frames before it were read as of {settled} bits: it is darker than they are")
    if bits < 16:
        _say(path, f"uses {bits} of its 16 bits, by which it looks black; it is read as a picture of {bits} bits")
    return (image >> (bits - 8)).astype(np.uint8)


def _is_turned(data: NDArray[np.uint8]) -> bool:
    """Whether a picture has a tag that asks viewers to turn or mirror it."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data.tobytes())) as picture:
            return picture.getexif().get(_ORIENTATION, 1) not in (0, 1)
    except Exception:  # what Pillow cannot read has no tag that matters here: OpenCV has read the picture
        return False


def _upright(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The file of a TIFF whose orientation tags say "as stored"; OpenCV has no way to ignore them. Others as it is."""
    head = data[:4].tobytes()
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    version = struct.unpack(f"{order}H", head[2:])[0] if order and len(head) == 4 else 0
    if version not in (42, 43):
        return data
    out = data.copy()
    raw = memoryview(out)
    try:
        _reset(raw, order, big=version == 43)
    except struct.error:  # cut off: OpenCV says so
        return data
    return out


def _reset(raw: memoryview, order: str, *, big: bool) -> None:
    """Set every orientation tag of the directories of a TIFF to 1."""
    count_kind, entry, value, link = ("Q", 20, 12, "Q") if big else ("H", 12, 8, "I")
    (at,) = struct.unpack_from(f"{order}{link}", raw, 8 if big else 4)
    seen: set[int] = set()
    while at and at not in seen:
        seen.add(at)
        (count,) = struct.unpack_from(f"{order}{count_kind}", raw, at)
        first = at + struct.calcsize(f"={count_kind}")
        for i in range(min(count, 1 << 16)):
            (tag,) = struct.unpack_from(f"{order}H", raw, first + entry * i)
            if tag == _ORIENTATION:
                struct.pack_into(f"{order}H", raw, first + entry * i + value, 1)
        (at,) = struct.unpack_from(f"{order}{link}", raw, first + entry * count)


_SAID: set[tuple[Path, str]] = set()


def _say(path: Path, text: str) -> None:
    """Once for all pictures of a folder, which are mostly of one camera."""
    if (path.parent, text) not in _SAID:
        _SAID.add((path.parent, text))
        log.warning("%s: %s", path, text)
