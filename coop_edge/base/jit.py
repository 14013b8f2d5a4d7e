"""Compiles the CPU backends' functions: with Numba, without the interpreter lock, IEEE division, cached on disk.

Imported by modules that hold compiled code and by nothing else: it imports Numba.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import event

from coop_edge.base.compile_cache import CheckedCacheFile
from coop_edge.base.compile_time import compile_seconds, ended, started
from coop_edge.base.compile_time import log as progress

F = TypeVar("F", bound=Callable[..., object])
Stamp = tuple[tuple[str, int, int], ...]

log = logging.getLogger(__name__)

CACHE_FOLDERS: set[Path] = set()
"""Where the functions compiled so far, or about to be, are kept."""
_OURS = "coop_edge."


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
    kept = dispatcher._cache
    kept._cache_file = CheckedCacheFile(kept.cache_path, kept._impl.filename_base, stamp)
    CACHE_FOLDERS.add(Path(kept.cache_path))
    return cast(F, dispatcher)


class _Listener(event.Listener):  # type: ignore[misc]
    """Is told by Numba when a function is compiled, and of each that it calls; a cached one is not."""

    def __init__(self) -> None:
        self.inside: list[str] = []  # Numba compiles in one thread at a time

    def on_start(self, event: Any) -> None:
        """Begin to count, and say so before the first of our functions."""
        name = _name(event)
        if not self.inside and name.startswith(_OURS):
            _say_compiling()
        self.inside.append(name)
        started()

    def on_end(self, event: Any) -> None:
        """Cease to count."""
        ended()
        name = self.inside.pop()
        if not self.inside and name.startswith(_OURS):
            progress.info("compiled %s, %.0f s so far", name.removeprefix(_OURS), compile_seconds())


event.register("numba:compile", _Listener())


def _name(event: Any) -> str:
    function = event.data["dispatcher"].py_func
    return f"{function.__module__}.{function.__name__}"


@cache
def _say_compiling() -> None:
    """Once in a process."""
    progress.warning("compiling the CPU's renderer and pose solvers once for this installation (about 40 s)")


@cache
def _say_not_kept() -> None:
    """Once for all functions."""
    log.warning(
        "compiled code cannot be kept, every process compiles it anew (seconds to half a minute): %s and the user's "
        "cache are read-only; set NUMBA_CACHE_DIR to a folder that is not",
        Path(__file__).parent,
    )
