"""Masks as COCO and BOP write them: run lengths, plain or packed into a string, or polygons."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from coop_edge.errors import InputError


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Decode a mask, bool [height,width]. size: (width, height) of the image.

    segmentation: {"counts", "size": [height, width]}, or a list of polygons [x0, y0, x1, y1, ...].

    Raises:
        InputError: it is neither, or does not fit the image.
    """
    width, height = size
    if isinstance(segmentation, list):
        return _polygons(segmentation, width, height)
    if not isinstance(segmentation, dict) or not {"counts", "size"} <= set(segmentation):
        raise InputError(f"segmentation: wanted counts and size, or polygons, got {segmentation!r:.60}")
    if list(segmentation["size"]) != [height, width]:
        raise InputError(f"segmentation: wanted the image's size {[height, width]}, got {segmentation['size']}")
    counts = segmentation["counts"]
    lengths = _unpack(counts) if isinstance(counts, str) else counts
    try:
        runs = np.asarray(lengths, np.int64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"segmentation: wanted run lengths, got {counts!r:.60}") from None
    if (runs < 0).any() or runs.sum() != width * height:
        raise InputError(f"segmentation: its runs cover {runs.sum()} pixels, the image has {width * height}")
    values = np.arange(len(runs)) % 2 == 1  # runs alternate, beginning with what is not the object
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)  # column by column


def _polygons(polygons: list[Any], width: int, height: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        try:
            points = np.asarray(polygon, np.float64).reshape(-1, 2)
        except (TypeError, ValueError):
            raise InputError(f"segmentation: wanted polygons [x0, y0, x1, y1, ...], got {polygon!r:.60}") from None
        cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1)
    return mask.astype(bool)


def _unpack(text: str) -> list[int]:
    """Run lengths of COCO's string: five bits a character, the sixth says that more follow, the lowest character is
    '0'; from the fourth run on a number is the difference to the run before the last."""
    lengths: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            if at >= len(text):
                raise InputError("segmentation: its string of run lengths ends within a number")
            character = ord(text[at]) - 48
            value |= (character & 0x1F) << shift
            more = bool(character & 0x20)
            at, shift = at + 1, shift + 5
        if character & 0x10:  # the sign of the last five bits
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
    return lengths
