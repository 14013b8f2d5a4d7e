"""Checks that inputs and results share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError


def floats(value: Any, name: str) -> NDArray[np.float64]:
    """Return ``value`` as a new float64 array, or raise InputError."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name}: wanted numbers, got {type(value).__name__}: {value!r:.80}") from None
    return array


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous copy that cannot be written to."""
    array = np.array(array, order="C")
    array.setflags(write=False)
    return array


def count(value: Any, name: str, low: int) -> int:
    """Return ``value`` as an int of at least ``low``, or raise InputError."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < low:
        raise InputError(f"{name}: wanted an integer >= {low}, got {value!r}")
    return int(value)


def unit(value: Any, name: str) -> float:
    """Return ``value`` as a float in [0, 1], or raise InputError."""
    if not real(value) or not 0.0 <= float(value) <= 1.0:
        raise InputError(f"{name}: wanted a number in [0, 1], got {value!r}")
    return float(value)


def real(value: Any) -> bool:
    """Tell whether ``value`` is a real number, NumPy's included; True and False are none."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
