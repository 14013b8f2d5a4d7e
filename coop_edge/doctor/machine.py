"""Probes of the machine itself: Python, system, Jetson, GPU and driver. Each returns plain data.

The GPU is asked through the driver's own library (``libcuda``), not through CuPy, so that what the driver supports is
known before CuPy is there: it decides which CuPy to install.
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
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


def python() -> Facts:
    """Version and place of the interpreter."""
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "venv": sys.prefix != sys.base_prefix,
        "prefix": sys.prefix,
        "supported": sys.version_info[:2] >= OLDEST_PYTHON,
    }


def system(root: Path = Path("/")) -> Facts:
    """Operating system, processor, and what Jetson it is (None if it is none)."""
    return {
        "os": _os_name(root),
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "memory_bytes": _memory_bytes(root),
        "jetson": jetson(root),
    }


def jetson(root: Path = Path("/")) -> Facts | None:
    """Model, Jetson Linux and JetPack release, from the files that NVIDIA's images have; None on other machines."""
    model = _read(root / "proc/device-tree/model").rstrip("\0").strip()
    release = _read(root / "etc/nv_tegra_release")
    match = re.search(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", release)
    if match is None and not re.search(r"jetson|tegra", model, re.IGNORECASE):
        return None
    major = int(match[1]) if match else None
    return {
        "model": model or None,
        "l4t": f"{match[1]}.{match[2]}" if match else None,
        "jetpack": JETPACK_OF_L4T.get(major) if major is not None else None,
    }


def gpu(load: Callable[[str], Any] = ctypes.CDLL, root: Path = Path("/")) -> Facts:
    """GPUs as the CUDA driver lists them; ``absent`` says why there is none, and is None if there is one."""
    facts: Facts = {"absent": None, "driver": _driver_release(root), "driver_cuda": None, "devices": []}
    try:
        cuda = load("libcuda.so.1")
    except OSError as error:
        return {**facts, "absent": f"no NVIDIA driver ({str(error).splitlines()[0]})"}
    if code := cuda.cuInit(0):
        return {**facts, "absent": f"the NVIDIA driver finds no usable GPU ({_error_name(cuda, code)})"}
    version, count = ctypes.c_int(), ctypes.c_int()
    _check(cuda, cuda.cuDriverGetVersion(ctypes.byref(version)))
    _check(cuda, cuda.cuDeviceGetCount(ctypes.byref(count)))
    facts["driver_cuda"] = version.value
    facts["devices"] = [_device(cuda, index) for index in range(count.value)]
    return facts if count.value else {**facts, "absent": "the NVIDIA driver lists no GPU"}


def storage(folder: Path) -> Facts:
    """Whether files can be written below ``folder``, which need not exist yet, and the space left there."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    usage = shutil.disk_usage(there)
    return {"folder": str(folder), "writable": os.access(there, os.W_OK | os.X_OK), "free_bytes": usage.free}


def _device(cuda: Any, index: int) -> Facts:
    handle, name, memory = ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(cuda, cuda.cuDeviceGet(ctypes.byref(handle), index))
    _check(cuda, cuda.cuDeviceGetName(name, len(name), handle))
    _check(cuda, cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle))
    _check(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, handle))
    _check(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, handle))
    return {"name": name.value.decode(), "sm": f"{major.value}{minor.value}", "memory_bytes": memory.value}


def _check(cuda: Any, code: int) -> None:
    if code:
        raise RuntimeError(f"the CUDA driver answers {_error_name(cuda, code)}")


def _error_name(cuda: Any, code: int) -> str:
    text = ctypes.c_char_p()
    known = cuda.cuGetErrorName(code, ctypes.byref(text)) == 0 and text.value
    return text.value.decode() if known and text.value else f"error {code}"


def _driver_release(root: Path) -> str | None:
    match = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", _read(root / "proc/driver/nvidia/version"))
    return match[1] if match else None


def _os_name(root: Path) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read(root / "etc/os-release"), re.MULTILINE)
    return match[1] if match else platform.system()


def _memory_bytes(root: Path) -> int | None:
    match = re.search(r"^MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the file is what tells one kind of machine from another; its absence is an answer
        return ""
