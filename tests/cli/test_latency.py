"""`coop-edge bench` and `benchmarks.latency`: what is measured and how it is said, never how fast anything is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import latency as benchmark
from coop_edge import ConfigError, EngineError, Estimator, InputError
from coop_edge.cli.latency import FEWEST, cases_of, measure, memory, percentiles
from coop_edge.cli.main import app
from coop_edge.cli.network_time import NetworkClock, TimedRunner
from coop_edge.config import EFFORTS
from coop_edge.demo import load_scene
from coop_edge.runtime.base import Runner, TensorSpec
from tests.runtime.networks import tiny_bundle

TWO = ["fast", "best"]
STAGES = ["crop", "coarse", "refine", "outline", "select"]
QUICK = {
    "device": "cpu",
    "threads": 1,
    "repeats": 4,
    "efforts": TWO,
    "settings": ["refine.iterations=2", "outline.iterations=1"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("tiny"), features=False)


@pytest.fixture(scope="module")
def calls():
    """What the Estimators of ``report`` were asked."""
    return []


@pytest.fixture(scope="module")
def report(folder, calls):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("estimate", "track", "warmup"):
            method = getattr(Estimator, name)

            def spy(self, *args, method=method, name=name):
                calls.append((name, self.config, len(args[2]) if args else 0))
                return method(self, *args)

            patch.setattr(Estimator, name, spy)
        return measure(folder, **QUICK)


def test_every_case_calls_what_it_says(report, calls):
    assert list(report["cases"]) == [
        "1 object, fast",
        "1 object, best",
        "8 objects, fast",
        "8 objects, best",
        "track 1 object",
    ]
    for case in cases_of(TWO):
        told = ("track" if case.track else "estimate", case.effort, case.detections)
        made = [call for call in calls if (call[0], call[1].effort, call[2]) == told]
        figures = report["cases"][case.name]
        assert (figures["n"], figures["of"]) == (4, case.detections)
        # One to fill buffers, those timed, those for the networks; with one detection the cold one too.
        assert len(made) == 1 + 4 + FEWEST + (told[0] == "estimate" and case.detections == 1)
    assert all(config.advanced.refine.stop_px == 0 == config.advanced.refine.stop_diameter for _, config, _ in calls)
    assert all((config.refine.iterations, config.refine.track_iterations) == (2, 2) for _, config, _ in calls)
    assert all(config.outline.iterations == 1 for _, config, _ in calls)
    # The first call of each Estimator comes before it is warm.
    kinds = [kind for kind, *_ in calls]
    assert kinds[:2] == ["estimate", "warmup"]
    assert kinds.count("warmup") == 2


def test_figures_fit_together(report):
    for name, case in report["cases"].items():
        for times in (case["ms"], *case["stages"].values()):
            assert 0 <= times["p50"] <= times["p90"] <= times["p99"]
        assert list(case["stages"]) == STAGES
        assert sum(case["stages"][stage]["p50"] for stage in STAGES) > 0
        network = case["network"]
        assert 0 < network["share"] < 1
        assert network["ms"] > 0
        assert set(network["roles"]) <= {"coarse_encoder", "coarse_decoder", "refiner"}
        assert ("coarse_encoder" in network["roles"]) == (not name.startswith("track"))
    tracked = report["cases"]["track 1 object"]
    assert set(tracked["network"]["roles"]) == {"refiner"}
    assert tracked["stages"]["coarse"]["p99"] == 0
    assert all(value > 0 for value in report["cold"].values())
    assert report["backend"] == {"name": "cpu", "reason": "asked for"}
    assert (report["engines"], report["input_size"]) == ("tiny", 32)
    refine = {"iterations": 2, "track_iterations": 2, "stop_px": 0.0, "stop_diameter": 0.0}
    settings = {"threads": 1, "image": [640, 480], "refine": refine, "set": QUICK["settings"]}
    settings["schedules"] = {name: EFFORTS[name]._asdict() for name in TWO}
    assert report["settings"] == settings
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_case_stops_when_its_time_is_over(folder):
    report = measure(folder, **{**QUICK, "repeats": 10_000, "efforts": ["fast", "fast"]}, seconds=0.0)
    assert {name: case["n"] for name, case in report["cases"].items()} == dict.fromkeys(
        ("1 object, fast", "8 objects, fast", "track 1 object"), FEWEST
    )


def test_with_depth_each_case_is_timed_with_it_and_without_in_turn(folder, monkeypatch):
    scene, given = load_scene(), []
    depth = benchmark.scene_depth(scene)
    width, height = scene.camera.size
    assert depth.shape == (height, width)
    for name, T in scene.truth.items():  # where an object's middle is, its surface lies before it
        column, row, z = scene.camera.K @ T[:3, 3]
        assert 0.7 * z < depth[round(row / z), round(column / z)] < z, name
    estimate = Estimator.estimate

    def spy(self, *args):
        given.append(len(args) == 4 and args[3] is depth)
        return estimate(self, *args)

    monkeypatch.setattr(Estimator, "estimate", spy)
    report = measure(folder, **{**QUICK, "efforts": ["fast"]}, depth=depth)
    case = report["cases"]["1 object, fast"]
    assert given[1:11] == 5 * [False, True]  # after the cold one: one each for buffers, then those timed
    assert set(case["depth"]) == {"ratio", "used_depth", "ms", "stages"}
    assert case["depth"]["ratio"] > 0
    assert case["depth"]["stages"].keys() == case["stages"].keys()
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_numbers_of_hypotheses_may_be_set_and_are_told(folder):
    settings = [*QUICK["settings"], "coarse.hypotheses=1", "refine.survivors=1"]
    report = measure(folder, **{**QUICK, "repeats": 1, "efforts": ["best"], "settings": settings}, seconds=0.0)
    assert report["settings"]["schedules"] == {"best": {"hypotheses": 1, "matched": 1, "survivors": 1}}


def test_objects_are_found_among_copies_of_the_scenes_own(tmp_path, monkeypatch):
    wanted, find = [], Estimator.find

    def spy(self, image, camera, objects, **options):
        wanted.append((self.config.effort, objects))
        return find(self, image, camera, objects, **options)

    monkeypatch.setattr(Estimator, "find", spy)
    report = measure(tiny_bundle(tmp_path), **{**QUICK, "repeats": 1}, seconds=0.0, find=[1, 4])
    assert list(report["cases"])[-2:] == ["find 1 object, fast", "find 4 objects, fast"]
    assert [report["cases"][f"find {n}, fast"]["of"] for n in ("1 object", "4 objects")] == [1, 4]
    names = [*load_scene().meshes]
    assert {effort for effort, _ in wanted} == {"fast"}
    assert {tuple(asked) for _, asked in wanted} == {(names[0],), (*names, f"{names[0]} 2")}


def test_no_object_to_find(folder):
    with pytest.raises(InputError, match="find: wanted numbers of objects of at least 1, got \\[0\\]"):
        measure(folder, **QUICK, find=[0])


@pytest.mark.parametrize("wrong", [{"efforts": []}, {"repeats": 0}])
def test_nothing_to_measure(folder, wrong):
    with pytest.raises(InputError, match="wanted at least one effort and one call"):
        measure(folder, **{**QUICK, **wrong})


def test_percentiles():
    times = percentiles(list(range(101)))
    assert times == {"p50": 50.0, "p90": 90.0, "p99": 99.0}
    assert percentiles([2.0]) == {"p50": 2.0, "p90": 2.0, "p99": 2.0}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the size of this process from Linux")
def test_memory_knows_of_what_was_held_for_a_moment():
    before = memory()["peak_mb"]
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
    held = np.ones(round(before - resident + 128) << 20, np.uint8)
    del held
    assert before + 32 < memory()["peak_mb"] < before + 256


@pytest.mark.parametrize("setting", ["effort=fast", "advanced.refine.stop_px=1"])
def test_what_the_cases_fix_cannot_be_set(folder, setting):
    with pytest.raises(ConfigError, match="has been given already"):
        measure(folder, **{**QUICK, "settings": [setting]})


class FakeRunner(Runner):
    """Doubles ``x``, and notes what is done to it."""

    device, max_batch = "cpu", 5

    def __init__(self, done):
        super().__init__("tiny/refiner", [TensorSpec("x", (None, 2))], [TensorSpec("y", (None, 2))])
        self.done = done

    def _load(self):
        self.done.append("load")

    def _release(self):
        self.done.append("release")

    def _run(self, feed, batch, stream):
        self.done.append(("run", batch, stream))
        return {"y": 2 * feed["x"]}

    def _check_device(self, name, array):
        if not isinstance(array, np.ndarray):
            raise InputError(f"{name}: wanted a NumPy array")

    def _empty(self, spec, batch):
        return np.empty((batch, *spec.shape[1:]), spec.dtype)


class TestTimedRunner:
    """It is a runner like the one it times."""

    X = np.ones((3, 2), np.float32)

    @pytest.fixture
    def parts(self):
        done = []
        inner, clock = FakeRunner(done), NetworkClock()
        return TimedRunner(inner, "refiner", clock, lambda: done.append("wait")), clock, done

    def test_runs_are_timed_only_while_counted(self, parts, monkeypatch):
        runner, clock, done = parts
        now = iter(range(100))
        monkeypatch.setattr("coop_edge.cli.network_time.working_time", lambda: next(now))
        other = TimedRunner(FakeRunner([]), "features", clock, lambda: None)
        with runner, other:
            np.testing.assert_array_equal(runner.run({"x": self.X}, "a stream")["y"], 2 * self.X)
            assert clock.ms == {}
            assert done == ["load", ("run", 3, "a stream")]
            for _ in range(2):
                with clock.counting() as ms:
                    runner.run({"x": self.X})
                    runner.run({"x": self.X})
                    other.run({"x": self.X})
                assert ms == {"refiner": 2000.0, "features": 1000.0}
            assert done[2:5] == ["wait", ("run", 3, None), "wait"]
        assert done[-1] == "release"

    def test_it_has_the_contract_of_what_it_times(self, parts):
        runner, _, done = parts
        assert (runner.label, runner.device, runner.max_batch) == ("tiny/refiner", "cpu", 5)
        assert (list(runner.inputs), list(runner.outputs)) == (["x"], ["y"])
        with pytest.raises(EngineError, match="tiny/refiner is closed"):
            runner.run({"x": self.X})
        with runner:
            assert runner.run({"x": self.X[:0]})["y"].shape == (0, 2)
            for wrong in ({"x": self.X[:, :1]}, {"x": np.ones((6, 2), np.float32)}, {}):
                with pytest.raises(InputError):
                    runner.run(wrong)
        assert done == ["load", "release"]


class TestProgram:
    def test_figures_as_a_table_and_as_json(self, folder, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "200")
        out = tmp_path / "latency.json"
        options = ["--engines", folder, "--device", "cpu", "--threads", 1, "--repeats", 1, "--seconds", 0]
        more = ["--iterations", "1", "--set", "outline.iterations=0", "--json", str(out)]
        more += ["--effort", "fast", "--effort", "best"]
        assert benchmark.main([*map(str, options), *more]) == 0
        result = json.loads(out.read_text())
        assert result["benchmark"] == "latency"
        assert result["settings"]["refine"]["iterations"] == 1
        assert result["settings"]["set"] == ["refine.iterations=1", "outline.iterations=0"]
        assert all(
            case["stages"]["outline"]["p99"] == 0 for name, case in result["cases"].items() if "track" not in name
        )
        assert result["hardware"]["cores"] >= 1
        assert result["versions"]["numpy"] == np.__version__
        printed = capsys.readouterr().out
        for case in cases_of(TWO):
            assert case.name in printed
        assert list(result["settings"]["schedules"]) == TWO
        assert "first_call_ms" in printed

    def test_an_option_that_is_not_there(self, folder, capsys):
        assert benchmark.main(["--engines", str(folder), "--device", "cpu", "--set", "refine.iteration=1"]) == 2
        assert "error: ConfigError: RefineConfig has no option 'iteration'; did you mean" in capsys.readouterr().err

    def test_engines_that_are_not_there(self, capsys):
        assert benchmark.main(["--engines", "coop-nowhere"]) == 2
        assert "error: BundleError: no bundle 'coop-nowhere'" in capsys.readouterr().err


class TestBench:
    OPTIONS = ("--device", "cpu", "--threads", "1", "--repeats", "1", "--seconds", "0")

    def test_a_table_of_what_is_installed(self, folder, monkeypatch):
        monkeypatch.setattr("coop_edge.runtime.bundle.available", lambda: [folder])
        monkeypatch.setenv("COLUMNS", "80")
        result = CliRunner().invoke(app, ["bench", *self.OPTIONS])
        assert result.exit_code == 0, result.output
        assert "tiny 0.0.1 on cpu (asked for)" in result.stdout
        assert all(result.stdout.count(f" {case.name} ") == 2 for case in cases_of(list(EFFORTS)))  # in 80 columns
        assert all(len(line) <= 80 for line in result.stdout.splitlines() if line[:1] in "│┃├└┏┡")
        assert "…" not in result.stdout
        assert "memory of this process at its peak" in result.stdout

    def test_as_json_of_the_engines_named(self, folder):
        more = ["--engines", str(folder), "--set", "refine.iterations=1", "--effort", "fast", "--json"]
        result = CliRunner().invoke(app, ["bench", *self.OPTIONS, *more])
        assert result.exit_code == 0, result.output
        (report,) = json.loads(result.stdout)
        assert report["settings"]["refine"]["iterations"] == 1
        assert list(report["cases"]) == [case.name for case in cases_of(["fast"])]

    def test_none_installed(self, monkeypatch):
        monkeypatch.setattr("coop_edge.runtime.bundle.available", list)
        result = CliRunner().invoke(app, ["bench", *self.OPTIONS])
        assert result.exit_code == 2
        assert "no engines are installed; give a bundle's folder with --engines" in result.output
