"""What the tests of the CUDA renderer share. They run on the host stand-in, and on a GPU where there is one."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from coop_edge.kernels.device import Device
from coop_edge.render.base import RenderResult
from coop_edge.render.cuda import CudaRenderer


def on_host(device: Device, result: RenderResult) -> RenderResult:
    """The same result with NumPy arrays."""
    arrays = {
        f.name: device.to_numpy(getattr(result, f.name))
        for f in fields(result)
        if f.name not in ("T_camera_object", "K", "xp")
    }
    return replace(result, **arrays, xp=np)


def render(device: Device, meshes, T, K, size, *, mesh_index=None, **options) -> RenderResult:
    """One render by a new CudaRenderer, on the host."""
    return on_host(device, CudaRenderer(meshes, device=device, **options).render(T, K, size, mesh_index=mesh_index))


def assert_same(a: RenderResult, b: RenderResult) -> None:
    """Bit by bit."""
    for name in ("rgb", "depth", "triangle_id"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
