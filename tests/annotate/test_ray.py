"""The same on Ray: a cluster of two nodes, a worker killed, a corrupt image among 200, the same bytes as alone."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest

from coop_edge.annotate import on_ray
from coop_edge.annotate.on_ray import run_on_ray
from coop_edge.annotate.worker import Worker, lost_line
from coop_edge.errors import BackendUnavailable, BundleError, InputError, MeshError
from tests.annotate.runs import items_of, pictures, setup_of

ray = pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra ray)")
COUNT, CORRUPT = 200, 117


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    setup = setup_of(folder)
    return items_of(pictures(folder / "images", COUNT, (CORRUPT,))), setup


def actors() -> list[int]:
    """Process ids of our actors on this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::" in (text := path.read_bytes()) and b"_Actor" in text:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_two_nodes_a_killed_worker_and_a_corrupt_image(cluster, run):
    items, setup = run
    assert len(ray.nodes()) == 2
    lines, killed, environment = [], None, b""
    for line in run_on_ray(items, setup, 2, cluster.address):
        lines.append(line)
        if killed is None and len(lines) > 20 and (there := actors()):
            environment = Path(f"/proc/{there[0]}/environ").read_bytes()
            os.kill(killed := there[0], signal.SIGKILL)
    assert killed is not None
    assert b"NUMBA_NUM_THREADS=1" in environment.split(b"\0")  # the threads of a worker are those it was given
    assert [json.loads(line)["index"] for line in lines] == list(range(COUNT))  # nothing lost, nothing twice, in order
    assert [json.loads(line)["name"] for line in lines if "error" in line and "error" in json.loads(line)] == [
        "0117.png"
    ]
    worker = Worker(setup)
    assert lines == [worker(item) for item in items]  # byte for byte


def test_an_image_that_no_worker_survives_is_named_and_the_others_are_done(cluster, run, monkeypatch, tmp_path):
    """The line is that of the run on processes."""
    items, setup = run
    monkeypatch.setattr(on_ray, "Worker", Deadly)
    deaths = tmp_path / "deaths"
    setup = dataclasses.replace(setup, engines=str(deaths))
    found = list(run_on_ray(items[:14], setup, 2, cluster.address))
    assert [line for i, line in enumerate(found) if i != 6] == [f"line {i}" for i in range(14) if i != 6]
    assert found[6] == lost_line(items[6])
    assert "its worker died, 3 times" in found[6]
    assert len(deaths.read_text()) == 3


class Deadly:
    """A worker that the seventh image kills, and that writes each death down."""

    def __init__(self, setup):
        self._deaths = Path(setup.engines)

    def __call__(self, item):
        if item.index == 6:
            with self._deaths.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return f"line {item.index}"


@pytest.mark.parametrize("what", ["mesh", "bundle"])
def test_what_keeps_workers_from_being_made_ends_the_run_with_the_error_of_the_local_run(cluster, run, what):
    items, setup = run
    (name, mesh, unit, templates) = setup.objects[0]
    if what == "mesh":
        wrong, error = dataclasses.replace(setup, objects=((name, "/nowhere/cube.ply", unit, templates),)), MeshError
    else:
        wrong, error = dataclasses.replace(setup, engines=str(Path(mesh).parent / "images")), BundleError
    with pytest.raises(error) as local:
        Worker(wrong)
    with pytest.raises(error) as found:
        list(run_on_ray(items[:6], wrong, 2, cluster.address))
    assert str(found.value) == str(local.value)


def test_no_cluster_at_an_address(run, monkeypatch):
    def init(address, **options):
        raise ConnectionError("nobody answers\nand more")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(InputError, match=r"^--ray 10\.0\.0\.1:1: no cluster there: ConnectionError: nobody answers$"):
        list(run_on_ray(*run, 1, "10.0.0.1:1"))


def test_a_cluster_that_fails_while_it_works_is_said_in_one_line(run, monkeypatch):
    def rows(*arguments):
        yield {"place": 0, "line": "first", "kind": "", "text": ""}
        raise ray.exceptions.NodeDiedError("all nodes are gone\nand more")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(on_ray, "_pass", rows)
    lines = run_on_ray(*run, 1, None)
    assert next(lines) == "first"
    with pytest.raises(BackendUnavailable, match="failed: NodeDiedError: all nodes are gone; the same command"):
        next(lines)


def test_no_images(run):
    assert list(run_on_ray([], run[1], 0, None)) == []
