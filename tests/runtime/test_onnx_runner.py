"""Networks on ONNX Runtime: against ONNX's own reference evaluator, on what must be refused, and what CUDA is asked."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from coop_edge.errors import BackendUnavailable, BundleError, EngineError, InputError
from coop_edge.runtime.base import TensorSpec
from coop_edge.runtime.bundle import ROLES, Bundle, Network, sha256_of
from coop_edge.runtime.onnx import OnnxRunner
from coop_edge.runtime.onnx_session import _DOUBLE, CPU, CUDA, probe
from tests.runtime.fake_cuda import FakeCupy, FakeOnnxRuntime
from tests.runtime.networks import model_of, tiny_bundle, tiny_model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return Bundle.load(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


def feed_of(network: Network, n: int) -> dict[str, np.ndarray]:
    """Images in [0, 1], tokens around zero; the last row of a batch is all zero, where *no match* wins."""
    rng = np.random.default_rng([n, ROLES.index(network.role)])
    feed = {}
    for spec in network.inputs:
        array = rng.random((n, *spec.shape[1:]), np.float32)
        feed[spec.name] = array if len(spec.shape) == 4 else np.float32(6 * array - 3)
        feed[spec.name][n - 1 :] = 0
    return feed


def reference(network: Network, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ONNX's own evaluator: NumPy, one node after the other."""
    names = [spec.name for spec in network.outputs]
    return dict(zip(names, ReferenceEvaluator(str(network.path)).run(names, feed), strict=True))


def saved(model: onnx.ModelProto, like: Network, folder: Path) -> Network:
    """``like`` with another graph, and the hash of that graph."""
    path = folder / "other.onnx"
    onnx.save_model(model, path)
    return dataclasses.replace(like, path=path, sha256=sha256_of(path))


@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("role", ROLES)
def test_the_outputs_are_those_of_the_reference_evaluator(role, n, bundle):
    network = bundle.network(role)
    feed = feed_of(network, n)
    with OnnxRunner(network, threads=1) as runner:
        assert runner.providers == [CPU]
        outputs = runner.run(feed)
    assert list(outputs) == [spec.name for spec in network.outputs]
    for spec in network.outputs:
        assert outputs[spec.name].shape == (n, *spec.shape[1:])
        assert outputs[spec.name].dtype == np.dtype(spec.dtype)
    if n:
        for name, expected in reference(network, feed).items():
            np.testing.assert_allclose(outputs[name], expected, rtol=1e-5, atol=1e-5)
    if role == "coarse_decoder" and n > 1:
        assert (outputs["probability"][:-1] > 0).any()
        assert (outputs["probability"][-1] == 0).all()


def test_any_strides_do_and_the_feed_is_only_read(bundle):
    network = bundle.network("refiner")
    feed = feed_of(network, 4)
    wide = {name: np.zeros((4, 3, 32, 64), np.float32) for name in feed}
    unaligned = {}
    for name, array in feed.items():
        wide[name][..., ::2] = array
        unaligned[name] = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(np.float32).reshape(array.shape)
        unaligned[name].flags.writeable = False
    with OnnxRunner(network, threads=1) as runner:
        expected = runner.run(feed)
        for given in (
            {name: array[..., ::2] for name, array in wide.items()},
            {name: np.asfortranarray(array) for name, array in feed.items()},
            {name: array[::-1].copy()[::-1] for name, array in feed.items()},
            unaligned,
        ):
            before = {name: array.copy() for name, array in given.items()}
            outputs = runner.run(given)
            for name in outputs:
                np.testing.assert_array_equal(outputs[name], expected[name])
            for name in given:
                np.testing.assert_array_equal(given[name], before[name])


def test_a_row_does_not_depend_on_its_batch_and_runs_repeat(bundle):
    network = bundle.network("coarse_decoder")
    feed = feed_of(network, 6)
    with OnnxRunner(network, threads=1) as runner:
        whole, again = runner.run(feed), runner.run(feed)
        for name in whole:
            np.testing.assert_array_equal(whole[name], again[name])
        alone = [runner.run({name: array[i : i + 1] for name, array in feed.items()}) for i in range(6)]
    for name in whole:
        np.testing.assert_allclose(np.concatenate([row[name] for row in alone]), whole[name], rtol=1e-6, atol=1e-6)


def test_the_session_is_told_its_threads_and_not_to_spin_between_runs(bundle):
    for threads in (0, 1, 2):
        with OnnxRunner(bundle.network("features"), threads=threads) as runner:
            options = runner._session.get_session_options()
            assert options.intra_op_num_threads == threads
            assert options.inter_op_num_threads == 1
            assert options.get_session_config_entry("session.force_spinning_stop") == "1"


@pytest.mark.parametrize("threads", [-1, 1.0, True, "2"])
def test_a_number_of_threads_that_is_none(threads, bundle):
    with pytest.raises(InputError, match="threads: wanted a number of threads, or 0"):
        OnnxRunner(bundle.network("features"), threads=threads)


def test_an_unknown_device_and_an_array_of_another(bundle, monkeypatch):
    with pytest.raises(InputError, match="device: wanted 'cpu' or 'cuda', got 'gpu'"):
        OnnxRunner(bundle.network("features"), device="gpu")
    feed = feed_of(bundle.network("coarse_encoder"), 1)
    cupy = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    message = r"tiny/coarse_encoder: image: wanted a cupy.ndarray for device 'cuda', got a numpy.ndarray"
    with pytest.raises(InputError, match=message):
        OnnxRunner(bundle.network("coarse_encoder"), device="cuda").check(feed)

    class Remote:
        shape, dtype = feed["image"].shape, feed["image"].dtype

    with pytest.raises(InputError, match=r"image: wanted a numpy.ndarray for device 'cpu', got a .*Remote"):
        OnnxRunner(bundle.network("coarse_encoder")).check({"image": Remote()})


def test_an_open_runner_does_not_need_its_file(tmp_path):
    bundle = Bundle.load(tiny_bundle(tmp_path / "gone"))
    network = bundle.network("features")
    feed = feed_of(network, 2)
    expected = reference(network, feed)["s16"]
    runner = OnnxRunner(network, threads=1)
    runner.open()
    network.path.unlink()
    np.testing.assert_allclose(runner.run(feed)["s16"], expected, rtol=1e-4, atol=1e-5)
    runner.close()
    assert runner.providers == []
    with pytest.raises(BundleError, match=r"features.onnx: cannot be read: No such file or directory"):
        runner.open()
    with pytest.raises(EngineError, match="is closed"):
        runner.run(feed)


def damaged(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncated":
        os.truncate(path, len(data) // 2)
    elif how == "empty":
        path.write_bytes(b"")
    else:
        data[int(how)] ^= 0x10
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "empty", "0", "100", "-1"])
def test_damage_after_the_bundle_was_checked_is_found_before_onnxruntime_sees_it(how, tmp_path, monkeypatch):
    network = Bundle.load(tiny_bundle(tmp_path / "tiny")).network("refiner")
    damaged(network.path, how)
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    with pytest.raises(
        BundleError, match=r"refiner\.onnx: not the file that bundle\.json describes for refiner \(damaged"
    ):
        OnnxRunner(network).open()


def other_graphs() -> dict[str, tuple[onnx.ModelProto, str]]:
    """Sound graphs that are not the refiner of the bundle, and what the error says of them."""
    image = (None, 3, 32, 32)
    pair = (TensorSpec("query", image), TensorSpec("render", image))
    score = [helper.make_node("Sub", ["query", "render"], ["d"]), helper.make_node("ReduceMean", ["d"], ["score"])]
    score[1].attribute.extend([helper.make_attribute("axes", [1, 2, 3]), helper.make_attribute("keepdims", 0)])
    fixed = model_of("fixed", score, {}, pair, (TensorSpec("score", (None,)),), batch=2)
    free = tiny_model("refiner")
    free.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "rows"
    return {
        "swapped roles": (
            tiny_model("coarse_encoder"),
            r"wanted the inputs query .*; it has image \[N,3,32,32\] float32",
        ),
        "another input size": (tiny_model("refiner", input_size=64), r"it has query \[N,3,64,64\] float32"),
        "another stride": (
            tiny_model("refiner", stride=8),
            r"wanted the outputs flow \[N,2,8,8\].*it has flow \[N,2,4,4\]",
        ),
        "the features": (tiny_model("features"), r"wanted the inputs query .*; it has image \[N,3,32,32\] float32"),
        "a fixed batch": (fixed, r"it has query \[2,3,32,32\] float32"),
        "a free size": (free, r"it has query \[N,3,\?,32\] float32"),
    }


@pytest.mark.parametrize("case", other_graphs())
def test_a_graph_that_is_not_the_manifests_is_refused(case, bundle, tmp_path):
    model, message = other_graphs()[case]
    network = saved(model, bundle.network("refiner"), tmp_path)
    runner = OnnxRunner(network)
    with pytest.raises(BundleError, match=f"not the graph of refiner that bundle.json describes: .*{message}"):
        runner.open()
    assert runner.providers == []


def test_a_file_that_is_no_graph_is_refused_even_if_its_hash_fits(bundle, tmp_path):
    path = tmp_path / "other.onnx"
    path.write_bytes(b"no protobuf" * 9)
    network = dataclasses.replace(bundle.network("refiner"), path=path, sha256=sha256_of(path))
    with pytest.raises(BundleError, match=r"other\.onnx: it is not an ONNX model: .*export it again"):
        OnnxRunner(network, label="mine").open()


def failing(bundle: Bundle, folder: Path, *, lie: bool) -> Network:
    """An encoder that fails on every run, or (``lie``) gives tokens of another shape than its graph declares."""
    network = bundle.network("coarse_encoder")
    target = np.array([1, 1, -1] if lie else [7, 1, 1], np.int64)
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Mul", ["shape", "zero"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=1),
        helper.make_node("Add", ["nothing", "target"], ["size"]),
        helper.make_node("Reshape", ["image", "size"], ["tokens"]),
    ]
    constants = {"zero": np.array([0], np.int64), "target": target}
    return saved(model_of("failing", nodes, constants, network.inputs, network.outputs), network, folder)


def test_a_run_that_fails_and_a_graph_that_lies_about_its_outputs(bundle, tmp_path):
    network = failing(bundle, tmp_path, lie=False)
    with OnnxRunner(network) as runner, pytest.raises(EngineError, match=r"the run failed on N = 3: .*Reshape"):
        runner.run(feed_of(network, 3))
    network = failing(bundle, tmp_path, lie=True)
    message = r"the graph gave tokens \[1, 1, 9216\] float32 for N = 3, wanted tokens \[N,16,16\] float32"
    with OnnxRunner(network) as runner, pytest.raises(EngineError, match=message):
        runner.run(feed_of(network, 3))


def test_without_onnxruntime_the_error_says_what_to_install(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable) as caught:
        OnnxRunner(bundle.network("features")).open()
    for complaint in (probe("cpu"), str(caught.value)):
        assert "`import onnxruntime` failed" in complaint
        assert "pip install onnxruntime" in complaint
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    assert "incomplete (no InferenceSession)" in probe("cpu")


def test_the_probe_runs_a_real_session():
    model = onnx.load_model_from_string(_DOUBLE)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Add"]
    np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, {"x": np.float32([3])})[0], [6])
    assert probe("cpu") is None
    with pytest.raises(InputError, match="device: wanted 'cpu' or 'cuda', got 'tpu'"):
        probe("tpu")


# CUDA, without a GPU: what the runner asks of CuPy and of ONNX Runtime.


@pytest.fixture
def cupy(monkeypatch) -> FakeCupy:
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


@pytest.fixture
def ort(cupy, monkeypatch) -> FakeOnnxRuntime:
    fake = FakeOnnxRuntime(cupy.journal)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return fake


def test_cuda_that_does_not_start_is_an_error_and_never_the_cpu(bundle, ort, capsys):
    ort.starts = (CPU,)  # as onnxruntime-gpu does on a machine without a driver
    runner = OnnxRunner(bundle.network("refiner"), device="cuda")
    message = (
        f"tiny/refiner: {CUDA} was asked for, but ONNX Runtime 1.99.fake runs on {CPU}: the provider did not start"
    )
    with pytest.raises(BackendUnavailable, match=message):
        runner.open()
    assert runner.providers == []
    assert f"runs on {CPU}" in probe("cuda")
    ort.available = [CPU]
    with pytest.raises(
        BackendUnavailable, match=f"was built without {CUDA}; pip uninstall onnxruntime, then pip install"
    ):
        runner.open()
    assert f"was built without {CUDA}" in probe("cuda")
    assert capsys.readouterr().out == ""  # what ONNX Runtime prints while it looks for libraries goes to the log


def test_a_wheel_without_code_for_this_gpu_does_not_pass_the_probe(ort, monkeypatch):
    assert probe("cuda") is None
    make = ort.InferenceSession

    def session_that(answer):
        def session(*arguments, **options):
            made = make(*arguments, **options)
            made.run = answer
            return made

        monkeypatch.setattr(ort, "InferenceSession", session)

    def no_kernel(*_):
        raise RuntimeError("no kernel image is available for execution on the device\nmore")

    session_that(no_kernel)
    assert probe("cuda").endswith(
        f"does not compute on {CUDA}: RuntimeError: no kernel image is available for execution on the device"
    )
    session_that(lambda *_: [np.zeros(1, np.float32)])
    assert f"computes a wrong sum on {CUDA}" in probe("cuda")


def test_the_real_onnxruntime_of_this_machine_agrees_with_its_probe():
    has_cuda = CUDA in importlib.import_module("onnxruntime").get_available_providers()
    assert has_cuda or f"was built without {CUDA}" in probe("cuda")


@pytest.mark.parametrize("role", ROLES)
def test_cuda_runs_on_the_arrays_themselves(role, bundle, cupy, ort):
    network = bundle.network(role)
    with OnnxRunner(network, device="cuda") as runner:
        for n in (0, 1, 5, 2, 5):
            feed = feed_of(network, n)
            outputs = runner.run({name: cupy.put(array) for name, array in feed.items()})
            assert list(outputs) == [spec.name for spec in network.outputs]
            expected = reference(network, feed) if n else {s.name: np.empty((0, *s.shape[1:])) for s in network.outputs}
            for name, array in outputs.items():
                assert isinstance(array, cupy.ndarray)
                np.testing.assert_allclose(array.get(), expected[name], rtol=1e-5, atol=1e-5)
    (session,) = ort.sessions
    assert (session.fell_back_at_first, session.falls_back) == (False, False)  # neither at the start nor in a run
    assert session.providers == [
        (
            CUDA,
            {
                "device_id": "3",
                "user_compute_stream": str(cupy.runners[0].ptr),
                "use_tf32": "0",
                "cudnn_conv_algo_search": "HEURISTIC",
            },
        )
    ]


def test_runs_of_one_size_share_their_outputs_and_smaller_ones_fit_inside(bundle, cupy, ort):
    network = bundle.network("refiner")

    def addresses(n: int) -> dict[str, int]:
        feed = {name: cupy.put(array) for name, array in feed_of(network, n).items()}
        return {name: array.data.ptr for name, array in runner.run(feed).items()}

    with OnnxRunner(network, device="cuda") as runner:
        first = addresses(4)
        assert addresses(4) == first
        assert addresses(1) == first
        grown = addresses(6)
        assert cupy.journal.count("host waits for runner0") == 1  # before the smaller buffers went, and never else
        assert addresses(4) == grown
        assert len({*grown.values()}) == len(network.outputs)


def test_a_run_has_its_place_on_the_callers_stream_and_the_host_does_not_wait(bundle, cupy, ort):
    network = bundle.network("features")
    feed = {name: cupy.put(array) for name, array in feed_of(network, 2).items()}
    own = FakeCupy().callers
    own.name, own.journal = "mine", cupy.journal
    with OnnxRunner(network, device="cuda") as runner:
        for stream, name in ((None, "caller"), (own, "mine")):
            cupy.journal.clear()
            runner.run({"image": feed["image"][..., ::-1]}, stream)
            assert cupy.journal == [
                f"enter {name}",
                "copy",
                f"leave {name}",
                f"event on {name}",
                f"runner0 waits for what is on {name}",
                "run",
                "event on runner0",
                f"{name} waits for what is on runner0",
            ]
        cupy.journal.clear()
    assert cupy.journal == ["host waits for runner0"]  # nothing is queued any more when the memory goes


def test_a_failed_run_on_cuda_is_an_engine_error_and_closing_still_closes(bundle, cupy, ort, caplog):
    network = bundle.network("features")
    runner = OnnxRunner(network, device="cuda")
    runner.open()
    ort.sessions[0].error = RuntimeError("CUDA failure 700: an illegal memory access\nsecond line")
    cupy.journal.clear()
    feed = {name: cupy.put(array) for name, array in feed_of(network, 2).items()}
    with pytest.raises(
        EngineError, match="the run failed on N = 2: RuntimeError: CUDA failure 700: an illegal memory acc"
    ):
        runner.run(feed)
    assert cupy.journal[-2:] == ["event on runner0", "caller waits for what is on runner0"]
    cupy.runners[0].broken = True
    runner.close()
    assert "while closing: RuntimeError: cudaErrorIllegalAddress" in caplog.text
    assert runner.providers == []


def test_an_array_on_another_gpu_is_refused(bundle, cupy, ort):
    feed = {name: cupy.put(array) for name, array in feed_of(bundle.network("features"), 2).items()}
    feed["image"].device_id = 1
    message = r"image: wanted an array on CUDA device 3, where the network is, got one on device 1"
    with OnnxRunner(bundle.network("features"), device="cuda") as runner, pytest.raises(InputError, match=message):
        runner.run(feed)


@pytest.mark.gpu
@pytest.mark.parametrize("role", ROLES)
def test_on_a_gpu_the_outputs_are_those_of_the_reference_evaluator(role, bundle, request):
    import cupy

    if (missing := probe("cuda")) is not None:
        (pytest.fail if request.config.getoption("--require-gpu") else pytest.skip)(missing)
    network = bundle.network(role)
    stream = cupy.cuda.Stream(non_blocking=True)
    with OnnxRunner(network, device="cuda") as runner:
        assert runner.providers[0] == CUDA
        for n in (0, 1, 42, 5):
            feed = feed_of(network, n)
            with stream:
                on_device = {name: cupy.asarray(array) for name, array in feed.items()}
                busy = cupy.ones((2048, 2048), cupy.float32)
                for _ in range(10):
                    busy = busy @ busy * 0
                for array in on_device.values():  # late on the stream: a run that did not wait would read other numbers
                    array += busy[0, 0]
                outputs = runner.run(on_device, stream)
                results = {name: cupy.asnumpy(array) for name, array in outputs.items()}
            if n:
                for name, expected in reference(network, feed).items():
                    np.testing.assert_allclose(results[name], expected, rtol=1e-4, atol=1e-4)
