"""``HostDevice``: a ``Device`` that runs CUDA kernels on the CPU. See the package's docstring."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coop_edge.kernels.device import SOURCE_DIR
from tests.cuda_host.build import build, kernel_names
from tests.cuda_host.guard import GuardedArrays

_ERROR_BYTES = 1024


class KernelError(RuntimeError):
    """A launch that CUDA would refuse, or whose behaviour CUDA leaves undefined."""


class _Parameter(ctypes.Structure):  # cuda_shim::Parameter
    _fields_ = [(name, ctypes.c_int) for name in ("pointer", "kind", "component", "size", "alignment", "writes")]

    @property
    def dtype(self) -> np.dtype | None:
        """Element type, or None for a structure."""
        kind = chr(self.kind)
        return None if kind == "V" else np.dtype(np.bool_ if kind == "b" else f"{kind}{self.component}")


class _PoisoningNumpy:
    """NumPy, except that ``empty`` arrays hold garbage, as on a device, instead of the zeros of fresh pages."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def empty(*args: Any, **kwargs: Any) -> np.ndarray:
        return _poison(np.empty(*args, **kwargs))

    @staticmethod
    def empty_like(*args: Any, **kwargs: Any) -> np.ndarray:
        return _poison(np.empty_like(*args, **kwargs))


def _poison(array: np.ndarray) -> np.ndarray:
    array.reshape(-1).view(np.uint8)[:] = 0xCD
    return array


class HostDevice:
    """Runs the ``.cu`` files, compiled by g++, on NumPy's arrays.

    Parameters
    ----------
    source_dir: folder of the ``.cu`` files and their includes.
    sanitize: report undefined behaviour (UBSan) as KernelError.
    guard: run on copies with guard bytes around each array and report writes outside as KernelError.
    reverse: run blocks and threads in descending order.
    """

    def __init__(
        self, source_dir: Path = SOURCE_DIR, *, sanitize: bool = True, guard: bool = True, reverse: bool = False
    ) -> None:
        self.xp, self.id = _PoisoningNumpy(), 0
        self._source_dir = Path(source_dir).resolve()
        self._sanitize, self._guard, self._reverse = sanitize, guard, reverse
        self._kernels: dict[tuple[str, str], HostKernel] = {}

    def kernel(self, source: str, name: str) -> HostKernel:
        """The kernel ``name`` of ``source_dir/source``; compiled on first use."""
        if (source, name) not in self._kernels:
            path = self._source_dir / source
            names = kernel_names(path)
            if name not in names:
                raise KernelError(f"{source} has no kernel {name!r}; it has {', '.join(names) or 'none'}")
            library = ctypes.CDLL(str(build(path, self._source_dir, self._sanitize)))
            self._kernels[source, name] = HostKernel(library, name, guard=self._guard, reverse=self._reverse)
        return self._kernels[source, name]

    def to_numpy(self, array: np.ndarray) -> np.ndarray:
        """A copy, as from a device."""
        return np.array(array)


class HostKernel:
    """One kernel; a launch checks grid, block and arguments against the C signature and raises KernelError."""

    def __init__(self, library: ctypes.CDLL, name: str, *, guard: bool, reverse: bool) -> None:
        self.name = name
        self._guard, self._reverse = guard, reverse
        signature = library[f"cuda_shim_signature_{name}"]
        self._parameters = (_Parameter * signature(None))()
        signature(self._parameters)
        self._launch = library[f"cuda_shim_launch_{name}"]

    def __call__(self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]) -> None:
        if len(arguments) != len(self._parameters):
            raise KernelError(f"{self.name}: takes {len(self._parameters)} arguments, got {len(arguments)}")
        for i, (parameter, argument) in enumerate(zip(self._parameters, arguments, strict=True)):
            if why := _mismatch(parameter, argument):
                raise KernelError(f"{self.name}: argument {i}: {why}")
        dimensions = [_dimensions(self.name, "grid", grid), _dimensions(self.name, "block", block)]
        arrays = {i: a for i, a in enumerate(arguments) if isinstance(a, np.ndarray)}
        guarded = GuardedArrays(arrays) if self._guard else None
        addresses = guarded.addresses if guarded else {i: a.ctypes.data for i, a in arrays.items()}
        # Each slot points at a pointer or at a scalar, as in cuLaunchKernel.
        values = [
            np.array(addresses.get(i, 0), np.uintp) if parameter.pointer else np.array(argument)
            for i, (parameter, argument) in enumerate(zip(self._parameters, arguments, strict=True))
        ]
        slots = (ctypes.c_void_p * max(len(values), 1))(*[v.ctypes.data for v in values])
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        failed = self._launch(*dimensions, int(self._reverse), slots, error, ctypes.c_size_t(_ERROR_BYTES))
        if failed:
            raise KernelError(f"{self.name}: {error.value.decode(errors='replace')}")
        if guarded and (damaged := guarded.damaged()):
            raise KernelError(f"{self.name}: wrote outside the array of argument {', '.join(map(str, damaged))}")
        if guarded:
            guarded.copy_back([i for i in arrays if self._parameters[i].writes])


def _dimensions(name: str, what: str, values: Sequence[int]) -> Any:
    if not 1 <= len(values) <= 3 or any(int(v) != v or not 0 <= v < 1 << 32 for v in values):
        raise KernelError(f"{name}: {what} {values!r}: wanted one to three non-negative integers")
    return (ctypes.c_uint * 3)(*[int(v) for v in values], *[1] * (3 - len(values)))


def _mismatch(parameter: _Parameter, argument: Any) -> str | None:
    """Why ``argument`` does not fit, or None."""
    dtype = parameter.dtype
    if not parameter.pointer:
        if dtype is None:
            return "structures by value are not supported"
        if not isinstance(argument, np.generic) or argument.dtype != dtype:
            return f"wanted the NumPy scalar {dtype}, got {_describe(argument)}"
        return None
    if argument is None:
        return None  # a null pointer
    if not isinstance(argument, np.ndarray) or (dtype is not None and argument.dtype != dtype):
        return f"wanted an array of {dtype or 'structures'}, got {_describe(argument)}"
    if not argument.flags.c_contiguous:
        return f"wanted a C-contiguous array, got strides {argument.strides} for shape {argument.shape}"
    if argument.nbytes % parameter.size:
        return f"its {argument.nbytes} bytes are no multiple of the element's {parameter.size}"
    if argument.ctypes.data % parameter.alignment:
        return f"its address is not aligned to {parameter.alignment} bytes"
    if parameter.writes and not argument.flags.writeable:
        return "is written to, but the array is read-only"
    return None


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {list(value.shape)}"
    return f"{type(value).__module__}.{type(value).__name__} {value!r}"
