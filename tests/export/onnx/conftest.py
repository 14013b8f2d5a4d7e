"""Makes the checkpoints that bundles are exported from."""

from __future__ import annotations

import pytest

from tests.export.onnx.checkpoints import save


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A folder with a coarse network and a refiner."""
    return save(tmp_path_factory.mktemp("checkpoints"), "coarse", "refiner")
