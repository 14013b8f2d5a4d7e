"""Runs a session of ONNX Runtime's CUDA provider on CuPy arrays: memory, bindings, and the order of streams.

The provider runs on one stream, fixed when the session is made. Here that is a stream of the runner's own, and events
put each run in its place on the caller's stream: it starts after what the caller queued before, and what the caller
queues afterwards starts after it. The host waits for neither.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from coop_edge.errors import quoted
from coop_edge.kernels.device import CupyDevice
from coop_edge.runtime.base import Array, TensorSpec

log = logging.getLogger("coop_edge")


class CudaBinding:
    """Inputs and outputs of one session in CuPy arrays, on the GPU that is current when this is made.

    Args:
        outputs: of the network.
        empty: makes an uninitialised array of an output for a number of rows, on that GPU.

    Raises:
        BackendUnavailable: without CuPy and a GPU.
    """

    def __init__(self, outputs: Mapping[str, TensorSpec], empty: Callable[[TensorSpec, int], Array]) -> None:
        device = CupyDevice()
        self._cupy: Any = device.xp
        self.device_id = device.id
        self._outputs, self._empty = outputs, empty
        self._stream = self._cupy.cuda.Stream(non_blocking=True)
        self._ready, self._done = (self._cupy.cuda.Event(disable_timing=True) for _ in range(2))
        self._buffers: dict[str, Array] = {}
        self._reading: dict[str, Array] = {}
        self._session: Any = None
        self._binding: Any = None
        self._run_options: Any = None

    def provider_options(self) -> dict[str, str]:
        """Return the options of the CUDA provider."""
        return {
            "device_id": str(self.device_id),
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
        with cupy.cuda.Device(self.device_id):
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

    def release(self, label: str) -> None:
        """Wait for what is queued, then let go of the session and the memory.

        A failed device is logged, not raised.

        Args:
            label: the runner's name in the log.
        """
        try:
            self._stream.synchronize()
        except Exception as error:  # the run that failed has said so already; closing must still close
            log.warning("%s: while closing: %s", label, quoted(error))
        self._binding = self._session = None
        self._buffers, self._reading = {}, {}

    def _take(self, batch: int) -> dict[str, Array]:
        """Return the first ``batch`` rows of the output buffers, which grow when a larger batch comes."""
        if not self._buffers or any(len(buffer) < batch for buffer in self._buffers.values()):
            if self._buffers:  # CuPy gives memory away in the order of the stream that took it, which is not this one
                self._stream.synchronize()
            self._buffers = {name: self._empty(spec, batch) for name, spec in self._outputs.items()}
        return {name: buffer[:batch] for name, buffer in self._buffers.items()}

    def _call(self, outputs: Mapping[str, Array]) -> None:
        for bind, arrays in ((self._binding.bind_input, self._reading), (self._binding.bind_output, outputs)):
            for name, array in arrays.items():
                bind(name, "cuda", self.device_id, array.dtype.type, tuple(array.shape), int(array.data.ptr))
        self._session.run_with_iobinding(self._binding, self._run_options)
