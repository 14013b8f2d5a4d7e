"""The benchmark of the stages' kernels: why it cannot run, what its loads are, and on a GPU, that it runs."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gpu import stages
from coop_edge.errors import BackendUnavailable
from coop_edge.ops.cpu import CpuOperations
from coop_edge.ops.sampling import samples_per_side
from tests.cuda_host.host_device import HostDevice


def test_without_a_gpu_it_exits_with_2_and_the_reason(monkeypatch, capsys):
    def unavailable():
        raise BackendUnavailable("no GPU in this test")

    monkeypatch.setattr("benchmarks.gpu.command.CupyDevice", unavailable)
    monkeypatch.setattr("sys.argv", ["stages"])
    assert stages.main() == 2
    assert "no GPU in this test" in capsys.readouterr().err


def test_the_loads_are_what_the_table_says():
    for name, (n, size, side) in stages.CROPS.items():
        H = stages.homographies(n, size, side)
        assert H.shape == (n, 3, 3)
        assert not name.endswith("m = 5") or np.abs(samples_per_side(H, size) - 5).max() == 0
    assert stages.picture().shape == (960, 1280, 3)
    _, valid, _ = CpuOperations().lift(*stages.matches(1), stages.PATCH, 0.2)
    assert valid.shape == (1, 5, (stages.SIZE // stages.PATCH) ** 2)
    assert 0.3 < valid.mean() < 0.9


@pytest.mark.parametrize("measure", [stages.measure_warp, stages.measure_lift])
def test_it_compares_with_the_cpu_before_it_times(measure, monkeypatch):
    """On the host shim, up to the first time; then with a kernel that is wrong."""

    def timed(*_):
        raise TimeoutError("would be timed now")

    monkeypatch.setattr(stages, "graph_ms", timed)
    load = (1, 32, 90.0) if measure is stages.measure_warp else 1
    device = HostDevice(sanitize=False, guard=False)
    with pytest.raises(TimeoutError):
        measure(device, load, 1)
    monkeypatch.setattr(device, "to_numpy", lambda array: np.asarray(array) + np.ones(1, array.dtype))
    with pytest.raises((RuntimeError, AssertionError)):
        measure(device, load, 1)


@pytest.mark.gpu
def test_it_runs():
    from coop_edge.kernels.device import CupyDevice

    device = CupyDevice()
    figures = stages.measure_warp(device, (2, 64, 100.0), 3)
    assert figures["ms"] > 0
    assert figures["levels_apart"] <= 1.001
    assert stages.measure_lift(device, 2, 3)["ms"] > 0
