"""``CupyDevice``: what it says where there is no GPU, what it hands to CuPy, and, on a GPU, that a kernel runs."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from benchmarks.gpu import render as gpu_render
from benchmarks.meshes import grey_box
from coop_edge.errors import BackendUnavailable
from coop_edge.kernels.device import SOURCE_DIR, CupyDevice, current_device, read_source
from coop_edge.render.cuda import CudaRenderer


class FakeCupy(ModuleType):
    """As much of CuPy as CupyDevice uses; records what it is asked."""

    __version__ = "0.fake"

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__("cupy")
        self.failure, self.modules, self.launches, self.current = failure, [], [], None
        self.gpu, self.probes = 3, 0
        self.cuda = SimpleNamespace(Device=self._device)

    def _device(self, index: int | None = None) -> FakeContext:
        if self.failure:
            raise self.failure
        return FakeContext(self, self.gpu if index is None else index)

    def zeros(self, n: int) -> None:
        time.sleep(0.01)  # long enough for another thread to come by
        self.probes += 1

    def RawModule(self, **arguments: object) -> SimpleNamespace:
        time.sleep(0.01)
        self.modules.append(arguments)
        return SimpleNamespace(
            get_function=lambda name: lambda *launch: self.launches.append((self.current, name, launch))
        )


class FakeContext:
    def __init__(self, cupy: FakeCupy, index: int) -> None:
        self.cupy, self.id = cupy, index

    def __enter__(self) -> None:
        self.cupy.current = self.id

    def __exit__(self, *_: object) -> None:
        self.cupy.current = None


def test_without_cupy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    for make in (CupyDevice, lambda: CudaRenderer(grey_box())):
        with pytest.raises(BackendUnavailable, match=r"import cupy.* failed.*pip install cupy-cuda12x"):
            make()


@pytest.mark.parametrize("message", ["cudaErrorNoDevice: no CUDA-capable device is detected", ""])
def test_without_a_gpu_it_names_the_probe_that_failed(monkeypatch, message):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy(RuntimeError(message)))
    with pytest.raises(BackendUnavailable, match=f"CuPy 0.fake cannot use a GPU here: RuntimeError: {message or 'no'}"):
        CupyDevice()


def test_gpu_benchmark_without_a_gpu_exits_with_2_and_the_reason(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(sys, "argv", ["render"])
    assert gpu_render.main() == 2
    assert "import cupy" in capsys.readouterr().err


def test_kernels_are_compiled_once_and_launched_on_their_device(monkeypatch):
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    device = CupyDevice()
    assert (device.xp, device.id) == (fake, 3)
    small = device.kernel("raster.cu", "raster_small")
    assert device.kernel("raster.cu", "raster_small") is small
    device.kernel("raster.cu", "shade")
    (module,) = fake.modules
    assert module["code"] == read_source("raster.cu")
    assert module["options"] == ("-std=c++17", f"-I{SOURCE_DIR}")
    arguments = [np.int32(1), None]
    small([2], [128], arguments)
    assert fake.launches == [(3, "raster_small", ((2,), (128,), (np.int32(1), None)))]


class Pair(NamedTuple):
    flag: np.bool_
    array: object


class Outer(NamedTuple):
    count: np.int32
    factor: np.float64
    inner: Pair
    last: np.uint8


def test_structures_have_the_layout_of_c(monkeypatch):
    class CPair(ctypes.Structure):
        _fields_ = (("flag", ctypes.c_bool), ("array", ctypes.c_void_p))

    class COuter(ctypes.Structure):
        _fields_ = (("count", ctypes.c_int), ("factor", ctypes.c_double), ("inner", CPair), ("last", ctypes.c_ubyte))

    monkeypatch.setitem(sys.modules, "cupy", FakeCupy())
    array = SimpleNamespace(data=SimpleNamespace(ptr=0x1234567890))
    packed = CupyDevice().pack(Outer(np.int32(-3), np.float64(0.5), Pair(np.bool_(True), array), np.uint8(7)))
    assert packed.shape == (1,)  # what CuPy passes by value
    c = COuter.from_buffer_copy(packed.tobytes())
    assert packed.nbytes == ctypes.sizeof(COuter)
    assert (c.count, c.factor, c.inner.flag, c.inner.array, c.last) == (-3, 0.5, True, 0x1234567890, 7)
    nothing = CupyDevice().pack(Pair(np.bool_(False), None))
    assert not CPair.from_buffer_copy(nothing.tobytes()).array


def in_threads(call, count: int = 8) -> list:
    """What ``call`` returns in each of several threads that start at once."""
    barrier, found = threading.Barrier(count), []

    def run() -> None:
        barrier.wait()
        found.append(call())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == count
    return found


def test_a_gpu_has_one_shared_device_in_whatever_thread(monkeypatch):
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    devices = in_threads(current_device)
    assert {id(device) for device in devices} == {id(devices[0])}
    assert fake.probes == 1
    assert current_device() is devices[0]
    assert fake.probes == 1  # the GPU is not asked again
    fake.gpu = 1
    assert current_device() is not devices[0]
    assert (current_device().id, fake.probes) == (1, 2)
    fake.gpu = 3
    assert current_device() is devices[0]
    assert CupyDevice() is not devices[0]


def test_a_gpu_that_failed_is_asked_again(monkeypatch):
    fake = FakeCupy(RuntimeError("cudaErrorNoDevice"))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    with pytest.raises(BackendUnavailable, match="cudaErrorNoDevice"):
        current_device()
    fake.failure = None
    assert current_device().id == 3


def test_a_kernel_is_compiled_once_by_several_threads(monkeypatch):
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    device = CupyDevice()
    kernels = in_threads(lambda: device.kernel("raster.cu", "shade"))
    assert {id(kernel) for kernel in kernels} == {id(kernels[0])}
    assert len(fake.modules) == 1


@pytest.mark.gpu
def test_arrays_go_to_the_gpu_and_back():
    device = CupyDevice()
    array = device.xp.arange(5)
    np.testing.assert_array_equal(device.to_numpy(array), np.arange(5))
    assert device.kernel("raster.cu", "shade") is device.kernel("raster.cu", "shade")
