"""``HostDevice``: a ``Device`` that runs CUDA kernels on the CPU. See the package's docstring."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coop_edge.kernels.device import SOURCE_DIR, packed
from tests.cuda_host.build import build, kernel_names
from tests.cuda_host.guard import GuardedArrays

_ERROR_BYTES = 1024
_MAX_ITEMS = 128  # cuda_shim::MAX_ITEMS


class KernelError(RuntimeError):
    """A launch that CUDA would refuse, or whose behaviour CUDA leaves undefined."""


class _Parameter(ctypes.Structure):  # cuda_shim::Parameter
    _fields_ = [
        (name, ctypes.c_int)
        for name in ("pointer", "kind", "component", "size", "alignment", "writes", "offset", "members")
    ]

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

    def pack(self, structure: tuple[Any, ...]) -> tuple[Any, ...]:
        """The structure as it is: a launch packs it, with pointers to guarded copies of its arrays."""
        return structure

    def to_numpy(self, array: np.ndarray) -> np.ndarray:
        """A copy, as from a device."""
        return np.array(array)


class HostKernel:
    """One kernel; a launch checks grid, block and arguments against the C signature and raises KernelError."""

    def __init__(self, library: ctypes.CDLL, name: str, *, guard: bool, reverse: bool) -> None:
        self.name = name
        self._guard, self._reverse = guard, reverse
        items = (_Parameter * _MAX_ITEMS)()
        count = library[f"cuda_shim_signature_{name}"](items)
        self._parameters: list[_Node] = []
        rest = list(items[:count])
        while rest:
            self._parameters.append(_node(str(len(self._parameters)), rest))
        self._launch = library[f"cuda_shim_launch_{name}"]

    def __call__(self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]) -> None:
        if len(arguments) != len(self._parameters):
            raise KernelError(f"{self.name}: takes {len(self._parameters)} arguments, got {len(arguments)}")
        leaves: list[tuple[_Node, Any]] = []
        for node, argument in zip(self._parameters, arguments, strict=True):
            if why := _collect(node, argument, leaves):
                raise KernelError(f"{self.name}: argument {why}")
        dimensions = [_dimensions(self.name, "grid", grid), _dimensions(self.name, "block", block)]
        arrays = {node.place: value for node, value in leaves if isinstance(value, np.ndarray)}
        guarded = GuardedArrays(arrays) if self._guard else None
        addresses = guarded.addresses if guarded else {place: a.ctypes.data for place, a in arrays.items()}
        where = {id(array): addresses[place] for place, array in arrays.items()}
        # Each slot points at a pointer, at a scalar or at a structure, as in cuLaunchKernel.
        values = [_value(argument, lambda array: where[id(array)]) for argument in arguments]
        slots = (ctypes.c_void_p * max(len(values), 1))(*[v.ctypes.data for v in values])
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        failed = self._launch(*dimensions, int(self._reverse), slots, error, ctypes.c_size_t(_ERROR_BYTES))
        if failed:
            raise KernelError(f"{self.name}: {error.value.decode(errors='replace')}")
        if guarded and (damaged := guarded.damaged()):
            raise KernelError(f"{self.name}: wrote outside the array of argument {', '.join(map(str, damaged))}")
        if guarded:
            guarded.copy_back([node.place for node, _ in leaves if node.place in arrays and node.item.writes])


@dataclass
class _Node:
    """A parameter, or a member of a structure: its place ("2", "2.1"), what C says of it, its members."""

    place: str
    item: _Parameter
    members: list[_Node]


def _node(place: str, rest: list[_Parameter]) -> _Node:
    """The first of the items, with its members, which are taken from the list."""
    item = rest.pop(0)
    return _Node(place, item, [_node(f"{place}.{i}", rest) for i in range(item.members)])


def _value(argument: Any, address: Callable[[np.ndarray], int]) -> np.ndarray:
    if isinstance(argument, tuple):
        return packed(argument, address)
    if _is_packed(argument):
        return argument
    if argument is None or isinstance(argument, np.ndarray):
        return np.array(0 if argument is None else address(argument), np.uintp)
    return np.array(argument)


def _is_packed(argument: Any) -> bool:
    """Whether the argument is a structure that ``kernels.device.packed`` made, with pointers in it already."""
    return isinstance(argument, np.ndarray) and argument.dtype.names is not None


def _collect(node: _Node, argument: Any, leaves: list[tuple[_Node, Any]]) -> str | None:
    """Add the scalars and arrays of an argument to ``leaves``; returns why it does not fit, or None."""
    if not node.members:
        leaves.append((node, argument))
        why = _mismatch(node.item, argument)
        return f"{node.place}: {why}" if why else None
    if _is_packed(argument):  # its arrays are used where they are, unguarded
        return _other_layout(node, argument.dtype)
    if not isinstance(argument, tuple) or len(argument) != len(node.members):
        return f"{node.place}: wanted a NamedTuple of {len(node.members)}, got {_describe(argument)}"
    for member, value in zip(node.members, argument, strict=True):
        if why := _collect(member, value, leaves):
            return why
    return _other_layout(node, packed(argument, lambda array: 0).dtype)


def _other_layout(node: _Node, layout: np.dtype[Any]) -> str | None:
    """How a structure's layout differs from C's, or None."""
    offsets = [layout.fields[name][1] for name in layout.names]
    wanted = [member.item.offset for member in node.members]
    if offsets != wanted or layout.itemsize != node.item.size:
        return f"{node.place}: members at {offsets} of {layout.itemsize} bytes, wanted {wanted} of {node.item.size}"
    return None


def _dimensions(name: str, what: str, values: Sequence[int]) -> Any:
    if not 1 <= len(values) <= 3 or any(int(v) != v or not 0 <= v < 1 << 32 for v in values):
        raise KernelError(f"{name}: {what} {values!r}: wanted one to three non-negative integers")
    return (ctypes.c_uint * 3)(*[int(v) for v in values], *[1] * (3 - len(values)))


def _mismatch(parameter: _Parameter, argument: Any) -> str | None:
    """Why ``argument`` does not fit, or None."""
    dtype = parameter.dtype
    if not parameter.pointer:
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
