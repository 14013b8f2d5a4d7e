"""What is said to TensorRT, on every recorded surface, and how its failures come back."""

from __future__ import annotations

import importlib
import logging
import sys

import pytest

from coop_edge.errors import BackendUnavailable, EngineError
from coop_edge.runtime import tensorrt_api
from tests.runtime.fake_tensorrt import SURFACES, FakeTensorRt, install
from tests.runtime.networks import tiny_model

GRAPH = tiny_model("refiner").SerializeToString()


@pytest.fixture(params=list(SURFACES))
def trt(request, monkeypatch):
    return install(monkeypatch, request.param)[0]


class Steps:
    """A Progress that writes down what it is told; ``then`` is called at the first step."""

    def __init__(self, then=lambda: True):
        self.seen, self.then = [], then

    def start(self, phase, parent, steps):
        self.seen.append(("start", phase, parent, steps))

    def step(self, phase, step):
        self.seen.append(("step", phase, step))
        return self.then()

    def finish(self, phase):
        self.seen.append(("finish", phase))


def test_finds_what_is_installed_and_names_it(trt):
    api = tensorrt_api.load()
    assert (api.name, api.version) == (trt.__name__, trt.__version__)
    assert api.flavour == ("rtx" if trt.__name__ == "tensorrt_rtx" else "trt")


def test_says_what_is_missing(monkeypatch):
    for name in tensorrt_api.MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailable, match=r"tensorrt: .*tensorrt_rtx: .*pip install .*JetPack"):
        tensorrt_api.load()
    with pytest.raises(EngineError, match=r"wanted one of the modules tensorrt, tensorrt_rtx, got 'trt'"):
        tensorrt_api.load("trt")


def test_refuses_a_tensorrt_older_than_10_3(monkeypatch):
    trt, _ = install(monkeypatch, "tensorrt-10.3.0")
    trt.__version__ = "10.2.0"
    with pytest.raises(BackendUnavailable, match=r"10\.2\.0 is too old; wanted 10\.3"):
        tensorrt_api.load()


def test_all_that_is_installed_is_found_and_what_cannot_be_used_is_passed_over(monkeypatch, tmp_path):
    old, _ = install(monkeypatch, "tensorrt-10.3.0")
    rtx = FakeTensorRt("tensorrt_rtx-1.7.1")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", rtx)
    assert [api.trt for api in tensorrt_api.installed()] == [old, rtx]
    assert tensorrt_api.load().trt is old
    old.__version__ = "10.2.0"
    monkeypatch.setattr(tensorrt_api, "_of_module", tensorrt_api.TensorRt)  # it remembers what it has seen
    assert [api.trt for api in tensorrt_api.installed()] == [rtx]
    assert tensorrt_api.load().trt is rtx
    (tmp_path / "tensorrt").mkdir()  # a folder with something else, which Python takes for a package
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    assert tensorrt_api.load().trt is rtx
    with pytest.raises(BackendUnavailable, match=r"no TensorRT here \(tensorrt: .*__version__"):
        tensorrt_api.load("tensorrt")
    monkeypatch.delitem(sys.modules, "tensorrt")


def test_there_is_one_logger_whoever_asks(trt):
    """TensorRT keeps a pointer to the first logger of the process, also when the runner that brought it is gone."""
    assert tensorrt_api.load().logger is tensorrt_api.load(trt.__name__).logger


def test_builds_strongly_typed_with_one_profile(trt):
    api = tensorrt_api.load()
    built = api.build(GRAPH, "tiny/refiner", (1, 5, 40), workspace_mb=64, timing_cache=b"", tf32=False)
    bit = SURFACES_OF[trt.__version__]["enums"]["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"]
    assert ("create_network", 1 << bit) in trt.calls
    assert ("set_memory_pool_limit", "WORKSPACE", 64 << 20) in trt.calls
    assert ("clear_flag", "TF32") in trt.calls
    assert built.shapes == {name: [[n, 3, 32, 32] for n in (1, 5, 40)] for name in ("query", "render")}
    rtx = api.flavour == "rtx"
    assert (built.timing_cache is None) == rtx, "no effect on RTX, and deprecated there"
    assert (("set_flag", "REQUIRE_USER_ALLOCATION") in trt.calls) == rtx
    assert (("set_compute_capability", "CURRENT", 0) in trt.calls) == rtx


SURFACES_OF = {surface["version"]: surface for surface in SURFACES.values()}


def test_targets_are_for_rtx_alone(trt):
    api = tensorrt_api.load()
    if api.flavour == "trt":
        with pytest.raises(EngineError, match=r"for the GPU it runs on, not for SM 86, 120"):
            api.build(GRAPH, "g", (1, 1, 1), targets=["86", "120"])
        return
    api.build(GRAPH, "g", (1, 1, 1), targets=["86", "120"])
    assert [call[1:] for call in trt.calls if call[0] == "set_compute_capability"] == [("SM86", 0), ("SM120", 1)]
    with pytest.raises(EngineError, match=r"does not build for SM87; it knows .*SM86, SM89"):
        api.build(GRAPH, "g", (1, 1, 1), targets=["87"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("parse", r"tiny: the graph cannot be parsed; TensorRT says: unsupported \(node matmul_3, MatMul\)"),
        ("build_serialized_network", r"could not build it; TensorRT says: no implementation found for node"),
        ("Builder", r"does not start \(no GPU, or its driver is too old\).*nullptr"),
    ],
)
def test_a_failed_build_says_what_tensorrt_said(trt, call, message):
    trt.fail.add(call)
    with pytest.raises(EngineError, match=message):
        tensorrt_api.load().build(GRAPH, "tiny", (1, 1, 1))


def test_only_the_first_axis_may_be_dynamic(trt):
    model = tiny_model("refiner")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(
        EngineError, match=r"input query: wanted a dynamic first axis and no other, found \[-1, 3, -1, 32"
    ):
        tensorrt_api.load().build(model.SerializeToString(), "tiny", (1, 1, 1))


def test_progress_is_passed_on_and_can_stop_the_build(trt):
    api, steps = tensorrt_api.load(), Steps()
    api.build(GRAPH, "tiny", (1, 1, 1), progress=steps)
    phase = "Building engine"
    assert steps.seen == [("start", phase, None, 2), ("step", phase, 0), ("step", phase, 1), ("finish", phase)]
    with pytest.raises(EngineError, match="the build was stopped"):
        api.build(GRAPH, "tiny", (1, 1, 1), progress=Steps(lambda: False))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_what_a_callback_raises_stops_the_build_and_comes_out_after_it(trt, kind):
    def interrupt():
        raise kind("from the callback")

    steps = Steps(interrupt)
    with pytest.raises(kind, match="from the callback"):
        tensorrt_api.load().build(GRAPH, "tiny", (1, 1, 1), progress=steps)
    assert [entry[0] for entry in steps.seen] == ["start", "step"]
    assert trt.count("build_serialized_network") == 0, "TensorRT went on"


def test_messages_go_to_logging(trt, caplog):
    trt.fail.add("build_serialized_network")
    with caplog.at_level(logging.ERROR, "coop_edge.tensorrt"), pytest.raises(EngineError):
        tensorrt_api.load().build(GRAPH, "tiny", (1, 1, 1))
    assert "no implementation found" in caplog.text


def test_a_foreign_timing_cache_is_replaced(trt, caplog):
    api = tensorrt_api.load()
    trt.fail.add("set_timing_cache")
    built = api.build(GRAPH, "tiny", (1, 1, 1), timing_cache=b"of another GPU")
    if api.flavour == "rtx":
        assert built.timing_cache is None
        return
    assert built.timing_cache == b"timings"
    assert [call[1] for call in trt.calls if call[0] == "create_timing_cache"] == [b"of another GPU", b""]
    assert "starting a new one" in caplog.text
