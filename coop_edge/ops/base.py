"""Defines what stages ask of a device: crops, correspondences, and ways to the device and back.

``Backend.operations`` makes the implementation of a device. Stages compute elementwise with its array module ``xp`` and
leave everything that NumPy and CuPy do in different ways to its methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError
from coop_edge.geometry.crop import CropCamera
from coop_edge.geometry.lens import Lens
from coop_edge.ops.depth import SurfaceLimits, Surfaces, point_numbers, surface_numbers
from coop_edge.ops.outline import MeasuredEdges, Outlines, view_numbers

Array = Any
"""An array of the device: NumPy's on the CPU, CuPy's on a GPU."""
Floats = NDArray[np.float64]


class Decoded(NamedTuple):
    """Holds the matches of N queries with each of the V templates of their objects, T patches per image."""

    probability: Array  # float32 [N,V,T], 0 = no match
    index: Array  # int32 [N,V,T] template patch
    offset: Array  # float32 [N,V,T,2] (x, y) from that patch's centre, patches


class Operations(ABC):
    """Does what stages ask of the arrays of one device. N = 0 is legal everywhere.

    Work on a GPU is queued on its current stream; only ``to_host``, ``to_host_together`` and ``wait`` wait for it.

    Args:
        xp: the array module of the device, ``numpy`` or ``cupy``.
    """

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    def warp(self, image: Array, H: Floats, size: int, lens: Lens | None = None) -> Array:
        """Resample an image into N crops of size x size pixels, float32 [N,3,size,size] in [0, 1].

        The values are 8-bit levels over 255, sampled as ``ops.sampling`` says.

        Args:
            image: uint8 [height,width,3] on the device, of any strides.
            H: float64 [N,3,3] on the host, ideal image pixels -> crop pixels.
            size: side of a crop, pixels.
            lens: leads from ideal pixels to those of the image; None where they are the same.

        Raises:
            InputError: the image is not such an array.
        """
        self._check("image", image, np.uint8, ("height", "width", 3))
        return self._warp(image, H, size, lens)

    def lift(
        self,
        decoded: Decoded,
        templates: NDArray[np.integer],
        maps: Sequence[Array],
        patch: int,
        least: float,
    ) -> tuple[Array, Array, Array]:
        """Look up the object points of each query's matches with k chosen templates.

        A match is valid if its probability exceeds ``least``, its template pixel is finite and that pixel, limited to
        the template and rounded, lies on the template's silhouette.

        Args:
            decoded: the matches, on the device.
            templates: integers [N,k] on the host, the chosen templates of each query.
            maps: object points of each query's templates, N arrays float32 [V,S,S,3], C-contiguous, on the device;
                metres, object's frame, NaN off the object. S may differ.
            patch: side of a patch, pixels.
            least: probability that a valid match exceeds.

        Returns:
            Object points float32 [N,k,T,3] (metres), valid bool [N,k,T], and probability float32 [N,k,T], which is 0
            where not valid; all on the device.

        Raises:
            InputError: matches, templates or maps do not fit together, or are not on the device.
        """
        n, k = templates.shape
        views, count = decoded.probability.shape[1:]
        self._check("probability", decoded.probability, np.float32, (n, views, count))
        self._check("index", decoded.index, np.int32, (n, views, count))
        self._check("offset", decoded.offset, np.float32, (n, views, count, 2))
        if not n * k * count:
            empty, shape = self.xp.empty, (n, k, count)
            return empty((*shape, 3), dtype=np.float32), empty(shape, dtype=np.bool_), empty(shape, dtype=np.float32)
        if templates.min() < 0 or templates.max() >= views:
            raise InputError(f"templates: wanted values in [0, {views}), got {templates.min()}..{templates.max()}")
        if len(maps) != n:
            raise InputError(f"maps: wanted {n}, one for each query, got {len(maps)}")
        for i, points in enumerate(maps):
            self._check(f"maps[{i}]", points, np.float32, (views, "S", "S", 3), contiguous=True)
        return self._lift(decoded, templates, maps, patch, least)

    def outlines(
        self,
        query: Array,
        depth: Array,
        crop: CropCamera,
        T_crop_object: Floats,
        image_size: tuple[int, int],
        measured: MeasuredEdges | None = None,
    ) -> Outlines:
        """Measure the edges that M crops show along the outlines of renders by the same cameras; see ``ops.outline``.

        Args:
            query: float32 [M,3,S,S] RGB in [0, 1] on the device.
            depth: float32 [M,S,S] metres on the device, 0 = nothing.
            crop: the M cameras.
            T_crop_object: float64 [M,4,4] on the host, of the renders.
            image_size: width and height of the image that the crops are of; what lies beyond is not judged.
            measured: depth that the crops show, on the device; None: colours alone.

        Raises:
            InputError: query, depth or measured is not such an array.
        """
        count, size = len(crop), crop.size
        self._check("query", query, np.float32, (count, 3, size, size))
        self._check("depth", depth, np.float32, (count, size, size))
        if measured is not None:
            self._check("measured", measured.points, np.float32, (count, size, size, 3))
        return self._outlines(query, depth, view_numbers(crop, T_crop_object, image_size), measured)

    def depth_points(self, depth: Array, crop: CropCamera) -> Array:
        """Return measured points as N crops see them, float32 [N,S,S,3] metres in the crops' axes, NaN = unknown.

        A pixel of a crop has the point of the image pixel nearest to its middle: it lies within half a pixel of the
        image, and is not moved there.

        Args:
            depth: float32 [height,width] metres along the image's optical axis on the device, 0 = unknown.
            crop: the N cameras.

        Raises:
            InputError: depth is not such an array.
        """
        self._check("depth", depth, np.float32, ("height", "width"))
        return self._depth_points(depth, point_numbers(crop), crop.size)

    def surfaces(
        self, depth: Array, measured: Array, crop: CropCamera, T_crop_object: Floats, limits: SurfaceLimits
    ) -> Surfaces:
        """Compare M rendered surfaces with the depth measured there; see ``ops.depth``.

        Args:
            depth: float32 [M,S,S] metres of the renders on the device, 0 = nothing.
            measured: float32 [M,S,S,3] of ``depth_points``.
            crop: the M cameras.
            T_crop_object: float64 [M,4,4] on the host, of the renders.
            limits: gates and tolerances.

        Raises:
            InputError: depth or measured is not such an array.
        """
        count, size = len(crop), crop.size
        self._check("depth", depth, np.float32, (count, size, size))
        self._check("measured", measured, np.float32, (count, size, size, 3))
        return self._surfaces(depth, measured, surface_numbers(crop, T_crop_object, limits))

    def as_network_image(self, rgb: Array) -> Array:
        """Convert images uint8 [N,S,S,3] to a network's input, float32 [N,3,S,S] in [0, 1], C-contiguous."""
        xp = self.xp
        return xp.ascontiguousarray(xp.moveaxis(rgb, -1, 1)).astype(np.float32) / np.float32(255.0)

    @abstractmethod
    def linear(self, matrices: Array, vectors: Array) -> Array:
        """Multiply matrices [M,j,k] with vectors [M,P,k] or [P,k]: [M,P,j]."""

    def inner_products(self, a: Array, b: Array) -> Array:
        """Return the inner products of all rows of ``a`` with all rows of ``b``, group by group, float32 [G,P,V].

        Args:
            a: float32 [P,G,K] on the device: P rows, each of G groups of K numbers.
            b: float32 [V,G,K] on the device.

        Raises:
            InputError: they are not such arrays.
        """
        self._check("a", a, np.float32, ("P", "G", "K"))
        self._check("b", b, np.float32, ("V", *a.shape[1:]))
        return self._inner_products(a, b)

    @abstractmethod
    def upload(self, array: Any, name: str = "array") -> Array:
        """Return ``array``, C-contiguous, on the device; what is there already is not copied unless its strides ask.

        Args:
            name: what an error calls it.

        Raises:
            InputError: an array on a device that is not this one.
        """

    @abstractmethod
    def to_host(self, array: Array) -> NDArray[Any]:
        """Return ``array`` in NumPy; a copy only if it comes from a GPU."""

    @abstractmethod
    def to_host_together(self, *arrays: Array) -> list[NDArray[Any]]:
        """Return arrays of numbers [M,...] in NumPy, each with its own dtype; from a GPU they come in one copy.

        On the way all have the dtype of their sum, which must hold every value.
        """

    @abstractmethod
    def wait(self) -> None:
        """Wait for the queued work, so that any other stream may read its results."""

    @abstractmethod
    def _warp(self, image: Array, H: Floats, size: int, lens: Lens | None) -> Array:
        """Do ``warp`` with a checked image."""

    @abstractmethod
    def _lift(
        self, decoded: Decoded, templates: NDArray[np.integer], maps: Sequence[Array], patch: int, least: float
    ) -> tuple[Array, Array, Array]:
        """Do ``lift`` with checked arrays, none empty."""

    @abstractmethod
    def _inner_products(self, a: Array, b: Array) -> Array:
        """Do ``inner_products`` with checked arrays."""

    @abstractmethod
    def _outlines(self, query: Array, depth: Array, views: Floats, measured: MeasuredEdges | None) -> Outlines:
        """Do ``outlines`` with checked arrays of any strides; views: float64 [M,50] on the host (``view_numbers``)."""

    @abstractmethod
    def _depth_points(self, depth: Array, numbers: Floats, size: int) -> Array:
        """Do ``depth_points`` with a checked image of any strides; numbers: float64 [N,45] on the host."""

    @abstractmethod
    def _surfaces(self, depth: Array, measured: Array, numbers: Floats) -> Surfaces:
        """Do ``surfaces`` with checked arrays of any strides; numbers: float64 [M,28] on the host."""

    def _check(
        self, name: str, array: Any, dtype: Any, shape: tuple[int | str, ...], *, contiguous: bool = False
    ) -> None:
        """Raise InputError unless ``array`` is on the device and as wanted; a text in ``shape`` is any one size."""
        sizes: dict[int | str, int] = {}
        fits = isinstance(array, self.xp.ndarray) and array.dtype == dtype and array.ndim == len(shape)
        fits = fits and all(
            given == (sizes.setdefault(wanted, given) if isinstance(wanted, str) else wanted)
            for given, wanted in zip(array.shape, shape, strict=True)
        )
        if fits and (array.flags.c_contiguous or not contiguous):
            return
        kinds = [f"{kind.__module__}.{kind.__name__}" for kind in (self.xp.ndarray, type(array))]
        wanted = f"{kinds[0]} {np.dtype(dtype)} [{','.join(map(str, shape))}]" + contiguous * ", C-contiguous"
        given = f"{kinds[1]} {array.dtype} {list(array.shape)}" if hasattr(array, "dtype") else kinds[1]
        raise InputError(f"{name}: wanted a {wanted}, got a {given}{', not contiguous' if fits else ''}")
