"""The devices a CUDA backend is tested on. Use: ``from tests.kernels.devices import device  # noqa: F401``."""

from __future__ import annotations

import pytest

from coop_edge.kernels.device import Device
from tests.cuda_host.host_device import HostDevice


@pytest.fixture(scope="session", params=["host", pytest.param("cupy", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Device:
    """The kernels on the CPU (always), and on a GPU (tests marked ``gpu``: skipped where there is none)."""
    if request.param == "host":
        return HostDevice()
    from coop_edge.kernels.device import CupyDevice

    return CupyDevice()
