"""The throughput benchmark on tiny networks: what it measures, and that runs whose lines differ are noticed."""

from __future__ import annotations

import json

import pytest

from benchmarks import throughput
from tests.runtime.networks import tiny_bundle


@pytest.fixture
def lines(monkeypatch):
    """Both runners say one line for an image, as they are told."""
    said = {"pool": lambda i: f'{{"index": {i}}}', "ray": lambda i: f'{{"index": {i}}}'}
    monkeypatch.setattr(throughput, "run_local", lambda items, setup, workers: (said["pool"](i.index) for i in items))
    monkeypatch.setattr(
        throughput, "run_on_ray", lambda items, setup, workers, at: (said["ray"](i.index) for i in items)
    )
    return said


def test_the_file_and_its_figures(tmp_path, lines):
    throughput.main(["--images", "16", "--rounds", "1", "--engines", "tiny", "--json", str(tmp_path / "out.json")])
    report = json.loads((tmp_path / "out.json").read_text())
    assert set(report["runs"]) == {"pool_1", "pool_2", "ray_1", "ray_2"}
    for cell in report["runs"].values():
        assert cell["images_per_second"] > 0
        assert cell["start_s"] >= 0
    rates = {name: cell["images_per_second"] for name, cell in report["runs"].items()}
    assert report["ratios"]["ray_over_pool_2"] == pytest.approx(rates["ray_2"] / rates["pool_2"])
    assert report["ratios"]["pool_2_over_1"] == pytest.approx(rates["pool_2"] / rates["pool_1"])
    assert report["bytes"]["line"] == len('{"index": 15}')
    assert report["bytes"]["image"] > 10_000
    assert report["hardware"]


def test_lines_that_differ_are_an_error(lines):
    lines["ray"] = lambda i: "other"
    with pytest.raises(AssertionError, match="ray_1: its lines are not those"):
        throughput.main(["--images", "16", "--rounds", "1"])


def test_time_before_the_first_lines_and_after_the_last_is_no_time_of_images(monkeypatch):
    """A clock that the lines set: 10 s to start, a block of 8, then 0.5 s each, and 100 s to close."""
    now = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])

    def lines():
        now[0] += 10.0
        for i in range(20):
            now[0] += 0.5 if i >= 8 else 0.0
            yield str(i)
        now[0] += 100.0

    found, cell = throughput.timed(lines())
    assert found == [str(i) for i in range(20)]
    assert cell == {"start_s": pytest.approx(10.0), "images_per_second": pytest.approx(2.0)}


def test_the_items_are_what_a_worker_reads(tmp_path):
    from coop_edge.annotate.worker import Worker

    bundle = tiny_bundle(tmp_path / "tiny")
    items, setup = throughput.demo_run(tmp_path, 2, str(bundle), "fast")
    first, second = (json.loads(Worker(setup)(item)) for item in items)
    assert sorted(result["object"] for result in first["results"]) == ["carton", "house", "mug"]
    assert first["results"] == second["results"]
