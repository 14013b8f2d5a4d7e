"""Holds what a calibration says, and the checks that all formats share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.base.plain import floats
from coop_edge.errors import InputError


class Calibration(NamedTuple):
    """Intrinsics as a file gives them; None where it does not."""

    K: Any  # 3 x 3, pixels
    width: int | None = None
    height: int | None = None
    distortion: Any = None
    fisheye: bool = False


def matrix(value: Any, name: str, rows: int = 3, columns: int = 3) -> NDArray[np.float64]:
    """Return a matrix that a file holds as rows, as one list row by row, or as {"data": list}.

    Raises:
        InputError: it is not of numbers, or of another shape.
    """
    if isinstance(value, Mapping) and "data" in value:
        value = value["data"]
    if value is None:
        raise InputError(f"{name}: wanted a {rows}x{columns} matrix; the file has none of this name, or an empty one")
    array = floats(value, name)
    if array.size != rows * columns or array.shape not in ((rows, columns), (rows * columns,)):
        raise InputError(f"{name}: wanted a {rows}x{columns} matrix, got shape {list(array.shape)}")
    return array.reshape(rows, columns)


def numbers(value: Any, name: str) -> list[float]:
    """Return the numbers of a list or of {"data": list}; none of None.

    Raises:
        InputError: it holds something else than numbers.
    """
    if isinstance(value, Mapping) and "data" in value:
        value = value["data"]
    return [] if value is None else floats(value, name, "a list of numbers").ravel().tolist()


def pinhole(fx: Any, fy: Any, cx: Any, cy: Any) -> list[list[Any]]:
    """Return K of these intrinsics."""
    return [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]


def positive(value: Any, name: str) -> int:
    """Return an image's width or height.

    Raises:
        InputError: it is not a positive integer.
    """
    return whole(value, name, low=1)


def whole(value: Any, name: str, *, low: int = 0) -> int:
    """Return an integer of at least ``low`` that fits 31 bits.

    Raises:
        InputError: it is not such an integer.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < 1 << 31 or value % 1:
        raise InputError(f"{name}: wanted a {'positive ' if low else ''}whole number, got {value!r:.60}")
    return int(value)


def one_of(found: Mapping[str, Any], name: str | None, what: str) -> Any:
    """Return the entry called ``name``, or the only one.

    Raises:
        InputError: there is none of this name, or no name and several; the message lists them.
    """
    known = ", ".join(map(str, found))
    if name is not None:
        if name not in found:
            raise InputError(f"has no {what} {name!r} (it has: {known})")
        return found[name]
    first = next(iter(found))
    if len(found) != 1:
        raise InputError(f"holds several ({what} {known}); say which: name={first!r} (--camera FILE#{first})")
    return found[first]
