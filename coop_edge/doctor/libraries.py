"""Probes of libraries: each is imported and does a little of what it is needed for. Each returns plain data.

All but ``distributions`` and ``system_tensorrt`` run in child processes (``isolate.in_child``): an import may crash.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from coop_edge.doctor.isolate import Facts
from coop_edge.doctor.machine import storage
from coop_edge.errors import quoted

FAMILIES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy"),
}
"""Distributions that install into the same folder, so that the last one installed overwrites part of the others."""


def distributions() -> Facts:
    """Return versions of installed distributions: per family, and of packages that are not imported here."""
    families = {family: _versions(names) for family, names in FAMILIES.items()}
    return {"families": families, "versions": _versions(("open3d", "fast-simplification", "pillow"))}


def numpy() -> Facts:
    """Multiply two matrices by NumPy."""
    return _works("numpy", lambda np: (np.eye(3) @ np.eye(3) == np.eye(3)).all())


def opencv() -> Facts:
    """Warp a picture by OpenCV, as the crops do."""
    np = importlib.import_module("numpy")
    picture = np.full((8, 8, 3), 7, np.uint8)
    return _works("cv2", lambda cv2: (cv2.warpPerspective(picture, np.eye(3), (8, 8)) == picture).all())


def trimesh() -> Facts:
    """Make a box by trimesh, and import SciPy and Pillow, with which it reads meshes and textures."""
    for name in ("scipy.spatial", "PIL.Image"):
        importlib.import_module(name)
    facts = _works("trimesh", lambda library: len(library.creation.box().faces) == 12)
    return {**facts, "scipy": _version("scipy")["version"], "pillow": _version("PIL")["version"]}


def numba() -> Facts:
    """Compile and run a function by Numba.

    Returns besides where Numba would keep compiled code (None: nowhere), the space there, and which files of this
    package there are damaged.
    """
    facts = _works("numba", lambda library: library.njit(_sum_of_squares)(10) == 285)
    kept = importlib.import_module("numba").njit(_sum_of_squares)
    space: Facts = {"folder": None, "writable": False, "free_bytes": 0}
    with suppress(RuntimeError):
        kept.enable_caching()
        space = {**storage(Path(kept.stats.cache_path)), "damaged": _damaged_code()}
    facts |= {"llvmlite": _version("llvmlite")["version"], "cache_folder": space["folder"], "storage": space}
    return facts


def _damaged_code() -> list[str]:
    """Files of our compiled code that are not whole; importing what is compiled compiles nothing."""
    for room in ("render.cpu", "pnp.cpu", "ops.outline_cpu"):
        importlib.import_module(f"coop_edge.{room}")
    from coop_edge.base.compile_cache import damaged
    from coop_edge.base.jit import CACHE_FOLDERS

    return [str(path) for path in damaged(CACHE_FOLDERS)]


def cupy() -> Facts:
    """Return CuPy's version, CUDA runtime and device; ``fails``: why it does not compute on the GPU (None: it does)."""
    from coop_edge.backend import probe_cuda

    fails, library = probe_cuda(), importlib.import_module("cupy")
    facts: Facts = {**_version("cupy"), "runtime": int(library.cuda.runtime.runtimeGetVersion())}
    name = None
    if fails is None:
        name = library.cuda.runtime.getDeviceProperties(library.cuda.Device().id)["name"]
        name = name.decode() if isinstance(name, bytes) else str(name)
    return {**facts, "device": name, "fails": fails}


def onnxruntime() -> Facts:
    """Return ONNX Runtime's version, the providers it lists, and per device why it does not compute there, or None."""
    from coop_edge.backend import probe_onnxruntime
    from coop_edge.runtime.onnx_session import import_onnxruntime

    listed = list(import_onnxruntime().get_available_providers())
    providers = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    fails = {
        device: probe_onnxruntime(device) if name in listed else f"this build of ONNX Runtime has no {name}"
        for device, name in providers.items()
    }
    return {**_version("onnxruntime"), "listed": listed, "fails": fails}


def tensorrt() -> Facts:
    """Return versions of TensorRT's modules (None: not installed), why one does not import and why none can be used."""
    from coop_edge.backend import probe_tensorrt

    modules = {name: _import_facts(name) for name in ("tensorrt", "tensorrt_rtx")}
    return {"modules": modules, "fails": probe_tensorrt() if any(modules.values()) else None}


def open3d() -> Facts:
    """Import Open3D (seconds) and make the scene that the reference renderer casts rays in."""
    importlib.import_module("open3d").t.geometry.RaycastingScene()
    return _version("open3d")


def system_tensorrt(root: Path = Path("/")) -> Facts:
    """Find the folder of the TensorRT that JetPack or apt installed for the system's Python, importable here or not."""
    pythons = (f"python{sys.version_info[0]}.{sys.version_info[1]}", "python3")
    folders = [root / f"usr/lib/{python}/dist-packages/tensorrt" for python in pythons]
    return {"folder": next((str(folder) for folder in folders if folder.is_dir()), None)}


def _import_facts(name: str) -> Facts | None:
    try:
        return {**_version(name), "fails": None} if importlib.util.find_spec(name) else None
    except Exception as error:  # bindings without their libraries: quoted, so that the other module is still looked at
        return {"version": None, "fails": quoted(error)}


def _version(module: str) -> Facts:
    return {"version": str(getattr(importlib.import_module(module), "__version__", "unknown"))}


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _works(module: str, correct: Callable[[Any], bool]) -> Facts:
    """The version of a library that imports and gives the right answer."""
    if not correct(importlib.import_module(module)):
        raise ArithmeticError(f"{module} imports, and computes wrongly")
    return _version(module)


def _sum_of_squares(n: int) -> int:
    total = 0
    for i in range(n):
        total += i * i
    return total
