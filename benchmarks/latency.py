"""Measures how long ``Estimator`` calls take: ``python -m benchmarks.latency --device cpu|cuda --engines NAME``.

On the scene of the demo (640 x 480): a process' first call, then percentiles per stage and in all for one object and
for eight with each effort, and for tracking; the share of the networks, and the peak memory.
Every refinement does all its iterations. "networks" is the floor: what is left if everything else were free.
With --find N finding N objects in the whole image is timed too, at the first effort.
With --depth every case is also timed with a depth image, call by call in turn.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.common import command, print_table, versions, write_json
from coop_edge.base.hardware import hardware
from coop_edge.cli.bench import table
from coop_edge.cli.latency import measure
from coop_edge.config import EFFORTS
from coop_edge.demo import DemoScene, load_scene
from coop_edge.mesh import Mesh
from coop_edge.render import CpuRenderer


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", default="coop-xs", metavar="NAME", help="name or folder of a bundle")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0 = all cores")
    parser.add_argument("--repeats", type=int, default=100, help="calls timed per case (default 100)")
    parser.add_argument("--seconds", type=float, default=120.0, help="stop repeating a case after this time")
    parser.add_argument(
        "--effort", action="append", choices=tuple(EFFORTS), help="may be given several times (default all of them)"
    )
    parser.add_argument("--iterations", type=int, help="refine.iterations: renders per hypothesis")
    parser.add_argument("--track-iterations", type=int, help="refine.track_iterations: renders per tracked object")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any option of EstimatorConfig; repeatable"
    )
    parser.add_argument("--depth", action="store_true", help="time every case with a depth image as well")
    parser.add_argument(
        "--find", action="append", type=int, default=[], metavar="N", help="time finding N objects too; repeatable"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    return parser.parse_args(arguments)


def scene_depth(scene: DemoScene) -> NDArray[np.float32]:
    """Return what a perfect sensor would measure of the demo's objects, metres, before a wall behind the farthest."""
    width, height = scene.camera.size
    names = list(scene.meshes)
    renderer = CpuRenderer([Mesh.load(path, unit=unit) for path, unit in scene.meshes.values()], threads=1)
    T = np.stack([scene.truth[name] for name in names])
    seen = renderer.render(T, scene.camera.K, (height, width), mesh_index=np.arange(len(names))).depth
    nearest = np.where(seen > 0, seen, np.inf).min(axis=0)
    wall = 1.5 * T[:, 2, 3].max()
    return np.where(np.isfinite(nearest), nearest, wall).astype(np.float32)


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns 0, or 2 with one line on standard error."""
    options = parse(arguments)
    flags = {"refine.iterations": options.iterations, "refine.track_iterations": options.track_iterations}
    given = [f"{name}={value}" for name, value in flags.items() if value is not None]
    result = measure(
        options.engines,
        device=options.device,
        threads=options.threads,
        repeats=options.repeats,
        seconds=options.seconds,
        efforts=options.effort or tuple(EFFORTS),
        settings=[*given, *options.set],
        depth=scene_depth(load_scene()) if options.depth else None,
        find=options.find,
    )
    machine = hardware()
    Console().print(table(result))
    if options.depth:
        with_depth = {name: case["depth"] for name, case in result["cases"].items()}
        rows = [(name, f"{d['ms']['p50']:.1f}", f"{d['ratio']:.3f}") for name, d in with_depth.items()]
        print_table("With depth", rows, ("case", "ms (p50)", "ratio to without"))
    rows = [*result["cold"].items(), *result["memory"].items()]
    print_table(f"{machine['cpu']}, {machine['cores']} cores; {result['engines']} on {result['backend']['name']}", rows)
    if options.json:
        used = versions("numpy", "numba", "onnxruntime", "onnxruntime-gpu", "cupy-cuda12x", "cupy-cuda13x", "tensorrt")
        write_json(options.json, {"benchmark": "latency", **result, "hardware": machine, "versions": used})
    return 0


if __name__ == "__main__":
    sys.exit(main())
