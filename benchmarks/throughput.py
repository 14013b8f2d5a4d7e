"""Times many images, on a pool of processes and on Ray: ``python -m benchmarks.throughput --json FILE``.

The demo's picture with its three boxes, over and over: images per second with 1 and 2 workers, on the processes of
``coop-edge annotate`` and on those of ``--ray local``. What a run pays once (starting workers, loading networks,
rendering templates; for Ray also its own start) stands apart: ``start_s`` is the time of the first line, and speed is
taken from the eighth line, by which both workers have had their first block, to the last. All take turns for
``--rounds`` rounds, and the round with the most images a second counts: on a shared machine others only make it slower.
``load`` says how many processes wanted the cores meanwhile, these included. The lines of all runs are compared: they
are the same, byte for byte, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2

from benchmarks.common import command, print_table, versions, write_json
from coop_edge.annotate.items import Item
from coop_edge.annotate.local import run_local
from coop_edge.annotate.on_ray import run_on_ray
from coop_edge.annotate.worker import Setup
from coop_edge.base.hardware import hardware
from coop_edge.demo import load_scene

WORKERS = (1, 2)
SKIPPED = 8
"""Lines before which no speed is taken; Ray's come in blocks of four."""


def demo_run(folder: Path, images: int, engines: str, effort: str) -> tuple[list[Item], Setup]:
    """Return a run over the demo's picture, written once for each of ``images`` images, and what its workers hold."""
    scene, items = load_scene(), []
    boxes = [{"object": each.object, "bbox": list(each.bbox or ())} for each in scene.detections]
    camera = {"K": scene.camera.K.tolist(), "distortion": None, "fisheye": False}
    for i in range(images):
        path = folder / f"{i:06d}.png"
        cv2.imwrite(str(path), scene.image[..., ::-1])
        items.append(Item(i, 0, i, path.name, str(path), None, camera, boxes))
    objects = tuple((name, str(mesh), unit, None) for name, (mesh, unit) in scene.meshes.items())
    return items, Setup(engines, "cpu", (f"effort={effort}",), objects)


def timed(lines: Iterator[str]) -> tuple[list[str], dict[str, float]]:
    """Run to the end: the lines, seconds until the first, and images a second after the ``SKIPPED`` first."""
    start = time.perf_counter()
    found, times = [], []
    for line in lines:
        times.append(time.perf_counter())
        found.append(line)
    speed = (len(found) - SKIPPED) / max(times[-1] - times[SKIPPED - 1], 1e-9)
    return found, {"start_s": times[0] - start, "images_per_second": speed}


def measure(items: list[Item], setup: Setup, rounds: int) -> dict[str, Any]:
    """Return the best round of each runner and number of workers, and the bytes that an image takes."""
    runs: dict[str, Callable[[], Iterator[str]]] = {}
    for count in WORKERS:
        runs[f"pool_{count}"] = lambda count=count: run_local(items, setup, count)  # type: ignore[misc]
        runs[f"ray_{count}"] = lambda count=count: run_on_ray(items, setup, count, None)  # type: ignore[misc]
    best: dict[str, dict[str, float]] = {}
    lines: list[str] = []
    for _ in range(rounds):
        for name, run in runs.items():
            found, cell = timed(run())
            if lines and found != lines:
                raise AssertionError(f"{name}: its lines are not those of the runs before")
            lines = found
            if name not in best or cell["images_per_second"] > best[name]["images_per_second"]:
                best[name] = cell
    ratios = {
        f"ray_over_pool_{n}": best[f"ray_{n}"]["images_per_second"] / best[f"pool_{n}"]["images_per_second"]
        for n in WORKERS
    }
    speeds = {f"{kind}_2_over_1": best[f"{kind}_2"]["images_per_second"] / best[f"{kind}_1"]["images_per_second"]
              for kind in ("pool", "ray")}  # fmt: skip
    sizes = {
        "item": max(len(item.plain().encode()) for item in items),
        "line": max(len(line.encode()) for line in lines),
        "image": max(Path(item.path).stat().st_size for item in items),
    }
    return {"runs": best, "ratios": ratios | speeds, "bytes": sizes}


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, print its table and write its file; returns 0, or 2 with one line on standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24, help="images of a run")
    parser.add_argument("--rounds", type=int, default=2, help="times that every run is repeated")
    parser.add_argument("--engines", default="coop-xs", help="name or folder of a bundle")
    parser.add_argument("--effort", default="fast", help="fast, balanced or best")
    parser.add_argument("--json", help="file to write")
    given = parser.parse_args(arguments)
    if given.images < 2 * SKIPPED or given.rounds < 1:
        parser.error(f"wanted at least {2 * SKIPPED} images and 1 round")
    with tempfile.TemporaryDirectory() as folder:
        items, setup = demo_run(Path(folder), given.images, given.engines, given.effort)
        result = measure(items, setup, given.rounds)
    report = {
        "what": {"images": given.images, "objects": 3, "engines": given.engines, "effort": given.effort,
                 "rounds": given.rounds, "threads_per_worker": 1},
        **result,
        "load": os.getloadavg()[0],
        "hardware": hardware(),
        "versions": versions("coop-edge", "numpy", "onnxruntime", "ray", "pyarrow"),
    }  # fmt: skip
    rows = [(name, cell["images_per_second"], cell["start_s"]) for name, cell in result["runs"].items()]
    print_table("many images", rows, ("run", "images/s", "start, s"))
    print_table("ratios", list(result["ratios"].items()), ("ratio", ""))
    print_table("bytes", list(result["bytes"].items()), ("of", "bytes"))
    if given.json:
        write_json(given.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
