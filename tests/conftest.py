"""Test lanes: what a machine lacks is skipped and said, unless it was required."""

from __future__ import annotations

import importlib.util
import os

import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before any test imports ONNX Runtime, as the package does


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-gpu", action="store_true", help="a missing GPU or CuPy fails the gpu tests")
    parser.addoption("--require-open3d", action="store_true", help="a missing Open3D fails the open3d tests")


def _gpu_missing() -> str | None:
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
        cupy.zeros(1)
    except Exception as error:
        return f"no usable GPU: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return None


def _open3d_missing() -> str | None:
    if importlib.util.find_spec("open3d") is None:
        return "open3d is not installed"
    try:
        import open3d  # noqa: F401
    except Exception as error:
        return f"open3d does not import: {error}"
    return None


_PROBES = {"gpu": (_gpu_missing, "--require-gpu"), "open3d": (_open3d_missing, "--require-open3d")}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for marker, (probe, option) in _PROBES.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not config.getoption(option) and (why := probe()):
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(autouse=True)
def _required_lane(request: pytest.FixtureRequest) -> None:
    for marker, (probe, option) in _PROBES.items():
        if request.node.get_closest_marker(marker) and request.config.getoption(option) and (why := probe()):
            pytest.fail(f"{option} was given, but {why}")
