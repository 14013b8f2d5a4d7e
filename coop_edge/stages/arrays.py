"""What the stages share: the array module of their inputs, and runs of a network in batches of bounded size."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from coop_edge.runtime.base import Runner

Array = Any
"""NumPy or, on the GPU path, CuPy."""


def array_module(array: Array) -> Any:
    """``numpy`` for NumPy arrays, ``cupy`` for CuPy's."""
    return np if isinstance(array, np.ndarray) else importlib.import_module("cupy")


def on_host(array: Array) -> np.ndarray[Any, Any]:
    """The array in NumPy; a copy only if it comes from the GPU."""
    return array if isinstance(array, np.ndarray) else np.asarray(array.get())


def together_on_host(*arrays: Array) -> list[np.ndarray[Any, Any]]:
    """Arrays of numbers [M,...] in NumPy, M >= 0. From the GPU they come in one copy, because each has its price.

    On the way all are of the dtype that NumPy would give their sum, on the host each is again of its own.
    """
    if all(isinstance(array, np.ndarray) for array in arrays):
        return list(arrays)
    xp, rows = array_module(arrays[0]), len(arrays[0])
    widths = [math.prod(array.shape[1:]) for array in arrays]
    common = np.result_type(*(array.dtype for array in arrays))
    flat = [array.reshape(rows, width).astype(common) for array, width in zip(arrays, widths, strict=True)]
    table = np.split(on_host(xp.concatenate(flat, axis=1)), np.cumsum(widths)[:-1], axis=1)
    return [part.reshape(array.shape).astype(array.dtype) for part, array in zip(table, arrays, strict=True)]


def run_batched(runner: Runner, feed: Mapping[str, Array], largest: int) -> dict[str, Array]:
    """``runner.run`` in runs of at most ``largest`` rows (fewer where the runner takes fewer); outputs by name.

    The outputs stay valid after further runs of ``runner``, which those of ``Runner.run`` do not.
    """
    step = largest if runner.max_batch is None else min(largest, runner.max_batch)
    count = len(next(iter(feed.values())))
    parts = []
    for first in range(0, max(count, 1), step):
        outputs = runner.run({name: array[first : first + step] for name, array in feed.items()})
        parts.append({name: array.copy() for name, array in outputs.items()})
    if len(parts) == 1:
        return parts[0]
    return {name: array_module(parts[0][name]).concatenate([p[name] for p in parts]) for name in parts[0]}
