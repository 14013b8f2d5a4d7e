"""Binds arrays to an execution context of TensorRT, runs it, and captures its runs as CUDA graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coop_edge.errors import quoted
from coop_edge.runtime.base import Array
from coop_edge.runtime.tensorrt_api import TensorRt


class BoundContext:
    """An execution context with the arrays it is bound to, so that TensorRT is told only what has changed.

    Args:
        label: the network's name in errors.
        inputs: names of the network's inputs.
    """

    def __init__(self, api: TensorRt, context: Any, label: str, inputs: Sequence[str]) -> None:
        self._api, self._context, self._label, self._inputs = api, context, label, inputs
        self._batch: int | None = None
        self._addresses: dict[str, int] = {}

    def bind(self, arrays: Mapping[str, Array], batch: int) -> None:
        """Let the next runs read and write ``arrays``, by name, of N = ``batch``.

        Raises:
            EngineError: TensorRT does not take a shape or an address.
        """
        if batch != self._batch:
            self._batch = None
            for name in self._inputs:
                shape = tuple(int(n) for n in arrays[name].shape)
                if not self._context.set_input_shape(name, shape):
                    raise self._api.error(self._label, f"TensorRT does not take the shape {list(shape)} for {name}")
            self._batch = batch
        for name, array in arrays.items():
            address = int(array.data.ptr)
            if self._addresses.get(name) != address:
                if not self._context.set_tensor_address(name, address):
                    raise self._api.error(self._label, f"TensorRT does not take the address {address:#x} for {name}")
                self._addresses[name] = address

    def enqueue(self, stream: int) -> None:
        """Queue a run on a CUDA stream, given by its handle.

        Raises:
            EngineError: the run failed.
        """
        if not self._context.execute_async_v3(stream):
            raise self._api.error(self._label, f"the run failed on N = {self._batch}")

    def capture(self, stream: Any) -> CapturedRun:
        """Capture a run as a CUDA graph on ``stream``, a CuPy stream with nothing queued.

        A run of the same shapes must have ended before.

        Raises:
            EngineError: with the reason if that fails.
        """
        if not self._api.capturable(self._context, stream.ptr):
            raise self._not_captured("TensorRT says that this network cannot be captured")
        queued, reason = False, "TensorRT reports a failure"
        try:
            stream.begin_capture()
            try:
                queued = self._context.execute_async_v3(stream.ptr)
            finally:
                graph = stream.end_capture()
        except Exception as error:  # CuPy's CUDARuntimeError has no base of its own
            queued, reason = False, quoted(error)
        if not queued:
            raise self._not_captured(reason)
        return CapturedRun(self, graph)

    def _not_captured(self, reason: str) -> Exception:
        return self._api.error(self._label, f"no CUDA graph for N = {self._batch}: {reason}; use cuda_graph=False")


@dataclass(frozen=True)
class CapturedRun:
    """A CUDA graph and the context it was captured from: TensorRT wants a context of its own for each graph."""

    bound: BoundContext
    graph: Any
