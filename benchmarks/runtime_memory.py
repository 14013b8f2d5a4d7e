"""Measures one runner in a process of its own, for ``benchmarks.runtime``: load time, memory. Prints one JSON object.

    python -m benchmarks.runtime_memory onnxruntime THREADS BUNDLE
    python -m benchmarks.runtime_memory pytorch THREADS BUNDLE CHECKPOINT...

Only the runner's own libraries are imported, so that ``import_mb`` is what a program pays for them.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from coop_edge.runtime.bundle import REQUIRED, Bundle

BATCHES = (1, 8)
Run = Callable[[dict[str, np.ndarray]], Any]


def resident_mb() -> float:
    """Return the resident set of this process now, MiB; NaN where the system does not say."""
    return _status("VmRSS")


def peak_mb() -> float:
    """Return the largest resident set since ``reset_peak``, MiB; since the process started where it cannot be reset."""
    peak = _status("VmHWM")
    if np.isnan(peak):
        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / (1 << 20)
    return peak


def reset_peak() -> None:
    """Let the peak start again from what is resident now (Linux)."""
    with contextlib.suppress(OSError):  # elsewhere the peak includes the imports'
        Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:")), float("nan"))


def load_onnxruntime(bundle: Bundle, threads: int, stack: ExitStack) -> dict[str, Run]:
    """Open runners of all roles that PyTorch has too."""
    from coop_edge.runtime.onnx import OnnxRunner

    runners = {role: OnnxRunner(bundle.network(role), threads=threads) for role in REQUIRED}
    return {role: stack.enter_context(runner).run for role, runner in runners.items()}


def load_pytorch(bundle: Bundle, checkpoints: list[str], threads: int, stack: ExitStack) -> dict[str, Run]:
    """Load the networks of all roles."""
    import torch

    from export.verify.engines import Reference

    torch.set_num_threads(threads)
    reference = Reference.of(bundle, checkpoints)
    stack.enter_context(torch.inference_mode())

    def run_of(role: str) -> Run:
        call = reference.call(role)
        return lambda feed: call(**{name: torch.from_numpy(array) for name, array in feed.items()})

    return {role: run_of(role) for role in REQUIRED}


def random_feed(bundle: Bundle, role: str, batch: int) -> dict[str, np.ndarray]:
    """Draw inputs of a role, N = ``batch``, uniform in [0, 1); always the same."""
    rng = np.random.default_rng(0)
    return {spec.name: rng.random(spec.sized(batch), dtype=np.float32) for spec in bundle.network(role).inputs}


def main() -> None:
    kind, threads, folder, *checkpoints = sys.argv[1:]
    before = resident_mb()
    if kind == "onnxruntime":
        import coop_edge.runtime.onnx  # noqa: F401
        from coop_edge.runtime.onnx_session import import_onnxruntime

        import_onnxruntime()  # not part of the load time
    else:
        import torch  # noqa: F401

        import export.verify.engines  # noqa: F401
    imported = resident_mb()
    bundle = Bundle.load(folder, check_hashes=False)
    reset_peak()
    with ExitStack() as stack:
        start = time.perf_counter()
        if kind == "onnxruntime":
            runs = load_onnxruntime(bundle, int(threads), stack)
        else:
            runs = load_pytorch(bundle, checkpoints, int(threads), stack)
        load_ms = (time.perf_counter() - start) * 1e3
        loaded = resident_mb()
        for role, run in runs.items():
            for batch in BATCHES:
                run(random_feed(bundle, role, batch))
        peak = peak_mb()
    figures = {"load_ms": load_ms, "import_mb": imported - before, "loaded_mb": loaded - imported}
    print(json.dumps({**figures, "peak_growth_mb": peak - imported}))


if __name__ == "__main__":
    main()
