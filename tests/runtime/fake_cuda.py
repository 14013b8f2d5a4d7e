"""Stand-ins for CuPy and for ONNX Runtime's CUDA provider, for machines without a GPU.

``FakeCupy`` arrays (``fake_arrays``) lie in host memory and have CuPy's ``data.ptr`` and ``device``; streams and events
write what is asked of them into one journal; kernels are the ``.cu`` files that ship, compiled for the host
(``tests/cuda_host``). With it in ``sys.modules`` all of the package's code for the GPU runs. ``FakeOnnxRuntime``
reports the providers it is told to, and runs a bound session by reading and writing at the very addresses it was given,
with the real CPU provider in between: a wrong pointer, shape or dtype gives wrong numbers or a crash, as it would on a
GPU.
"""

from __future__ import annotations

import ctypes
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from coop_edge.kernels.device import SOURCE_DIR, read_source
from coop_edge.runtime.onnx_session import CPU, CUDA
from tests.cuda_host.host_device import HostDevice
from tests.runtime.fake_arrays import FUNCTIONS, IN_PLACE, UPLOAD, FakeArray, function, norm, plain
from tests.runtime.fake_arrays import taken as memory_of


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
    """A module to put into ``sys.modules`` as "cupy". The current GPU is number 3.

    journal: what streams were asked. transfers: (way, bytes) of all that went between host and device, but for ``put``.
    """

    def __init__(self) -> None:
        super().__init__("cupy")
        self.__spec__ = ModuleSpec("cupy", None)
        self.__version__ = "0.fake"
        self.journal: list[str] = []
        self.transfers: list[tuple[str, int]] = []
        self.ndarray = FakeArray
        self.callers = FakeStream(self.journal, "caller")
        self.runners: list[FakeStream] = []
        self.linalg = SimpleNamespace(norm=norm)
        self.cuda = SimpleNamespace(
            Device=lambda device=3: _Device(device),
            Stream=self._stream,
            Event=lambda disable_timing: FakeEvent(),
            get_current_stream=lambda: self.callers,
            runtime=SimpleNamespace(
                getDeviceCount=lambda: 4,
                getDeviceProperties=lambda device: {"name": b"Stand-in GPU", "major": 8, "minor": 7},
                driverGetVersion=lambda: 13010,
                runtimeGetVersion=lambda: 12060,
            ),
        )
        self._host = HostDevice()

    def __getattr__(self, name: str) -> Any:
        if name in FUNCTIONS:
            return function(name, self._made)
        raise AttributeError(f"the CuPy stand-in has no {name}; if CuPy has it, add it to FUNCTIONS")

    def _stream(self, non_blocking):
        assert non_blocking  # a blocking one would wait for the default stream, and the default stream for it
        self.runners.append(FakeStream(self.journal, f"runner{len(self.runners)}"))
        return self.runners[-1]

    def _made(self, array) -> FakeArray:
        return FakeArray(array, self.transfers, 3)

    def put(self, array) -> FakeArray:
        """Upload, to device 3, what a test brings itself."""
        return self._made(np.array(array))

    def asarray(self, array, dtype=None) -> FakeArray:
        if isinstance(array, FakeArray):
            return array if dtype is None else array._like(np.asarray(array.host, dtype))
        if hasattr(array, "__cuda_array_interface__"):
            self.transfers.append((IN_PLACE, 0))
            return self._made(memory_of(array.__cuda_array_interface__))
        made = self._made(np.array(array, dtype))
        self.transfers.append((UPLOAD, made.nbytes))
        return made

    def asnumpy(self, array) -> np.ndarray:
        return array.get()

    def empty(self, shape, dtype=np.float64) -> FakeArray:
        return self._made(np.full(shape, 77, dtype))

    def ascontiguousarray(self, array, dtype=None) -> FakeArray:
        assert isinstance(array, FakeArray)
        if array.flags.c_contiguous and dtype in (None, array.dtype):
            return array
        self.journal.append("copy")
        return self._made(np.array(array.host, dtype, order="C"))

    def RawModule(self, code: str, options: tuple[str, ...]) -> SimpleNamespace:
        (source,) = [path.name for path in SOURCE_DIR.glob("*.cu") if read_source(path.name) == code]

        def get_function(name: str) -> Any:
            kernel = self._host.kernel(source, name)
            return lambda grid, block, arguments: kernel(grid, block, [plain(a) for a in arguments])

        return SimpleNamespace(get_function=get_function)


class _Device:
    compute_capability = "87"

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
