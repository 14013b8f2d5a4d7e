"""Speed of the CUDA renderer: ``python -m benchmarks.gpu.render [--json FILE]``.

Two loads: the 42 templates of one object (20,480 triangles, 1024 x 1024 texture, 224 x 224) and a training batch (4096
views of four meshes, 128 x 128). RGB, depth and triangle ids, without supersampling. Times are of the GPU (CUDA events
around a call, poses uploaded anew in each) and of the host (until all is done). The data rate counts what no rasteriser
with a 64-bit z-buffer can avoid: per pixel 16 bytes to fill and read it, and 11 of output.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from benchmarks.gpu.command import run
from benchmarks.meshes import colored_torus, grey_box, look_at_views, textured_sphere
from coop_edge.kernels.device import CupyDevice
from coop_edge.mesh import Mesh
from coop_edge.render.cuda import CudaRenderer

BYTES_PER_PIXEL = 16 + 11
DISTANCE = 0.16  # metres; the sphere (radius 0.05 m) fills 61 % of the picture


def loads() -> dict[str, tuple[list[Mesh], int, int]]:
    """Name -> meshes, views, side of the picture in pixels."""
    several = [textured_sphere(4), colored_torus(), grey_box(), textured_sphere(3, 0.04)]
    return {"templates": ([textured_sphere(5)], 42, 224), "training": (several, 4096, 128)}


def measure(device: CupyDevice, meshes: list[Mesh], views: int, size: int, repeats: int) -> dict[str, Any]:
    """Measure one load: medians over ``repeats`` calls, after three unmeasured ones."""
    cupy = device.xp
    K = np.array([[1.34 * size, 0.0, (size - 1) / 2], [0.0, 1.34 * size, (size - 1) / 2], [0.0, 0.0, 1.0]])
    T, index = look_at_views(views, DISTANCE), np.arange(views) % len(meshes)
    renderer = CudaRenderer(meshes, device=device)
    gpu_ms, host_ms = [], []
    for repeat in range(repeats + 3):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        cupy.cuda.get_current_stream().synchronize()
        began = time.perf_counter()
        start.record()
        result = renderer.render(T, K, size, mesh_index=index)
        stop.record()
        stop.synchronize()
        if repeat >= 3:
            host_ms.append((time.perf_counter() - began) * 1e3)
            gpu_ms.append(cupy.cuda.get_elapsed_time(start, stop))
    covered = float(result.mask.mean())
    ms = float(np.median(gpu_ms))
    triangles = sum(len(meshes[i].faces) for i in index)
    return {
        "views": views,
        "size": size,
        "triangles": triangles,
        "covered": covered,
        "ms": ms,
        "ms_host": float(np.median(host_ms)),
        "ms_per_view": ms / views,
        "views_per_s": views / ms * 1e3,
        "triangles_per_s": triangles / ms * 1e3,
        "gb_per_s": views * size**2 * BYTES_PER_PIXEL / ms * 1e-6,
        "repeats": repeats,
    }


def _table(figures: dict[str, Any]) -> tuple[list[tuple[Any, ...]], list[str]]:
    keys = ["views", "size", "triangles", "ms", "ms_host", "ms_per_view", "views_per_s", "triangles_per_s", "gb_per_s"]
    return [(name, *(f[k] for k in keys)) for name, f in figures.items()], ["load", *keys]


def main() -> int:
    def figures(device: CupyDevice, repeats: int) -> dict[str, Any]:
        return {name: measure(device, *load, repeats) for name, load in loads().items()}

    return run("render", __doc__, 30, figures, _table)


if __name__ == "__main__":
    sys.exit(main())
