"""Runs all probes and puts the report together."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import coop_edge
from coop_edge.doctor import libraries, machine
from coop_edge.doctor.advice import Advice, pip
from coop_edge.doctor.isolate import Outcome, here, in_child
from coop_edge.doctor.judge import facts_of, machine_rows, package_rows
from coop_edge.doctor.judge_cuda import cuda_rows
from coop_edge.doctor.judge_networks import network_rows
from coop_edge.doctor.report import Report, Row
from coop_edge.doctor.verdict import blocked_by, next_steps

PLACES = {name: f"coop_edge.doctor.libraries:{name}" for name in libraries.IN_CHILD} | {
    "gpu": "coop_edge.doctor.machine:gpu",
    "bundles": "coop_edge.doctor.networks:bundles",
}
"""Probes that run in a child process."""
DEEP = {
    "open3d": "coop_edge.doctor.libraries:open3d",
    "bundles": "coop_edge.doctor.networks:bundles_deep",
}
"""What ``deep`` adds or replaces."""
_TOOLKITS = ("/usr/local/cuda", "/opt/cuda")


def examine(*, deep: bool = False) -> Report:
    """Look at this machine: about three seconds on a desktop. Never raises because of what it finds.

    deep: also import Open3D and load every network of every bundle (seconds each).
    """
    return report(probe(deep=deep))


def probe(*, deep: bool = False) -> dict[str, Outcome]:
    """Run all probes, those in child processes a few at a time."""
    outcomes = {
        "python": here(machine.python),
        "system": here(machine.system),
        "distributions": here(libraries.distributions),
        "cupy_storage": here(lambda: machine.storage(_cupy_cache())),
        "system_tensorrt": here(libraries.system_tensorrt),
    }
    places = {**PLACES, **(DEEP if deep else {})}
    outcomes |= {name: Outcome() for name in places if not _installed(name)}  # not here: nothing to look at
    places = {name: place for name, place in places.items() if name not in outcomes}
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        outcomes |= dict(zip(places, pool.map(in_child, places.values()), strict=True))
    folder = facts_of(outcomes, "numba").get("cache_folder")
    if folder:
        outcomes["numba_storage"] = here(lambda: machine.storage(Path(folder)))
    return outcomes


def report(outcomes: Mapping[str, Outcome]) -> Report:
    """The report of what probes found; looks at nothing itself."""
    advice = advice_for(outcomes)
    rows = (
        *machine_rows(outcomes),
        _self(),
        *package_rows(outcomes, advice),
        *cuda_rows(outcomes, advice),
        *network_rows(outcomes, advice),
    )
    return Report(coop_edge.__version__, rows, blocked_by(rows), next_steps(rows, advice.installer))


def advice_for(outcomes: Mapping[str, Outcome]) -> Advice:
    """What decides here which packages are the right ones."""
    jetson, driver = facts_of(outcomes, "system").get("jetson"), facts_of(outcomes, "gpu").get("driver_cuda")
    return Advice(
        jetpack=(jetson["jetpack"] or 0) if jetson else None,
        cuda=driver // 1000 if driver else None,
        toolkit=bool(os.environ.get("CUDA_PATH")) or any(Path(place).is_dir() for place in _TOOLKITS),
        installer=pip(),
        tensorrt_folder=facts_of(outcomes, "system_tensorrt").get("folder"),
    )


def _cupy_cache() -> Path:
    """Where CuPy keeps compiled kernels."""
    return Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")


def _self() -> Row:
    folder = str(Path(coop_edge.__file__).parent)
    data = {"version": coop_edge.__version__, "folder": folder}
    return Row("coop_edge", "packages", "ok", f"{coop_edge.__version__}, {folder}", "this package", data=data)


def _installed(name: str) -> bool:
    """Whether the package of a probe is here at all; what is no package always is."""
    if name in ("gpu", "bundles", "tensorrt"):
        return True
    try:
        return importlib.util.find_spec(libraries.MODULE_OF.get(name, name)) is not None
    except ValueError:  # imported already, by other means than a finder's
        return True
