"""Objects shared by the tests: rendering their templates takes a moment."""

from __future__ import annotations

import pytest

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
