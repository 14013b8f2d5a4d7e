"""How the CPU backends compile: with Numba, without the interpreter lock, with IEEE division, cached on disk.

Imported by modules that hold compiled code and by nothing else: it imports Numba.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])
Stamp = tuple[tuple[str, int, int], ...]

log = logging.getLogger(__name__)


def stamp_of(sources: Iterable[Path]) -> Stamp:
    """Name, time and size of source files: what tells whether code compiled from them is out of date."""
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(sources))


def jit(function: F, stamp: Stamp, **options: Any) -> F:
    """Compile ``function``; options as of ``numba.njit``.

    ``stamp`` is that of all files the function's code comes from, constants included. Numba itself looks at the
    function's own file alone, but compiled code contains the functions it calls, from other files: a change in one of
    these would go unnoticed.
    """
    dispatcher = numba.njit(nogil=True, error_model="numpy", **options)(function)
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        _say_not_kept()
        return cast(F, dispatcher)
    # Not part of Numba's interface (0.60 to 0.68 have it); without it the cache looks at the one file again.
    index = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if index is not None and hasattr(index, "_source_stamp"):
        index._source_stamp = stamp
    return cast(F, dispatcher)


@cache
def _say_not_kept() -> None:
    """Once for all functions."""
    log.warning(
        "compiled code cannot be kept, every process compiles it anew (seconds to half a minute): %s and the user's "
        "cache are read-only; set NUMBA_CACHE_DIR to a folder that is not",
        Path(__file__).parent,
    )
