"""Runs a GPU benchmark: arguments, the device or the reason why there is none, times, the JSON file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.common import print_table, versions, write_json
from coop_edge.base.hardware import hardware
from coop_edge.errors import BackendUnavailable
from coop_edge.kernels.device import CupyDevice

Rows = Sequence[Sequence[Any]]


def run(
    name: str,
    doc: str | None,
    repeats: int,
    measure: Callable[[CupyDevice, int], dict[str, Any]],
    table: Callable[[dict[str, Any]], tuple[Rows, Sequence[str]]] | None = None,
    packages: Sequence[str] = (),
) -> int:
    """Parse the command line, measure, print the table, write the JSON file; return 0, or 2 without a GPU."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--repeats", type=int, default=repeats, help=f"timed calls (default {repeats})")
    arguments = parser.parse_args()
    try:
        device = CupyDevice()
    except BackendUnavailable as error:
        print(error, file=sys.stderr)
        return 2
    properties = device.xp.cuda.runtime.getDeviceProperties(device.id)
    gpu = f"{properties['name'].decode()} (SM {properties['major']}.{properties['minor']})"
    figures = measure(device, arguments.repeats)
    rows, columns = (table or figure_table)(figures)
    print_table(gpu, rows, columns=columns)
    if arguments.json:
        result = {"benchmark": f"gpu.{name}", **figures, "gpu": gpu, "hardware": hardware()}
        write_json(arguments.json, {**result, "versions": versions("numpy", "cupy-cuda12x", "cupy-cuda13x", *packages)})
    return 0


def figure_table(figures: dict[str, Any]) -> tuple[Rows, Sequence[str]]:
    """Return a row for each figure of each operation, and the names of the columns."""
    rows = [(operation, name, value) for operation, found in figures.items() for name, value in found.items()]
    return rows, ["operation", "figure", "value"]


def gpu_ms(cupy: Any, call: Callable[[], object], repeats: int) -> float:
    """Return the median time of ``call`` on the current stream, after three unmeasured ones."""
    times = []
    for repeat in range(repeats + 3):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        call()
        stop.record()
        stop.synchronize()
        if repeat >= 3:
            times.append(cupy.cuda.get_elapsed_time(start, stop))
    return float(np.median(times))


def graph_ms(cupy: Any, call: Callable[[], object], repeats: int) -> float:
    """Return the median time of ``call``, captured once and replayed."""
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        call()
        graph = stream.end_capture()
        return gpu_ms(cupy, lambda: graph.launch(stream), repeats)
