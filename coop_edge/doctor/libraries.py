"""Probes of libraries: each is imported and asked to do a little of what it is needed for. Each returns plain data.

They run in child processes (``isolate.in_child``), so what they import costs nothing here and may crash.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from coop_edge.doctor.isolate import Facts
from coop_edge.errors import quoted

FAMILIES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    "opencv": (
        "opencv-python-headless",
        "opencv-python",
        "opencv-contrib-python-headless",
        "opencv-contrib-python",
    ),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy"),
}
"""Distributions that install into the same folder, so that the last one installed overwrites part of the others."""


def distributions() -> Facts:
    """Per family, the versions of its installed distributions, and those of packages that are not imported here."""
    families = {family: _versions(names) for family, names in FAMILIES.items()}
    return {"families": families, "versions": _versions(("open3d", "fast-simplification", "pycollada", "pillow"))}


def numpy() -> Facts:
    """NumPy multiplies two matrices."""
    np = importlib.import_module("numpy")
    _require(bool((np.eye(3) @ np.eye(3) == np.eye(3)).all()), "NumPy multiplies matrices wrongly")
    return _version("numpy")


def opencv() -> Facts:
    """OpenCV warps a picture, as the crops do."""
    cv2, np = importlib.import_module("cv2"), importlib.import_module("numpy")
    picture = np.full((8, 8, 3), 7, np.uint8)
    warped = cv2.warpPerspective(picture, np.eye(3), (8, 8))
    _require(bool((warped == picture).all()), "OpenCV warps a picture wrongly")
    return _version("cv2")


def trimesh() -> Facts:
    """trimesh, and SciPy and Pillow that it reads meshes and textures with."""
    for name in ("scipy.spatial", "PIL.Image"):
        importlib.import_module(name)
    box = importlib.import_module("trimesh").creation.box()
    _require(len(box.faces) == 12, "trimesh makes a box of other than 12 triangles")
    return {**_version("trimesh"), "scipy": _version("scipy")["version"], "pillow": _version("PIL")["version"]}


def numba() -> Facts:
    """Numba compiles and runs a function; where it would keep compiled code (None: nowhere)."""
    library = importlib.import_module("numba")
    _require(library.njit(_sum_of_squares)(10) == 285, "Numba computes a wrong sum")
    kept = library.njit(_sum_of_squares)
    try:
        kept.enable_caching()
        folder = str(kept.stats.cache_path)
    except RuntimeError:
        folder = None
    return {**_version("numba"), "llvmlite": _version("llvmlite")["version"], "cache_folder": folder}


def cupy() -> Facts:
    """CuPy, its CUDA runtime, and whether it computes on the GPU (``fails`` is None) or what it says instead."""
    from coop_edge.backend import probe_cuda

    facts: Facts = {"version": None, "runtime": None, "device": None, "fails": probe_cuda()}
    library = importlib.import_module("cupy")
    facts["version"] = str(library.__version__)
    facts["runtime"] = int(library.cuda.runtime.runtimeGetVersion())
    if facts["fails"] is None:
        name = library.cuda.runtime.getDeviceProperties(library.cuda.Device().id)["name"]
        facts["device"] = name.decode() if isinstance(name, bytes) else str(name)
    return facts


def onnxruntime() -> Facts:
    """Version, providers that the build lists, and per provider why it does not compute (None: it does)."""
    from coop_edge.backend import probe_onnxruntime

    library = importlib.import_module("onnxruntime")
    listed = list(library.get_available_providers())
    providers = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    fails = {
        device: probe_onnxruntime(device) if name in listed else f"this build of ONNX Runtime has no {name}"
        for device, name in providers.items()
    }
    return {"version": str(library.__version__), "listed": listed, "fails": fails}


def tensorrt() -> Facts:
    """Per module its version or why it does not import (None: not installed); why none can be used (None: one can)."""
    facts: Facts = {"modules": {name: _import_facts(name) for name in ("tensorrt", "tensorrt_rtx")}, "fails": None}
    if any(facts["modules"].values()):
        from coop_edge.backend import probe_tensorrt

        facts["fails"] = probe_tensorrt()
    return facts


def open3d() -> Facts:
    """Open3D imports (seconds) and has the scene that the reference renderer casts rays in."""
    library = importlib.import_module("open3d")
    library.t.geometry.RaycastingScene()
    return _version("open3d")


def system_tensorrt(root: Path = Path("/")) -> Facts:
    """Folder of the TensorRT that JetPack or apt installed for the system's Python, whether this one sees it or not."""
    here = f"usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}/dist-packages/tensorrt"
    found = [root / place for place in (here, "usr/lib/python3/dist-packages/tensorrt") if (root / place).is_dir()]
    return {"folder": str(found[0]) if found else None}


def _import_facts(name: str) -> Facts | None:
    try:
        if importlib.util.find_spec(name) is None:
            return None
        return {**_version(name), "fails": None}
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


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ArithmeticError(otherwise)


def _sum_of_squares(n: int) -> int:
    total = 0
    for i in range(n):
        total += i * i
    return total


IN_CHILD: dict[str, Callable[[], Facts]] = {
    "numpy": numpy,
    "opencv": opencv,
    "trimesh": trimesh,
    "numba": numba,
    "cupy": cupy,
    "onnxruntime": onnxruntime,
    "tensorrt": tensorrt,
}
MODULE_OF = {"opencv": "cv2"}
"""Module of a probe where it is not the probe's own name."""
