"""Does the stages' operations on the CPU: NumPy, OpenCV for crops, Numba for outlines and depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from coop_edge.geometry.lens import Lens
from coop_edge.geometry.patches import template_pixels
from coop_edge.ops import depth_cpu, outline_cpu
from coop_edge.ops.base import Array, Decoded, Floats, Operations
from coop_edge.ops.depth import Surfaces
from coop_edge.ops.lens_cpu import crop_through
from coop_edge.ops.outline import MeasuredEdges, Outlines
from coop_edge.ops.sampling import blacken_behind, finer


class CpuOperations(Operations):
    """``Operations`` on NumPy arrays."""

    def __init__(self) -> None:
        super().__init__(np)

    def linear(self, matrices: Array, vectors: Array) -> Array:
        """See ``Operations.linear``."""
        return vectors @ np.swapaxes(matrices, 1, 2)

    def upload(self, array: Any, name: str = "array") -> Array:
        """See ``Operations.upload``."""
        return np.ascontiguousarray(array)

    def to_host(self, array: Array) -> NDArray[Any]:
        """See ``Operations.to_host``."""
        return np.asarray(array)

    def to_host_together(self, *arrays: Array) -> list[NDArray[Any]]:
        """See ``Operations.to_host_together``."""
        return list(arrays)

    def wait(self) -> None:
        """Do nothing: NumPy queues no work."""

    def _warp(self, image: Array, H: Floats, size: int, lens: Lens | None) -> Array:
        """Crops are rounded to 8 bits, as those of the training pairs are."""
        out = np.empty((len(H), size, size, 3), np.uint8)
        image = np.ascontiguousarray(image)  # once, and not in every call to OpenCV
        for i, matrix in enumerate(H):
            m, fine = finer(matrix, size, lens)
            if lens is None:
                crop: Any = cv2.warpPerspective(image, fine, (m * size, m * size), flags=cv2.INTER_LINEAR)
            else:
                crop = crop_through(image, fine, m * size, lens, cv2.INTER_LINEAR)
            out[i] = crop if m == 1 else cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
            blacken_behind(out[i], matrix)
        return self.as_network_image(out)

    def _lift(
        self, decoded: Decoded, templates: NDArray[np.integer], maps: Sequence[Array], patch: int, least: float
    ) -> tuple[Array, Array, Array]:
        n, k = templates.shape
        probability = decoded.probability[np.arange(n)[:, None], templates]
        points = np.empty((n, k, decoded.probability.shape[2], 3), np.float32)
        for i, views in enumerate(templates):
            size = maps[i].shape[1]
            match = template_pixels(decoded.index[i, views], decoded.offset[i, views], size // patch, patch)
            known = np.isfinite(match).all(axis=-1, keepdims=True)
            pixel = np.clip(np.rint(np.where(known, match, 0.0)), 0, size - 1).astype(np.int64)
            points[i] = np.where(known, maps[i][views[:, None], pixel[..., 1], pixel[..., 0]], np.float32(np.nan))
        valid = (probability > least) & np.isfinite(points).all(axis=-1)
        return points, valid, np.where(valid, probability, np.float32(0.0))

    def _inner_products(self, a: Array, b: Array) -> Array:
        return np.matmul(a.transpose(1, 0, 2), b.transpose(1, 2, 0))

    def _outlines(self, query: Array, depth: Array, views: Floats, measured: MeasuredEdges | None) -> Outlines:
        return outline_cpu.measure(np.ascontiguousarray(query), np.ascontiguousarray(depth), views, measured)

    def _depth_points(self, depth: Array, numbers: Floats, size: int) -> Array:
        return depth_cpu.points(np.ascontiguousarray(depth), numbers, size)

    def _surfaces(self, depth: Array, measured: Array, numbers: Floats) -> Surfaces:
        return depth_cpu.surfaces(np.ascontiguousarray(depth), np.ascontiguousarray(measured), numbers)
