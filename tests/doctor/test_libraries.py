"""Libraries: the installed ones, and fakes that fail as real ones do."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import os
import sys
import types

import onnxruntime
import pytest

from coop_edge import backend
from coop_edge.doctor import libraries


class FakeSession:
    """A session of ONNX Runtime on ``real`` providers whose graph doubles, or does what ``run`` says."""

    def __init__(self, real, run=None):
        self.real, self.answer = real, run or (lambda x: 2 * x)

    def get_providers(self):
        return self.real

    def run(self, _, feed):
        return [self.answer(feed["x"])]

    def disable_fallback(self):
        pass


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def fake_onnxruntime(monkeypatch, session) -> None:
    """Lists CUDA, as onnxruntime-gpu does everywhere; ``session`` makes what is asked for CUDA."""

    def make(graph, options, providers, **_):
        assert graph[:2] == b"\x08\x08"
        asked = providers[0] if isinstance(providers[0], str) else providers[0][0]
        return FakeSession([CPU]) if asked == CPU else session()

    module = types.ModuleType("onnxruntime")
    module.__spec__ = importlib.machinery.ModuleSpec("onnxruntime", None)
    module.__version__ = "1.22.0"
    module.get_available_providers = lambda: [CUDA, CPU]
    module.SessionOptions = lambda: types.SimpleNamespace(add_session_config_entry=lambda *_: None)
    module.ExecutionMode = types.SimpleNamespace(ORT_SEQUENTIAL=0)
    module.InferenceSession = make
    monkeypatch.setitem(sys.modules, "onnxruntime", module)


def no_kernel(_):
    raise RuntimeError("no kernel image is available for execution on the device\nmore")


@pytest.mark.parametrize(
    ("session", "fails"),
    [
        (lambda: FakeSession([CUDA, CPU]), None),
        (lambda: FakeSession([CPU]), f"{CUDA} was asked for, but ONNX Runtime 1.22.0 runs on {CPU}"),
        (lambda: FakeSession([CUDA, CPU], run=lambda x: 0 * x), f"computes a wrong sum on {CUDA}"),
        (lambda: FakeSession([CUDA, CPU], run=no_kernel), f"on {CUDA}: RuntimeError: no kernel image is available"),
        (lambda: no_kernel(None), "cannot load it: RuntimeError: no kernel image is available"),
    ],
)
def test_only_a_session_tells_what_onnx_runtime_runs_on(monkeypatch, session, fails):
    fake_onnxruntime(monkeypatch, session)
    facts = libraries.onnxruntime()
    assert facts["listed"] == [CUDA, CPU]
    assert facts["fails"]["cpu"] is None
    assert facts["fails"]["cuda"] is None if fails is None else fails in facts["fails"]["cuda"]


def test_the_installed_onnx_runtime_runs_on_the_cpu():
    facts = libraries.onnxruntime()
    assert facts["version"] == onnxruntime.__version__
    assert facts["fails"]["cpu"] is None
    if CUDA not in onnxruntime.get_available_providers():
        assert "has no CUDAExecutionProvider" in facts["fails"]["cuda"]


def test_libraries_that_are_installed_work():
    for probe in (libraries.numpy, libraries.opencv, libraries.trimesh):
        assert probe()["version"]
    facts = libraries.numba()
    assert facts["version"]
    assert facts["cache_folder"] is None or os.path.isdir(facts["cache_folder"])


@pytest.mark.parametrize("fails", [None, "CuPy finds no CUDA device"])
def test_cupy_is_what_the_backend_says_of_it(monkeypatch, fails):
    runtime = types.SimpleNamespace(
        runtimeGetVersion=lambda: 13020, getDeviceProperties=lambda index: {"name": b"Orin" if index == 0 else b"?"}
    )
    module = types.ModuleType("cupy")
    module.__version__ = "14.2.0"
    module.cuda = types.SimpleNamespace(runtime=runtime, Device=lambda: types.SimpleNamespace(id=0))
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(backend, "probe_cuda", lambda: fails)
    device = None if fails else "Orin"
    assert libraries.cupy() == {"version": "14.2.0", "runtime": 13020, "device": device, "fails": fails}


def test_tensorrt_that_does_not_import_is_quoted_and_the_other_still_looked_at(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    (tmp_path / "tensorrt_rtx.py").write_text("__version__ = '1.2.0'")
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(backend, "probe_tensorrt", lambda: None)
    facts = libraries.tensorrt()
    assert "libnvinfer.so.10" in facts["modules"]["tensorrt"]["fails"]
    assert facts["modules"]["tensorrt_rtx"] == {"version": "1.2.0", "fails": None}
    monkeypatch.delitem(sys.modules, "tensorrt_rtx")


def test_distributions_of_one_kind_are_counted(monkeypatch):
    installed = {"onnxruntime": "1.22.0", "onnxruntime-gpu": "1.22.0", "opencv-python": "4.11.0", "open3d": "0.19.0"}

    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    facts = libraries.distributions()
    assert facts["families"]["onnxruntime"] == {"onnxruntime": "1.22.0", "onnxruntime-gpu": "1.22.0"}
    assert facts["families"]["opencv"] == {"opencv-python": "4.11.0"}
    assert facts["families"]["cupy"] == {}
    assert facts["versions"] == {"open3d": "0.19.0"}


@pytest.mark.parametrize("folder", [None, "python3", f"python3.{sys.version_info[1]}"])
def test_tensorrt_of_the_systems_python_is_found(tmp_path, folder):
    if folder:
        (tmp_path / f"usr/lib/{folder}/dist-packages/tensorrt").mkdir(parents=True)
    found = libraries.system_tensorrt(tmp_path)["folder"]
    assert found == (str(tmp_path / f"usr/lib/{folder}/dist-packages/tensorrt") if folder else None)
