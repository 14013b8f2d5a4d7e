"""The Estimator on the GPU against the Estimator on the CPU: on the CuPy stand-in, and on a GPU where there is one.

The stand-in runs the very kernels that ship on the host, is as strict as CuPy about what is where, and writes down what
goes between host and device (``tests/runtime/fake_cuda``).
"""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from coop_edge import Detection, Estimator
from coop_edge.demo import load_scene
from coop_edge.errors import BackendUnavailable, InputError
from coop_edge.geometry import se3
from coop_edge.mesh import Mesh
from tests.estimators import SMALL, TINY, error_px, knowing, tiny_bundle, tiny_scene
from tests.runtime.fake_arrays import DOWNLOAD, IN_PLACE, UPLOAD
from tests.runtime.fake_cuda import FakeCupy, FakeOnnxRuntime
from tests.stages.scene import Placed, Scene, at, colored_box

PERMISSIVE = {
    "coarse": {"hypotheses": 2, "min_probability": 0.0},
    "ransac": {"threshold_px": 60.0},
    "refine": {"iterations": 2, "stop_px": 0.0, "stop_diameter": 0.0},
    "select": {"min_score": 0.0, "min_inlier_ratio": 0.0, "min_inliers": 0},
}
"""With random networks: whatever is a pose is one."""


@pytest.fixture
def cupy(monkeypatch) -> FakeCupy:
    """The stand-ins for CuPy and for ONNX Runtime's CUDA provider."""
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOnnxRuntime(fake.journal))
    return fake


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def gpu(request) -> object:
    """CuPy: the stand-in, and the real one on a GPU."""
    if request.param == "stand-in":
        return request.getfixturevalue("cupy")
    import cupy

    return cupy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("tiny"), input_size=64)


@pytest.fixture(scope="module")
def table():
    """A cube and two bars, the second bar before the cube."""
    cube = colored_box((0.1, 0.1, 0.1), name="cube")
    bar = colored_box((0.16, 0.06, 0.05), name="bar", centre=(0.01, 0.02, -0.03), seed=1)
    placed = (
        Placed(0, at(-0.1, 0.03, 0.7, (0.5, 0.7, -0.3))),
        Placed(1, at(0.15, -0.1, 0.8, (2.0, -0.4, 0.9), bar.centre)),
        Placed(1, at(-0.06, 0.06, 0.55, (0.0, 0.0, 0.7), bar.centre)),
    )
    return Scene((cube, bar), placed, SMALL)


@pytest.fixture(scope="module")
def on_cpu(table, tmp_path_factory):
    """What the CPU says of the table: estimated, then tracked."""
    with knowing(tmp_path_factory.mktemp("cpu"), table) as (estimator, _):
        return both(estimator, table)


@pytest.fixture(scope="module")
def tiny_on_cpu(folder):
    with tiny_estimator(folder, "cpu") as estimator:
        return both(estimator, tiny_scene())


def both(estimator, scene, image=None):
    image = scene.image if image is None else image
    results = estimator.estimate(image, scene.camera, scene.detections())
    return [*results, *estimator.track(image, scene.camera, results)]


def tiny_estimator(folder, device: str) -> Estimator:
    estimator = Estimator.from_engines(folder, device=device, config=PERMISSIVE, threads=1)
    for mesh in tiny_scene().meshes:
        estimator.add_object(mesh.name, mesh)
    return estimator


def assert_same(found, wanted, *, radians: float, metres: float, score: float) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.object, ours.success, ours.reason) == (theirs.object, theirs.success, theirs.reason)
        assert ours.score == pytest.approx(theirs.score, abs=score)
        if ours.success:
            T, T_wanted = ours.T_camera_object, theirs.T_camera_object
            assert se3.rotation_angle(T[:3, :3], T_wanted[:3, :3]) <= radians
            np.testing.assert_allclose(T[:3, 3], T_wanted[:3, 3], atol=metres)
            assert ours.n_inliers == pytest.approx(theirs.n_inliers, abs=2)


def test_the_poses_are_the_cpus(gpu, table, on_cpu, tmp_path):
    """Networks that know the truth, so that what a grey level does to a network is no part of the difference."""
    with knowing(tmp_path, table, device="cuda") as (estimator, _):
        assert estimator.backend.name == "cuda"
        found = both(estimator, table)
    assert all(result.success for result in found)
    assert_same(found, on_cpu, radians=1e-5, metres=1e-6, score=1e-4)
    assert max(error_px(result, table, i % 3) for i, result in enumerate(found)) < 0.1


def test_nothing_to_find(gpu, table, tmp_path):
    with knowing(tmp_path, table, device="cuda") as (estimator, _):
        assert estimator.estimate(table.image, SMALL, []) == []
        assert estimator.track(table.image, SMALL, []) == []


def test_what_fails_fails_for_the_same_reason(gpu, table, tmp_path_factory):
    """A box that shows no object, and one of a thing that is somewhere else."""
    detections = [Detection("cube", bbox=(2, 2, 30, 30)), Detection("bar", bbox=table.box(0)), *table.detections()[:1]]
    answers = []
    for device in ("cpu", "cuda"):
        with knowing(tmp_path_factory.mktemp(device), table, device=device) as (estimator, _):
            answers.append(estimator.estimate(table.image, SMALL, detections))
    assert [result.success for result in answers[0]] != [True] * 3
    assert [result.success for result in answers[1]] == [result.success for result in answers[0]]
    assert [result.reason for result in answers[1]] == [result.reason for result in answers[0]]


def test_a_tiny_bundle_gives_the_cpus_results_through_the_cuda_provider(cupy, folder, tiny_on_cpu):
    """All of it: templates by the CUDA renderer, networks bound to addresses, selector included.

    Random networks make of a grey level in a crop (all that the two paths may differ by) about 1e-3 radians.
    """
    with tiny_estimator(folder, "cuda") as estimator:
        found = both(estimator, tiny_scene())
        assert set(estimator.warmup()) == {"objects", "crop", "coarse", "refine", "select"}
    assert any(result.success for result in found)
    assert_same(found, tiny_on_cpu, radians=5e-3, metres=1e-3, score=2e-3)
    for ours, theirs in zip(found, tiny_on_cpu, strict=True):
        if ours.success:
            deviation = np.sqrt(np.diag(theirs.covariance))
            assert (np.abs(ours.covariance - theirs.covariance) <= 0.05 * np.outer(deviation, deviation)).all()


def test_the_image_goes_up_once_and_only_figures_come_back(cupy, folder):
    scene = tiny_scene()
    with tiny_estimator(folder, "cuda") as estimator:
        estimator.estimate(scene.image, TINY, scene.detections())  # uploads the meshes
        cupy.transfers.clear()
        results = estimator.estimate(scene.image, TINY, scene.detections())
        ways = [(way, size) for way, size in cupy.transfers if size]
    assert any(result.success for result in results)
    assert ways.count((UPLOAD, scene.image.nbytes)) == 1
    crop_bytes = 64 * 64 * 3
    assert max(size for way, size in ways if way == UPLOAD and size != scene.image.nbytes) < crop_bytes
    down = [size for way, size in ways if way == DOWNLOAD]
    # Coarse: scores, results of RANSAC. Refine: per iteration cells in sight and poses; at the end five sets of cells.
    # Select: the network's scores.
    assert len(down) == 2 + 2 * 2 + 5 + 1
    assert max(down) < crop_bytes


class OnlyAnInterface:
    """As PyCUDA's GPUArray is to CuPy: something that says where its memory is."""

    def __init__(self, array, **changed) -> None:
        self.array = array  # keeps the memory
        self.shape, self.dtype = array.shape, array.dtype
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changed}


@pytest.mark.parametrize("kind", ["CuPy", "interface", "strided"])
def test_an_image_on_the_gpu_is_read_where_it_is(gpu, kind, table, on_cpu, tmp_path):
    image = gpu.asarray(table.image)
    if kind == "strided":  # BGR memory that is seen as RGB
        image = gpu.ascontiguousarray(image[..., ::-1])[..., ::-1]
    given = image if kind == "CuPy" else OnlyAnInterface(image)
    with knowing(tmp_path, table, device="cuda") as (estimator, _):
        transfers = getattr(gpu, "transfers", [])
        transfers.clear()
        found = both(estimator, table, given)
    assert_same(found, on_cpu, radians=1e-5, metres=1e-6, score=1e-4)
    assert (UPLOAD, table.image.nbytes) not in transfers
    assert (DOWNLOAD, table.image.nbytes) not in transfers
    if isinstance(gpu, FakeCupy):
        assert transfers.count((IN_PLACE, 0)) == (0 if kind == "CuPy" else 2)


@pytest.mark.gpu
def test_an_image_of_pytorch_is_read_where_it_is(table, on_cpu, tmp_path):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    with knowing(tmp_path, table, device="cuda") as (estimator, _):
        found = both(estimator, table, torch.as_tensor(table.image, device="cuda"))
    assert_same(found, on_cpu, radians=1e-5, metres=1e-6, score=1e-4)


def test_wrong_images_on_the_gpu_are_refused(cupy, table, tmp_path):
    image = cupy.put(table.image)
    elsewhere = cupy.put(table.image)
    elsewhere.device_id = 1
    cases = {
        "wanted dtype uint8": cupy.put(table.image.astype(np.float32)),
        r"wanted RGB \[240,320,3\], got \[320, 240, 3\]; width and height look swapped": cupy.put(
            table.image.transpose(1, 0, 2)
        ),
        "wanted on GPU 3, where the networks are, got on GPU 1": elsewhere,
        "its __cuda_array_interface__ cannot be read: ValueError: a null pointer": OnlyAnInterface(image, data=(0, 0)),
        "wanted an array uint8": "picture.png",
    }
    with knowing(tmp_path, table, device="cuda") as (estimator, _):
        for says, wrong in cases.items():
            with pytest.raises(InputError, match=f"image: {says}"):
                estimator.estimate(wrong, SMALL, table.detections())
        assert all(result.success for result in estimator.estimate(image, SMALL, table.detections()))


def test_any_thread_works_on_the_gpu_that_the_estimator_was_made_on(cupy, table, on_cpu, tmp_path, monkeypatch):
    """A thread starts on the first GPU: each call makes the Estimator's own the current one."""
    entered, make, found = [], cupy.cuda.Device, []
    with knowing(tmp_path, table, device="cuda") as (estimator, _):
        monkeypatch.setattr(cupy.cuda, "Device", lambda *index: entered.append(index) or make(*index))
        thread = threading.Thread(
            target=lambda: found.extend(estimator.estimate(table.image, SMALL, table.detections()))
        )
        thread.start()
        thread.join()
    assert entered[0] == (3,)
    assert_same(found, on_cpu[:3], radians=1e-5, metres=1e-6, score=1e-4)


def no_device(cupy, ort):
    cupy.cuda.runtime.getDeviceCount = lambda: 0


def broken_driver(cupy, ort):
    def fails():
        raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")

    cupy.cuda.runtime.getDeviceCount = fails


def no_provider(cupy, ort):
    ort.available = ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (no_device, "CuPy finds no CUDA device"),
        (broken_driver, "CuPy fails on this machine: RuntimeError: cudaErrorInsufficientDriver"),
        (no_provider, "nothing runs tiny/coarse_encoder on CUDA; .*has no CUDAExecutionProvider in it"),
    ],
)
def test_cuda_that_cannot_be_names_the_probe_that_failed(cupy, folder, breaks, says):
    breaks(cupy, sys.modules["onnxruntime"])
    with pytest.raises(BackendUnavailable, match=f"device='cuda' was asked for, but {says}"):
        Estimator.from_engines(folder, device="cuda")


def test_auto_takes_the_gpu_where_everything_for_it_is_there(cupy, folder):
    with Estimator.from_engines(folder, threads=1) as estimator:
        assert (estimator.backend.name, estimator.backend.reason) == ("cuda", "CuPy and a CUDA device answer")


def test_the_stand_in_has_nothing_that_cupy_has_not():
    real = pytest.importorskip("cupy")
    from tests.runtime.fake_arrays import FUNCTIONS, METHODS

    assert [name for name in FUNCTIONS if not hasattr(real, name)] == []
    assert [name for name in METHODS if not hasattr(real.ndarray, name)] == []


def test_the_stand_in_refuses_what_cupy_refuses(cupy):
    array, host = cupy.put(np.arange(6.0)), np.arange(6.0)
    attempts = (
        lambda: array + host,
        lambda: host * array,
        lambda: np.asarray(array),
        lambda: np.concatenate([array, array]),
        lambda: array[[0, 1]],
        lambda: array[np.array([0, 1])],
        lambda: array.__setitem__(slice(None), host),
        lambda: cupy.where(array > 1, host, array),
    )
    for attempt in attempts:
        with pytest.raises(TypeError):
            attempt()
    np.testing.assert_array_equal((np.float32(2.0) * array[1:3]).get(), [2.0, 4.0])


def test_the_demo_on_the_gpu_is_the_demo_on_the_cpu(gpu, tmp_path_factory):
    """The demo's own picture and meshes; networks that know the truth."""
    demo = load_scene()
    meshes = tuple(Mesh.load(path, unit=unit, name=name) for name, (path, unit) in demo.meshes.items())
    placed = tuple(Placed(i, demo.truth[mesh.name]) for i, mesh in enumerate(meshes))
    scene = Scene(meshes, placed, demo.camera)
    scene.__dict__["image"] = demo.image  # instead of a render
    answers = []
    for device in ("cpu", "cuda"):
        with knowing(tmp_path_factory.mktemp(device), scene, device=device) as (estimator, _):
            answers.append(both(estimator, scene))
    assert all(result.success for result in answers[0])
    assert_same(answers[1], answers[0], radians=1e-4, metres=1e-5, score=1e-3)


@pytest.mark.gpu
def test_the_demo_with_the_engines_that_ship():
    """Through ONNX Runtime's CUDA provider, against the CPU: the same objects found, in the same places."""
    from coop_edge.backend import probe_onnxruntime
    from coop_edge.runtime.catalog import available

    if not (bundles := available()):
        pytest.skip("no engines are installed in coop_edge.engines")
    if missing := probe_onnxruntime("cuda"):
        pytest.skip(missing)
    demo, answers = load_scene(), []
    for device in ("cpu", "cuda"):
        with Estimator.from_engines(bundles[0], device=device) as estimator:
            for name, (path, unit) in demo.meshes.items():
                estimator.add_object(name, path, unit=unit)
            answers.append(estimator.estimate(demo.image, demo.camera, demo.detections))
    for ours, theirs in zip(answers[1], answers[0], strict=True):
        assert (ours.object, ours.success) == (theirs.object, theirs.success)
        if ours.success:  # a hundredth of the demo's own bound: what a grey level does to trained networks
            gap = ours.T_camera_object[:3, 3] - theirs.T_camera_object[:3, 3]
            assert np.linalg.norm(gap) < 1e-3
            assert se3.rotation_angle(ours.T_camera_object[:3, :3], theirs.T_camera_object[:3, :3]) < 0.02
