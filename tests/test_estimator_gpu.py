"""The Estimator on the GPU against the Estimator on the CPU: on the CuPy stand-in, and on a GPU where there is one.

The stand-in runs the very kernels that ship on the host, is as strict as CuPy about what is where, and writes down what
goes between host and device (``tests/runtime/fake_cuda``).
"""

# ruff: noqa: F811  (fixtures are imported and named again)
from __future__ import annotations

import threading

import numpy as np
import pytest

from coop_edge import Detection, Estimator
from coop_edge.demo import load_scene
from coop_edge.geometry import se3
from coop_edge.mesh import Mesh
from tests.estimators import AS_REFINED, SMALL, TINY, error_px, knowing, tiny_bundle, tiny_scene
from tests.estimators_gpu import assert_same, both, cupy, gpu, on_cpu, table  # noqa: F401
from tests.runtime.fake_arrays import DOWNLOAD, UPLOAD
from tests.stages.scene import Placed, Scene

PERMISSIVE = {
    "coarse": {"hypotheses": 2},
    "ransac": {"threshold_px": 60.0},
    "refine": {"iterations": 2, "survivors": 1},
    "select": {"min_score": 0.0, "min_inlier_ratio": 0.0, "min_inliers": 0},
    "advanced": {"coarse": {"min_probability": 0.0}, "refine": {"stop_px": 0.0, "stop_diameter": 0.0}},
}
"""With random networks: whatever is a pose is one."""
ALL = PERMISSIVE | {
    "coarse": {"hypotheses": 42},
    "refine": {**PERMISSIVE["refine"], "survivors": 42},
    "outline": {"min_share": 0.5},
    "advanced": {
        **PERMISSIVE["advanced"],
        "coarse": {"min_probability": 0.0, "candidates": 42},
        "select": {"inlier_px": 64.0},
    },
}
"""Every template's pose is refined to the end, and every cell is an inlier. Random networks find most templates about
equally likely, and residuals of any size, so that a grey level decides which templates are tried, which cells are
inliers, and whether an outline stands out along enough lines; like this none of it has a part in the answer."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("tiny"), input_size=64)


@pytest.fixture(scope="module")
def tiny_on_cpu(folder):
    with tiny_estimator(folder, "cpu", ALL) as estimator:
        return both(estimator, tiny_scene())


def tiny_estimator(folder, device: str, config=PERMISSIVE) -> Estimator:
    estimator = Estimator.from_engines(folder, device=device, config=config, threads=1)
    for mesh in tiny_scene().meshes:
        estimator.add_object(mesh.name, mesh)
    return estimator


def test_the_poses_are_the_cpus(gpu, table, on_cpu, tmp_path):
    """Networks that know the truth, so that what a grey level does to a network is no part of the difference."""
    with knowing(tmp_path, table, config=AS_REFINED, device="cuda") as (estimator, _):
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
    """All of it: templates by the CUDA renderer, networks bound to addresses.

    Random networks make of a grey level in a crop (all that the two paths may differ by) some 1e-3 radians.
    """
    scene = tiny_scene()
    with tiny_estimator(folder, "cuda", ALL) as estimator:
        found = estimator.estimate(scene.image, TINY, scene.detections())
        # From the CPU's poses: what one call leaves of a grey level grows twentyfold in the next one.
        found += estimator.track(scene.image, TINY, tiny_on_cpu[: len(found)])
        assert set(estimator.warmup()) == {"objects", "crop", "coarse", "refine", "outline", "select"}
    assert all(result.success for result in tiny_on_cpu)
    assert_same(found, tiny_on_cpu, radians=5e-3, metres=1e-3, score=2e-3)
    for ours, theirs in zip(found, tiny_on_cpu, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=2e-3)
        deviation = np.sqrt(np.diag(theirs.covariance))
        assert (np.abs(ours.covariance - theirs.covariance) <= 0.05 * np.outer(deviation, deviation)).all()


@pytest.mark.parametrize("outline", [0, 3])
def test_the_image_goes_up_once_and_only_figures_come_back(cupy, folder, outline):
    scene = tiny_scene()
    with tiny_estimator(folder, "cuda", PERMISSIVE | {"outline": {"iterations": outline}}) as estimator:
        estimator.estimate(scene.image, TINY, scene.detections())  # uploads the meshes
        cupy.transfers.clear()
        results = estimator.estimate(scene.image, TINY, scene.detections())
        ways = [(way, size) for way, size in cupy.transfers if size]
    assert any(result.success for result in results)
    assert ways.count((UPLOAD, scene.image.nbytes)) == 1
    crop_bytes = 64 * 64 * 3
    assert max(size for way, size in ways if way == UPLOAD and size != scene.image.nbytes) < crop_bytes
    down = [size for way, size in ways if way == DOWNLOAD]
    # Coarse: similarities of views, scores of matches, results of RANSAC. Refine: per iteration cells in sight and
    # poses; what is known of the cells, after the first iteration for the choice of who goes on, and after the last.
    # Judge: similarities of renders, for that choice and for the score.
    # Outline: poses and how clear the outlines are, once per step and once for the last look.
    assert len(down) == 3 + 2 * 2 + 2 + 2 + (outline + 1 if outline else 0)
    assert max(down) < 3 * 64 * 64 * np.dtype(np.float32).itemsize  # a crop as a network reads it


def test_what_is_registered_may_be_used_on_any_stream(cupy, folder):
    """Descriptors and meshes are on the GPU before any other stream may read them."""
    scene = tiny_scene()
    with tiny_estimator(folder, "cuda") as estimator:
        assert cupy.journal[-1] == "host waits for caller"
        cupy.journal.clear()
        estimator.estimate(scene.image, TINY, scene.detections())
        assert cupy.journal.count("host waits for caller") == 1  # for the renderer
        cupy.journal.clear()
        estimator.estimate(scene.image, TINY, scene.detections())
        assert not [said for said in cupy.journal if said.startswith("host waits")]


def test_any_thread_works_on_the_gpu_that_the_estimator_was_made_on(cupy, table, on_cpu, tmp_path, monkeypatch):
    """A thread starts on the first GPU: each call makes the Estimator's own the current one."""
    entered, make, found = [], cupy.cuda.Device, []
    with knowing(tmp_path, table, config=AS_REFINED, device="cuda") as (estimator, _):
        monkeypatch.setattr(cupy.cuda, "Device", lambda *index: entered.append(index) or make(*index))
        thread = threading.Thread(
            target=lambda: found.extend(estimator.estimate(table.image, SMALL, table.detections()))
        )
        thread.start()
        thread.join()
    assert entered[0] == (3,)
    assert_same(found, on_cpu[:3], radians=1e-5, metres=1e-6, score=1e-4)


def test_the_demo_on_the_gpu_is_the_demo_on_the_cpu(gpu, tmp_path_factory):
    """The demo's own picture and meshes; networks that know the truth."""
    demo = load_scene()
    meshes = tuple(Mesh.load(path, unit=unit, name=name) for name, (path, unit) in demo.meshes.items())
    placed = tuple(Placed(i, demo.truth[mesh.name]) for i, mesh in enumerate(meshes))
    scene = Scene(meshes, placed, demo.camera)
    scene.__dict__["image"] = demo.image  # instead of a render
    answers = []
    for device in ("cpu", "cuda"):
        with knowing(tmp_path_factory.mktemp(device), scene, config=AS_REFINED, device=device) as (estimator, _):
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


@pytest.mark.gpu
def test_all_work_is_in_the_order_of_the_current_stream(table, on_cpu, tmp_path):
    """The picture is written late on a stream of its own: who did not wait for it would see black."""
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    with knowing(tmp_path, table, config=AS_REFINED, device="cuda") as (estimator, _), stream:
        picture, image = cupy.asarray(table.image), cupy.zeros(table.image.shape, cupy.uint8)
        estimator.warmup()
        busy = cupy.ones((4096, 4096), cupy.float32)
        for _ in range(20):
            busy = busy @ busy * 0
        image += picture + busy[0, 0].astype(cupy.uint8)
        found = both(estimator, table, image)
    assert_same(found, on_cpu, radians=1e-5, metres=1e-6, score=1e-4)


@pytest.mark.gpu
def test_memory_on_the_gpu_does_not_grow(table, tmp_path):
    import cupy

    with knowing(tmp_path, table, device="cuda") as (estimator, _):
        taken = []
        for _ in range(30):
            both(estimator, table)
            taken.append(cupy.get_default_memory_pool().total_bytes())
    assert taken[-1] == taken[9]
