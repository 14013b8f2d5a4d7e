"""Starts ONNX Runtime: its module, its sessions, and the probe that says whether it computes on a device.

What is asked for is what runs. ONNX Runtime by itself would take the CPU where its CUDA provider cannot start; here
that is ``BackendUnavailable``.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import logging
import os
import weakref
from typing import Any

import numpy as np

from coop_edge.errors import BackendUnavailable, CoopEdgeError, EngineError, InputError, quoted

log = logging.getLogger("coop_edge")

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
INSTALL_CPU = "pip install onnxruntime"
INSTALL_CUDA = (
    "pip uninstall onnxruntime, then pip install onnxruntime-gpu (the two packages overwrite each other); on a Jetson "
    "build TensorRT plans instead, with: coop-edge build"
)
_SPIN = ("session.force_spinning_stop", "1")
"""Worker threads may spin within a run, which makes it faster, but not between runs, where by default they keep their
cores busy."""
_DOUBLE = (  # a model of one node, y = Add(x, x), float32 [1], as protobuf: ModelProto in onnx.proto3
    b"\x08\x08"  # ir_version 8
    b":5"  # graph, 53 bytes
    b'\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add'  # node
    b"\x12\x01p"  # name
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"  # input
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"  # output
    b"B\x04\n\x00\x10\x11"  # opset 17
)


def import_onnxruntime() -> Any:
    """Import ONNX Runtime, without its telemetry. The only place that imports it.

    From 1.29 on the official Linux builds report to their vendor from the import on, and ``disable_telemetry_events``
    comes too late. Who has set ORT_DISABLE_TELEMETRY decides.

    Raises:
        BackendUnavailable: with what is missing and how to get it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        ort = importlib.import_module("onnxruntime")
    except Exception as error:  # a damaged installation fails in many ways; all are quoted
        raise BackendUnavailable(
            f"ONNX Runtime: `import onnxruntime` failed: {quoted(error)}; {INSTALL_CPU}, or for a GPU onnxruntime-gpu"
        ) from error
    if not hasattr(ort, "InferenceSession"):
        raise BackendUnavailable(
            "ONNX Runtime: the installed package is incomplete (no InferenceSession), which happens when one of "
            f"onnxruntime and onnxruntime-gpu is removed while both are installed; remove both, then {INSTALL_CPU} or "
            "onnxruntime-gpu"
        )
    return ort


def probe(device: str) -> str | None:
    """Return None if ONNX Runtime runs a network on ``device`` ("cpu", "cuda"), else what is missing and how to get it.

    A list of providers is no proof, nor is a session: a wheel without code for this GPU fails when it first computes.
    So this runs a network of one node.

    Raises:
        InputError: another device.
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"device: wanted 'cpu' or 'cuda', got {device!r}")
    provider = CPU if device == "cpu" else CUDA
    try:
        ort = import_onnxruntime()
        session = start_session(ort, _DOUBLE, (provider, {}), 1, "probe")
    except CoopEdgeError as error:
        return str(error)
    try:
        (doubled,) = session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as error:  # ONNX Runtime's own kinds have no common base
        return f"ONNX Runtime {ort.__version__} does not compute on {provider}: {quoted(error)}"
    return None if doubled == 2 else f"ONNX Runtime {ort.__version__} computes a wrong sum on {provider}: {doubled}"


def start_session(ort: Any, graph: bytes, provider: tuple[str, dict[str, str]], threads: int, label: str) -> Any:
    """Start a session whose first provider is the one asked for.

    Args:
        ort: the module.
        graph: the bytes of an ONNX model.
        provider: name and options.
        threads: of one operator; 0 leaves it to ONNX Runtime.
        label: the network's name in errors.

    Raises:
        BackendUnavailable: the provider is not in this ONNX Runtime, or did not start.
        EngineError: the graph cannot be loaded.
    """
    name = provider[0]
    if name not in ort.get_available_providers():
        install = INSTALL_CUDA if name == CUDA else INSTALL_CPU
        raise BackendUnavailable(f"ONNX Runtime {ort.__version__} was built without {name}; {install}")
    if name == CUDA:
        _preload(ort)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry(*_SPIN)
    try:
        # Without fallback: by default the Python layer retries a failed start, and a failed run, on the CPU.
        session = ort.InferenceSession(graph, options, providers=[provider], enable_fallback=0)
        session.disable_fallback()  # older releases do not know the argument
    except Exception as error:  # ONNX Runtime's own kinds have no common base
        raise EngineError(f"{label}: ONNX Runtime {ort.__version__} cannot load it: {quoted(error)}") from error
    _SESSIONS.add(session)
    real = list(session.get_providers())
    if real[:1] != [name]:
        raise BackendUnavailable(
            f"{label}: {name} was asked for, but ONNX Runtime {ort.__version__} runs on {', '.join(real) or 'nothing'}"
            ": the provider did not start (its reason is on stderr: a missing driver, CUDA or cuDNN of another version "
            f"than it was built for{_built_for(ort)}, or no GPU)"
        )
    return session


_SESSIONS: weakref.WeakSet[Any] = weakref.WeakSet()


def _keep_for_ever() -> None:
    """Keep all sessions in a forked child: to destroy one would wait for threads that stayed with the parent."""
    for session in _SESSIONS:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_for_ever)


def _preload(ort: Any) -> None:
    """Let ONNX Runtime (1.21 on) find the CUDA and cuDNN of NVIDIA's pip packages; it prints what it does not find."""
    if hasattr(ort, "preload_dlls"):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            ort.preload_dlls()
        if said.getvalue().strip():
            log.debug("onnxruntime.preload_dlls: %s", said.getvalue().strip())


def _built_for(ort: Any) -> str:
    version = getattr(ort, "cuda_version", "")
    return f" (CUDA {version})" if version else ""
