"""What the tests of the Estimator on a GPU share: the CuPy stand-in or a GPU, a scene, and what the CPU says of it.

Use: ``from tests.estimators_gpu import cupy, gpu, on_cpu, table  # noqa: F401``.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from coop_edge.geometry import se3
from tests.estimators import AS_REFINED, SMALL, knowing
from tests.runtime.fake_cuda import FakeCupy, FakeOnnxRuntime
from tests.stages.scene import Placed, Scene, at, colored_box


@pytest.fixture
def cupy(monkeypatch) -> FakeCupy:
    """The stand-ins for CuPy and for ONNX Runtime's CUDA provider."""
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOnnxRuntime(fake.journal))
    return fake


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def gpu(request) -> object:
    """CuPy: the stand-in, and the real one on a GPU."""
    if request.param == "stand-in":
        return request.getfixturevalue("cupy")
    import cupy

    return cupy


@pytest.fixture(scope="module")
def table():
    """A cube and two bars, the second bar before the cube."""
    cube = colored_box((0.1, 0.1, 0.1), name="cube")
    bar = colored_box((0.16, 0.06, 0.05), name="bar", centre=(0.01, 0.02, -0.03), seed=1)
    placed = (
        Placed(0, at(-0.1, 0.03, 0.7, (0.5, 0.7, -0.3))),
        Placed(1, at(0.15, -0.1, 0.8, (2.0, -0.4, 0.9), bar.centre)),
        Placed(1, at(-0.06, 0.06, 0.55, (0.0, 0.0, 0.7), bar.centre)),
    )
    return Scene((cube, bar), placed, SMALL)


@pytest.fixture(scope="module")
def on_cpu(table, tmp_path_factory):
    """What the CPU says of the table: estimated, then tracked.

    As refined: a last bit of a render or a grey level of a crop moves the lines across an outline, and a pose with them
    by more than the two backends differ otherwise. The outline itself is worked out on the host, whatever the backend.
    """
    with knowing(tmp_path_factory.mktemp("cpu"), table, config=AS_REFINED) as (estimator, _):
        return both(estimator, table)


def both(estimator, scene, image=None):
    image = scene.image if image is None else image
    results = estimator.estimate(image, scene.camera, scene.detections())
    return [*results, *estimator.track(image, scene.camera, results)]


def assert_same(found, wanted, *, radians: float, metres: float, score: float) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.object, ours.success, ours.reason) == (theirs.object, theirs.success, theirs.reason)
        # Cells at the edge of what covers an object change sides where a render's last bits do; the score counts shares
        # of cells, and a cell is a larger share of the inliers than of all.
        edge = abs(ours.n_inliers - theirs.n_inliers) / max(theirs.n_inliers, 1)
        assert abs(ours.score - theirs.score) <= score + edge * theirs.score
        if ours.success:
            T, T_wanted = ours.T_camera_object, theirs.T_camera_object
            assert se3.rotation_angle(T[:3, :3], T_wanted[:3, :3]) <= radians
            np.testing.assert_allclose(T[:3, 3], T_wanted[:3, 3], atol=metres)
            assert ours.n_inliers == pytest.approx(theirs.n_inliers, abs=2)
