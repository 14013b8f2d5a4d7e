"""The same on Ray: a cluster of two nodes, a worker killed, a corrupt image among 200, the same bytes as alone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from coop_edge.annotate.on_ray import run_on_ray
from coop_edge.annotate.worker import Worker
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


def test_no_images(run):
    assert list(run_on_ray([], run[1], 0, None)) == []
