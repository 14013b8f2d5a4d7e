"""Pictures of batches, to look at: what is matched with what, and what is not."""

from __future__ import annotations

import colorsys
import os
from typing import Any

import cv2
import numpy as np
from PIL import Image

from coop_edge.errors import InputError
from coop_edge.geometry.patches import patch_centres
from export.data.batch import PATCH, CoarseBatch, RefinerBatch

Array = np.ndarray[Any, Any]

ZOOM = 3
"""Picture pixels per image pixel."""


def write_pairs(path: str | os.PathLike[str], batch: CoarseBatch | RefinerBatch, n: int = 8) -> None:
    """Write the first n pairs of a batch as an image file (by its suffix), one pair below the other.

    Coarse: query and template side by side; a match has one colour in both and a line between them, grey crosses are
    patches with *no match*. Refiner: query; render; the query moved by the flow on to the render, which therefore
    should look like it; visible (green) and hidden (red) parts; flow as arrows.

    Raises:
        InputError: the batch is empty, or the path cannot be written.
    """
    rows = []
    for i in range(min(n, len(batch.query))):
        rows.append(_coarse(batch, i) if isinstance(batch, CoarseBatch) else _refiner(batch, i))
    if not rows:
        raise InputError("write_pairs: wanted at least one pair, got an empty batch")
    picture = np.concatenate([np.pad(row, ((0, 6), (0, 0), (0, 0)), constant_values=255) for row in rows])
    try:
        Image.fromarray(picture).save(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{os.fspath(path)!r} cannot be written ({error}); wanted a path that ends in .png or .jpg"
        ) from error


def _coarse(batch: CoarseBatch, i: int) -> Array:
    size = batch.query.shape[1]
    side = size // PATCH
    canvas = _enlarged(np.concatenate([batch.query[i], batch.template[i]], axis=1))
    centres = patch_centres(size, PATCH)
    for t, start in enumerate(centres):
        index = int(batch.match_index[i, t])
        if index == side * side:
            cv2.drawMarker(canvas, _at(start), (150, 150, 150), cv2.MARKER_TILTED_CROSS, 7, 1)
            continue
        end = PATCH * (np.array([index % side, index // side]) + 0.5 + batch.offset[i, t]) - 0.5 + (size, 0)
        color = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(t / len(centres), 1.0, 1.0))
        cv2.line(canvas, _at(start), _at(end), color, 1, cv2.LINE_AA)
        for point in (start, end):
            cv2.circle(canvas, _at(point), 5, (0, 0, 0), -1, cv2.LINE_AA)
            cv2.circle(canvas, _at(point), 4, color, -1, cv2.LINE_AA)
    return canvas


def _refiner(batch: RefinerBatch, i: int) -> Array:
    query, render, flow = batch.query[i], batch.render[i], batch.flow[i]
    size = len(query)
    on = np.isfinite(batch.object_points[i, ..., 0])
    x, y = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
    warped = cv2.remap(query, x + flow[0], y + flow[1], cv2.INTER_LINEAR) * on[..., None]
    tint = np.where(batch.visible[i][..., None], (0, 200, 0), (220, 0, 0)) * on[..., None]
    shown = (0.5 * render + 0.5 * tint).astype(np.uint8)
    canvas = _enlarged(np.concatenate([query, render, warped, shown, query], axis=1))
    for v in range(PATCH // 2, size, PATCH // 2):
        for u in range(PATCH // 2, size, PATCH // 2):
            if on[v, u]:
                start = np.array([u + 4 * size, v])
                color = (0, 255, 0) if batch.visible[i][v, u] else (255, 0, 0)
                cv2.arrowedLine(canvas, _at(start), _at(start + flow[:, v, u]), color, 1, cv2.LINE_AA, tipLength=0.25)
    return canvas


def _enlarged(image: Array) -> Array:
    return np.ascontiguousarray(np.repeat(np.repeat(image, ZOOM, axis=0), ZOOM, axis=1))


def _at(pixel: Array) -> tuple[int, int]:
    """Where an image pixel lies in the enlarged picture."""
    x, y = np.rint((np.asarray(pixel) + 0.5) * ZOOM - 0.5)
    return int(x), int(y)
