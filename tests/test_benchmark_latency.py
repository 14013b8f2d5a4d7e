"""Latency: what is measured and how it is said, with tiny networks. How fast anything is, no test says."""

from __future__ import annotations

import json
import os
import types
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import latency as benchmark
from coop_edge import Estimator, InputError
from coop_edge.cli.main import app
from coop_edge.latency import CASES, FEWEST, Case, NetworkClock, measure, memory, percentiles
from tests.runtime.networks import tiny_bundle

STAGES = ["crop", "coarse", "refine", "outline", "select"]
QUICK = {"device": "cpu", "threads": 1, "repeats": 4, "iterations": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("tiny"), selector=False)


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
    assert list(report["cases"]) == [case.name for case in CASES]
    for case in CASES:
        told = ("track" if case.track else "estimate", case.hypotheses, case.detections)
        made = [call for call in calls if (call[0], call[1].coarse.hypotheses, call[2]) == told]
        figures = report["cases"][case.name]
        assert (figures["n"], figures["of"]) == (4, case.detections)
        # One to fill buffers, those timed, those for the networks; with one detection the cold one too.
        assert len(made) == 1 + 4 + FEWEST + (told[0] == "estimate" and case.detections == 1)
    assert all(config.refine.stop_px == config.refine.stop_diameter == 0.0 for _, config, _ in calls)
    assert all((config.refine.iterations, config.refine.track_iterations) == (2, 2) for _, config, _ in calls)
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
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_case_stops_when_its_time_is_over(folder):
    case = Case("one", track=True)
    report = measure(folder, **{**QUICK, "repeats": 10_000}, seconds=0.0, cases=[case])
    assert report["cases"]["one"]["n"] == FEWEST


@pytest.mark.parametrize("wrong", [{"cases": []}, {"repeats": 0}])
def test_nothing_to_measure(folder, wrong):
    with pytest.raises(InputError, match="wanted at least one case and one call"):
        measure(folder, **{**QUICK, **wrong})


def test_percentiles():
    times = percentiles(list(range(101)))
    assert times == {"p50": 50.0, "p90": 90.0, "p99": 99.0}
    assert percentiles([2.0]) == {"p50": 2.0, "p90": 2.0, "p99": 2.0}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the size of this process from Linux")
def test_memory_knows_of_what_was_held_for_a_moment():
    before = memory()["peak_mb"]
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
    held = np.ones(round(before - resident + 64) << 20, np.uint8)
    del held
    assert before + 32 < memory()["peak_mb"] < before + 256


def test_networks_are_timed_only_while_counted(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr("coop_edge.latency.time", types.SimpleNamespace(perf_counter=lambda: next(now)))
    clock = NetworkClock()
    runners = {
        role: clock.watch(role, types.SimpleNamespace(device="cpu", run=lambda feed, stream=None: feed))
        for role in ("refiner", "selector")
    }
    assert runners["refiner"].run({"a": 1}) == {"a": 1}
    assert clock.ms == {}
    for _ in range(2):
        with clock.counting() as ms:
            assert runners["refiner"].run({"a": 1}, None) == {"a": 1}
            runners["refiner"].run({})
            runners["selector"].run({})
        assert ms == {"refiner": 2000.0, "selector": 1000.0}


class TestProgram:
    def test_figures_as_a_table_and_as_json(self, folder, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "200")
        out = tmp_path / "latency.json"
        options = ["--engines", folder, "--device", "cpu", "--threads", 1, "--repeats", 1, "--seconds", 0]
        assert benchmark.main([*map(str, options), "--iterations", "1", "--json", str(out)]) == 0
        result = json.loads(out.read_text())
        assert result["benchmark"] == "latency"
        assert result["settings"]["refine"]["iterations"] == 1
        assert result["hardware"]["cores"] >= 1
        assert result["versions"]["numpy"] == np.__version__
        printed = capsys.readouterr().out
        for case in CASES:
            assert case.name in printed
        assert "first_call_ms" in printed

    def test_engines_that_are_not_there(self, capsys):
        assert benchmark.main(["--engines", "coop-nowhere"]) == 2
        assert "error: BundleError: no bundle 'coop-nowhere'" in capsys.readouterr().err


class TestBench:
    OPTIONS = ("--device", "cpu", "--threads", "1", "--repeats", "1", "--seconds", "0")

    def test_a_table_of_what_is_installed(self, folder, monkeypatch):
        monkeypatch.setattr("coop_edge.runtime.bundle.available", lambda: [folder])
        monkeypatch.setenv("COLUMNS", "200")
        result = CliRunner().invoke(app, ["bench", *self.OPTIONS])
        assert result.exit_code == 0, result.output
        assert "tiny 0.0.1 on cpu (asked for)" in result.stdout
        assert all(case.name in result.stdout for case in CASES)
        assert "memory of this process at its peak" in result.stdout

    def test_as_json_of_the_engines_named(self, folder):
        result = CliRunner().invoke(app, ["bench", "--engines", str(folder), *self.OPTIONS, "--json"])
        assert result.exit_code == 0, result.output
        (report,) = json.loads(result.stdout)
        assert list(report["cases"]) == [case.name for case in CASES]

    def test_none_installed(self, monkeypatch):
        monkeypatch.setattr("coop_edge.runtime.bundle.available", list)
        result = CliRunner().invoke(app, ["bench", *self.OPTIONS])
        assert result.exit_code == 2
        assert "no engines are installed; give a bundle's folder with --engines" in result.output
