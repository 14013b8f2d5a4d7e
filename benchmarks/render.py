"""Measures the speed of the renderers: ``python -m benchmarks.render --json FILE``.

One process, one mesh (20,480 triangles, 1024 x 1024 texture), RGB + depth at 224 x 224 without supersampling. The same
view and the same outputs for every renderer; medians, since a shared machine's means belong to its neighbours.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks.common import print_table, time_ms, versions, write_json
from benchmarks.meshes import look_at_views, textured_sphere
from coop_edge.base.hardware import available_cores, hardware
from coop_edge.errors import BackendUnavailable
from coop_edge.mesh import Mesh
from coop_edge.render import CpuRenderer, Open3dRenderer

SIZE = 224
VIEWS = 42
DISTANCE = 0.16  # the sphere (radius 0.05 m) fills 61 % of the picture
K = np.array([[300.0, 0.0, 111.5], [0.0, 300.0, 111.5], [0.0, 0.0, 1.0]])


def cpu_figures(mesh: Mesh, repeats: int) -> dict[str, Any]:
    """Time one view on one thread, and 42 views on all cores (in total, not per view)."""
    T = look_at_views(VIEWS, DISTANCE)
    single, every = CpuRenderer(mesh, threads=1), CpuRenderer(mesh)
    one = time_ms(lambda: single.render(T[:1], K, SIZE), repeats=repeats, warmup=10)
    batch_one = time_ms(lambda: single.render(T, K, SIZE), repeats=max(3, repeats // 10), warmup=1)
    batch = time_ms(lambda: every.render(T, K, SIZE), repeats=max(3, repeats // 10), warmup=1)
    return {
        "ms": one["p50"],
        "ms_p90": one["p90"],
        "ms_min": one["min"],
        "threads": 1,
        "ms_batch42": batch["p50"],
        "threads_batch42": every.threads,
        "ms_batch42_one_thread": batch_one["p50"],
        "repeats": repeats,
    }


def open3d_figures(mesh: Mesh, repeats: int) -> dict[str, Any]:
    """Time the same view in Open3D, by ray casting on one thread and on all; null with the reason if it is missing."""
    try:
        renderers = {n: Open3dRenderer(mesh, supersample=1, threads=n) for n in sorted({1, available_cores()})}
    except BackendUnavailable as error:
        return {"ms": None, "reason": str(error)}
    T = look_at_views(1, DISTANCE)
    times = {
        n: time_ms(functools.partial(r.render, T, K, SIZE), repeats=repeats, warmup=3) for n, r in renderers.items()
    }
    best = min(times, key=lambda n: times[n]["p50"])
    return {
        "ms": times[best]["p50"],
        "ms_p90": times[best]["p90"],
        "ms_min": times[best]["min"],
        "threads": best,
        "ms_one_thread": times[1]["p50"],
        "supersample": 1,
        "repeats": repeats,
    }


def import_seconds(statement: str, repeats: int) -> float:
    """Return the median wall-clock seconds of ``python -c statement`` in fresh processes, from their start."""
    samples = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        samples.append(time.perf_counter() - start)
    return statistics.median(samples[1:])  # the first one fills the file cache


def measure(repeats: int) -> dict[str, Any]:
    """Measure all figures, as plain data."""
    mesh = textured_sphere(5)
    cpu = cpu_figures(mesh, repeats)
    open3d = open3d_figures(mesh, max(3, repeats // 4))
    return {
        "benchmark": "render",
        "scene": {
            "triangles": len(mesh.faces),
            "texture": list(mesh.textures[0].shape[:2]),
            "size": [SIZE, SIZE],
            "outputs": "rgb + depth + triangle ids",
            "supersample": 1,
        },
        "cpu": cpu,
        "open3d": open3d,
        "cpu_over_open3d": None if open3d["ms"] is None else cpu["ms"] / open3d["ms"],
        "import_s": import_seconds("import coop_edge", 9),
        "import_s_bare": import_seconds("pass", 9),
        "hardware": hardware(),
        "versions": versions("numpy", "numba", "open3d"),
    }


def rows(result: dict[str, Any]) -> list[tuple[object, ...]]:
    """Return the figures as lines of a table: what, value, unit, under which conditions."""
    cpu, open3d, batch = result["cpu"], result["open3d"], f"{result['cpu']['threads_batch42']} threads, in total"
    lines: list[tuple[object, ...]] = [
        ("cpu.ms", cpu["ms"], "ms", f"1 view, 1 thread (p90 {cpu['ms_p90']:.2f}, min {cpu['ms_min']:.2f})"),
        ("cpu.ms_batch42", cpu["ms_batch42"], "ms", f"{VIEWS} views, {batch}"),
        ("cpu.ms_batch42_one_thread", cpu["ms_batch42_one_thread"], "ms", f"{VIEWS} views, 1 thread, in total"),
    ]
    if open3d["ms"] is None:
        lines.append(("open3d.ms", None, "ms", open3d["reason"]))
    else:
        lines += [
            (
                "open3d.ms",
                open3d["ms"],
                "ms",
                f"1 view, supersample 1, {open3d['threads']} threads (its faster choice)",
            ),
            ("open3d.ms_one_thread", open3d["ms_one_thread"], "ms", "1 view, supersample 1, 1 thread"),
            ("cpu_over_open3d", result["cpu_over_open3d"], "", "cpu.ms / open3d.ms"),
        ]
    return [
        *lines,
        ("import_s", result["import_s"], "s", 'fresh `python -c "import coop_edge"`, interpreter included'),
        ("import_s_bare", result["import_s_bare"], "s", "the interpreter alone"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--repeats", type=int, default=200, help="timed calls of the fastest renderer (default 200)")
    arguments = parser.parse_args()
    result = measure(arguments.repeats)
    machine = result["hardware"]
    title = f"{result['scene']['triangles']:,} triangles at {SIZE} x {SIZE}; {machine['cpu']}, {machine['cores']} cores"
    print_table(title, rows(result), columns=["figure", "value", "unit", "conditions"])
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
