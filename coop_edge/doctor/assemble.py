"""Runs all probes, and makes the report of what they found."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import coop_edge
from coop_edge.doctor import libraries, machine
from coop_edge.doctor.checks import rows
from coop_edge.doctor.findings import Findings
from coop_edge.doctor.isolate import Outcome, here, in_child
from coop_edge.doctor.report import Report

PACKAGES = ("numpy", "opencv", "trimesh", "numba", "cupy", "onnxruntime", "open3d")
"""Probes of ``libraries`` that are not run if their package is not installed."""


def examine(*, deep: bool = False) -> Report:
    """Look at this machine: about three seconds on a desktop. Never raises because of what it finds.

    Args:
        deep: also import Open3D and load every network of every bundle (seconds each).
    """
    return report(probe(deep=deep))


def probe(*, deep: bool = False) -> dict[str, Outcome]:
    """Run all probes, those of libraries, driver and bundles in child processes, a few at a time."""
    cupy_cache = Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")
    outcomes = {
        "python": here(machine.python),
        "system": here(machine.system),
        "distributions": here(libraries.distributions),
        "cupy_storage": here(lambda: machine.storage(cupy_cache)),
        "system_tensorrt": here(libraries.system_tensorrt),
    }
    places = {"gpu": "machine:gpu", "tensorrt": "libraries:tensorrt"}
    places["bundles"] = "networks:bundles_loaded" if deep else "networks:bundles"
    for name in PACKAGES:
        if not _installed("cv2" if name == "opencv" else name) or (name == "open3d" and not deep):
            outcomes[name] = Outcome()
        else:
            places[name] = f"libraries:{name}"
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        found = pool.map(in_child, [f"coop_edge.doctor.{place}" for place in places.values()])
        outcomes |= dict(zip(places, found, strict=True))
    return outcomes


def report(outcomes: Mapping[str, Outcome]) -> Report:
    """Make the report of what the probes found; looks at nothing itself."""
    findings = Findings(outcomes)
    return Report(coop_edge.__version__, rows(findings), findings.installer)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # imported already, by other means than a finder's
        return True
