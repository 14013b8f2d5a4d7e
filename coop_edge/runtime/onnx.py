"""Runs networks on ONNX Runtime: on the CPU, or on an NVIDIA GPU through its CUDA provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from coop_edge.errors import BundleError, CoopEdgeError, EngineError, InputError, quoted
from coop_edge.runtime.base import Array, Runner
from coop_edge.runtime.network import MANIFEST, REMEDY, Network, read_graph
from coop_edge.runtime.onnx_cuda import CudaBinding
from coop_edge.runtime.onnx_session import CPU, CUDA, import_onnxruntime, start_session

_DTYPES = {"tensor(float)": "float32", "tensor(int32)": "int32"}


class OnnxRunner(Runner):
    """Runs a graph of a bundle with ONNX Runtime.

    On the GPU the host does not wait for the device, inputs are read and outputs written in place, and outputs of runs
    of the same N lie in the same memory. One instance serves one stream at a time. FP32 is FP32: TF32 is off.

    Args:
        device: "cpu" (NumPy in and out) or "cuda" (CuPy in and out, on the device that is current in CuPy when the
            runner opens).
        threads: of one operator on the CPU; 0 leaves it to ONNX Runtime (one per physical core).
        label: the runner's name in errors.
    """

    device: Literal["cpu", "cuda"]

    def __init__(
        self, network: Network, *, device: Literal["cpu", "cuda"] = "cpu", threads: int = 0, label: str = ""
    ) -> None:
        if device not in ("cpu", "cuda"):
            raise InputError(f"device: wanted 'cpu' or 'cuda', got {device!r}")
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < 0:
            raise InputError(f"threads: wanted a number of threads, or 0 for ONNX Runtime's choice, got {threads!r}")
        super().__init__(label or network.label, network.inputs, network.outputs)
        self.network, self.device, self.threads = network, device, threads
        self._session: Any = None
        self._cuda: CudaBinding | None = None

    @property
    def providers(self) -> list[str]:
        """Return the execution providers of the session, as ONNX Runtime lists them; empty while closed."""
        return [] if self._session is None else list(self._session.get_providers())

    def _load(self) -> None:
        ort = import_onnxruntime()
        graph = read_graph(self.network)
        provider: tuple[str, dict[str, str]] = (CPU, {})
        if self.device == "cuda":
            self._cuda = CudaBinding(self.outputs, self._empty)
            self.device_id = self._cuda.device_id
            provider = (CUDA, self._cuda.provider_options())
        self._session = start_session(ort, graph, provider, self.threads, self.label)
        _check_graph(self.network, self._session)
        if self._cuda is not None:
            self._cuda.bind(ort, self._session)

    def _release(self) -> None:
        if self._cuda is not None:
            self._cuda.release(self.label)
        self._session = self._cuda = self.device_id = None

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
            if result.shape != spec.sized(batch) or result.dtype != np.dtype(spec.dtype):
                raise EngineError(
                    f"{self.label}: the graph gave {spec.name} {list(result.shape)} {result.dtype} for N = {batch}, "
                    f"wanted {spec}; {REMEDY}"
                )
        return dict(zip(self.outputs, results, strict=True))


def _check_graph(network: Network, session: Any) -> None:
    """Raise BundleError unless the graph's own inputs and outputs are those of the manifest."""
    for side, wanted, found in (
        ("inputs", network.inputs, session.get_inputs()),
        ("outputs", network.outputs, session.get_outputs()),
    ):
        if sorted(map(str, wanted)) != sorted(map(_of_graph, found)):
            raise BundleError(
                f"{network.path}: not the graph of {network.role} that {MANIFEST} describes: wanted the {side} "
                f"{', '.join(map(str, wanted))}; it has {', '.join(map(_of_graph, found)) or 'none'}; {REMEDY}"
            )


def _of_graph(value: Any) -> str:
    """Print a graph's input or output as ``TensorSpec`` does; a free axis that is not the batch's shows as "?"."""
    free = [not isinstance(extent, int) for extent in value.shape]
    extents = ["N" if i == 0 and free[0] else "?" if free[i] else str(value.shape[i]) for i in range(len(free))]
    return f"{value.name} [{','.join(extents)}] {_DTYPES.get(value.type, value.type)}"
