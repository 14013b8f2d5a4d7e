"""Says how the CPU solvers are compiled; see ``coop_edge.base.jit``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from coop_edge.base.jit import jit, stamp_of

F = TypeVar("F", bound=Callable[..., object])

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be regrouped, so that loops over points vectorise; NaN and infinity keep their meaning."""

# Nothing in those left out is compiled.
_STAMP = stamp_of(
    path
    for path in Path(__file__).parent.glob("*.py")
    if not path.name.startswith(("__init__", "checks", "cpu", "cuda"))
)


def compiled(function: F) -> F:
    """Compile with strict floating point: branches and small systems."""
    return jit(function, _STAMP)


def vectorised(function: F) -> F:
    """Compile with ``FAST``: loops that sum over points."""
    return jit(function, _STAMP, fastmath=FAST)
