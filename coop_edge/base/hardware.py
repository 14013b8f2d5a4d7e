"""Tells facts about this machine, as plain data: processor, usable cores, load; reads CUDA's version numbers."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


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


def cuda_version(number: int) -> str:
    """Return "13.2" for CUDA's own 13020."""
    return f"{number // 1000}.{number % 1000 // 10}"
