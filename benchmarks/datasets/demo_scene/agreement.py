"""Does the picture show what is said of it? Mitsuba's coverage of every object against that of our own renderer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from coop_edge.mesh import Mesh
from coop_edge.render import CpuRenderer


@dataclass(frozen=True)
class Agreement:
    """iou: of the pixels covered by more than half. edge_px: mean distance between the two outlines, pixels.
    worst_edge_px: the largest mean over a 24 x 24 window. shift_px: (x, y) by which theirs lies off ours."""

    iou: float
    edge_px: float
    worst_edge_px: float
    shift_px: tuple[float, float]


def our_coverage(meshes: Sequence[Mesh], T_camera_object: Any, K: Any, size: tuple[int, int], samples: int = 4) -> Any:
    """Return the share of each pixel that shows each object, float64 [n,h,w], by ``samples`` x ``samples`` points."""
    height, width = size
    K_fine = np.array(K, np.float64)
    K_fine[:2] *= samples
    K_fine[:2, 2] += (samples - 1) / 2.0  # a pixel's samples lie symmetrically about its centre
    nearest = np.full((height * samples, width * samples), np.inf, np.float32)
    owner = np.full(nearest.shape, -1)
    for i, (mesh, T) in enumerate(zip(meshes, T_camera_object, strict=True)):
        view = CpuRenderer(mesh).render(np.asarray(T)[None], K_fine, nearest.shape)
        closer = view.mask[0] & (view.depth[0] < nearest)
        nearest[closer], owner[closer] = view.depth[0][closer], i
    blocks = owner.reshape(height, samples, width, samples)
    return np.stack([(blocks == i).mean(axis=(1, 3)) for i in range(len(meshes))])


def agreement(ours: np.ndarray, theirs: np.ndarray) -> Agreement:
    """Compare the coverage [h,w] of one object.

    An outline moved by d pixels along its normal changes the coverage by d in all, per pixel of its length: the summed
    difference over the length is a mean distance. The shift is by least squares, on blurred coverages: theirs - ours =
    -shift . gradient.
    """
    a, b = ours > 0.5, theirs > 0.5
    gy, gx = np.gradient(ours)
    length = np.hypot(gx, gy)
    difference = theirs - ours
    soft, soft_difference = (cv2.GaussianBlur(image, (0, 0), 1.5) for image in (ours, difference))
    slope_y, slope_x = np.gradient(soft)  # of the sharp outline, a gradient would hold for far less than a pixel
    system = np.stack([slope_x.ravel(), slope_y.ravel()], axis=1)
    shift = np.linalg.lstsq(system, -soft_difference.ravel(), rcond=None)[0]
    window = 24
    rows, columns = (s // window * window for s in ours.shape)

    def sums(image: np.ndarray) -> np.ndarray:
        return image[:rows, :columns].reshape(rows // window, window, -1, window).sum(axis=(1, 3))

    enough = sums(length) > window / 2
    worst = (sums(np.abs(difference))[enough] / sums(length)[enough]).max()
    return Agreement(
        iou=float((a & b).sum() / (a | b).sum()),
        edge_px=float(np.abs(difference).sum() / length.sum()),
        worst_edge_px=float(worst),
        shift_px=(float(shift[0]), float(shift[1])),
    )
