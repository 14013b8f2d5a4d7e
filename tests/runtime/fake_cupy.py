"""A stand-in for CuPy on the host: arrays with device addresses, streams, events and graphs that are written down.

Only what the TensorRT runner and build use. Work is done at once, except on a stream that is being captured: that is
kept and done by each launch of the graph, with the addresses it had at the time of the capture.
"""

from __future__ import annotations

import types
from typing import Any

import numpy as np

_ALIGNMENT = 512  # as CuPy's


class ndarray(np.ndarray):  # noqa: N801 - CuPy's name
    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.__array_interface__["data"][0])

    @property
    def device(self):
        return types.SimpleNamespace(id=getattr(self.base_array(), "device_id", 0))

    def base_array(self):
        return self if self.base is None or not hasattr(self.base, "base_array") else self.base.base_array()

    def copy(self):
        fresh = empty(self.shape, self.dtype)
        fresh[...] = self
        return fresh


def empty(shape: Any, dtype: Any = np.float64) -> ndarray:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.full(size + _ALIGNMENT, 0xFF, np.uint8)  # what nobody writes reads as NaN
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(np.dtype(dtype)).reshape(shape).view(ndarray)


class Event:
    def __init__(self, disable_timing: bool = False) -> None:
        self.cupy: Any = None

    def record(self, stream: Any = None) -> None:
        stream.log("record")

    def synchronize(self) -> None:
        FakeCupy.current.calls.append(("event", "synchronize"))


class Graph:
    def __init__(self, work: list[Any]) -> None:
        self.work = work

    def launch(self, stream: Any = None) -> None:
        stream.log("launch")
        for item in self.work:
            item()


class Stream:
    def __init__(self, non_blocking: bool = False) -> None:
        self.cupy = FakeCupy.current
        self.ptr = 0x1000 + 8 * len(self.cupy.streams)
        self.cupy.streams[self.ptr] = self
        self.captured: list[Any] | None = None

    def log(self, what: str) -> None:
        self.cupy.calls.append((self.ptr, what))

    def do(self, work: Any) -> None:
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def begin_capture(self) -> None:
        self.captured = []

    def end_capture(self) -> Graph:
        work, self.captured = self.captured, None
        if self.cupy.capture_error:
            raise RuntimeError(self.cupy.capture_error)
        assert work is not None
        return Graph(work)

    def synchronize(self) -> None:
        self.log("synchronize")

    def wait_event(self, event: Event) -> None:
        self.log("wait")

    def __enter__(self) -> Stream:
        self.cupy.stack.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.cupy.stack.pop()


class Device:
    def __init__(self, index: int | None = None) -> None:
        self.id = 0 if index is None else index

    @property
    def compute_capability(self) -> str:
        return FakeCupy.current.sm

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class FakeCupy(types.ModuleType):
    """The module. calls: (stream address, what) in order; capture_error: what ends every capture, if not empty."""

    current: FakeCupy
    ndarray = ndarray

    def __init__(self, sm: str = "86") -> None:
        super().__init__("cupy")
        FakeCupy.current = self
        self.__version__ = "0.0"
        self.sm = sm
        self.calls: list[tuple[Any, str]] = []
        self.capture_error = ""
        self.streams: dict[int, Stream] = {}
        self.stack = [Stream()]
        runtime = types.SimpleNamespace(
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda index: {"name": b"Stand-in GPU"},
            driverGetVersion=lambda: 13010,
            runtimeGetVersion=lambda: 12060,
        )
        current = lambda: self.stack[-1]  # noqa: E731
        self.cuda = types.SimpleNamespace(
            runtime=runtime, Device=Device, Stream=Stream, Event=Event, get_current_stream=current
        )
        self.empty = empty

    @staticmethod
    def zeros(shape: Any, dtype: Any = np.float64) -> ndarray:
        array = empty(shape, dtype)
        array[...] = 0
        return array

    @staticmethod
    def asarray(array: np.ndarray) -> ndarray:
        fresh = empty(array.shape, array.dtype)
        fresh[...] = array
        return fresh

    @staticmethod
    def ascontiguousarray(array: ndarray) -> ndarray:
        return array if array.flags.c_contiguous else array.copy()

    @staticmethod
    def asnumpy(array: ndarray) -> np.ndarray:
        return np.array(array)
