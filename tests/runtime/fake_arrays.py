"""Arrays of the CuPy stand-in (``fake_cuda``): in host memory, but as strict as CuPy's about what is where.

Nothing turns into NumPy by itself, a NumPy array is no operand, index or value, and every way from the host or back is
written down in ``transfers``: code that mixes the two up fails here as it would on a GPU, or shows in the list.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np

UPLOAD, DOWNLOAD, IN_PLACE = "upload", "download", "in place"
METHODS = frozenset(
    {
        "all",
        "any",
        "argmax",
        "astype",
        "cumsum",
        "max",
        "mean",
        "min",
        "ravel",
        "repeat",
        "reshape",
        "std",
        "squeeze",
        "sum",
        "transpose",
    }
)
FUNCTIONS = frozenset(
    {
        *("arange", "argsort", "broadcast_to", "clip", "concatenate", "copyto", "cumsum", "expm1", "full", "isfinite"),
        *("sort", "sqrt", "square", "zeros_like"),
        *("maximum", "meshgrid", "minimum", "moveaxis", "ones", "repeat", "rint", "stack", "sum", "swapaxes", "tile"),
        *("where", "zeros"),
    }
)
"""What of NumPy's interface the package uses of CuPy's; anything else is no attribute."""


class FakeArray(np.lib.mixins.NDArrayOperatorsMixin):
    """A ``cupy.ndarray``. host: the memory; device_id: the GPU it is said to be on; transfers: (way, bytes)."""

    def __init__(self, host: np.ndarray, transfers: list[tuple[str, int]], device_id: int) -> None:
        self.host, self.transfers, self.device_id = np.asarray(host), transfers, device_id

    def _like(self, host: Any) -> FakeArray:
        return FakeArray(host, self.transfers, self.device_id)

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "ndim", "size", "nbytes", "flags", "itemsize", "strides"):
            return getattr(self.host, name)
        if name in METHODS:
            return lambda *a, **k: self._like(getattr(self.host, name)(*map(plain, a), **_plain_options(k)))
        raise AttributeError(f"the CuPy stand-in has no ndarray.{name}; if CuPy has it, add it to METHODS")

    T = property(lambda self: self._like(self.host.T))
    data = property(lambda self: SimpleNamespace(ptr=self.host.__array_interface__["data"][0]))
    device = property(lambda self: SimpleNamespace(id=self.device_id))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.host.__array_interface__, "version": 3, "stream": 1}

    def get(self) -> np.ndarray:
        self.transfers.append((DOWNLOAD, self.nbytes))
        return np.array(self.host)

    def copy(self) -> FakeArray:
        return self._like(np.array(self.host))

    def fill(self, value: Any) -> None:
        self.host.fill(plain(value))

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, key: Any) -> FakeArray:
        return self._like(self.host[self._key(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.host[self._key(key)] = plain(value)

    def _key(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        if any(isinstance(k, list) for k in keys):
            raise TypeError("an index that is a list is uploaded: use an array of the device")
        if any(isinstance(k, FakeArray) and k.dtype == np.bool_ for k in keys):
            self.transfers.append((DOWNLOAD, 4))  # CuPy counts what is in a mask, and the host waits for the number
        return tuple(plain(k) for k in keys)

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if method != "__call__":
            raise TypeError(f"CuPy has no {ufunc.__name__}.{method}")
        if ufunc is np.matmul:
            raise ImportError("libcublas: no such file; CuPy comes without it, and nothing here installs it")
        into = {} if out is None else {"out": tuple(plain(o) for o in out)}
        result = ufunc(*map(plain, inputs), **into, **_plain_options(options))
        return self._like(result) if out is None else out[0]

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called with an array of the device; call CuPy's")


def plain(value: Any) -> Any:
    """The memory of a device's array, a scalar or a structure; other NumPy arrays are refused, as CuPy refuses them."""
    if isinstance(value, FakeArray):
        return value.host
    if isinstance(value, np.ndarray) and not (value.dtype.names and value.size == 1):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, (tuple, list)):
        return type(value)(map(plain, value))
    return value


def _plain_options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in options.items()}


def function(name: str, put: Any) -> Any:
    """CuPy's function of this name; put: what makes its results arrays of the device."""

    def call(*args: Any, **options: Any) -> Any:
        result = getattr(np, name)(*map(plain, args), **_plain_options(options))
        return tuple(map(put, result)) if isinstance(result, (tuple, list)) else put(result)

    return call


def norm(array: FakeArray, axis: int) -> FakeArray:
    """``cupy.linalg.norm``"""
    return array._like(np.linalg.norm(array.host, axis=axis))


def taken(interface: dict[str, Any]) -> np.ndarray:
    """The memory that a ``__cuda_array_interface__`` describes, not copied."""
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    strides = interface.get("strides") or np.empty(shape, np.uint8).strides * np.array(dtype.itemsize)
    address, _ = interface["data"]
    if not address:
        raise ValueError("a null pointer is no array")
    reach = dtype.itemsize + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s > 0)
    back = sum((n - 1) * -s for n, s in zip(shape, strides, strict=True) if s < 0)
    memory = (ctypes.c_ubyte * (reach + back)).from_address(address - back)
    return np.ndarray(shape, dtype, memory, offset=back, strides=tuple(int(s) for s in strides))
