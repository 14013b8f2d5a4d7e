"""What the probes would find on machines that the tests do not have, in the shape the probes give it."""

from __future__ import annotations

import copy
from typing import Any

from coop_edge.doctor.isolate import Outcome

ABSENT = Outcome()
"""Of a package that is not installed, and of Open3D where nobody asked for a deep look."""
JETSON = {"model": "NVIDIA Jetson AGX Orin Developer Kit", "l4t": "36.4.3", "jetpack": 6}
NO_CUDA = "CUDAExecutionProvider was asked for, the session runs on CPUExecutionProvider"
SPACE = {"folder": "/home/a/cache", "writable": True, "free_bytes": 50_000_000_000}
ROLES = ["coarse_encoder", "coarse_decoder", "refiner"]
BUNDLE = {
    "name": "coop-xs",
    "folder": "/opt/engines/coop-xs",
    "fails": None,
    "roles": ROLES,
    "plans": [],
    "version": "1.0.0",
    "licence": "Apache-2.0",
    "input_size": 224,
    "precisions": ["fp32"],
    "graph_bytes": 40_000_000,
    "storage": SPACE,
}
GPU = {
    "absent": None,
    "driver": "580.65.06",
    "driver_cuda": 13000,
    "devices": [{"name": "NVIDIA RTX 4000 Ada", "sm": "89", "memory_bytes": 20_000_000_000}],
}
_PLAIN: dict[str, dict[str, Any]] = {
    "python": {"version": "3.12.3", "executable": "/usr/bin/python", "supported": True},
    "system": {
        "os": "Ubuntu 24.04 LTS",
        "kernel": "Linux 6.8",
        "machine": "x86_64",
        "processors": 8,
        "memory_bytes": 32_000_000_000,
        "jetson": None,
    },
    "distributions": {"families": {"onnxruntime": {"onnxruntime": "1.22.0"}}, "versions": {"open3d": "0.19.0"}},
    "system_tensorrt": {"folder": None},
    "cupy_storage": SPACE,
    "numpy": {"version": "2.2.0"},
    "opencv": {"version": "4.11.0"},
    "trimesh": {"version": "5.2.0", "scipy": "1.15.0", "pillow": "11.0.0"},
    "numba": {"version": "0.61.0", "llvmlite": "0.44.0", "cache_folder": "/home/a/cache", "storage": SPACE},
    "onnxruntime": {
        "version": "1.22.0",
        "listed": ["CPUExecutionProvider"],
        "fails": {"cpu": None, "cuda": "this build of ONNX Runtime has no CUDAExecutionProvider"},
    },
    "tensorrt": {"modules": {"tensorrt": None, "tensorrt_rtx": None}, "fails": None},
    "gpu": {"absent": "no NVIDIA driver", "driver": None, "driver_cuda": None, "devices": []},
    "bundles": {"target": None, "no_target": "no TensorRT here", "bundles": [BUNDLE]},
}


def plain(**changes: Outcome) -> dict[str, Outcome]:
    """A desktop without a GPU on which everything that the CPU needs works."""
    outcomes = {name: Outcome(facts=copy.deepcopy(facts)) for name, facts in _PLAIN.items()}
    return {**outcomes, "cupy": ABSENT, "open3d": ABSENT, **changes}


def with_gpu(**changes: Outcome) -> dict[str, Outcome]:
    """The same with a GPU, CuPy, and onnxruntime-gpu that works."""
    onnxruntime = {
        "version": "1.22.0",
        "listed": ["CUDAExecutionProvider", "CPUExecutionProvider"],
        "fails": {"cpu": None, "cuda": None},
    }
    found = {
        "gpu": GPU,
        "cupy": {"version": "14.2.0", "runtime": 13000, "device": "NVIDIA RTX 4000 Ada", "fails": None},
        "onnxruntime": onnxruntime,
        "distributions": {"families": {"onnxruntime": {"onnxruntime-gpu": "1.22.0"}}, "versions": {}},
    }
    return plain(**{**{name: Outcome(facts=copy.deepcopy(facts)) for name, facts in found.items()}, **changes})


def orin(**changes: Outcome) -> dict[str, Outcome]:
    """A Jetson AGX Orin with JetPack 6, CuPy and onnxruntime; TensorRT is not visible."""
    system = {**_PLAIN["system"], "machine": "aarch64", "jetson": JETSON}
    gpu = {**GPU, "driver": None, "driver_cuda": 12060, "devices": [{**GPU["devices"][0], "name": "Orin", "sm": "87"}]}
    cupy = {"version": "13.6.0", "runtime": 12060, "device": "Orin", "fails": None}
    found = {"system": system, "gpu": gpu, "cupy": cupy}
    return plain(**{**{name: Outcome(facts=copy.deepcopy(facts)) for name, facts in found.items()}, **changes})


def changed(name: str, **values: Any) -> dict[str, Outcome]:
    """The outcome ``name`` of the plain machine with some of its facts changed, as an argument for the above."""
    return {name: Outcome(facts={**copy.deepcopy(_PLAIN[name]), **values})}


def planned(fits: bool, why: str = "") -> dict[str, Outcome]:
    """TensorRT works, and the bundle has a plan for each role."""
    plans = [{"role": role, "file": f"/opt/{role}.plan", "fits": fits, "why": why} for role in ROLES]
    target = "TensorRT 10.3.0 on SM 87"
    modules = {"tensorrt": {"version": "10.3.0", "fails": None}, "tensorrt_rtx": None}
    return {
        "tensorrt": Outcome(facts={"modules": modules, "fails": None}),
        "bundles": Outcome(facts={"target": target, "no_target": "", "bundles": [{**BUNDLE, "plans": plans}]}),
    }
