"""Networks on ONNX Runtime: on the CPU, or on an NVIDIA GPU through its CUDA provider.

What is asked for is what runs. ONNX Runtime by itself would take the CPU where its CUDA provider cannot start; here
that is ``BackendUnavailable``. A graph is read once, and those very bytes are compared with the manifest's SHA-256
before ONNX Runtime sees them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from coop_edge.errors import BackendUnavailable, BundleError, CoopEdgeError, EngineError, InputError, quoted
from coop_edge.runtime.base import Array, Runner, TensorSpec
from coop_edge.runtime.network import MANIFEST, REMEDY, Network, check_hash
from coop_edge.runtime.onnx_cuda import CudaBinding

log = logging.getLogger("coop_edge")

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
INSTALL_CPU = "pip install 'coop-edge[cpu]'"
INSTALL_CUDA = (
    "pip uninstall onnxruntime, then pip install 'coop-edge[gpu]' (the two packages overwrite each other); on a Jetson "
    "build TensorRT plans instead, with: coop-edge build"
)
_DTYPES = {"tensor(float)": "float32", "tensor(int32)": "int32"}
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


class OnnxRunner(Runner):
    """Runs a graph of a bundle with ONNX Runtime.

    device: "cpu" (NumPy in and out) or "cuda" (CuPy in and out, on the device that is current in CuPy when it opens).
    threads: of one operator on the CPU; 0 leaves it to ONNX Runtime (one per physical core). label: what errors call
    it.

    On the GPU: nothing waits for the device, inputs are read and outputs written in place, and outputs of runs of the
    same N lie in the same memory. One instance serves one stream at a time. FP32 is FP32: TF32 is off.
    """

    device: Literal["cpu", "cuda"]

    def __init__(
        self, network: Network, *, device: Literal["cpu", "cuda"] = "cpu", threads: int = 0, label: str = ""
    ) -> None:
        if device not in ("cpu", "cuda"):
            raise InputError(f"device: wanted 'cpu' or 'cuda', got {device!r}")
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < 0:
            raise InputError(f"threads: wanted a number of threads, or 0 for ONNX Runtime's choice, got {threads!r}")
        super().__init__(label or f"{network.path.parent.name}/{network.role}", network.inputs, network.outputs)
        self.network, self.device, self.threads = network, device, threads
        self._session: Any = None
        self._cuda: CudaBinding | None = None

    @property
    def providers(self) -> list[str]:
        """What the session runs on, as ONNX Runtime says; empty while closed."""
        return [] if self._session is None else list(self._session.get_providers())

    def _load(self) -> None:
        ort = import_onnxruntime()
        graph = _read(self.network)
        provider: tuple[str, dict[str, str]] = (CPU, {})
        if self.device == "cuda":
            self._cuda = CudaBinding(self.label, self.outputs)
            provider = (CUDA, self._cuda.provider_options())
        self._session = _session(ort, graph, provider, self.threads, self.label)
        _check_graph(self.network, self._session)
        if self._cuda is not None:
            self._cuda.bind(ort, self._session)

    def _release(self) -> None:
        if self._cuda is not None:
            self._cuda.release()
        self._session = self._cuda = None

    def _check_device(self, name: str, array: Array) -> None:
        if self.device == "cpu":
            wanted, fits = "numpy.ndarray", isinstance(array, np.ndarray)
        else:
            cupy = sys.modules.get("cupy")  # what has never been imported has made no array
            wanted, fits = "cupy.ndarray", cupy is not None and isinstance(array, cupy.ndarray)
        if not fits:
            given = f"{type(array).__module__}.{type(array).__name__}"
            raise InputError(f"{self.label}: {name}: wanted a {wanted} for device {self.device!r}, got a {given}")
        if self._cuda is not None:
            self._cuda.check_device(name, array)

    def _empty(self, spec: TensorSpec) -> Array:
        if self._cuda is not None:
            return self._cuda.empty(spec, 0)
        return np.empty((0, *_static(spec)), spec.dtype)

    def _run(self, feed: Mapping[str, Array], batch: int, stream: Any) -> dict[str, Array]:
        try:
            if self._cuda is not None:
                return self._cuda.run({name: feed[name] for name in self.inputs}, batch, stream)
            # Contiguous and aligned: ONNX Runtime reads the memory itself, with vector instructions.
            plain = {name: np.require(feed[name], requirements=("C", "A")) for name in self.inputs}
            results = self._session.run(list(self.outputs), plain)
        except CoopEdgeError:
            raise
        except Exception as error:  # ONNX Runtime's own kinds have no common base
            raise EngineError(f"{self.label}: the run failed on N = {batch}: {quoted(error)}") from error
        for spec, result in zip(self.outputs.values(), results, strict=True):
            if result.shape != (batch, *_static(spec)) or result.dtype != np.dtype(spec.dtype):
                raise EngineError(
                    f"{self.label}: the graph gave {spec.name} {list(result.shape)} {result.dtype} for N = {batch}, "
                    f"wanted {spec}; {REMEDY}"
                )
        return dict(zip(self.outputs, results, strict=True))


def import_onnxruntime() -> Any:
    """The module. Raises BackendUnavailable with what is missing and how to get it."""
    try:
        ort = importlib.import_module("onnxruntime")
    except Exception as error:  # a damaged installation fails in many ways; all are quoted
        raise BackendUnavailable(
            f"ONNX Runtime: `import onnxruntime` failed: {quoted(error)}; {INSTALL_CPU}, or for a GPU 'coop-edge[gpu]'"
        ) from error
    if not hasattr(ort, "InferenceSession"):
        raise BackendUnavailable(
            "ONNX Runtime: the installed package is a remnant without InferenceSession, as is left when one of "
            f"onnxruntime and onnxruntime-gpu is removed while both are installed; remove both, then {INSTALL_CPU} or "
            "'coop-edge[gpu]'"
        )
    return ort


def probe(device: str) -> str | None:
    """None if ONNX Runtime runs a network on ``device`` ("cpu", "cuda"), else what is missing and how to get it.

    A list of providers is no proof, nor is a session: a wheel without code for this GPU fails when it first computes.
    So this runs a network of one node. Raises InputError on another device.
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"device: wanted 'cpu' or 'cuda', got {device!r}")
    provider = CPU if device == "cpu" else CUDA
    try:
        ort = import_onnxruntime()
        session = _session(ort, _DOUBLE, (provider, {}), 1, "probe")
    except CoopEdgeError as error:
        return str(error)
    try:
        (doubled,) = session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as error:  # ONNX Runtime's own kinds have no common base
        return f"ONNX Runtime {ort.__version__} does not compute on {provider}: {quoted(error)}"
    return None if doubled == 2 else f"ONNX Runtime {ort.__version__} computes a wrong sum on {provider}: {doubled}"


def _read(network: Network) -> bytes:
    try:
        graph = network.path.read_bytes()
    except OSError as error:
        raise BundleError(f"{network.path}: cannot be read: {error.strerror or error}; {REMEDY}") from error
    check_hash(network, hashlib.sha256(graph).hexdigest())
    return graph


def _session(ort: Any, graph: bytes, provider: tuple[str, dict[str, str]], threads: int, label: str) -> Any:
    """A session whose first provider is the one asked for. Raises BackendUnavailable, EngineError."""
    name = provider[0]
    if name not in ort.get_available_providers():
        install = INSTALL_CUDA if name == CUDA else INSTALL_CPU
        raise BackendUnavailable(f"ONNX Runtime {ort.__version__} has no {name} in it; {install}")
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
    real = list(session.get_providers())
    if real[:1] != [name]:
        raise BackendUnavailable(
            f"{label}: {name} was asked for, but ONNX Runtime {ort.__version__} runs on {', '.join(real) or 'nothing'}"
            ": the provider did not start (its reason is on stderr: a missing driver, CUDA or cuDNN of another version "
            f"than it was built for{_built_for(ort)}, or no GPU)"
        )
    return session


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


def _check_graph(network: Network, session: Any) -> None:
    """Raise BundleError unless the graph's own inputs and outputs are those of the manifest."""
    for side, wanted, found in (
        ("inputs", network.inputs, session.get_inputs()),
        ("outputs", network.outputs, session.get_outputs()),
    ):
        if sorted(map(_of_spec, wanted)) != sorted(map(_of_graph, found)):
            raise BundleError(
                f"{network.path}: not the graph of {network.role} that {MANIFEST} describes: wanted the {side} "
                f"{', '.join(map(_of_spec, wanted))}; it has {', '.join(map(_of_graph, found)) or 'none'}; {REMEDY}"
            )


def _of_spec(spec: TensorSpec) -> str:
    return str(spec)


def _of_graph(value: Any) -> str:
    """A graph's input or output as ``TensorSpec`` prints it; a free axis that is not the batch's shows as "?"."""
    free = [not isinstance(extent, int) for extent in value.shape]
    extents = ["N" if i == 0 and free[0] else "?" if free[i] else str(value.shape[i]) for i in range(len(free))]
    return f"{value.name} [{','.join(extents)}] {_DTYPES.get(value.type, value.type)}"


def _static(spec: TensorSpec) -> Sequence[int]:
    return [n for n in spec.shape if n is not None]
