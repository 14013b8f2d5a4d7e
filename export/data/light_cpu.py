"""The last step of ``light.photograph`` on a CPU, compiled: light and albedo to a picture, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from coop_edge.base.jit import jit, stamp_of

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])

_STAMP = stamp_of([Path(__file__)])


def _compiled(function: F) -> F:
    return jit(function, _STAMP)


def _inlined(function: F) -> F:
    return jit(function, _STAMP, forceinline=True)


@_inlined
def _between(values: Array, y0: int, y1: int, x0: int, x1: int, b: float, a: float) -> float:
    """Interpolate; a and b are the shares of column x0 and row y0."""
    c, d = np.float32(1.0) - a, np.float32(1.0) - b
    return (values[y0, x0] * a + values[y0, x1] * c) * b + (values[y1, x0] * a + values[y1, x1] * c) * d


@_compiled
def compose(
    linear: Array, albedo: Array, item: Array, light: Array, dim: Array, background: Array, within: Array, image: Array
) -> None:
    """Fill ``image`` as ``photograph`` does on a GPU with the maps spread to all pixels, one pixel after the other.

    linear [256]: light of levels. albedo uint8 [N,n,n,3]; item [N,n,n]; light [N,4,h,h] and dim [N,h,h], n = 2 h;
    background and image [N,3,n,n]; within bool [N,n,n].
    """
    n, h = item.shape[1], light.shape[2]
    for i in range(len(item)):
        for v in range(n):
            y0 = max((v - 1) // 2, 0)
            y1, b = min((v + 1) // 2, h - 1), np.float32(0.75 if v % 2 else 0.25)  # pixel v lies at (v - 1/2) / 2
            for u in range(n):
                x0 = max((u - 1) // 2, 0)
                x1, a = min((u + 1) // 2, h - 1), np.float32(0.75 if u % 2 else 0.25)
                solid = item[i, v, u] >= 0
                gleam = np.float32(0.0)
                if solid:
                    gleam = _between(light[i, 3], y0, y1, x0, x1, b, a)
                for c in range(3):
                    value = np.float32(0.0)
                    if within[i, v, u] and solid:
                        value = linear[albedo[i, v, u, c]] * _between(light[i, c], y0, y1, x0, x1, b, a) + gleam
                    elif within[i, v, u]:
                        value = background[i, c, v, u] * _between(dim[i], y0, y1, x0, x1, b, a)
                    image[i, c, v, u] = value
