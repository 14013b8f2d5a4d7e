"""Measures the speed of the operations' CUDA kernels: ``python -m benchmarks.gpu.stages [--json FILE]``.

Crops of a 1280 x 960 image for 5 hypotheses at 128 x 128, for 64 at 224 x 224, and with 5 x 5 samples per pixel; object
points of 196 matches each with 5 templates for 1 and for 64 detections. Each is compared with the CPU's result before
it is timed: crops to one grey level, points to the last bit. "ms" is of the kernel, replayed as a CUDA graph, "call_ms"
of the whole call with its small uploads. The data rate counts each byte once that must be read or written: of the image
the crops' share at most, of the maps what is read. Exits 2 without a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.common import time_ms
from benchmarks.gpu.command import gpu_ms, graph_ms, run
from benchmarks.meshes import smooth_texture
from coop_edge.geometry.crop import crop_camera
from coop_edge.kernels.device import CupyDevice
from coop_edge.ops.base import Decoded
from coop_edge.ops.cpu import CpuOperations
from coop_edge.ops.cuda import CudaOperations
from coop_edge.ops.sampling import samples_per_side

K = np.array([[1200.0, 0.0, 639.5], [0.0, 1200.0, 479.5], [0.0, 0.0, 1.0]])
VIEWS, PATCH, SIZE = 42, 16, 224
CROPS = {"5 crops, 128": (5, 128, 120.0), "64 crops, 224": (64, 224, 200.0), "5 crops, m = 5": (5, 128, 530.0)}
LIFTS = {"1 detection": 1, "64 detections": 64}


def picture() -> np.ndarray:
    """Draw a picture, uint8 [960,1280,3]."""
    return np.ascontiguousarray(smooth_texture(1280, seed=0)[:960])


def homographies(n: int, size: int, side: float) -> np.ndarray:
    """Return homographies of n boxes, ``side`` pixels wide, all over the image: float64 [n,3,3]."""
    rng = np.random.default_rng(0)
    corner = rng.uniform((0.0, 0.0), (1280.0 - side, 960.0 - side), (n, 2))
    return crop_camera(K, np.concatenate([corner, np.full((n, 2), side)], axis=1), size, 1.2).H


def matches(n: int) -> tuple[Decoded, np.ndarray, list[np.ndarray]]:
    """Make, on the host, a decoder's matches of n detections of two objects, five templates of each, and its maps."""
    rng, count = np.random.default_rng(1), (SIZE // PATCH) ** 2
    shape = n, VIEWS, count
    decoded = Decoded(
        rng.random(shape, np.float32),
        rng.integers(0, count, shape, dtype=np.int32),
        rng.uniform(-0.5, 0.5, (*shape, 2)).astype(np.float32),
    )
    maps = rng.random((2, VIEWS, SIZE, SIZE, 3), np.float32)
    maps[:, :, : SIZE // 4] = np.nan
    return decoded, rng.integers(0, VIEWS, (n, 5)), [maps[i % 2] for i in range(n)]


class Recorded:
    """A device that keeps its last launch, so that the kernel alone can be launched again."""

    def __init__(self, device: CupyDevice) -> None:
        self.device, self.xp, self.id = device, device.xp, device.id
        self.launch: Callable[[], None] = lambda: None

    def kernel(self, source: str, name: str) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            self.launch = lambda: self.device.kernel(source, name)(*arguments)
            self.launch()

        return call

    def pack(self, structure: tuple[Any, ...]) -> Any:
        return self.device.pack(structure)

    def to_numpy(self, array: Any) -> np.ndarray:
        return self.device.to_numpy(array)


def measure_warp(device: CupyDevice, load: tuple[int, int, float], repeats: int) -> dict[str, float]:
    n, size, side = load
    image, H, recorded = picture(), homographies(n, size, side), Recorded(device)
    cpu, cuda, there = CpuOperations(), CudaOperations(recorded), device.xp.asarray(image)
    apart = 255.0 * np.abs(device.to_numpy(cuda.warp(there, H, size)) - cpu.warp(image, H, size))
    if apart.max() > 1.001:
        raise RuntimeError(f"{n} crops of {size}: {apart.max():.2f} grey levels from the CPU's, wanted at most 1")
    ms = graph_ms(device.xp, recorded.launch, repeats)
    read = min(image.nbytes, n * 3 * (1.2 * side) ** 2)
    return {
        "samples_per_side": float(samples_per_side(H, size).max()),
        "levels_apart": float(apart.max()),
        "ms": ms,
        "call_ms": gpu_ms(device.xp, lambda: cuda.warp(there, H, size), repeats),
        "cpu_ms": time_ms(lambda: cpu.warp(image, H, size), repeats=10)["p50"],
        "gb_per_s": (read + 12.0 * n * size**2) / ms * 1e-6,
    }


def measure_lift(device: CupyDevice, n: int, repeats: int) -> dict[str, float]:
    decoded, chosen, maps = matches(n)
    recorded, put = Recorded(device), device.xp.asarray
    cpu, cuda = CpuOperations(), CudaOperations(recorded)
    there = Decoded(*map(put, decoded))
    moved = [put(points) for points in maps[:2]]
    moved = [moved[i % 2] for i in range(n)]

    def call() -> tuple[Any, Any, Any]:
        return cuda.lift(there, chosen, moved, PATCH, 0.2)

    wanted = cpu.lift(decoded, chosen, maps, PATCH, 0.2)
    for found, right in zip(call(), wanted, strict=True):
        np.testing.assert_array_equal(device.to_numpy(found), right)
    ms = graph_ms(device.xp, recorded.launch, repeats)
    return {
        "valid": float(wanted[1].mean()),
        "ms": ms,
        "call_ms": gpu_ms(device.xp, call, repeats),
        "cpu_ms": time_ms(lambda: cpu.lift(decoded, chosen, maps, PATCH, 0.2), repeats=10)["p50"],
        "gb_per_s": wanted[1].size * (16.0 + 12.0 + 17.0) / ms * 1e-6,
    }


def main() -> int:
    def figures(device: CupyDevice, repeats: int) -> dict[str, Any]:
        crops = {name: measure_warp(device, load, repeats) for name, load in CROPS.items()}
        return crops | {name: measure_lift(device, n, repeats) for name, n in LIFTS.items()}

    return run("stages", __doc__, 50, figures)


if __name__ == "__main__":
    sys.exit(main())
