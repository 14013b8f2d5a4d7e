"""How the CPU solvers are compiled: cached on disk, without the interpreter lock, with IEEE division."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be regrouped, so that loops over points vectorise; NaN and infinity keep their meaning."""


def compiled(function: F) -> F:
    """Compile with strict floating point: branches and small systems."""
    return cast(F, numba.njit(function, cache=True, nogil=True, error_model="numpy"))


def vectorised(function: F) -> F:
    """Compile with ``FAST``: loops that sum over points."""
    return cast(F, numba.njit(function, cache=True, nogil=True, error_model="numpy", fastmath=FAST))
