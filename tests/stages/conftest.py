"""Objects shared by the tests: rendering their templates takes a moment."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from coop_edge.mesh import Mesh
from coop_edge.render import CpuRenderer
from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.onnx import OnnxRunner
from coop_edge.stages.features import FeatureExtractor
from coop_edge.stages.views import Views
from tests.stages.chain import OPS, templates_of
from tests.stages.scene import Placed, Scene, at, colored_box


@pytest.fixture(scope="session")
def cube():
    return colored_box((0.1, 0.1, 0.1), name="cube")


@pytest.fixture(scope="session")
def bar():
    """Off-centre in its own frame."""
    return colored_box((0.16, 0.06, 0.05), name="bar", centre=(0.01, 0.02, -0.03), seed=1)


@pytest.fixture(scope="session")
def two(cube, bar):
    """A cube and a bar side by side."""
    return Scene(
        (cube, bar),
        (
            Placed(0, at(-0.08, 0.02, 0.6, (0.5, 0.7, -0.3))),
            Placed(1, at(0.12, -0.05, 0.8, (2.0, -0.4, 0.9), bar.centre)),
        ),
    )


@pytest.fixture(scope="session")
def frozen() -> Iterator[FeatureExtractor]:
    """The features of the engines that ship, on the CPU."""
    bundle = Bundle.load(Path(__file__).parents[2] / "engines" / "coop-xs", check_hashes=False)
    with OnnxRunner(bundle.network("features"), threads=1) as runner:
        yield FeatureExtractor(OPS, runner, 42)


@pytest.fixture(scope="session")
def far() -> Mesh:
    """A bar that lies far from the origin of its frame."""
    return colored_box((0.16, 0.06, 0.05), name="far", centre=(0.2, -0.1, 0.3), seed=2)


@pytest.fixture(scope="session")
def views(far, frozen) -> Views:
    """Of ``far``, its 42 views in crops of 128 pixels."""
    renderer = partial(CpuRenderer, threads=1)
    return Views.describe(far, templates_of(far).T_camera_object, 128, renderer=renderer, features=frozen)
