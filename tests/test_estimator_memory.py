"""What an Estimator holds on to over thousands of calls, and what ``warmup`` leaves for the first one: nothing."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from coop_edge import Estimator, PoseEstimate, TemplateSet
from tests.estimators import TINY
from tests.runtime.networks import tiny_bundle
from tests.test_estimator_life import LENIENT, SCENE, known, opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def templates():
    return [TemplateSet.render(mesh, 32, supersample=1) for mesh in SCENE.meshes]


def test_memory_does_not_grow_over_2000_calls(folder, templates):
    """Of Python and NumPy by a count of every block, of networks and compiled code by the size of the process."""
    page, lost = os.sysconf("SC_PAGESIZE"), [PoseEstimate(False, "coarse: nothing", object="cube")]
    quick = {**LENIENT, "coarse": {"hypotheses": 1}, "refine": {"iterations": 1, "track_iterations": 1}}

    def two_calls(times: int) -> None:
        nonlocal lost
        for _ in range(times):
            estimator.estimate(SCENE.image, TINY, SCENE.detections()[:1])
            lost = estimator.track(SCENE.image, TINY, [*known()[1:], *lost])[1:]
        gc.collect()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    tracemalloc.start()  # before the first call: what is kept for later calls is counted on both sides
    try:
        with opened(folder, templates, config=quick) as estimator:
            two_calls(150)
            before = tracemalloc.get_traced_memory()[0]
            two_calls(250)
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            held = resident()
            two_calls(750)
            held = resident() - held
    finally:
        tracemalloc.stop()
    # Pools of small blocks fill up to some 30 kB and stay there; a PoseEstimate kept from every call is ten times that.
    assert grown < 64_000
    assert held < 8_000_000  # half of one crop a call


WARM = """
from pathlib import Path
import coop_edge.pnp.cpu, coop_edge.render.cpu, sys
from numba.core.registry import CPUDispatcher
from tests.estimators import TINY
from tests.test_estimator_life import SCENE, known, opened
from coop_edge import TemplateSet

def compiled():
    modules = [m for name, m in list(sys.modules.items()) if name.startswith("coop_edge.")]
    found = {id(v): v for m in modules for v in vars(m).values() if isinstance(v, CPUDispatcher)}
    return {v.py_func.__qualname__ + v.py_func.__module__: len(v.signatures) for v in found.values()}

estimator = opened(Path(sys.argv[1]), [TemplateSet.render(mesh, 32) for mesh in SCENE.meshes])
seconds = estimator.warmup()
assert list(seconds) == ["objects", "crop", "coarse", "refine", "outline", "select"], seconds
assert all(value > 0 for value in seconds.values()), seconds
before = compiled()
assert before["solve_ransaccoop_edge.pnp.ransac"] == before["solve_lmcoop_edge.pnp.lm"] == 1, before
results = estimator.estimate(SCENE.image, TINY, SCENE.detections())
assert any(r.success for r in estimator.track(SCENE.image, TINY, known()))
assert compiled() == before, set(compiled().items()) ^ set(before.items())
estimator.close()
"""


def test_after_warmup_nothing_is_compiled_any_more(folder):
    root = Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", WARM, str(folder)], cwd=root, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr


def test_warmup_without_objects(folder):
    with Estimator.from_engines(folder, device="cpu", threads=1) as estimator:
        assert sum(estimator.warmup().values()) > 0
        assert not estimator.objects
