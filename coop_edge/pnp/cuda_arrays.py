"""Holds the CUDA solvers' arrays: input checks that never copy through the host, and scratch that only grows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from coop_edge.errors import InputError
from coop_edge.kernels.device import Device

Array = Any
Outputs = Mapping[str, tuple[tuple[int, ...], Any]]
"""Shape and dtype by name."""

MAX_POINTS = 1 << 24
"""Counts are summed in FP32, exact up to here."""


class Scratch:
    """Named device arrays that are allocated once and then reused.

    A request that outgrows an array gets a new one, at least twice as large; the old one is kept, because a captured
    CUDA graph may still point to it. Together the old ones are smaller than the current one.
    """

    def __init__(self, device: Device) -> None:
        self._xp = device.xp
        self._arrays: dict[str, Array] = {}
        self._outgrown: list[Array] = []

    def take(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an uninitialised array; what it held before is left over from earlier calls."""
        array = self._grown(name, math.prod(shape), np.dtype(dtype), self._xp.empty)
        return array[: math.prod(shape)].reshape(shape)

    def take_zeroed(self, name: str, count: int, dtype: Any) -> Array:
        """Return an array that is zero when first handed out; whoever writes to it leaves zeros behind."""
        return self._grown(name, count, np.dtype(dtype), self._xp.zeros)[:count]

    def _grown(self, name: str, count: int, dtype: np.dtype[Any], allocate: Any) -> Array:
        current = self._arrays.get(name)
        if current is None or current.size < count:
            if current is not None:
                self._outgrown.append(current)
                count = max(count, 2 * current.size)
            self._arrays[name] = current = allocate(count, dtype=dtype)
        return current


def check_on_device(device: Device, **arrays: Array) -> None:
    """Raise InputError for what is not an array of the device: nothing is uploaded behind the caller's back."""
    wanted = device.xp.ndarray
    for name, array in arrays.items():
        if not isinstance(array, wanted):
            raise InputError(
                f"{name}: the CUDA solver takes {wanted.__module__}.{wanted.__name__} arrays, got"
                f" {type(array).__module__}.{type(array).__name__}; upload it once with cupy.asarray"
            )


def as_floats(device: Device, *arrays: Array) -> list[Array]:
    """Return the arrays C-contiguous and of one dtype: float32 if all are, else float64; copies only what differs."""
    dtype = np.float32 if all(a.dtype == np.float32 for a in arrays) else np.float64
    return [device.xp.ascontiguousarray(a, dtype=dtype) for a in arrays]


def empty_outputs(device: Device, outputs: Outputs) -> dict[str, Array]:
    """Return uninitialised arrays by name, for shapes and dtypes by name."""
    return {name: device.xp.empty(shape, dtype=dtype) for name, (shape, dtype) in outputs.items()}


def check_outputs(holder: Any, outputs: Outputs) -> None:
    """Raise InputError unless each array that ``holder`` has by name is exactly what the kernels write."""
    for name, (shape, dtype) in outputs.items():
        array = getattr(holder, name)
        if tuple(array.shape) != shape or array.dtype != np.dtype(dtype) or not array.flags.c_contiguous:
            raise InputError(
                f"out: {name} wanted C-contiguous {np.dtype(dtype)} {list(shape)}, "
                f"got {array.dtype} {list(array.shape)}"
            )


def check_count(count: int) -> None:
    """Raise InputError if a problem has more points than FP32 can count."""
    if count > MAX_POINTS:
        raise InputError(f"points_object: wanted at most {MAX_POINTS} points per problem, got {count}")
