"""Masks as COCO writes them: run lengths, plain or compressed, and polygons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError

Mask = NDArray[np.bool_]


def encode_rle(mask: Mask) -> dict[str, Any]:
    """Return the run lengths of a mask [H,W]: {"size": [H, W], "counts": [...]}, column by column, from False on."""
    flat = np.asarray(mask, np.bool_).ravel(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    edges = (
        np.concatenate([[0], changes, [flat.size]]) if not flat.size or not flat[-1] else np.concatenate([[0], changes])
    )
    return {"size": [int(side) for side in mask.shape], "counts": np.diff(edges).astype(int).tolist()}


def decode_rle(rle: Mapping[str, Any]) -> Mask:
    """Return the mask [H,W] of COCO's run lengths, a list or a compressed text.

    Raises:
        InputError: size or counts are missing, or the runs do not fill the image.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        if isinstance(counts, (str, bytes)):
            counts = _decompressed(counts if isinstance(counts, bytes) else counts.encode())
        runs = np.asarray(counts, np.int64)
    except (KeyError, TypeError, ValueError, IndexError):
        raise InputError(f"segmentation: wanted run lengths with size and counts, got {rle!r:.80}") from None
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        raise InputError(f"segmentation: its runs add up to {int(runs.sum())} pixels, {height}x{width} wanted")
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape((height, width), order="F"))


def fill_polygons(polygons: Sequence[Any], height: int, width: int) -> Mask:
    """Return the mask [H,W] of polygons, each x, y, x, y, ... or [N,2], in pixels whose corner is (0, 0)."""
    import cv2

    mask = np.zeros((height, width), np.uint8)
    rings = [np.asarray(polygon, np.float64).reshape(-1, 2) - 0.5 for polygon in polygons if len(polygon)]
    for ring in rings:
        cv2.fillPoly(mask, [np.rint(ring * 16).astype(np.int32)], 1, shift=4)
    return mask.astype(np.bool_)


def _decompressed(text: bytes) -> list[int]:
    """Return the counts of COCO's text: five bits a character from "0" on, the third onwards relative to two before."""
    counts: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = text[at] - 48
            value |= (bits & 0x1F) << shift
            more = bool(bits & 0x20)
            at, shift = at + 1, shift + 5
            if not more and bits & 0x10:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts
