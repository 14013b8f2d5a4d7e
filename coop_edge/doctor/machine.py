"""Probes of the machine: Python, system, Jetson, GPU and driver. Each returns plain data.

The GPU is asked through the driver's own library (``libcuda``), not through CuPy: what the driver supports decides
which CuPy to install.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coop_edge.doctor.isolate import Facts

OLDEST_PYTHON = (3, 10)
JETPACK_OF_L4T = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}
"""Major releases: JetPack by Jetson Linux (L4T)."""
_COMPUTE_CAPABILITY = (75, 76)
"""CUdevice_attribute of the major and the minor version."""


def python() -> Facts:
    """Describe the interpreter."""
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "venv": sys.prefix != sys.base_prefix,
        "prefix": sys.prefix,
        "supported": sys.version_info[:2] >= OLDEST_PYTHON,
    }


def system(root: Path = Path("/")) -> Facts:
    """Describe operating system and processor, and say which Jetson this is (None: it is none)."""
    os_name = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read(root / "etc/os-release"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return {
        "os": os_name[1] if os_name else platform.system(),
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "memory_bytes": int(memory[1]) * 1024 if memory else None,
        "jetson": jetson(root),
    }


def jetson(root: Path = Path("/")) -> Facts | None:
    """Read model, Jetson Linux and JetPack release from the files that NVIDIA's images have; None on other machines."""
    model = _read(root / "proc/device-tree/model").rstrip("\0").strip()
    release = re.search(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", _read(root / "etc/nv_tegra_release"))
    if release is None and not re.search(r"jetson|tegra", model, re.IGNORECASE):
        return None
    return {
        "model": model or None,
        "l4t": f"{release[1]}.{release[2]}" if release else None,
        "jetpack": JETPACK_OF_L4T.get(int(release[1])) if release else None,
    }


def gpu(load: Callable[[str], Any] = ctypes.CDLL, root: Path = Path("/")) -> Facts:
    """List the GPUs of the CUDA driver; ``absent`` says why there is none, and is None if there is one."""
    release = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", _read(root / "proc/driver/nvidia/version"))
    facts: Facts = {"absent": None, "driver": release[1] if release else None, "driver_cuda": None, "devices": []}
    try:
        cuda = load("libcuda.so.1")
    except OSError as error:
        return {**facts, "absent": f"no NVIDIA driver ({str(error).splitlines()[0]})"}
    if code := cuda.cuInit(0):
        return {**facts, "absent": f"the NVIDIA driver finds no usable GPU ({_error_name(cuda, code)})"}
    facts["driver_cuda"] = _ask(cuda, "cuDriverGetVersion", ctypes.c_int()).value
    facts["devices"] = [_device(cuda, index) for index in range(_ask(cuda, "cuDeviceGetCount", ctypes.c_int()).value)]
    return facts if facts["devices"] else {**facts, "absent": "the NVIDIA driver lists no GPU"}


def storage(folder: Path) -> Facts:
    """Say whether files can be written below ``folder``, which need not exist yet, and the space left there."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    usage = shutil.disk_usage(there)
    return {"folder": str(folder), "writable": os.access(there, os.W_OK | os.X_OK), "free_bytes": usage.free}


def _device(cuda: Any, index: int) -> Facts:
    device = _ask(cuda, "cuDeviceGet", ctypes.c_int(), index)
    name = _ask(cuda, "cuDeviceGetName", (ctypes.c_char * 128)(), 128, device)
    memory = _ask(cuda, "cuDeviceTotalMem_v2", ctypes.c_size_t(), device)
    sm = [_ask(cuda, "cuDeviceGetAttribute", ctypes.c_int(), which, device).value for which in _COMPUTE_CAPABILITY]
    return {"name": name.value.decode(), "sm": "".join(map(str, sm)), "memory_bytes": memory.value}


def _ask(cuda: Any, function: str, answer: Any, *arguments: Any) -> Any:
    """Call a function of the driver that writes into its first argument, and return that."""
    if code := getattr(cuda, function)(ctypes.byref(answer), *arguments):
        raise RuntimeError(f"the CUDA driver answers {_error_name(cuda, code)}")
    return answer


def _error_name(cuda: Any, code: int) -> str:
    text = ctypes.c_char_p()
    known = cuda.cuGetErrorName(code, ctypes.byref(text)) == 0 and text.value
    return text.value.decode() if known and text.value else f"error {code}"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the file is what tells one kind of machine from another; its absence is an answer
        return ""
