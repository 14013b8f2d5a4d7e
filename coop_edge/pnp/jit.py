"""How the CPU solvers are compiled: cached on disk, without the interpreter lock, with IEEE division."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be regrouped, so that loops over points vectorise; NaN and infinity keep their meaning."""

# Numba looks at a function's own file to see whether its cached code is out of date, but that code contains the
# functions it calls, from other files: a change in one of these would go unnoticed.
_SOURCES = tuple(
    (path.name, path.stat().st_mtime_ns, path.stat().st_size)
    for path in sorted(Path(__file__).parent.glob("*.py"))
    if not path.name.startswith(("__init__", "base", "cpu", "cuda"))  # nothing in these is compiled
)


def compiled(function: F) -> F:
    """Compile with strict floating point: branches and small systems."""
    return _cached(function)


def vectorised(function: F) -> F:
    """Compile with ``FAST``: loops that sum over points."""
    return _cached(function, fastmath=FAST)


def _cached(function: F, **options: Any) -> F:
    dispatcher = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    # Not part of Numba's interface (0.60 to 0.68 have it); without it the cache looks at the one file again.
    index = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if index is not None and hasattr(index, "_source_stamp"):
        index._source_stamp = _SOURCES
    return cast(F, dispatcher)
