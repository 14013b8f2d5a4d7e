"""Times ONNX Runtime beside PyTorch on the CPU: ``python -m benchmarks.runtime --json FILE [--bundle FOLDER]``.

Per role of a bundle and batch size, milliseconds of a run: the FP32 graph and the FP16 graph on ONNX Runtime, and the
same network in PyTorch, eager, float32 (``--compile``: by ``torch.compile`` too), all with the same number of threads.
They take turns, one run each, so that the machine's load meets all alike; ``ratio`` is the median over the turns of
ONNX Runtime's time over eager PyTorch's, below 1 where it is faster. FP16 is held against PyTorch's float32, which is
what a CPU offers instead: few CPUs multiply halves, ONNX Runtime then converts to float32 and back around every
product, and FP16 on a CPU is there to check GPU graphs with, not for speed.

Load time and memory come from fresh processes, one per runner: the growth of the resident set, at its peak, while all
roles are loaded and run once at batch 1 and 8, over what the process had after its imports.

Without ``--bundle`` the size ``--size`` is exported with fresh weights, in both precisions, to a temporary folder.
Speed does not depend on the values of weights, so a bundle's peer is its size with fresh weights too.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import print_table, versions, write_json
from benchmarks.runtime_memory import random_feed
from coop_edge.base.hardware import available_cores, hardware
from coop_edge.errors import InputError
from coop_edge.runtime.bundle import REQUIRED, Bundle
from coop_edge.runtime.onnx import OnnxRunner
from export.networks import CONFIGS, SIZES, build, preset
from export.onnx.bundle import export_bundle
from export.train.checkpoint import save_network
from export.train.provenance import Provenance
from export.verify.engines import Reference

BATCHES = (1, 8, 42)
SECONDS = 8.0
"""Measured per role and batch size, all runners together."""
TURNS = (5, 60)
"""Fewest and most turns of a cell."""
PAUSE = 0.003
"""Seconds between runs: a library's threads go on spinning for a moment after its run and would slow the next one."""

LABELS = {
    "onnxruntime_fp32": "ONNX fp32",
    "onnxruntime_fp16": "ONNX fp16",
    "pytorch": "PyTorch",
    "pytorch_compiled": "compiled",
}
"""Of the runners, in the tables."""

Run = Callable[[], object]


def write_checkpoints(folder: Path, size: str) -> list[Path]:
    """Write network files of a size with fresh weights, coarse and refiner."""
    torch.manual_seed(0)
    paths = []
    for role in CONFIGS:
        paths.append(folder / f"{role}.safetensors")
        save_network(paths[-1], build(preset(role, size)).eval(), Provenance())
    return paths


def take_turns(runs: Mapping[str, Run], seconds: float) -> dict[str, np.ndarray]:
    """Return the milliseconds [turns] of each run, by name; as many turns as fit into ``seconds``, within ``TURNS``."""
    for _ in range(2):  # allocations, and what compiles on the first call
        start = time.perf_counter()
        for run in runs.values():
            run()
        once = time.perf_counter() - start
    turns = int(np.clip(seconds / once, *TURNS))
    names = list(runs)
    times = {name: np.empty(turns) for name in names}
    for turn in range(turns):
        for name in names if turn % 2 == 0 else reversed(names):
            time.sleep(PAUSE)
            start = time.perf_counter()
            runs[name]()
            times[name][turn] = (time.perf_counter() - start) * 1e3
    return times


def cell(bundles: Mapping[str, Bundle], peer: Reference, role: str, batch: int, options: argparse.Namespace) -> Any:
    """Measure one role at one batch size."""
    feed = random_feed(next(iter(bundles.values())), role, batch)
    runs: dict[str, Run] = {}
    with ExitStack() as stack:
        for precision, bundle in bundles.items():
            runner = stack.enter_context(OnnxRunner(bundle.network(role), threads=options.threads))
            runs[f"onnxruntime_{precision}"] = functools.partial(runner.run, feed)
        call = peer.call(role)
        tensors = {name: torch.from_numpy(array) for name, array in feed.items()}
        stack.enter_context(torch.inference_mode())
        runs["pytorch"] = lambda: call(**tensors)
        if options.compile:
            compiled = torch.compile(call)
            runs["pytorch_compiled"] = lambda: compiled(**tensors)
        times = take_turns(runs, options.seconds)
    figures: dict[str, Any] = {"role": role, "batch": batch, "turns": len(times["pytorch"])}
    for name, ms in times.items():
        p50, p90 = np.percentile(ms, (50, 90))
        figures[name] = {"p50": float(p50), "p90": float(p90)}
        if name != "pytorch":
            figures[name]["ratio"] = float(np.median(ms / times["pytorch"]))
    return figures


def fresh_process(*arguments: str) -> dict[str, float]:
    """Run ``benchmarks.runtime_memory`` in a process of its own; return its figures."""
    command = [sys.executable, "-m", "benchmarks.runtime_memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def measure(bundles: Mapping[str, Bundle], checkpoints: list[Path], options: argparse.Namespace) -> dict[str, Any]:
    """Measure all figures, as plain data; ``bundles`` by precision."""
    torch.set_num_threads(options.threads)
    first = next(iter(bundles.values()))
    try:
        peer = Reference.of(first, checkpoints)
    except InputError as error:
        raise SystemExit(
            f"{error}\ngive the size that the bundle was exported from: --size {{{','.join(SIZES)}}}"
        ) from None
    processes = {
        f"onnxruntime_{precision}": fresh_process("onnxruntime", str(options.threads), str(bundle.folder))
        for precision, bundle in bundles.items()
    }
    files = [str(path) for path in checkpoints]
    processes["pytorch"] = fresh_process("pytorch", str(options.threads), str(first.folder), *files)
    return {
        "benchmark": "runtime",
        "bundle": first.name if options.bundle else f"{options.size}, fresh weights",
        "input_size": first.input_size,
        "threads": options.threads,
        "peer": "PyTorch eager, float32",
        "unit": "ms",
        "runs": [cell(bundles, peer, role, batch, options) for role in REQUIRED for batch in BATCHES],
        "processes": processes,
        "hardware": hardware(),
        "versions": versions("onnxruntime", "torch", "numpy"),
    }


def rows(result: dict[str, Any]) -> list[tuple[object, ...]]:
    """Return the runs as lines of a table."""
    names = [name for name in result["runs"][0] if isinstance(result["runs"][0][name], dict)]
    lines: list[tuple[object, ...]] = []
    for figures in result["runs"]:
        for name in names:
            one = figures[name]
            lines.append((figures["role"], figures["batch"], LABELS[name], one["p50"], one["p90"], one.get("ratio")))
    return lines


def slower(result: dict[str, Any]) -> list[str]:
    """Return the runs in which ONNX Runtime took longer than eager PyTorch."""
    return [
        f"{figures['role']}, batch {figures['batch']}, {LABELS[name]}: {figures[name]['ratio']:.2f}"
        for figures in result["runs"]
        for name in ("onnxruntime_fp32", "onnxruntime_fp16")
        if name in figures and figures[name]["ratio"] > 1
    ]


def process_rows(result: dict[str, Any]) -> list[tuple[object, ...]]:
    """Return load time and memory as lines of a table."""
    keys = ("load_ms", "loaded_mb", "peak_growth_mb", "import_mb")
    return [(LABELS[name], *(figures[key] for key in keys)) for name, figures in result["processes"].items()]


def bundles_of(options: argparse.Namespace, folder: Path, checkpoints: list[Path]) -> dict[str, Bundle]:
    """Return bundles by precision: the given one alone, or the checkpoints' in both, written into ``folder``."""
    if options.bundle:
        bundle = Bundle.load(options.bundle)
        return {bundle.network("refiner").precision: bundle}
    return {p: export_bundle(checkpoints, f"{options.size}-{p}", p, folder / p) for p in ("fp32", "fp16")}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--bundle", metavar="FOLDER", help="bundle, by folder or name (default: export --size)")
    parser.add_argument("--size", choices=SIZES, default="xs", help="size of the networks (default xs)")
    parser.add_argument("--threads", type=int, default=available_cores(), help="of every runner (default: all cores)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="per role and batch size (default %(default)s)")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well (takes minutes)")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.threads < 1:
        raise SystemExit(f"--threads: wanted at least 1, got {options.threads}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints = write_checkpoints(folder, options.size)
        result = measure(bundles_of(options, folder, checkpoints), checkpoints, options)
    machine = result["hardware"]
    title = f"{result['bundle']}: ms a run, {options.threads} threads; {machine['cpu']}, {machine['cores']} cores"
    print_table(title, rows(result), columns=["role", "batch", "runner", "p50", "p90", "ratio"])
    columns = ["runner", "load, ms", "MiB loaded", "MiB at the peak", "MiB of the imports"]
    print_table("In processes of their own, all roles, batches 1 and 8", process_rows(result), columns=columns)
    print("slower than PyTorch:", "; ".join(slower(result)) or "none")
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
