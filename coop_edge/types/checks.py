"""Checks that inputs and results share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous copy that cannot be written to."""
    array = np.array(array, order="C")
    array.setflags(write=False)
    return array


def count(value: Any, name: str, low: int) -> int:
    """Return ``value`` as an int of at least ``low`` that fits 31 bits, or raise InputError."""
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))
    if integer and value >= 1 << 31:
        raise InputError(f"{name}: wanted an integer below 2^31, got a larger one")
    if not integer or value < low:
        raise InputError(f"{name}: wanted an integer >= {low}, got {value!r}")
    return int(value)


def unit(value: Any, name: str) -> float:
    """Return ``value`` as a float in [0, 1], or raise InputError."""
    if not real(value) or not 0.0 <= float(value) <= 1.0:
        raise InputError(f"{name}: wanted a number in [0, 1], got {value!r}")
    return float(value)


def real(value: Any) -> bool:
    """Tell whether ``value`` is a real number that fits a double, NumPy's included; True and False are none."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True
