"""Makes and writes pictures: contact sheets, the maps of a render side by side. RGB uint8 [h,w,3] throughout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from coop_edge.base.files import atomic_write
from coop_edge.errors import InputError
from coop_edge.render.base import RenderResult, on_host

Image = NDArray[np.uint8]

_GAP = 2  # pixels between the cells of a sheet
_BACKGROUND = 32
_FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def contact_sheet(images: Any, columns: int = 7, labels: Sequence[str] | bool = True) -> Image:
    """Lay images out in rows, from left to right.

    Args:
        images: uint8 [N,h,w,3]; N = 0 gives an empty sheet of one cell's width, or [1,1,3] without a size.
        columns: images a row; fewer if there are fewer images.
        labels: one text per image; True numbers them from 0, False leaves them bare.

    Raises:
        InputError: ``images`` has another type or shape, ``columns`` is less than 1, or labels are not one per image.
    """
    stack = np.asarray(images)
    if stack.ndim != 4 or stack.shape[-1] != 3 or stack.dtype != np.uint8:
        raise InputError(f"images: wanted uint8 [N,h,w,3], got {stack.dtype} {list(stack.shape)}")
    if isinstance(columns, bool) or not isinstance(columns, (int, np.integer)) or columns < 1:
        raise InputError(f"columns: wanted a positive integer, got {columns!r}")
    n, height, width = stack.shape[:3]
    texts = [str(i) for i in range(n)] if labels is True else list(labels or [""] * n)
    if len(texts) != n:
        raise InputError(f"labels: wanted {n}, one per image, got {len(texts)}")
    columns = max(1, min(int(columns), n))
    rows = -(-n // columns)
    shape = (max(1, rows * (height + _GAP) - _GAP), max(1, columns * (width + _GAP) - _GAP), 3)
    sheet: Image = np.full(shape, _BACKGROUND, np.uint8)
    for i, (image, text) in enumerate(zip(stack, texts, strict=True)):
        y, x = (i // columns) * (height + _GAP), (i % columns) * (width + _GAP)
        sheet[y : y + height, x : x + width] = put_label(image, text)
    return sheet


def put_label(image: Image, text: str) -> Image:
    """Return a copy with ``text`` in its top left corner, light on a dark rim so that it can be read on anything."""
    out = np.ascontiguousarray(image).copy()
    if text:
        scale = max(0.35, image.shape[0] / 500.0)
        at = (round(8 * scale), round(24 * scale))
        for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(out, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thickness, cv2.LINE_AA)
    return out


def depth_image(depth: Any) -> Image:
    """Show depth [h,w] (metres, 0 = nothing) as grey: near is bright, over the range that occurs; nothing is black."""
    values = np.asarray(depth, np.float64)
    seen = values > 0
    out = np.zeros((*values.shape, 3), np.uint8)
    if seen.any():
        near, far = values[seen].min(), values[seen].max()
        share = (far - values) / max(far - near, 1e-12)
        out[seen] = np.rint(60.0 + 195.0 * share[seen])[:, None].astype(np.uint8)
    return out


def points_image(points: Any) -> Image:
    """Show object points [h,w,3] (metres, NaN = nothing) as colours: x, y, z over their ranges as red, green, blue."""
    values = np.asarray(points, np.float64)
    seen = np.isfinite(values).all(axis=-1)
    out = np.zeros(values.shape, np.uint8)
    if seen.any():
        low, high = values[seen].min(axis=0), values[seen].max(axis=0)
        out[seen] = np.rint(255.0 * (values[seen] - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
    return out


def side_by_side(result: RenderResult, index: int = 0) -> Image:
    """Lay out one view of a render: colour, depth and object points in a row, [h, 3w + gaps, 3].

    Raises:
        InputError: there is no view of this index.
    """
    host = [on_host(a) for a in (result.rgb, result.depth, result.object_points())]
    n = len(host[0])
    if not -n <= index < n:
        raise InputError(f"index: wanted a view in 0..{n - 1}, got {index}")
    rgb, depth, points = (a[index] for a in host)
    return contact_sheet(np.stack([rgb, depth_image(depth), points_image(points)]), columns=3, labels=False)


def check_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a picture's path, in lower case. InputError if ``write_image`` does not write such."""
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(f"{path}: wanted a suffix among {', '.join(_FORMATS)}, got {suffix!r}")
    return suffix


def write_image(path: str | os.PathLike[str], rgb: Any) -> None:
    """Write RGB uint8 [h,w,3] as the suffix says (.png, .jpg, .jpeg, .webp, .bmp), whole or not at all.

    Raises:
        InputError: another shape, dtype or suffix.
        OSError: the file cannot be written.
    """
    image = np.asarray(rgb)
    suffix = check_suffix(path)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise InputError(f"rgb: wanted uint8 [h,w,3], got {image.dtype} {list(image.shape)}")
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError(f"{path}: OpenCV could not encode an image of {image.shape[1]} x {image.shape[0]} as {suffix}")
    with atomic_write(path) as file:
        file.write(data.tobytes())
