"""The room that picks: which implementation a device gets, what the log says of it, and what is refused."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from coop_edge import backend as room
from coop_edge.backend import Backend, probe_networks, probe_onnxruntime, probe_tensorrt, sound_plan
from coop_edge.errors import BackendUnavailable, BundleError, EngineError, InputError
from coop_edge.runtime import tensorrt_api
from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.onnx import OnnxRunner
from coop_edge.runtime.onnx_session import CPU, CUDA
from coop_edge.runtime.plan import Target
from coop_edge.runtime.plan_store import write_plan
from tests.runtime.fake_cuda import FakeCupy, FakeOnnxRuntime
from tests.runtime.networks import tiny_bundle
from tests.runtime.plans import made_up_plan

ON_CPU, ON_CUDA = Backend("cpu", "asked for"), Backend("cuda", "asked for")


@pytest.fixture
def bundle(tmp_path, monkeypatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # plans are also looked for there
    return Bundle.load(tiny_bundle(tmp_path / "folder", features=False))


@pytest.fixture
def log(caplog) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="coop_edge")
    return caplog


@pytest.mark.parametrize("device", ["gpu", "", None, "CPU"])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(InputError, match="device: wanted 'auto', 'cpu' or 'cuda', got"):
        Backend.pick(device)


def test_cuda_that_is_not_here_is_an_error_and_auto_says_why_it_took_the_cpu(monkeypatch, log):
    monkeypatch.setattr(room, "probe_cuda", lambda: "CuPy finds no CUDA device")
    with pytest.raises(BackendUnavailable, match="device='cuda' was asked for, but CuPy finds no CUDA device"):
        Backend.pick("cuda")
    picked = Backend.pick("auto")
    assert (picked.name, picked.reason) == ("cpu", "no CUDA: CuPy finds no CUDA device")
    assert "backend: cpu (no CUDA: CuPy finds no CUDA device)" in log.text
    monkeypatch.setattr(room, "probe_cuda", lambda: None)
    assert Backend.pick("auto").name == Backend.pick("cuda").name == "cuda"
    assert Backend.pick("cpu").name == "cpu"


@pytest.mark.parametrize(
    ("numba", "message"),
    [(None, "Numba is not installed"), ("raise ImportError('Numba needs NumPy 2.2 or less')", "Numba needs NumPy 2.2")],
)
def test_without_a_numba_that_imports_there_is_no_cpu_backend(monkeypatch, tmp_path, numba, message):
    assert Backend.pick("cpu").name == "cpu"
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    if numba is None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    else:
        (tmp_path / "numba.py").write_text(numba)
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendUnavailable, match=f"the CPU backend is not usable: .*{message}.*pip install"):
        Backend.pick("cpu")
    monkeypatch.setattr(room, "probe_cuda", lambda: None)
    assert Backend.pick("auto").name == "cuda"


def test_every_place_is_a_module_that_exists():
    for places in (room.OPERATIONS, room.OFFLINE_RENDERERS, room.SOLVERS, room.RUNNERS):
        for place in places.values():
            assert importlib.util.find_spec(place.split(":")[0]) is not None, place


def test_operations_are_those_of_the_device_that_is_current(monkeypatch):
    assert type(ON_CPU.operations()).__name__ == "CpuOperations"
    assert ON_CPU.operations().xp is np
    monkeypatch.setitem(sys.modules, "cupy", cupy := FakeCupy())
    operations = ON_CUDA.operations()
    assert type(operations).__name__ == "CudaOperations"
    assert operations.xp is cupy
    elsewhere = cupy.put(np.zeros(3))
    elsewhere.device_id = 1
    with pytest.raises(InputError, match="image: wanted on GPU 3, where the networks are, got on GPU 1"):
        operations.upload(elsewhere, "image")


# Runners. CUDA is played by stand-ins (tests/runtime/fake_cuda.py): what is tested is the choice.


@pytest.mark.parametrize("engine", ["auto", "onnx"])
def test_on_the_cpu_a_network_runs_on_onnxruntime(engine, bundle, log):
    runner = ON_CPU.runner(bundle, "refiner", threads=2, engine=engine)
    assert isinstance(runner, OnnxRunner)
    assert (runner.device, runner.threads, runner.label) == ("cpu", 2, "tiny/refiner")
    assert runner.providers == []  # not opened
    with runner:
        assert runner.providers == [CPU]
    reason = {"auto": "the engine of the CPU", "onnx": "asked for"}[engine]
    assert f"tiny/refiner: ONNX Runtime on cpu ({reason})" in log.text


def test_what_cannot_be_is_refused_before_anything_is_loaded(bundle):
    with pytest.raises(InputError, match="engine: wanted 'auto', 'onnx', 'tensorrt', got 'trt'"):
        ON_CPU.runner(bundle, "refiner", engine="trt")
    with pytest.raises(InputError, match=r"role: wanted one of .*, got 'detector'"):
        ON_CPU.runner(bundle, "detector")
    with pytest.raises(BundleError, match="no network for features"):
        ON_CPU.runner(bundle, "features")
    with pytest.raises(InputError, match="threads: wanted"):
        ON_CPU.runner(bundle, "refiner", threads=-1)
    with pytest.raises(BackendUnavailable, match="engine='tensorrt' needs device='cuda', this backend is 'cpu'"):
        ON_CPU.runner(bundle, "refiner", engine="tensorrt")


TARGET = Target("trt", "10.13.3", "87", gpu="Orin")


class FakeTensorRtRunner:
    def __init__(self, plan, network, *, cuda_graph=False, label=""):
        self.plan, self.network, self.label = plan, network, label


@pytest.fixture
def tensorrt(monkeypatch) -> None:
    """TensorRT 10.13.3 on an Orin."""
    monkeypatch.setattr(tensorrt_api, "installed", lambda: iter([SimpleNamespace(target=TARGET)]))
    monkeypatch.setattr(Target, "here", classmethod(lambda cls, api: api.target))
    module = ModuleType("coop_edge.runtime.tensorrt")
    module.TensorRtRunner = FakeTensorRtRunner
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def ort(monkeypatch) -> FakeOnnxRuntime:
    fake = FakeOnnxRuntime()
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy())
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return fake


def put_plan(bundle: Bundle, role: str = "refiner", target: Target = TARGET) -> Path:
    plan = made_up_plan(bundle.network(role), target)
    write_plan(plan)
    return plan.path


@pytest.mark.parametrize("engine", ["auto", "tensorrt"])
def test_on_cuda_a_sound_plan_is_taken(engine, bundle, tensorrt, ort, log):
    plan = put_plan(bundle)
    runner = ON_CUDA.runner(bundle, "refiner", engine=engine)
    assert isinstance(runner, FakeTensorRtRunner)
    assert (runner.plan.path, runner.network, runner.label) == (plan, bundle.network("refiner"), "tiny/refiner")
    assert f"tiny/refiner: TensorRT ({plan.name})" in log.text


def test_every_tensorrt_that_is_installed_is_asked_for_a_plan(bundle, tensorrt, ort, monkeypatch):
    rtx = Target("rtx", "1.7.1", "87", gpu="Orin")
    both = [SimpleNamespace(target=TARGET), SimpleNamespace(target=rtx)]
    monkeypatch.setattr(tensorrt_api, "installed", lambda: iter(both))
    with pytest.raises(EngineError, match=r"no plan refiner-.*-trt10\.13\.3-.*; no plan refiner-.*-rtx1\.7\.1-"):
        sound_plan(bundle.network("refiner"))
    second = put_plan(bundle, target=rtx)
    assert sound_plan(bundle.network("refiner")).path == second
    first = put_plan(bundle)
    assert sound_plan(bundle.network("refiner")).path == first
    first.write_bytes(b"A plan")  # of the right size
    assert ON_CUDA.runner(bundle, "refiner").plan.path == second


def test_onnx_can_be_insisted_on(bundle, tensorrt, ort, log):
    put_plan(bundle)
    runner = ON_CUDA.runner(bundle, "refiner", engine="onnx")
    assert isinstance(runner, OnnxRunner)
    assert runner.device == "cuda"
    assert "tiny/refiner: ONNX Runtime on cuda (asked for)" in log.text


def another_gpu(bundle: Bundle) -> None:
    put_plan(bundle, target=Target("trt", "10.13.3", "86"))


def damaged(bundle: Bundle) -> None:
    put_plan(bundle).write_bytes(b"A plan")


UNSOUND = {
    "none": (lambda bundle: None, "no plan refiner-.*-trt10.13.3-sm87.plan in .*; build it with: coop-edge build"),
    "of another GPU": (another_gpu, r"no plan refiner-.*-sm87.plan in .* \(there is refiner-.*-sm86.plan\)"),
    "of another role": (lambda bundle: put_plan(bundle, "coarse_encoder"), "no plan refiner-.*-sm87.plan"),
    "damaged": (damaged, r"damaged: SHA-256 .*; build it again with: coop-edge build"),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_without_a_sound_plan_onnxruntime_is_taken_with_a_warning_or_tensorrt_refused(case, bundle, tensorrt, ort, log):
    make, message = UNSOUND[case]
    make(bundle)
    with pytest.raises(EngineError, match=message):
        sound_plan(bundle.network("refiner"))
    with pytest.raises(EngineError, match=message):
        ON_CUDA.runner(bundle, "refiner", engine="tensorrt")
    runner = ON_CUDA.runner(bundle, "refiner")
    assert isinstance(runner, OnnxRunner)
    assert runner.device == "cuda"
    (record,) = [r for r in log.records if "ONNX Runtime on cuda" in r.getMessage()]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("tiny/refiner: ONNX Runtime on cuda (no TensorRT: ")


def test_where_neither_can_run_the_error_names_both(bundle, tensorrt, ort):
    ort.starts = (CPU,)
    message = (
        f"tiny/refiner: nothing runs it on CUDA; no plan refiner-.*coop-edge build .*; .*{CUDA} was asked for, but"
    )
    with pytest.raises(BackendUnavailable, match=message):
        ON_CUDA.runner(bundle, "refiner")


def test_without_tensorrt_the_log_says_so_and_onnxruntime_runs(bundle, ort, monkeypatch, log):
    for module in tensorrt_api.MODULES:
        monkeypatch.setitem(sys.modules, module, None)
    assert "no TensorRT here" in probe_tensorrt()
    assert isinstance(ON_CUDA.runner(bundle, "refiner"), OnnxRunner)
    (record,) = [r for r in log.records if "ONNX Runtime on cuda" in r.getMessage()]
    assert record.levelno == logging.INFO  # nobody asked for TensorRT
    assert "no TensorRT here" in record.getMessage()
    with pytest.raises(BackendUnavailable, match="no TensorRT here"):
        ON_CUDA.runner(bundle, "refiner", engine="tensorrt")


def test_the_probes_of_engines(ort, monkeypatch):
    assert probe_onnxruntime("cuda") is None
    ort.starts = (CPU,)
    assert f"runs on {CPU}" in probe_onnxruntime("cuda")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install onnxruntime" in probe_onnxruntime("cpu")
    monkeypatch.setattr(tensorrt_api, "load", lambda: SimpleNamespace(flavour="trt"))
    assert probe_tensorrt() is None


def test_networks_run_on_cuda_by_plans_of_all_of_them_or_by_onnxruntime(bundle, tensorrt, ort):
    assert probe_networks(bundle) is None
    ort.starts = (CPU,)
    for role in bundle.networks:
        says = probe_networks(bundle)
        assert says.startswith(f"nothing runs tiny/{role} on CUDA; no plan {role}-")
        assert f"ONNX Runtime 1.99.fake runs on {CPU}: the provider did not start" in says
        put_plan(bundle, role)
    assert probe_networks(bundle) is None


def test_what_a_caller_needs_besides_is_asked_only_where_cuda_answers(monkeypatch):
    asked = []
    monkeypatch.setattr(room, "probe_cuda", lambda: "no GPU")
    assert Backend.pick("auto", probe=lambda: asked.append(1)).reason == "no CUDA: no GPU"
    assert Backend.pick("cpu", probe=lambda: asked.append(1)).reason == "asked for"
    assert asked == []
    monkeypatch.setattr(room, "probe_cuda", lambda: None)
    assert Backend.pick("auto", probe=lambda: "no networks").reason == "no CUDA: no networks"
    with pytest.raises(BackendUnavailable, match="device='cuda' was asked for, but no networks"):
        Backend.pick("cuda", probe=lambda: "no networks")
