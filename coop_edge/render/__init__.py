"""Renders meshes: one contract (``base``), three implementations, imported on first use with their own packages."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from coop_edge.render.base import NEAR, Renderer, RenderResult, Shading, object_points

_HOME = {"CpuRenderer": "cpu", "Open3dRenderer": "open3d", "CudaRenderer": "cuda"}

__all__ = [
    "NEAR",
    "CpuRenderer",
    "CudaRenderer",
    "Open3dRenderer",
    "RenderResult",
    "Renderer",
    "Shading",
    "object_points",
]

if TYPE_CHECKING:
    from coop_edge.render.cpu import CpuRenderer as CpuRenderer
    from coop_edge.render.cuda import CudaRenderer as CudaRenderer
    from coop_edge.render.open3d import Open3dRenderer as Open3dRenderer


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'coop_edge.render' has no attribute {name!r} (it offers: {', '.join(__all__)})")
    value = getattr(importlib.import_module(f"coop_edge.render.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
