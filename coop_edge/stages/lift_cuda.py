"""Correspondences on the GPU: ``matches.lift`` with the kernel in ``kernels/lift.cu``, all detections in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError
from coop_edge.kernels.device import Array, Device, address

if TYPE_CHECKING:
    from coop_edge.stages.matches import Decoded
    from coop_edge.stages.objects import ObjectModel

_SOURCE = "lift.cu"
_BLOCK = 128  # kBlock


def lift_cuda(
    device: Device,
    decoded: Decoded,
    templates: NDArray[np.integer],
    objects: Sequence[ObjectModel],
    object_index: NDArray[np.integer],
    patch: int,
    least: float,
) -> tuple[Array, Array, Array]:
    """``matches.lift`` on a device: the very same points, valid matches and probabilities.

    decoded and the objects' maps live there; templates [N,k] and object_index [N] on the host. Work is queued on the
    device's current stream, and nothing waits for it. Raises InputError: a template or a map that does not fit.
    """
    xp = device.xp
    n, k = templates.shape
    views, count = decoded.probability.shape[1:]
    shape = n, k, count
    points, valid = xp.empty((*shape, 3), dtype=np.float32), xp.empty(shape, dtype=np.bool_)
    probability = xp.empty(shape, dtype=np.float32)
    if points.size == 0:
        return points, valid, probability
    if templates.min() < 0 or templates.max() >= views:
        raise InputError(f"templates: wanted values in [0, {views}), got {templates.min()}..{templates.max()}")
    maps = np.array([_map_of(xp, objects[i], views) for i in object_index], np.int64)
    read = (xp.ascontiguousarray(array) for array in (decoded.probability, decoded.index, decoded.offset))
    numbers = (np.int32(number) for number in (n, views, k, count, patch))
    device.kernel(_SOURCE, "lift_matches")(
        (-(-n * k * count // _BLOCK),),
        (_BLOCK,),
        (*read, xp.asarray(templates.astype(np.int32)), xp.asarray(maps), *numbers, np.float32(least))
        + (points, valid, probability),
    )
    return points, valid, probability


def _map_of(xp: Any, model: ObjectModel, views: int) -> tuple[int, int]:
    """Address and side (pixels) of an object's map, as the kernel reads it."""
    points = model.object_points
    if not isinstance(points, xp.ndarray):  # the address would be the host's, and reading there ends the process' CUDA
        wanted, given = (f"{kind.__module__}.{kind.__name__}" for kind in (xp.ndarray, type(points)))
        raise InputError(f"object points of {model.name!r}: wanted a {wanted}, as the matches are, got a {given}")
    if points.shape != (views, points.shape[1], points.shape[1], 3) or points.dtype != np.float32:
        wanted = f"float32 [{views},S,S,3]"
        raise InputError(f"object points of {model.name!r}: wanted {wanted}, got {points.dtype} {list(points.shape)}")
    if not points.flags.c_contiguous:
        raise InputError(f"object points of {model.name!r}: wanted a C-contiguous array")
    return address(points), points.shape[1]
