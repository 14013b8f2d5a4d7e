"""The operations on a GPU: CuPy, and the kernels in ``kernels/`` (``warp``, ``lift``, ``products``, ``outline``,
``depth``).

Crops are rounded once, from samples at exact places in FP32; so they are within half a grey level of the mean in real
numbers, plus 0.03 for the place of a sample, which is off by 1e-4 pixels at most. The CPU rounds the samples too,
before their mean. Object points are those of the CPU to the last bit.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError, quoted
from coop_edge.geometry.lens import LENS_NUMBERS, Lens
from coop_edge.kernels.device import Device, address
from coop_edge.ops.base import Array, Decoded, Floats, Operations
from coop_edge.ops.depth import BINS, Surfaces, places_per_side
from coop_edge.ops.outline import MeasuredEdges, Outlines
from coop_edge.ops.outline_cuda import OutlineKernels
from coop_edge.ops.sampling import samples_per_side

_BLOCK = 128  # kBlock
_PRODUCT_ROWS, _PRODUCT_COLUMNS = 32, 8  # kRows, kColumns of products.cu
_FARTHEST = float(1 << 22)  # pixels: of the anchor, which FP32 holds exactly


class CudaOperations(Operations):
    """``Operations`` on the arrays of ``device``."""

    def __init__(self, device: Device) -> None:
        super().__init__(device.xp)
        self._device = device
        self._outline_kernels = OutlineKernels(device)

    def linear(self, matrices: Array, vectors: Array) -> Array:
        """See ``Operations.linear``.

        A sum of k products: ``@`` would be cuBLAS, which nothing else here needs, which CuPy imports without, and which
        may add up in another order in another batch.
        """
        terms = [matrices[:, None, :, i] * vectors[..., i, None] for i in range(matrices.shape[2])]
        return functools.reduce(operator.add, terms)

    def upload(self, array: Any, name: str = "array") -> Array:
        """See ``Operations.upload``.

        What is on this GPU already (``__cuda_array_interface__``: CuPy, PyTorch, PyCUDA's GPUArray) is taken as it is,
        in the order of CuPy's current stream.

        Raises:
            InputError: as the CPU's, and for memory that CuPy cannot read.
        """
        if not hasattr(array, "__cuda_array_interface__"):
            return self.xp.asarray(np.ascontiguousarray(array))
        try:
            taken = self.xp.asarray(array)
        except Exception as error:  # CuPy's CUDARuntimeError has no base of its own
            raise InputError(f"{name}: its __cuda_array_interface__ cannot be read: {quoted(error)}") from error
        here = self._device.id
        if taken.device.id != here:
            raise InputError(f"{name}: wanted on GPU {here}, where the networks are, got on GPU {taken.device.id}")
        return self.xp.ascontiguousarray(taken)

    def to_host(self, array: Array) -> NDArray[Any]:
        """See ``Operations.to_host``."""
        return np.asarray(self._device.to_numpy(array))

    def to_host_together(self, *arrays: Array) -> list[NDArray[Any]]:
        """See ``Operations.to_host_together``. Each copy has its price, whatever its size."""
        if not arrays:
            return []
        rows = len(arrays[0])
        widths = [math.prod(array.shape[1:]) for array in arrays]
        common = np.result_type(*(array.dtype for array in arrays))
        flat = [array.reshape(rows, width).astype(common) for array, width in zip(arrays, widths, strict=True)]
        table = np.split(self.to_host(self.xp.concatenate(flat, axis=1)), np.cumsum(widths)[:-1], axis=1)
        return [part.reshape(array.shape).astype(array.dtype) for part, array in zip(table, arrays, strict=True)]

    def wait(self) -> None:
        """See ``Operations.wait``."""
        self.xp.cuda.get_current_stream().synchronize()

    def _warp(self, image: Array, H: Floats, size: int, lens: Lens | None) -> Array:
        """Make all crops in one launch."""
        xp = self.xp
        out = xp.empty((len(H), 3, size, size), dtype=np.float32)
        if not len(H):
            return out
        crops = xp.asarray(crop_numbers(H, size, lens))
        numbers = np.zeros(LENS_NUMBERS) if lens is None else lens.numbers
        height, width = (np.int32(side) for side in image.shape[:2])
        self._device.kernel("warp.cu", "warp_crops")(
            (-(-len(H) * size * size // _BLOCK),),
            (_BLOCK,),
            (xp.ascontiguousarray(image), height, width, crops)
            + (xp.asarray(numbers.astype(np.float32)), np.int32(len(H)), np.int32(size), out),
        )
        return out

    def _lift(
        self, decoded: Decoded, templates: NDArray[np.integer], maps: Sequence[Array], patch: int, least: float
    ) -> tuple[Array, Array, Array]:
        """Look up all queries in one launch."""
        xp = self.xp
        n, k = templates.shape
        views, count = decoded.probability.shape[1:]
        shape = n, k, count
        points, valid = xp.empty((*shape, 3), dtype=np.float32), xp.empty(shape, dtype=np.bool_)
        probability = xp.empty(shape, dtype=np.float32)
        places = np.array([(address(surface), surface.shape[1]) for surface in maps], np.int64)
        read = (xp.ascontiguousarray(array) for array in decoded)
        numbers = (np.int32(number) for number in (n, views, k, count, patch))
        self._device.kernel("lift.cu", "lift_matches")(
            (-(-n * k * count // _BLOCK),),
            (_BLOCK,),
            (*read, xp.asarray(templates.astype(np.int32)), xp.asarray(places), *numbers, np.float32(least))
            + (points, valid, probability),
        )
        return points, valid, probability

    def _inner_products(self, a: Array, b: Array) -> Array:
        """Compute all of them in one launch; not ``@``, for the reasons given in ``linear``."""
        xp, n, m, groups = self.xp, len(a), len(b), a.shape[1]
        out = xp.empty((groups, n, m), dtype=np.float32)
        if out.size:
            read, numbers = map(xp.ascontiguousarray, (a, b)), map(np.int32, (n, m, a.shape[2]))
            grid = -(-n // _PRODUCT_ROWS), -(-m // _PRODUCT_COLUMNS), groups
            kernel = self._device.kernel("products.cu", "inner_products")
            kernel(grid, (_PRODUCT_ROWS * _PRODUCT_COLUMNS,), (*read, *numbers, out))
        return out

    def _outlines(self, query: Array, depth: Array, views: Floats, measured: MeasuredEdges | None) -> Outlines:
        """Measure all hypotheses in five launches."""
        put = self.xp.ascontiguousarray
        return self._outline_kernels.measure(put(query), put(depth), self.xp.asarray(views), measured)

    def _depth_points(self, depth: Array, numbers: Floats, size: int) -> Array:
        """Take all crops' depths in one launch."""
        xp, count = self.xp, len(numbers)
        out = xp.empty((count, size, size, 3), dtype=np.float32)
        if count:
            height, width = (np.int32(side) for side in depth.shape)
            read = xp.ascontiguousarray(depth), height, width, xp.asarray(numbers), np.int32(size), out
            self._device.kernel("depth.cu", "depth_points")((-(-size * size // _BLOCK), count), (_BLOCK,), read)
        return out

    def _surfaces(self, depth: Array, measured: Array, numbers: Floats) -> Surfaces:
        """Measure all hypotheses in one launch."""
        xp, count, (side, step) = self.xp, len(numbers), places_per_side(depth.shape[1])
        vectors = [xp.empty((count, side * side, 3), dtype=np.float32) for _ in range(3)]
        weights = xp.empty((count, side * side), dtype=np.float32)
        tally, gaps = (xp.zeros((count, bins), dtype=np.int32) for bins in (5, BINS))
        if count:
            read = xp.ascontiguousarray(depth), xp.ascontiguousarray(measured), xp.asarray(numbers)
            sizes = (np.int32(number) for number in (depth.shape[1], side, step))
            self._device.kernel("depth.cu", "compare_surfaces")(
                (-(-side * side // _BLOCK), count), (_BLOCK,), (*read, *sizes, *vectors, weights, tally, gaps)
            )
        return Surfaces(vectors[0], vectors[1], vectors[2], weights, tally, gaps)


def crop_numbers(H: Floats, size: int, lens: Lens | None = None) -> NDArray[np.float32]:
    """Return what the kernel reads of each crop, float32 [N,12]: see ``CropToImage`` in ``kernels/warp.cuh``.

    H [N,3,3]: ideal pixels -> crop pixels. Coordinates are taken relative to the crop's middle and to the ideal pixel
    nearest to what is seen there, which is done here, in FP64.
    """
    middle = 0.5 * (size - 1)
    h = np.linalg.inv(H) @ np.array([[1.0, 0.0, middle], [0.0, 1.0, middle], [0.0, 0.0, 1.0]])
    depth = h[:, 2, 2]  # of the middle's ray; without one in front there is no anchor, and none is needed
    ahead = depth > 0.0
    h /= np.where(ahead, depth, np.abs(h[:, 2]).max(axis=1))[:, None, None]
    anchor = np.where(ahead[:, None], np.clip(np.rint(h[:, :2, 2]), -_FARTHEST, _FARTHEST), 0.0)
    h[:, :2] -= anchor[:, :, None] * h[:, 2:]
    samples = samples_per_side(H, size, lens)
    return np.concatenate([h.reshape(-1, 9), anchor, samples[:, None]], axis=1).astype(np.float32)
