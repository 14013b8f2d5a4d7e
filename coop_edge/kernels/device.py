"""Compiles and launches kernels: what the CUDA backends ask of a device, and nothing else.

The CUDA operations, renderer and solvers are written against ``Device``. ``CupyDevice`` is the one that ships; the
tests bring a second one that runs the very same ``.cu`` files on the host (``tests/cuda_host``), so that wrappers and
kernels are both exercised on machines without a GPU.
"""

from __future__ import annotations

import functools
import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from coop_edge.base.compile_time import compiling
from coop_edge.errors import BackendUnavailable

SOURCE_DIR = Path(__file__).parent
"""Folder of the ``*.cu`` and ``*.cuh`` files."""

COMPILE_OPTIONS = ("-std=c++17",)
"""Options for NVRTC. Its default ``-fmad=true`` is kept: products and sums in floating point may be contracted, so two
GPUs, and the host stand-in, differ in the last bits. Nothing that has to agree exactly (triangle coverage, the samples
of RANSAC) is computed in floating point after it was first rounded."""

Array = Any

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)


class Kernel(Protocol):
    """A compiled ``extern "C" __global__`` function."""

    def __call__(self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]) -> None:
        """Launch on the current stream; every extent of ``grid`` and ``block`` is at least 1.

        Arguments: C-contiguous device arrays of the parameter's element type (passed as pointers; None is a null
        pointer), NumPy scalars of the parameter's exact type, and structures that ``Device.pack`` made.
        """
        ...


class Device(Protocol):
    """Arrays and kernels of one device."""

    xp: Any
    """The array module: ``cupy`` here, ``numpy`` on the host stand-in."""
    id: int
    """CUDA's number of the device."""

    def kernel(self, source: str, name: str) -> Kernel:
        """Return the kernel ``name`` of ``SOURCE_DIR/source``; compiled on first use and cached."""
        ...

    def pack(self, structure: tuple[Any, ...]) -> Any:
        """Make a C structure, passed by value, of a NamedTuple of its members: what a kernel takes, or NamedTuples.

        The arrays must stay alive until the launch.
        """
        ...

    def to_numpy(self, array: Array) -> Any:
        """Copy a device array to the host (waits for the current stream)."""
        ...


class CupyDevice:
    """The GPU that is current in CuPy when this is made; kernels go to CuPy's current stream.

    ``current_device`` shares one per GPU, so that a kernel is compiled once, whoever uses it. Safe for use by several
    threads.

    Raises:
        BackendUnavailable: no CuPy, no driver or no GPU; the message names the probe that failed.
    """

    def __init__(self) -> None:
        self.xp, self.id = _current()
        try:
            self.xp.zeros(1)
        except Exception as error:
            raise _unusable(self.xp, error) from error
        self._lock = threading.Lock()
        self._modules: dict[str, Any] = {}
        self._kernels: dict[tuple[str, str], Kernel] = {}

    def kernel(self, source: str, name: str) -> Kernel:
        """Return the kernel ``name`` of ``SOURCE_DIR/source``; compiled by NVRTC on first use and cached."""
        with self._lock:
            if (source, name) in self._kernels:
                return self._kernels[source, name]
            with compiling():
                if source not in self._modules:
                    self._modules[source] = self.xp.RawModule(
                        code=read_source(source), options=(*COMPILE_OPTIONS, f"-I{SOURCE_DIR}")
                    )
                self._kernels[source, name] = _CupyKernel(
                    self.xp.cuda.Device(self.id), self._modules[source].get_function(name)
                )
            return self._kernels[source, name]

    def pack(self, structure: tuple[Any, ...]) -> np.ndarray:
        """Make a C structure, to be passed by value, of a NamedTuple of its members."""
        return packed(structure, lambda array: int(array.data.ptr))

    def to_numpy(self, array: Array) -> Any:
        """Copy a device array to the host (waits for the current stream)."""
        return self.xp.asnumpy(array)


_making = threading.Lock()


def current_device() -> CupyDevice:
    """Return the one shared ``CupyDevice`` of the GPU that is current in CuPy, in whatever thread.

    It is made, and the GPU probed, at the first call for that GPU.

    Raises:
        BackendUnavailable: as ``CupyDevice`` does.
    """
    cupy, index = _current()
    with _making:
        return _shared(cupy, index)


@functools.lru_cache(maxsize=16)
def _shared(cupy: Any, index: int) -> CupyDevice:
    """Return the device of GPU ``index``, which is current; ``cupy`` is in the key because tests bring a stand-in."""
    return CupyDevice()


def _current() -> tuple[Any, int]:
    """Return CuPy, and the number of its current GPU. Raises BackendUnavailable."""
    try:
        import cupy
    except ImportError as error:
        raise BackendUnavailable(
            f"CUDA: `import cupy` failed: {error}; pip install cupy-cuda12x or cupy-cuda13x, whichever fits the driver"
        ) from error
    try:
        return cupy, int(cupy.cuda.Device().id)
    except Exception as error:
        raise _unusable(cupy, error) from error


def _unusable(cupy: Any, error: Exception) -> BackendUnavailable:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return BackendUnavailable(f"CUDA: CuPy {cupy.__version__} cannot use a GPU here: {reason}")


def address(array: Array) -> int:
    """Return where an array's first element is: on the GPU for CuPy's, on the host for NumPy's."""
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    return int(interface["data"][0])


def packed(structure: tuple[Any, ...], address: Callable[[Array], int]) -> np.ndarray:
    """Return the bytes of a C structure as a NumPy array [1] whose dtype has C's alignment.

    Args:
        structure: NamedTuple of arrays (pointers in C), None (null), NumPy scalars and such NamedTuples.
        address: where an array is in the memory of the device.
    """
    values: list[Any] = []
    for member in structure:
        if isinstance(member, tuple):
            values.append(packed(member, address)[0])
        elif isinstance(member, np.generic):
            values.append(member)
        else:
            values.append(np.uint64(0 if member is None else address(member)))
    names = structure._fields  # type: ignore[attr-defined]
    layout = np.dtype([(name, value.dtype) for name, value in zip(names, values, strict=True)], align=True)
    return np.array([tuple(values)], layout)


class _CupyKernel:
    def __init__(self, device: Any, function: Any) -> None:
        self._device, self._function = device, function

    def __call__(self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]) -> None:
        with self._device:
            self._function(tuple(grid), tuple(block), tuple(arguments))


def source_closure(source: str) -> list[Path]:
    """Return ``SOURCE_DIR/source`` and every file that it includes by quotes, directly or not, sorted by name."""
    seen: set[Path] = set()
    todo = [SOURCE_DIR / source]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += [SOURCE_DIR / name for name in _INCLUDE.findall(path.read_text(encoding="utf-8"))]
    return sorted(seen)


def read_source(source: str) -> str:
    """Return the text of ``SOURCE_DIR/source``, ending in a comment with the hash of all that it includes.

    CuPy's cache on disk is keyed by this text alone: without the hash, a change in a ``.cuh`` would go unnoticed.
    """
    digest = hashlib.sha256()
    for path in source_closure(source):
        digest.update(path.read_bytes())
    text = (SOURCE_DIR / source).read_text(encoding="utf-8")
    return f"{text}\n// with includes: sha256 {digest.hexdigest()}\n"
