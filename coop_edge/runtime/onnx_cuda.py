"""What a session on ONNX Runtime's CUDA provider needs besides the CPU's: memory, bindings, and the order of streams.

The provider runs on one stream, fixed when the session is made. Here that is a stream of the runner's own, and events
put each run in its place on the caller's stream: it starts after what the caller queued before, and what the caller
queues afterwards starts after it. The host waits for neither.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from coop_edge.errors import InputError
from coop_edge.kernels.device import CupyDevice
from coop_edge.runtime.base import Array, TensorSpec

log = logging.getLogger("coop_edge")


class CudaBinding:
    """Inputs and outputs of one session in CuPy arrays, on the device that is current when this is made.

    Raises BackendUnavailable without CuPy and a GPU.
    """

    def __init__(self, label: str, outputs: Mapping[str, TensorSpec]) -> None:
        self.label = label
        device = CupyDevice()
        self._cupy: Any = device.xp
        self._device = device.id
        self._outputs = outputs
        self._stream = self._cupy.cuda.Stream(non_blocking=True)
        self._ready, self._done = (self._cupy.cuda.Event(disable_timing=True) for _ in range(2))
        self._buffers: dict[str, Array] = {}
        self._reading: dict[str, Array] = {}
        self._session: Any = None
        self._binding: Any = None
        self._run_options: Any = None

    def provider_options(self) -> dict[str, str]:
        """Options of the CUDA provider."""
        return {
            "device_id": str(self._device),
            "user_compute_stream": str(self._stream.ptr),
            "use_tf32": "0",  # a bundle's precision is what its graph says, and what its export was verified with
            "cudnn_conv_algo_search": "HEURISTIC",  # the default tries all, for every new batch size
        }

    def bind(self, ort: Any, session: Any) -> None:
        """Take the session that ``run`` runs."""
        self._session, self._binding = session, session.io_binding()
        self._run_options = ort.RunOptions()
        # The end of a run is an event on the stream (see run), not a wait of the host.
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run(self, feed: Mapping[str, Array], batch: int, stream: Any) -> dict[str, Array]:
        """Queue a run in the order of ``stream``, CuPy's current one if None. The outputs are this object's arrays."""
        cupy = self._cupy
        with cupy.cuda.Device(self._device):
            caller = cupy.cuda.get_current_stream() if stream is None else stream
            with caller:  # memory that is taken here belongs to the caller's order
                # Kept until the next run: a copy must not be given back while the network may read it.
                self._reading = {name: cupy.ascontiguousarray(array) for name, array in feed.items()}
                outputs = self._take(batch)
            self._ready.record(caller)
            self._stream.wait_event(self._ready)
            try:
                self._call(outputs)
            finally:  # also after a failure: part of the work may be queued
                self._done.record(self._stream)
                caller.wait_event(self._done)
        return outputs

    def check_device(self, name: str, array: Array) -> None:
        """Raise InputError unless a CuPy array is on this GPU."""
        if array.device.id != self._device:
            raise InputError(
                f"{self.label}: {name}: wanted an array on CUDA device {self._device}, where the network is, got one "
                f"on device {array.device.id}"
            )

    def empty(self, spec: TensorSpec, batch: int) -> Array:
        """An uninitialised array of an output."""
        with self._cupy.cuda.Device(self._device):
            return self._cupy.empty((batch, *(n for n in spec.shape if n is not None)), dtype=spec.dtype)

    def release(self) -> None:
        """Wait for what is queued, then let go of the session and the memory. A failed device is logged, not raised."""
        try:
            self._stream.synchronize()
        except Exception as error:  # the run that failed has said so already; closing must still close
            log.warning("%s: while closing: %s: %s", self.label, type(error).__name__, error)
        self._binding = self._session = None
        self._buffers, self._reading = {}, {}

    def _take(self, batch: int) -> dict[str, Array]:
        """The first ``batch`` rows of buffers that grow when a larger batch comes."""
        if not self._buffers or any(len(buffer) < batch for buffer in self._buffers.values()):
            if self._buffers:  # CuPy gives memory away in the order of the stream that took it, which is not this one
                self._stream.synchronize()
            self._buffers = {name: self.empty(spec, batch) for name, spec in self._outputs.items()}
        return {name: buffer[:batch] for name, buffer in self._buffers.items()}

    def _call(self, outputs: Mapping[str, Array]) -> None:
        for bind, arrays in ((self._binding.bind_input, self._reading), (self._binding.bind_output, outputs)):
            for name, array in arrays.items():
                bind(name, "cuda", self._device, array.dtype.type, tuple(array.shape), int(array.data.ptr))
        self._session.run_with_iobinding(self._binding, self._run_options)
