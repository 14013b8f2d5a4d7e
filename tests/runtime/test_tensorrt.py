"""The TensorRT runner, on stand-ins for TensorRT (every recorded surface) and CuPy that compute with ONNX Runtime."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coop_edge.backend import Backend, probe_networks
from coop_edge.errors import BackendUnavailable, EngineError, InputError
from coop_edge.runtime import tensorrt_api
from coop_edge.runtime.build import BuildOptions, build_plans
from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.onnx import OnnxRunner
from coop_edge.runtime.plan import sidecar_of
from coop_edge.runtime.plan_lookup import LoadedPlan
from coop_edge.runtime.plan_store import write_plan
from coop_edge.runtime.tensorrt import TensorRtRunner
from tests.runtime.fake_tensorrt import install
from tests.runtime.networks import tiny_bundle

LARGEST = 6
OPTIONS = BuildOptions(max_batch={"refiner": LARGEST})
# The oldest, the newest and RTX: where their surfaces lie between these, test_tensorrt_surfaces.py looks.
SHOWN = ["tensorrt-10.3.0", "tensorrt-11.4.0", "tensorrt_rtx-1.7.1"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Surface -> folder of a bundle with the plan of its refiner, built once."""
    folders = {}
    for surface in SHOWN:
        with pytest.MonkeyPatch.context() as patch:
            install(patch, surface)
            root = tmp_path_factory.mktemp(surface)
            patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
            folders[surface] = tiny_bundle(root / "tiny")
            build_plans(Bundle.load(folders[surface]), roles=["refiner"], options=OPTIONS)
    return folders


@pytest.fixture(params=SHOWN)
def place(request, monkeypatch, tmp_path, built):
    """(stand-in TensorRT, stand-in CuPy, bundle, plan of its refiner)."""
    trt, cupy = install(monkeypatch, request.param)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = Bundle.load(shutil.copytree(built[request.param], tmp_path / "tiny"), check_hashes=False)
    (plan,) = bundle.folder.glob("refiner-*.plan")
    return trt, cupy, bundle, plan


def feed(cupy, batch, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {name: rng.random((batch, 3, 32, 32), np.float32) for name in ("query", "render")}
    return arrays, {name: cupy.asarray(array) for name, array in arrays.items()}


def wanted(bundle, arrays):
    with OnnxRunner(bundle.network("refiner")) as runner:
        return {name: array.copy() for name, array in runner.run(arrays).items()}


def assert_right(runner, cupy, bundle, batch, seed=0, given=None):
    """A run (of ``given`` in the place of the feed, if given) gives to the bit what ONNX Runtime does."""
    arrays, on_device = feed(cupy, batch, seed)
    found = runner.run(on_device if given is None else given)
    for name, array in wanted(bundle, arrays).items():
        assert isinstance(found[name], cupy.ndarray)
        np.testing.assert_array_equal(cupy.asnumpy(found[name]), array)


def test_nothing_is_loaded_before_it_opens_and_the_batch_limit_is_known(place):
    trt, _, bundle, plan = place
    runner = TensorRtRunner(plan, bundle.network("refiner"))
    assert (runner.max_batch, runner.device, trt.calls) == (LARGEST, "cuda", [])
    with pytest.raises(EngineError, match=r"tiny/refiner is closed"):
        runner.run({})


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 2, LARGEST])
def test_computes_what_onnx_runtime_computes(place, batch, cuda_graph):
    _, cupy, bundle, plan = place
    with TensorRtRunner(plan, bundle.network("refiner"), cuda_graph=cuda_graph) as runner:
        for seed in range(3):  # with a graph: run, then launch, then launch
            assert_right(runner, cupy, bundle, batch, seed)


def test_shapes_and_addresses_are_set_only_when_they_change(place):
    trt, cupy, bundle, plan = place
    _, first = feed(cupy, 2)
    _, other = feed(cupy, 2, seed=1)
    with TensorRtRunner(plan, bundle.network("refiner")) as runner:

        def counted(given):
            trt.calls.clear()
            runner.run(given)
            return trt.count("set_input_shape"), trt.count("set_tensor_address"), trt.count("execute_async_v3")

        assert counted(first) == (2, 6, 1)
        assert counted(first) == (0, 0, 1)
        assert counted({**first, "render": other["render"]}) == (0, 1, 1)
        assert counted({name: array[:1] for name, array in first.items()}) == (2, 1, 1)  # render moved back
        assert counted(feed(cupy, 4)[1]) == (2, 6, 1)  # the outputs grew


def test_outputs_of_the_same_size_are_the_same_memory_and_smaller_batches_reuse_it(place):
    _, cupy, bundle, plan = place
    with TensorRtRunner(plan, bundle.network("refiner")) as runner:
        large = runner.run(feed(cupy, 4)[1])
        small = runner.run(feed(cupy, 1)[1])
        again = runner.run(feed(cupy, 4)[1])
    for name in large:
        assert large[name].data.ptr == small[name].data.ptr == again[name].data.ptr


def test_strided_and_misaligned_feeds_are_copied_first(place):
    _, cupy, bundle, plan = place
    arrays, _ = feed(cupy, 3)
    strided = cupy.empty((3, 3, 32, 64), np.float32)
    strided[..., ::2] = arrays["query"]
    flat = cupy.empty((3 * 3 * 32 * 32 + 1,), np.float32)
    flat[1:] = arrays["render"].ravel()
    awkward = {"query": strided[..., ::2], "render": flat[1:].reshape(3, 3, 32, 32)}
    assert not awkward["query"].flags.c_contiguous
    assert awkward["render"].data.ptr % 256
    with TensorRtRunner(plan, bundle.network("refiner")) as runner:
        assert_right(runner, cupy, bundle, 3, given=awkward)


def test_runs_on_the_callers_stream_and_another_stream_waits(place):
    _, cupy, bundle, plan = place
    _, given = feed(cupy, 1)
    mine = cupy.cuda.Stream()
    cupy.calls.clear()
    with TensorRtRunner(plan, bundle.network("refiner")) as runner:
        current = cupy.cuda.get_current_stream().ptr
        assert cupy.calls == [(current, "record")], "of the memory that it has taken"
        cupy.calls.clear()
        runner.run(given, mine)
        runner.run(given, mine)
        assert cupy.calls == [(mine.ptr, "wait"), (mine.ptr, "record"), (mine.ptr, "record")]
        cupy.calls.clear()
        runner.run(given)
        assert cupy.calls == [(current, "wait"), (current, "record")]
        cupy.calls.clear()
        runner.run(feed(cupy, 2)[1])
        assert cupy.calls == [(current, "synchronize"), (current, "record")], "before smaller buffers go"


def test_what_cupy_raises_is_an_engine_error_and_closing_still_closes(place, monkeypatch, caplog):
    _, cupy, bundle, plan = place

    class OutOfMemoryError(Exception):
        pass

    def no_memory(*_, **__):
        raise OutOfMemoryError("Out of memory allocating 1,024 bytes\nmore")

    runner = TensorRtRunner(plan, bundle.network("refiner"))
    _, given = feed(cupy, 2)
    with monkeypatch.context() as patch:
        patch.setattr(cupy, "empty", no_memory)
        with pytest.raises(
            EngineError, match=r"MB of GPU memory for its activations: OutOfMemoryError: Out of memory .*bytes$"
        ):
            runner.open()
    runner.open()
    with monkeypatch.context() as patch:
        patch.setattr(cupy, "empty", no_memory)
        with pytest.raises(
            EngineError, match=r"tiny/refiner: the run failed on N = 2: OutOfMemoryError: Out of memory"
        ):
            runner.run(given)
    assert_right(runner, cupy, bundle, 2)
    with monkeypatch.context() as patch:
        patch.setattr(cupy.cuda.Event, "synchronize", no_memory)
        runner.close()
    assert "tiny/refiner: while closing: OutOfMemoryError" in caplog.text
    assert runner._engine is None


def test_a_graph_per_batch_size_from_a_context_of_its_own(place):
    trt, cupy, bundle, plan = place
    with TensorRtRunner(plan, bundle.network("refiner"), cuda_graph=True) as runner:
        runner.run(feed(cupy, 4)[1])
        assert trt.count("execute_async_v3") == 2, "run once, then captured"
        runner.run(feed(cupy, 2)[1])
        assert trt.count("create_execution_context") == 2
        trt.calls.clear()
        cupy.calls.clear()
        for batch in (4, 2, 4):
            runner.run(feed(cupy, batch)[1])
        assert trt.calls == [], "graphs are launched without a word to TensorRT"
        assert [what for _, what in cupy.calls] == ["launch", "record"] * 3
        runner.run(feed(cupy, 6)[1])  # the buffers move: every graph is stale
        trt.calls.clear()
        assert_right(runner, cupy, bundle, 2, seed=9)
        assert trt.count("execute_async_v3") == 2, "captured anew"


def test_the_number_of_graphs_is_bounded(place, monkeypatch):
    monkeypatch.setattr("coop_edge.runtime.tensorrt._MAX_GRAPHS", 2)
    trt, cupy, bundle, plan = place
    with TensorRtRunner(plan, bundle.network("refiner"), cuda_graph=True) as runner:
        for batch in (4, 3, 2, 3, 2):
            runner.run(feed(cupy, batch)[1])
        assert trt.count("create_execution_context") == 3
        assert_right(runner, cupy, bundle, 4, seed=3)
    assert trt.count("create_execution_context") == 4, "that of 4 had to go"


def test_a_capture_that_fails_is_refused_with_the_reason_and_stays_refused(place):
    _, cupy, bundle, plan = place
    cupy.capture_error = "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
    with TensorRtRunner(plan, bundle.network("refiner"), cuda_graph=True) as runner:
        for _ in range(2):
            with pytest.raises(
                EngineError, match=r"no CUDA graph for N = 2: RuntimeError: cudaError.*cuda_graph=False"
            ):
                runner.run(feed(cupy, 2)[1])
        cupy.capture_error = ""
        runner.run(feed(cupy, 2)[1])


def test_rtx_says_beforehand_what_cannot_be_captured(place):
    trt, cupy, bundle, plan = place
    trt.fail.add("is_stream_capturable")
    with TensorRtRunner(plan, bundle.network("refiner"), cuda_graph=True) as runner:
        if trt.__name__ == "tensorrt":
            runner.run(feed(cupy, 1)[1])
            return
        with pytest.raises(EngineError, match="TensorRT says that this network cannot be captured"):
            runner.run(feed(cupy, 1)[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("deserialize_cuda_engine", r"does not load this plan; TensorRT says: Serialization assertion failed"),
        ("create_execution_context", r"could not create an execution context"),
    ],
)
def test_what_fails_on_opening_leaves_a_closed_runner(place, call, message):
    trt, _, bundle, plan = place
    trt.fail.add(call)
    runner = TensorRtRunner(plan, bundle.network("refiner"))
    with pytest.raises(EngineError, match=message):
        runner.open()
    assert runner._engine is None
    trt.fail.clear()
    with runner:
        pass


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("execute_async_v3", r"tiny/refiner: the run failed on N = 2"),
        ("set_input_shape", r"does not take the shape \[2, 3, 32, 32\] for query"),
        ("set_tensor_address", r"does not take the address 0x[0-9a-f]+ for query"),
    ],
)
def test_what_fails_in_a_run_is_named_and_the_next_run_is_right(place, call, message):
    trt, cupy, bundle, plan = place
    _, given = feed(cupy, 2)
    with TensorRtRunner(plan, bundle.network("refiner")) as runner:
        trt.fail.add(call)
        with pytest.raises(EngineError, match=message):
            runner.run(given)
        trt.fail.clear()
        assert_right(runner, cupy, bundle, 2)


def test_feeds_are_checked(place):
    _, cupy, bundle, plan = place
    arrays, given = feed(cupy, 2)
    with TensorRtRunner(plan, bundle.network("refiner")) as runner:
        with pytest.raises(InputError, match=r"query: wanted a cupy.ndarray for device 'cuda', got a numpy.ndarray"):
            runner.run({**given, "query": arrays["query"]})
        with pytest.raises(InputError, match=r"N = 7 is above the engine's largest batch, 6; split it"):
            runner.run(feed(cupy, LARGEST + 1)[1])
        with pytest.raises(InputError, match=r"wanted query \[N,3,32,32\] float32, got \[2, 3, 32, 16\]"):
            runner.run({**given, "query": given["query"][..., :16]})


def test_closing_waits_frees_in_order_and_can_be_repeated(place):
    trt, cupy, bundle, plan = place
    runner = TensorRtRunner(plan, bundle.network("refiner"))
    runner.open()
    runner.run(feed(cupy, 1)[1])
    freed = []
    for name, kind in (("context", trt.IExecutionContext), ("engine", trt.ICudaEngine), ("runtime", trt.Runtime)):
        kind.__del__ = lambda self, name=name: freed.append(name)
    cupy.calls.clear()
    runner.close()
    runner.close()
    assert cupy.calls == [("event", "synchronize")]
    assert freed == ["context", "engine", "runtime"]
    with runner:
        runner.run(feed(cupy, 1)[1])


def test_a_plan_whose_inside_is_of_another_graph_is_refused(place):
    """A sidecar that lies, or a plan that was put in another's place: the engine itself is asked."""
    _, _, bundle, plan = place
    (other,) = build_plans(bundle, roles=["features"], options=BuildOptions(max_batch={"features": LARGEST}))
    data = other.path.read_bytes()
    runner = TensorRtRunner(plan, bundle.network("refiner"))
    lying = dataclasses.replace(runner.info, plan_bytes=len(data), plan_sha256=hashlib.sha256(data).hexdigest())
    write_plan(LoadedPlan(plan, lying, data))
    with pytest.raises(EngineError, match=r"wanted query .*flow .*, has image .*s16 .*coop-edge build"):
        TensorRtRunner(plan, bundle.network("refiner")).open()
    smaller = dataclasses.replace(runner.info, batch=(1, 1, LARGEST - 1))
    (again,) = build_plans(bundle, roles=["refiner"], options=dataclasses.replace(OPTIONS, force=True))
    data = again.path.read_bytes()
    write_plan(LoadedPlan(plan, dataclasses.replace(again.info, batch=smaller.batch), data))
    with pytest.raises(EngineError, match=r"the sidecar says at most N = 5, the plan 6"):
        TensorRtRunner(plan, bundle.network("refiner")).open()


def test_a_damaged_plan_never_reaches_tensorrt(place):
    trt, _, bundle, plan = place
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(bytes(data))
    with pytest.raises(EngineError, match=r"damaged: SHA-256 .*coop-edge build"):
        TensorRtRunner(plan, bundle.network("refiner")).open()
    assert trt.count("deserialize_cuda_engine") == 0


def test_from_the_choice_of_a_device_to_the_open_runner_a_plan_is_read_and_hashed_once(place, monkeypatch):
    trt, _, bundle, plan = place
    data, reads, hashed = plan.read_bytes(), [], []
    read, sha256 = Path.read_bytes, hashlib.sha256
    monkeypatch.setattr(Path, "read_bytes", lambda self: reads.append(self) or read(self))
    monkeypatch.setattr(hashlib, "sha256", lambda given=b"": hashed.append(given) or sha256(given))
    only = SimpleNamespace(name="tiny", networks={"refiner": bundle.network("refiner")})
    assert probe_networks(only) is None
    assert (reads.count(plan), hashed.count(data)) == (0, 0)
    runner = Backend("cuda", "asked for").runner(bundle, "refiner", engine="tensorrt")
    with runner:
        assert (reads.count(plan), hashed.count(data)) == (1, 1)
        assert trt.count("deserialize_cuda_engine") == 1
    assert runner._loaded is None, "the engine has its own copy"
    with runner:  # opened again
        assert (reads.count(plan), hashed.count(data)) == (2, 2)


def test_a_missing_tensorrt_or_sidecar_is_named(place, monkeypatch):
    trt, _, bundle, plan = place
    runner = TensorRtRunner(plan, bundle.network("refiner"))
    monkeypatch.setattr(tensorrt_api.importlib, "import_module", _no_module)
    with pytest.raises(BackendUnavailable, match=f"no TensorRT here .*{trt.__name__}"):
        runner.open()
    sidecar_of(plan).unlink()
    with pytest.raises(EngineError, match=r"sidecar .* is missing; build the plan again with: coop-edge build"):
        TensorRtRunner(plan, bundle.network("refiner"))


def _no_module(name):
    raise ImportError(f"No module named {name!r}")
