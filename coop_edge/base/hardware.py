"""Tells facts about this machine, as plain data: processor, usable cores, load; reads CUDA's version numbers."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from coop_edge.errors import InputError

_FEW = 32  # so many threads may be started on any machine: each takes memory, and more than the cores gain nothing


def hardware() -> dict[str, Any]:
    """Return CPU model, usable cores, system, Python and the load of the last minute, as plain data for a result file.

    ``load_1min`` counts this process too; well above its own threads, the neighbours were in the figures.
    """
    model = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass  # not Linux: platform's own answer below
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": available_cores(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def available_cores() -> int:
    """Return the cores this process may run on (fewer than the machine's in a container with an affinity mask)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(threads: int | None) -> int:
    """Return how many threads to start: as many as given, or as there are cores.

    Raises:
        InputError: not a positive integer, or far more than the cores.
    """
    cores = available_cores()
    if threads is None:
        return cores
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads: wanted an integer >= 1, or None for all cores, got {threads!r}")
    if threads > (most := max(cores, _FEW)):
        raise InputError(
            f"threads: {threads} are far more than the {cores} cores that this process may use; wanted at most {most}, "
            "or None for all cores"
        )
    return threads


def cuda_version(number: int) -> str:
    """Return "13.2" for CUDA's own 13020."""
    return f"{number // 1000}.{number % 1000 // 10}"
