"""What the CUDA backends ask of a device: arrays, a stream's kernels, nothing else.

The CUDA renderer and solvers are written against ``Device``. ``CupyDevice`` is the one that ships; the tests bring a
second one that runs the very same ``.cu`` files on the host (``tests/cuda_host``), so that wrappers and kernels are both
exercised on machines without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from coop_edge.errors import BackendUnavailable

SOURCE_DIR = Path(__file__).parent
"""Folder of the ``*.cu`` and ``*.cuh`` files."""

COMPILE_OPTIONS = ("-std=c++17",)

Array = Any


class Kernel(Protocol):
    """A compiled ``extern "C" __global__`` function."""

    def __call__(self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]) -> None:
        """Launch. Arguments: device arrays (passed as pointers) and NumPy scalars of the parameter's exact type."""
        ...


class Device(Protocol):
    """Arrays and kernels of one device."""

    xp: Any
    """The array module: ``cupy`` here, ``numpy`` on the host stand-in."""

    def kernel(self, source: str, name: str) -> Kernel:
        """The kernel ``name`` of ``SOURCE_DIR/source``; compiled on first use and cached."""
        ...

    def to_numpy(self, array: Array) -> Any:
        """Copy a device array to the host (waits for the current stream)."""
        ...
