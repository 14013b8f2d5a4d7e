"""Runs: in one process and in several, stopped and gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import methods
from benchmarks.accuracy.boxes import read_boxes
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.journal import Journal, journal_path
from benchmarks.accuracy.methods import MethodOptions, OursMethod, estimator_config
from benchmarks.accuracy.results import read_rows
from benchmarks.accuracy.run import run, share_cores
from coop_edge import ConfigError, EstimatorConfig, InputError
from tests.benchmarks.bop import Knowing, scene_of, write_dataset
from tests.runtime.networks import tiny_bundle

IMAGES = {(1, 3): scene_of(0), (1, 0): scene_of(1, count=2), (7, 2): scene_of(2), (7, 5): scene_of(3)}
OPTIONS = {"boxes": "visib", "config": {"coarse": {"hypotheses": 1}}}
REPOSITORY = Path(methods.__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("bop") / "boxes", IMAGES)


@pytest.fixture(scope="module")
def dataset(root):
    return BopDataset(root)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(tiny_bundle(tmp_path_factory.mktemp("tiny"), features=False))


@pytest.fixture
def knowing(monkeypatch):
    """Takes the place of all methods; the newest is last."""
    made: list[Knowing] = []

    def make(options):
        made.append(Knowing(fail_after=getattr(make, "fail_after", None)))
        return made[-1]

    make.made = made
    monkeypatch.setattr(methods, "_makers", lambda: dict.fromkeys(methods.METHODS, make))
    return make


def test_every_image_is_estimated_and_timed(dataset, knowing, tmp_path):
    ticks = []
    with Journal(tmp_path / "a.part", OPTIONS) as journal:
        boxes = read_boxes(dataset, "visib")
        results = run(dataset, MethodOptions("sift"), boxes, journal, advance=lambda: ticks.append(1))
    assert [result.image for result in results] == dataset.images
    assert [result.count for result in results] == [3, 2, 2, 2]
    assert len(ticks) == 4
    for result in results:
        assert result.time > 0
        assert {row.time for row in result.rows} == {result.time}
        truth = {t.T_camera_object.tobytes() for t in dataset.truth(*result.image)}
        assert len(truth) == len(result.rows)
        for row in result.rows:
            assert min(np.abs(np.frombuffer(T).reshape(4, 4) - row.T_camera_object).max() for T in truth) < 1e-12
    assert [method.closed for method in knowing.made] == [True]


def test_no_images_and_no_boxes(root, dataset, knowing, tmp_path):
    with Journal(tmp_path / "a.part", OPTIONS) as journal:
        none = BopDataset(root, limit=0)
        assert run(none, MethodOptions("sift"), {}, journal) == []
        assert knowing.made == []
        results = run(dataset, MethodOptions("sift"), {}, journal)
    assert [result.count for result in results] == [0, 0, 0, 0]


def test_a_run_that_was_struck_goes_on(dataset, knowing, tmp_path):
    boxes, path = read_boxes(dataset, "visib"), tmp_path / "a.part"
    knowing.fail_after = 2
    with Journal(path, OPTIONS) as journal, pytest.raises(RuntimeError, match="lightning"):
        run(dataset, MethodOptions("sift"), boxes, journal)
    assert knowing.made[-1].closed
    with path.open("ab") as file:
        file.write(b'{"scene_id": 7, "im_id": 2, "ti')  # half a line: a kill while writing
    knowing.fail_after = None
    with Journal(path, OPTIONS) as journal:
        assert sorted(journal.done) == dataset.images[:2]
        results = run(dataset, MethodOptions("sift"), boxes, journal)
    assert knowing.made[-1].seen == dataset.images[2:]
    assert [(result.image, len(result.rows)) for result in results] == list(
        zip(dataset.images, [3, 2, 2, 2], strict=True)
    )
    with Journal(path, OPTIONS) as journal:
        again = run(dataset, MethodOptions("sift"), boxes, journal)
    assert len(knowing.made) == 2  # there was nothing left to do
    for a, b in zip(results, again, strict=True):
        assert (a.image, a.time, a.stages) == (b.image, b.time, b.stages)
        assert [(r.obj_id, r.score, *r.R.ravel(), *r.t) for r in a.rows] == [
            (r.obj_id, r.score, *r.R.ravel(), *r.t) for r in b.rows
        ]


def test_failures_are_kept_with_their_reasons(dataset, knowing, tmp_path):
    boxes = {
        image: [box._replace(bbox=(0, 0, 9, 9)) for box in found] for image, found in read_boxes(dataset, "obj").items()
    }
    for _ in range(2):  # estimated, then read again
        with Journal(tmp_path / "a.part", OPTIONS) as journal:
            results = run(dataset, MethodOptions("sift"), boxes, journal)
        assert {f.reason for result in results for f in result.failures} == {"out of luck"}
        assert [f.obj_id for f in results[0].failures] == [1, 1, 2]


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (OPTIONS | {"boxes": "obj"}, 'boxes was "visib", now "obj"'),
        (OPTIONS | {"config": {"coarse": {"hypotheses": 5}}}, "config.coarse.hypotheses was 1, now 5"),
        (OPTIONS | {"seed": 1}, "seed was null, now 1"),
        ({"boxes": "visib"}, "config was .*, now null"),
    ],
)
def test_other_options_are_refused(tmp_path, now, says):
    path = tmp_path / "a.part"
    Journal(path, OPTIONS).close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=says):
        Journal(path, now)
    assert path.read_bytes() == before
    with Journal(path, OPTIONS) as journal:
        assert journal.done == {}


@pytest.mark.parametrize("content", [b"not JSON\n", b'{"format": 1}\n{"scene_id": 1}\n', b"[]\n[1]\n", b"hello", b"{}"])
def test_a_file_of_another_kind_is_left_alone(tmp_path, content):
    (tmp_path / "a.part").write_bytes(content)
    with pytest.raises(InputError, match="not the record of an earlier run"):
        Journal(tmp_path / "a.part", OPTIONS)
    assert (tmp_path / "a.part").read_bytes() == content


def test_half_a_header_is_begun_anew(tmp_path):
    (tmp_path / "a.part").write_bytes(b'{"format"')
    with Journal(tmp_path / "a.part", OPTIONS) as journal:
        assert journal.done == {}
    assert json.loads((tmp_path / "a.part").read_text()) == {"format": 1} | OPTIONS


def test_two_runs_do_not_write_one_file(tmp_path):
    pytest.importorskip("fcntl", reason="files are locked on POSIX only")
    with Journal(tmp_path / "a.part", OPTIONS), pytest.raises(InputError, match="another run is writing it"):
        Journal(tmp_path / "a.part", OPTIONS)
    Journal(tmp_path / "a.part", OPTIONS).close()


def test_cores_are_shared(monkeypatch):
    monkeypatch.setattr("benchmarks.accuracy.run.available_cores", lambda: 8)
    assert share_cores(None, 100) == (8, 1)
    assert share_cores(None, 3) == (3, 2)
    assert share_cores(2, 100) == (2, 4)
    assert share_cores(None, 0) == (1, 8)
    assert share_cores(16, 100) == (16, 1)
    with pytest.raises(InputError, match="--processes: wanted at least 1, got 0"):
        share_cores(0, 1)


def test_the_estimator_as_a_method(dataset, tiny):
    options = MethodOptions(
        "ours", engines=tiny, seed=7, config={"coarse": {"hypotheses": 3}, "refine": {"iterations": 1}}
    )
    config = estimator_config(options)
    assert (config.coarse.hypotheses, config.ransac.seed, config.refine.iterations) == (3, 7, 1)
    method = options.open()
    try:
        assert isinstance(method, OursMethod)
        method.add_objects(dataset)
        assert list(method.estimator.objects) == ["obj_000001", "obj_000002"]
        image, boxes = dataset.images[0], read_boxes(dataset, "visib")
        assert method.estimate(dataset.image(*image), dataset.camera(*image), []) == []
        found = method.estimate(dataset.image(*image), dataset.camera(*image), boxes[image])
        assert [each.object for each in found] == ["obj_000001", "obj_000001", "obj_000002"]
    finally:
        method.close()


def test_options_that_cannot_be_meant(tiny):
    with pytest.raises(InputError, match="method: wanted one of ours, sift, lightglue, got 'surf'"):
        MethodOptions("surf")
    with pytest.raises(InputError, match="engines: wanted the name or the folder"):
        MethodOptions("ours")
    with pytest.raises(ConfigError, match="hypotheses"):
        MethodOptions("ours", engines=tiny, config={"coarse": {"hypotheses": -1}}).open()


def test_processes_give_what_one_gives(dataset, tiny, tmp_path):
    options = MethodOptions("ours", engines=tiny, config=EstimatorConfig.parse(LENIENT))
    boxes, found = read_boxes(dataset, "visib"), {}
    before = dict(os.environ)
    for processes in (1, 2):
        with Journal(tmp_path / f"{processes}.part", OPTIONS) as journal:
            results = run(dataset, options, boxes, journal, processes=processes)
        found[processes] = [
            (r.image, [(row.obj_id, row.score, *row.t) for row in r.rows], [f.reason for f in r.failures])
            for r in results
        ]
    assert found[1] == found[2]
    assert sum(len(rows) for _, rows, _ in found[1]) > 0
    assert os.environ == before


def test_an_error_in_a_process_reaches_the_caller(dataset, tmp_path):
    options = MethodOptions("ours", engines=str(tmp_path / "nowhere"))
    with Journal(tmp_path / "a.part", OPTIONS) as journal:
        with pytest.raises(Exception, match="no such folder") as raised:
            run(dataset, options, read_boxes(dataset, "visib"), journal, processes=2)
        assert type(raised.value).__name__ == "BundleError"
        assert journal.done == {}


LENIENT = [
    "advanced.coarse.min_inliers=4",
    "ransac.threshold_px=40",
    "select.min_inlier_ratio=0",
    "select.min_inliers=0",
]
"""Of the networks of ``tiny_bundle``, whose weights are random, some poses then pass."""


def test_killed_and_given_again(root, tiny, tmp_path):
    """SIGKILL in the middle; the same command ends with what an undisturbed one gives."""
    csv = tmp_path / "a.csv"
    settings = [f"--set={setting}" for setting in LENIENT]
    command = [sys.executable, "-m", "benchmarks.accuracy", str(root), "--engines", tiny, "--processes", "1", *settings]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen([*command, "--csv", str(csv)], cwd=REPOSITORY, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 240
            while _lines(journal_path(csv)) < 2 and running.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
        finally:
            with contextlib.suppress(ProcessLookupError):
                running.send_signal(signal.SIGKILL)
            running.wait()
    assert running.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert not csv.exists()
    for name in ("a", "b"):
        report = subprocess.run(
            [*command, "--csv", str(tmp_path / f"{name}.csv"), "--json", str(tmp_path / f"{name}.json")],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        assert report.returncode == 0, report.stderr
    resumed, undisturbed = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("a", "b"))
    assert resumed["run"]["images_of_earlier_runs"] >= 1
    assert undisturbed["run"]["images_of_earlier_runs"] == 0
    assert resumed["total"] == undisturbed["total"]
    assert resumed["misses"] == undisturbed["misses"]
    one, other = ([(r.im_id, r.obj_id, r.score, *r.t) for r in read_rows(tmp_path / f"{n}.csv")] for n in ("a", "b"))
    assert one == other != []
    assert not journal_path(csv).exists()


@pytest.mark.skipif(os.name != "posix", reason="signals to a group of processes")
def test_ctrl_c_ends_all_processes_and_keeps_what_is_done(tmp_path):
    """A terminal sends the signal to every process of the run."""
    root = write_dataset(tmp_path / "boxes", {(1, i): scene_of(i) for i in range(600)})
    csv = tmp_path / "a.csv"
    command = [sys.executable, "-m", "benchmarks.accuracy", str(root), "--method", "sift", "--processes", "2"]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(
            [*command, "--csv", str(csv)], cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True
        )
        try:
            until = time.monotonic() + 300
            while running.poll() is None and time.monotonic() < until and _lines(journal_path(csv)) < 4:
                time.sleep(0.01)
            os.killpg(running.pid, signal.SIGINT)
            running.wait(120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
    said = (tmp_path / "log").read_text()
    assert running.returncode == 130, said
    assert "a.csv.part: the same command goes on" in said
    assert "Traceback" not in said
    # The options, and the images that were done; a row that is still on its way to the disk is taken back.
    assert 3 <= _lines(journal_path(csv)) <= 200
    assert not csv.exists()


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.skipif(os.name != "posix", reason="signals to a group of processes")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    root = write_dataset(tmp_path / "boxes", {(1, i): scene_of(i) for i in range(600)})
    csv = tmp_path / "a.csv"
    command = [sys.executable, "-m", "benchmarks.accuracy", str(root), "--method", "sift", "--processes", "2"]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(
            [*command, "--csv", str(csv)], cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True
        )
        try:
            until = time.monotonic() + 300
            while running.poll() is None and time.monotonic() < until and _lines(journal_path(csv)) < 3:
                time.sleep(0.01)
            running.kill()
            running.wait()
            gone = False
            while not gone and time.monotonic() < until:
                try:
                    os.killpg(running.pid, 0)  # anybody left of its group?
                except ProcessLookupError:
                    gone = True
                time.sleep(0.05)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    assert gone, "workers wait for a parent that is no more"
