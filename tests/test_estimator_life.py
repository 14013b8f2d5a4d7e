"""An Estimator from opening to closing: which device, which threads, what it holds on to, and real networks in it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from coop_edge import BundleError, EngineError, Estimator, Mesh, PoseEstimate, Symmetries, TemplateSet
from coop_edge import backend as room
from coop_edge.backend import Backend
from coop_edge.pipeline import Pipeline
from coop_edge.stages.retrieve import SCALES
from coop_edge.stages.views import TURNS
from tests.estimators import TINY, tiny_scene
from tests.runtime.networks import tiny_bundle
from tests.stages.scene import at

SCENE = tiny_scene()
LENIENT = {
    "coarse": {"hypotheses": 2},
    "advanced": {"coarse": {"min_inliers": 4}},
    "refine": {"iterations": 2, "survivors": 1},
    "select": {"min_inlier_ratio": 0.0, "min_inliers": 0},
}
"""Random networks hardly ever agree with anything; with these options some of what they say is believed."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def templates():
    return [TemplateSet.render(mesh, 32, supersample=1) for mesh in SCENE.meshes]


def opened(folder, templates, *, config=LENIENT) -> Estimator:
    estimator = Estimator.from_engines(folder, device="cpu", config=config, threads=1)
    for mesh, views in zip(SCENE.meshes, templates, strict=True):
        estimator.add_object(mesh.name, mesh, templates=views)
    return estimator


def known() -> list[PoseEstimate]:
    """The truth, as something to track from."""
    return [PoseEstimate(True, T_camera_object=p.T, object=SCENE.meshes[p.mesh].name) for p in SCENE.placed]


def figures(results):
    """All that a result says, without its times."""
    return [(r.object, r.success, r.reason, r.score, r.n_inliers, r.reprojection_rms_px) for r in results], [
        None if r.T_camera_object is None else r.T_camera_object.tolist() for r in results
    ]


class TestRealNetworks:
    """Tiny random ones on ONNX Runtime: what they say is nonsense, how it is said is not."""

    def test_from_an_image_to_answers(self, folder, tmp_path):
        views = tmp_path / "bar.npz"
        TemplateSet.render(SCENE.meshes[1], 32, symmetries=Symmetries((at(0, 0, 0, (np.pi, 0, 0)),))).save(views)
        with Estimator.from_engines(folder, device="cpu", config=LENIENT, threads=1) as estimator:
            estimator.add_object("cube", SCENE.meshes[0])
            estimator.add_object("bar", SCENE.meshes[1], templates=views)
            assert dict(estimator.objects) == dict(zip(("cube", "bar"), SCENE.meshes, strict=True))
            detections = [*SCENE.detections(), SCENE.detections()[0]]
            results = estimator.estimate(SCENE.image, TINY, detections)
            assert [result.object for result in results] == ["cube", "bar", "cube"]
            followed = estimator.track(SCENE.image, TINY, [*results, *known()])
            assert len(followed) == 5
            assert any(result.success for result in followed[3:])
            for result in (*results, *followed):  # what fits together is checked on construction
                assert 0.0 <= result.score <= 1.0
                assert result.success == (result.T_camera_object is not None) == (not result.reason)
            for before, after in zip(results, followed[:3], strict=True):
                assert before.success or after.reason == f"lost: not found before ({before.reason})"

    def test_a_detection_alone_and_among_others(self, folder, templates):
        """To what a network rounds differently in a batch of another size."""
        with opened(folder, templates) as estimator:
            together = estimator.track(SCENE.image, TINY, known())
            alone = [estimator.track(SCENE.image, TINY, [one])[0] for one in known()]
            assert any(result.success for result in together)
            for one, other in zip(alone, together, strict=True):
                assert (one.success, one.object) == (other.success, other.object)
                assert one.score == pytest.approx(other.score, abs=1e-4)
                if one.success:
                    np.testing.assert_allclose(one.T_camera_object, other.T_camera_object, atol=1e-5)

    def test_templates_are_encoded_and_views_described_once(self, folder, templates, monkeypatch):
        batches = {"tokens": [], "s16": []}
        with opened(folder, templates, config={"advanced": {"coarse": {"micro_batch": 16}}}) as estimator:
            run = estimator.backend.runner(estimator.bundle, "coarse_encoder").__class__.run

            def counted(self, feed, stream=None):
                for name in batches.keys() & self.outputs.keys():
                    batches[name].append(len(feed["image"]))
                return run(self, feed, stream)

            monkeypatch.setattr("coop_edge.runtime.onnx.OnnxRunner.run", counted)
            estimator.add_object("cube again", SCENE.meshes[0], templates=templates[0])
            assert batches["tokens"] == [16, 16, 10]
            assert sum(batches["s16"]) == 42 * TURNS
            for of_role in batches.values():
                of_role.clear()
            estimator.estimate(SCENE.image, TINY, SCENE.detections())
            schedule = estimator.config.schedule
            assert batches["tokens"] == [2 * schedule.matched]  # crops turned as the views to be matched are
            # Crops at each scale; then pairs of crop and render, for the choice of survivors and for the score.
            assert batches["s16"][: len(SCALES)] == [2] * len(SCALES)
            hypotheses = schedule.hypotheses + schedule.matched
            assert sum(batches["s16"][len(SCALES) :]) <= 2 * 2 * (hypotheses + schedule.survivors)

    def test_removing_an_object_leaves_the_others_as_they_are(self, folder, templates):
        with opened(folder, templates) as estimator:
            bar = estimator.track(SCENE.image, TINY, known()[1:])
            estimator.remove_object("cube")
            assert list(estimator.objects) == ["bar"]
            assert figures(estimator.track(SCENE.image, TINY, known()[1:])) == figures(bar)
            estimator.add_object("cube", SCENE.meshes[0], templates=templates[0])
            assert list(estimator.objects) == ["bar", "cube"]
            assert figures(estimator.track(SCENE.image, TINY, known()))[0][1] == figures(bar)[0][0]

    def test_a_mesh_file_in_its_own_unit(self, folder, tmp_path):
        path = tmp_path / "part.off"
        mesh: Mesh = SCENE.meshes[0]
        rows = [" ".join(map(str, row)) for row in (1000.0 * mesh.vertices).tolist()]
        rows += [f"3 {a} {b} {c}" for a, b, c in mesh.faces.tolist()]
        path.write_text(f"OFF\n{len(mesh.vertices)} {len(mesh.faces)} 0\n" + "\n".join(rows) + "\n")
        with Estimator.from_engines(folder, device="cpu", threads=1) as estimator:
            estimator.add_object("part", path, unit="mm")
            assert estimator.objects["part"].diameter == pytest.approx(mesh.diameter, rel=1e-5)
            assert len(estimator.estimate(SCENE.image, TINY, [])) == 0


class TestDevice:
    def test_where_nothing_runs_networks_on_the_gpu_auto_takes_the_cpu_and_says_why(self, folder, monkeypatch, caplog):
        monkeypatch.setattr(room, "probe_cuda", lambda: None)
        monkeypatch.setattr(room, "probe_onnxruntime", lambda device: f"no provider for {device} in it")
        caplog.set_level(logging.INFO, logger="coop_edge")
        with Estimator.from_engines(folder, threads=1) as estimator:
            assert estimator.backend.name == "cpu"
            assert estimator.backend.reason.startswith("no CUDA: nothing runs tiny/coarse_encoder on CUDA; ")
            assert estimator.backend.reason.endswith("; no provider for cuda in it")
            assert f"backend: cpu ({estimator.backend.reason})" in caplog.text
            assert "backend: cuda" not in caplog.text

    def test_a_machine_without_cuda_is_told_the_probe_that_failed(self, folder, monkeypatch):
        monkeypatch.setattr(room, "probe_cuda", lambda: "CuPy finds no CUDA device")
        with Estimator.from_engines(folder, threads=1) as estimator:
            assert estimator.backend == Backend("cpu", "no CUDA: CuPy finds no CUDA device")

    def test_threads_reach_every_part(self, folder, monkeypatch):
        picked = Backend("cpu", "asked for")
        mesh = SCENE.meshes[0]
        assert picked.pnp_solver(threads=3).threads == picked.renderer(mesh, threads=3).threads == 3
        assert picked.pnp_solver().threads == picked.renderer(mesh).threads == len(os.sched_getaffinity(0))
        given = []
        for name in ("pnp_solver", "renderer", "runner"):
            method = getattr(Backend, name)

            def spy(self, *args, method=method, name=name, **options):
                given.append((name, options.get("threads")))
                return method(self, *args, **options)

            monkeypatch.setattr(Backend, name, spy)
        with Estimator.from_engines(folder, device="cpu", threads=2) as estimator:
            estimator.add_object("cube", mesh)  # renders templates
            estimator.warmup()
        assert {name for name, _ in given} == {"pnp_solver", "renderer", "runner"}
        assert {threads for _, threads in given} == {2}


class TestThreads:
    def test_a_second_thread_is_refused_at_once_and_harms_nothing(self, folder, templates, monkeypatch):
        inside, go_on = threading.Event(), threading.Event()
        track = Pipeline.track

        def slow(self, *args):
            inside.set()
            assert go_on.wait(60)
            return track(self, *args)

        with opened(folder, templates) as estimator, ThreadPoolExecutor(1) as pool:
            expected = figures(estimator.track(SCENE.image, TINY, known()))
            monkeypatch.setattr(Pipeline, "track", slow)
            first = pool.submit(estimator.track, SCENE.image, TINY, known())
            try:
                assert inside.wait(60)
                for name, call in {
                    "estimate": lambda: estimator.estimate(SCENE.image, TINY, SCENE.detections()),
                    "track": lambda: estimator.track(SCENE.image, TINY, []),
                    "add_object": lambda: estimator.add_object("third", SCENE.meshes[0]),
                    "remove_object": lambda: estimator.remove_object("cube"),
                    "warmup": estimator.warmup,
                    "close": estimator.close,
                }.items():
                    with pytest.raises(EngineError, match=f"{name}: called by thread 'MainThread' while another call"):
                        call()
            finally:
                go_on.set()
            assert figures(first.result()) == expected
            assert figures(estimator.track(SCENE.image, TINY, known())) == expected  # one after the other is fine
            assert list(estimator.objects) == ["cube", "bar"]

    def test_several_estimators_in_several_threads(self, folder, templates):
        def work(estimator):
            answers = []
            for _ in range(5):
                answers.append(figures(estimator.estimate(SCENE.image, TINY, SCENE.detections())))
                answers.append(figures(estimator.track(SCENE.image, TINY, known())))
            return answers

        estimators = [opened(folder, templates) for _ in range(3)]
        expected = work(estimators[0])
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(work, estimators)) == [expected] * 3
        for estimator in estimators:
            estimator.close()

    def test_an_error_does_not_keep_the_door_shut(self, folder, templates, monkeypatch):
        def broken(self, *args):
            raise RuntimeError("in the middle")

        with opened(folder, templates) as estimator:
            expected = figures(estimator.track(SCENE.image, TINY, known()))
            with monkeypatch.context() as patched:
                patched.setattr(Pipeline, "track", broken)
                with pytest.raises(RuntimeError, match="in the middle"):
                    estimator.track(SCENE.image, TINY, known())
            assert figures(estimator.track(SCENE.image, TINY, known())) == expected


class TestClosing:
    @pytest.fixture
    def runners(self, monkeypatch):
        made, runner = [], Backend.runner

        def spy(self, *args, **options):
            made.append(runner(self, *args, **options))
            return made[-1]

        monkeypatch.setattr(Backend, "runner", spy)
        return made

    def test_all_networks_are_released_and_a_new_one_gives_the_same(self, folder, templates, runners):
        answers = []
        for _ in range(2):
            with opened(folder, templates) as estimator:
                assert all(runner.providers for runner in runners[-4:])
                answers.append(figures(estimator.track(SCENE.image, TINY, known())))
            assert len(runners[-4:]) == 4
            assert not any(runner.providers for runner in runners)
            assert not estimator.objects
        assert answers[0] == answers[1]

    def test_an_error_in_the_block_closes_too(self, folder, runners):
        with pytest.raises(ZeroDivisionError), Estimator.from_engines(folder, device="cpu", threads=1):
            _ = 1 / 0
        assert not any(runner.providers for runner in runners)

    def test_a_network_that_does_not_open_takes_the_others_with_it(self, tmp_path, runners):
        broken = tiny_bundle(tmp_path) / "refiner.onnx"
        broken.write_bytes(broken.read_bytes()[:-7])
        with pytest.raises(BundleError, match=r"refiner\.onnx: not the file that bundle\.json describes"):
            Estimator.from_engines(tmp_path, device="cpu", threads=1)
        assert len(runners) == 3
        assert not any(runner.providers for runner in runners)


FORKED = """
import os, sys
import numpy as np
from coop_edge import Camera, Detection, EngineError, Estimator
estimator = Estimator.from_engines(sys.argv[1], device="cpu", threads=2)
estimator.add_object("mug", sys.argv[2], unit="m")
camera = Camera([[60, 0, 31.5], [0, 60, 23.5], [0, 0, 1]], 64, 48)
image, box = np.zeros((48, 64, 3), np.uint8), [Detection("mug", bbox=(20, 10, 20, 20))] * 3
estimator.estimate(image, camera, box)
child = os.fork()
if not child:
    for call in (estimator.close, lambda: estimator.estimate(image, camera, box), estimator.__enter__):
        try:
            call()
        except EngineError as error:
            assert f"belongs to process {os.getppid()}, of which this one was forked" in str(error), error
        else:
            os._exit(9)
    if sys.argv[3] == "delete":
        del estimator, call
    sys.exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
estimator.estimate(image, camera, box)
estimator.close()
"""


@pytest.mark.parametrize("how", ["exit", "delete"])
def test_a_forked_child_is_told_so_and_ends(folder, how):
    """What waits for threads that stayed with the parent waits for ever; the time limit is for that alone."""
    mug = Path(__file__).parents[1] / "docs/examples/mug/mug.obj"
    subprocess.run([sys.executable, "-c", FORKED, folder, mug, how], check=True, timeout=300)
