"""Checks of shapes and dtypes that the operations of the pose solvers share; contents are not looked at."""

from __future__ import annotations

from typing import Any

import numpy as np

from coop_edge.errors import InputError

Array = Any  # np.ndarray on the CPU backend, cupy.ndarray on the CUDA backend


def check_batch(name: str, array: Array, trailing: tuple[int, ...], ndim: int) -> None:
    """Raise InputError unless ``array`` has ``ndim`` axes that end in ``trailing`` and a floating or integer dtype."""
    shape = getattr(array, "shape", None)
    wanted = "[" + ",".join(["B", "N"][: ndim - len(trailing)] + [str(n) for n in trailing]) + "]"
    if shape is None or len(shape) != ndim or tuple(shape[ndim - len(trailing) :]) != trailing:
        given = f"shape {tuple(shape)}" if shape is not None else type(array).__name__
        raise InputError(f"{name}: wanted an array {wanted}, got {given}")
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name}: wanted real numbers, got dtype {array.dtype}")


def check_correspondences(points_object: Array, points_image: Array, per_point: Array, name: str, K: Array) -> int:
    """Check the shapes both operations share and return B; ``name`` is that of ``per_point`` ("valid", "weights")."""
    check_batch("points_object", points_object, (3,), 3)
    check_batch("points_image", points_image, (2,), 3)
    batch, count = points_object.shape[:2]
    if tuple(points_image.shape[:2]) != (batch, count):
        raise InputError(
            f"points_image: wanted [{batch},{count},2] to go with points_object, got shape {tuple(points_image.shape)}"
        )
    if tuple(getattr(per_point, "shape", ())) != (batch, count):
        given = getattr(per_point, "shape", type(per_point).__name__)
        raise InputError(f"{name}: wanted [{batch},{count}], got {given}")
    if tuple(getattr(K, "shape", ())) not in ((3, 3), (batch, 3, 3)):
        raise InputError(f"K: wanted [3,3] or [{batch},3,3], got {getattr(K, 'shape', type(K).__name__)}")
    if K.dtype.kind not in "fiu":
        raise InputError(f"K: wanted real numbers, got dtype {K.dtype}")
    return int(batch)


def check_substreams(substreams: Array, batch: int) -> None:
    """Raise InputError unless ``substreams`` is uint32 [B]. Any value will do, so none has to be looked at."""
    shape, dtype = getattr(substreams, "shape", None), getattr(substreams, "dtype", None)
    if shape is None or tuple(shape) != (batch,):
        given = type(substreams).__name__ if shape is None else f"shape {tuple(shape)}"
        raise InputError(f"substreams: wanted an array [{batch}] to go with points_object, got {given}")
    if dtype != np.uint32:
        raise InputError(f"substreams: wanted dtype uint32, got {dtype}; convert with .astype('uint32')")


def check_rows(name: str, array: Array, trailing: tuple[int, ...], batch: int) -> None:
    """Raise InputError unless ``array`` has ``batch`` rows that end in ``trailing``."""
    check_batch(name, array, trailing, 1 + len(trailing))
    if len(array) != batch:
        wanted = ",".join(map(str, (batch, *trailing)))
        raise InputError(f"{name}: wanted [{wanted}] to go with points_object, got {list(array.shape)}")


def broadcast_intrinsics(K: np.ndarray, batch: int) -> np.ndarray:
    """Return K [3,3] or [B,3,3] as float64 [B,3,3]."""
    return np.ascontiguousarray(np.broadcast_to(np.asarray(K, dtype=np.float64), (batch, 3, 3)))
