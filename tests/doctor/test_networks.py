"""Bundles and plans as files: whole, damaged, of another GPU; and the command on top of all probes."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from coop_edge.cli.main import app
from coop_edge.doctor import assemble, networks
from coop_edge.doctor.isolate import Outcome, here
from coop_edge.errors import BackendUnavailable
from coop_edge.runtime import bundle as bundle_module
from coop_edge.runtime.bundle import Bundle, write_manifest
from coop_edge.runtime.plan import Target, plan_name
from coop_edge.runtime.plan_store import write_plan
from tests.runtime.networks import tiny_bundle
from tests.runtime.plans import made_up_plan

ORIN = Target("trt", "10.3.0", "87", gpu="Orin")


@pytest.fixture
def engines(tmp_path, monkeypatch):
    """A folder of bundles, the only one there is; nothing here can run a plan unless a test says so."""
    monkeypatch.setattr(
        bundle_module, "available", lambda: sorted(path.parent for path in tmp_path.glob("engines/*/bundle.json"))
    )
    monkeypatch.setattr(networks, "targets", lambda: ([], "no TensorRT here"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "engines"


def only(facts: dict) -> dict:
    (found,) = facts["bundles"]
    return found


@pytest.mark.parametrize(
    ("error", "says"),
    [(BackendUnavailable("no TensorRT here"), "no TensorRT here"), (OSError("no driver"), "OSError: no driver")],
)
def test_why_no_plan_can_be_built_here(monkeypatch, error, says):
    def fails():
        raise error

    monkeypatch.setattr("coop_edge.runtime.tensorrt_api.installed", fails)
    assert networks.targets() == ([], says)


def test_no_bundle_is_an_empty_list(engines):
    assert networks.bundles() == {"target": None, "no_target": "", "bundles": []}


def test_a_whole_bundle_is_described(engines):
    tiny_bundle(engines / "tiny")
    facts = only(networks.bundles())
    assert facts["fails"] is None
    assert facts["roles"] == ["coarse_encoder", "coarse_decoder", "refiner", "features"]
    assert facts["graph_bytes"] == sum(path.stat().st_size for path in (engines / "tiny").glob("*.onnx"))
    assert facts["plans"] == []
    assert facts["storage"]["writable"]


def test_a_damaged_bundle_is_quoted_and_the_other_still_read(engines):
    tiny_bundle(engines / "a")
    tiny_bundle(engines / "b")
    graph = engines / "a" / "refiner.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\xff")
    a, b = networks.bundles()["bundles"]
    assert a["fails"].startswith("BundleError")
    assert "refiner.onnx" in a["fails"]
    assert b["fails"] is None


def test_only_a_deep_look_finds_a_graph_that_no_runner_loads(engines):
    bundle = Bundle.load(tiny_bundle(engines / "tiny"))
    refiner = bundle.network("refiner")
    refiner.path.write_bytes(b"no graph")
    new = replace(refiner, sha256=hashlib.sha256(b"no graph").hexdigest())
    write_manifest(replace(bundle, networks={**bundle.networks, "refiner": new}))
    assert only(networks.bundles())["fails"] is None
    assert "refiner" in only(networks.bundles_loaded())["fails"]


def test_a_deep_look_loads_every_graph(engines):
    tiny_bundle(engines / "tiny")
    facts = only(networks.bundles_loaded())
    assert (facts["fails"], facts["loaded"]) == (None, True)


@pytest.mark.parametrize("package", ["onnxruntime", "numba"])
def test_a_deep_look_does_not_blame_a_bundle_for_a_package_that_is_missing(engines, monkeypatch, package):
    tiny_bundle(engines / "tiny")
    monkeypatch.setitem(sys.modules, package, None)
    facts = only(networks.bundles_loaded())
    assert (facts["fails"], facts["loaded"]) == (None, package == "numba")


def test_plans_fit_or_say_why_not(engines, monkeypatch, tmp_path):
    bundle = Bundle.load(tiny_bundle(engines / "tiny", features=False))
    encoder, decoder, refiner = bundle.networks.values()
    write_plan(made_up_plan(encoder, ORIN, bundle.folder))
    cache = tmp_path / "cache/coop_edge/plans/tiny"
    cache.mkdir(parents=True)
    write_plan(made_up_plan(decoder, ORIN, cache))  # where the folder of the graphs cannot be written to
    write_plan(made_up_plan(refiner, replace(ORIN, sm="110", gpu="Thor"), bundle.folder))
    assert [plan["fits"] for plan in only(networks.bundles())["plans"]] == [None, None, None]

    rtx = Target("rtx", "1.7.1", "87", gpu="Orin")
    monkeypatch.setattr(networks, "targets", lambda: ([ORIN, rtx], ""))
    facts = networks.bundles()
    assert facts["target"] == "TensorRT 10.3.0 on SM 87 or TensorRT for RTX 1.7.1 on SM 87"
    fits = {plan["role"]: plan["fits"] for plan in only(facts)["plans"]}
    assert fits == {"coarse_encoder": True, "coarse_decoder": True, "refiner": False}
    (why,) = [plan["why"] for plan in only(facts)["plans"] if plan["why"]]
    assert "SM" in why
    assert "110 (Thor)" in why
    assert "87 (Orin)" in why
    assert "coop-edge build" not in why

    write_plan(made_up_plan(refiner, rtx, bundle.folder))
    assert {plan["fits"] for plan in only(networks.bundles())["plans"] if "-rtx" in plan["file"]} == {True}
    (bundle.folder / plan_name(encoder, ORIN)).write_bytes(b"torn")
    assert not {p["role"]: p["fits"] for p in only(networks.bundles())["plans"]}["coarse_encoder"]


@functools.cache
def of_library(place: str) -> Outcome:
    module, _, name = place.partition(":")
    return here(getattr(importlib.import_module(module), name))


def in_process(place: str) -> Outcome:
    """The probes as they are, without a child, so that a test's bundles are seen."""
    return here(networks.bundles) if place.endswith(":bundles") else of_library(place)


def doctor(*options: str):
    return CliRunner().invoke(app, ["doctor", *options])


def test_the_command_says_whether_an_estimator_could_run(engines, monkeypatch):
    monkeypatch.setattr(assemble, "in_child", in_process)
    without = doctor("--json")
    assert without.exit_code == 1
    report = json.loads(without.stdout)
    assert report["ready"] is False
    assert report["devices"]["cpu"]["blocked_by"] == ["bundles"]

    tiny_bundle(engines / "tiny")
    found = doctor("--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["devices"]["cpu"] == {"ready": True, "blocked_by": []}
    table = doctor()
    assert table.exit_code == 0
    assert "An Estimator can run on the CPU." in table.stdout
    assert "bundle:tiny" in table.stdout

    (engines / "tiny" / "refiner.onnx").unlink()
    broken = doctor()
    assert broken.exit_code == 1
    assert broken.stdout.rstrip().splitlines()[-2] == "The shortest way to one that runs:"


def test_a_probe_that_raises_does_not_stop_the_command(engines, monkeypatch):
    monkeypatch.setattr(assemble, "in_child", lambda place: Outcome(problem="gave no answer within 90 s"))
    result = doctor("--json")
    assert result.exit_code == 1
    rows = {row["name"]: row for row in json.loads(result.stdout)["rows"]}
    assert rows["numba"]["status"] == "broken"
    assert rows["numba"]["found"] == "gave no answer within 90 s"


def test_the_command_on_this_very_machine():
    command = [sys.executable, "-m", "coop_edge", "doctor", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    report = json.loads(result.stdout)
    assert result.returncode == (0 if report["ready"] else 1)
    rows = {row["name"]: row for row in report["rows"]}
    for name in ("python", "system", "numpy", "opencv", "trimesh", "numba", "onnxruntime"):
        assert rows[name]["status"] == "ok", rows[name]
    assert not [row for row in rows.values() if row["found"].startswith("gave no answer")]
