"""Stand-ins for CuPy and for ONNX Runtime's CUDA provider, for machines without a GPU.

``FakeCupy`` arrays are NumPy arrays in host memory that have CuPy's ``data.ptr`` and ``device``; streams and events
write what is asked of them into one journal. ``FakeOnnxRuntime`` reports the providers it is told to, and runs a bound
session by reading and writing at the very addresses it was given, with the real CPU provider in between: a wrong
pointer, shape or dtype gives wrong numbers or a crash, as it would on a GPU.
"""

from __future__ import annotations

import ctypes
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime

from coop_edge.runtime.onnx import CPU, CUDA


class FakeArray(np.ndarray):
    """A ``cupy.ndarray``, by what a runner looks at."""

    device_id = 0

    def __array_finalize__(self, source):
        self.device_id = getattr(source, "device_id", 0)

    @property
    def data(self):
        return SimpleNamespace(ptr=self.__array_interface__["data"][0])

    @property
    def device(self):
        return SimpleNamespace(id=self.device_id)


class FakeStream:
    def __init__(self, journal: list[str], name: str) -> None:
        self.journal, self.name, self.ptr = journal, name, 0x1000 + id(self) % 4096
        self.broken = False

    def __enter__(self):
        self.journal.append(f"enter {self.name}")

    def __exit__(self, *_):
        self.journal.append(f"leave {self.name}")

    def wait_event(self, event):
        self.journal.append(f"{self.name} waits for {event.recorded}")

    def synchronize(self):
        self.journal.append(f"host waits for {self.name}")
        if self.broken:
            raise RuntimeError("cudaErrorIllegalAddress")


class FakeEvent:
    recorded = "nothing"

    def record(self, stream):
        self.recorded = f"what is on {stream.name}"
        stream.journal.append(f"event on {stream.name}")


class FakeCupy(ModuleType):
    """A module to put into ``sys.modules`` as "cupy"."""

    def __init__(self) -> None:
        super().__init__("cupy")
        self.__version__ = "0.fake"
        self.journal: list[str] = []
        self.ndarray = FakeArray
        self.callers = FakeStream(self.journal, "caller")
        self.runners: list[FakeStream] = []
        self.cuda = SimpleNamespace(
            Device=lambda device=3: _Device(device),
            Stream=self._stream,
            Event=lambda disable_timing: FakeEvent(),
            get_current_stream=lambda: self.callers,
        )

    def _stream(self, non_blocking):
        assert non_blocking  # a blocking one would wait for the default stream, and the default stream for it
        self.runners.append(FakeStream(self.journal, f"runner{len(self.runners)}"))
        return self.runners[-1]

    def put(self, array) -> FakeArray:
        """Upload, to device 3."""
        result = np.array(array).view(FakeArray)
        result.device_id = 3
        return result

    def empty(self, shape, dtype):
        return self.put(np.full(shape, 77, dtype))

    def zeros(self, count):
        return self.put(np.zeros(count))

    def ascontiguousarray(self, array):
        if array.flags.c_contiguous:
            return array
        self.journal.append("copy")
        return self.put(np.array(array, order="C"))


class _Device:
    def __init__(self, device):
        self.id = device

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


class FakeOnnxRuntime(ModuleType):
    """A module to put into ``sys.modules`` as "onnxruntime". starts: the providers that a session really gets."""

    def __init__(self, journal: list[str] | None = None, *, starts: tuple[str, ...] = (CUDA, CPU)) -> None:
        super().__init__("onnxruntime")
        self.__version__ = "1.99.fake"
        self.starts = starts
        self.available = [CUDA, CPU]
        self.journal = [] if journal is None else journal
        self.sessions: list[FakeSession] = []
        self.SessionOptions, self.RunOptions = onnxruntime.SessionOptions, onnxruntime.RunOptions
        self.ExecutionMode = onnxruntime.ExecutionMode

    def get_available_providers(self):
        return list(self.available)

    def preload_dlls(self):
        print("Failed to load libcudnn.so.9")  # noqa: T201  # as the real one does

    def InferenceSession(self, graph, options, providers, enable_fallback):
        self.sessions.append(FakeSession(self, graph, options, providers, enable_fallback))
        return self.sessions[-1]


class FakeSession:
    def __init__(self, module, graph, options, providers, enable_fallback):
        self.module, self.options, self.providers = module, options, providers
        self.falls_back = self.fell_back_at_first = bool(enable_fallback)
        self.real = onnxruntime.InferenceSession(graph, options, providers=[CPU])
        self.get_inputs, self.get_outputs = self.real.get_inputs, self.real.get_outputs
        self.error: Exception | None = None
        self.run = self.real.run

    def disable_fallback(self):
        self.falls_back = False

    def get_providers(self):
        return list(self.module.starts)

    def io_binding(self):
        return FakeBinding()

    def run_with_iobinding(self, binding, run_options):
        self.module.journal.append("run")
        assert run_options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        if self.error is not None:
            raise self.error
        feed = {name: at(place) for name, place in binding.inputs.items()}
        names = list(binding.outputs)
        for name, result in zip(names, self.real.run(names, feed), strict=True):
            target = at(binding.outputs[name])
            assert (target.shape, target.dtype) == (result.shape, result.dtype)
            target[...] = result


class FakeBinding:
    def __init__(self) -> None:
        self.inputs: dict[str, tuple] = {}
        self.outputs: dict[str, tuple] = {}

    def bind_input(self, name, device_type, device_id, element_type, shape, buffer_ptr):
        assert (device_type, device_id) == ("cuda", 3)
        self.inputs[name] = (element_type, shape, buffer_ptr)

    def bind_output(self, name, device_type, device_id, element_type, shape, buffer_ptr):
        assert (device_type, device_id) == ("cuda", 3)
        self.outputs[name] = (element_type, shape, buffer_ptr)


def at(place: tuple) -> np.ndarray:
    """The array at an address of this process."""
    element_type, shape, address = place
    size = int(np.prod(shape)) * np.dtype(element_type).itemsize
    memory = (ctypes.c_ubyte * size).from_address(address)
    return np.frombuffer(memory, element_type).reshape(shape)
