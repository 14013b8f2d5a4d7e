"""Runs plans that ``coop-edge build`` made with TensorRT, on the caller's CUDA stream, in CuPy memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coop_edge.errors import CoopEdgeError, EngineError, quoted
from coop_edge.kernels.device import CupyDevice
from coop_edge.runtime import tensorrt_api
from coop_edge.runtime.base import Array, Runner
from coop_edge.runtime.network import Network
from coop_edge.runtime.plan import Target, rebuild_command
from coop_edge.runtime.plan_lookup import LoadedPlan, read_info, read_plan
from coop_edge.runtime.tensorrt_api import EngineTensor, TensorRt
from coop_edge.runtime.tensorrt_context import BoundContext, CapturedRun

log = logging.getLogger("coop_edge")

_ALIGNMENT = 256
"""Bytes: what TensorRT asks of the address of a tensor."""
_MAX_GRAPHS = 8


class TensorRtRunner(Runner):
    """Runs a plan with the TensorRT, or TensorRT for RTX, that it was built with.

    It runs on the device that is current in CuPy when it opens. Activations, outputs and copies of inputs are CuPy
    memory, one block each, which grows to the largest N seen; outputs of runs of the same N are the same arrays. A run
    on another stream than the last one starts after that has ended.

    Args:
        plan: its path; the sidecar beside it is read at once (``info``, ``max_batch``), the plan itself when the runner
            opens, with all checks of ``read_plan``. Or a plan that has been read, whose bytes are let go of when the
            runner opens.
        label: the runner's name in errors.
        cuda_graph: capture a CUDA graph for each N after its first run and launch that from then on; inputs are then
            copied into the runner's own memory first. It helps where launching kernels takes longer than running them,
            at small N.
    """

    device = "cuda"

    def __init__(self, plan: Path | LoadedPlan, network: Network, *, cuda_graph: bool = False, label: str = "") -> None:
        super().__init__(label or network.label, network.inputs, network.outputs)
        self.network, self.cuda_graph = network, cuda_graph
        self._loaded: LoadedPlan | None = None
        if isinstance(plan, LoadedPlan):
            self.plan, self.info, self._loaded = plan.path, plan.info, plan
        else:
            self.plan, self.info = plan, read_info(plan, network)
        self.max_batch = self.info.batch[2]
        self._clear()

    def _clear(self) -> None:
        # In the order in which things must go: what was captured, the contexts, the engine, the runtime, the memory.
        self._graphs: dict[int, CapturedRun] = {}
        self._bound: BoundContext | None = None
        self._engine: Any = None
        self._runtime: Any = None
        self._activations: Any = None
        self._buffers: dict[str, Array] = {}
        self._reading: dict[str, Array] = {}
        self._api: TensorRt | None = None
        self._cupy: Any = None
        self.device_id = None
        self._capture_stream: Any = None
        self._done: Any = None
        self._last_stream: Any = None  # itself, so that no other stream gets its handle meanwhile

    def _load(self) -> None:
        device = CupyDevice()
        self._cupy, self.device_id = device.xp, device.id
        self._api = api = tensorrt_api.load("tensorrt_rtx" if self.info.flavour == "rtx" else "tensorrt")
        loaded, self._loaded = self._loaded, None  # the engine has a copy of its own
        loaded = loaded or read_plan(self.plan, self.network, Target.here(api))
        self._runtime, self._engine = api.deserialize(loaded.data, self.label)
        self._check_tensors(api.tensors(self._engine))
        self._take_activations(int(self._engine.device_memory_size_v2))
        if self.cuda_graph:
            self._capture_stream = self._cupy.cuda.Stream(non_blocking=True)
        else:
            self._bound = self._new_bound()

    def _take_activations(self, size: int) -> None:
        cuda = self._cupy.cuda
        try:
            self._activations = self._cupy.empty(max(1, size), dtype="uint8")
        except Exception as error:  # CuPy's OutOfMemoryError has no base of its own
            raise EngineError(
                f"{self.label}: no {size >> 20} MB of GPU memory for its activations: {quoted(error)}"
            ) from error
        # What had this memory before may still be at work on the current stream: runs on another one wait for that.
        self._done, current = cuda.Event(disable_timing=True), cuda.get_current_stream()
        self._done.record(current)
        self._last_stream = current

    def _release(self) -> None:
        try:
            if self._last_stream is not None:
                self._done.synchronize()
        except Exception as error:  # the run that failed has said so already; closing must still close
            log.warning("%s: while closing: %s", self.label, quoted(error))
        self._graphs.clear()
        self._bound = None
        self._engine = None
        self._runtime = None
        self._clear()

    def _run(self, feed: Mapping[str, Array], batch: int, stream: Any) -> dict[str, Array]:
        cuda = self._cupy.cuda
        try:
            with cuda.Device(self.device_id):
                caller = cuda.get_current_stream() if stream is None else stream
                with caller:  # memory that is taken here belongs to the caller's order
                    if self._last_stream.ptr != caller.ptr:
                        caller.wait_event(self._done)
                    self._last_stream = caller
                    try:
                        return self._queue(feed, batch, caller)
                    finally:  # also after a failure: part of the work may be queued
                        self._done.record(caller)
        except CoopEdgeError:
            raise
        except Exception as error:  # CuPy's kinds (out of memory, a failed device) have no base of their own
            raise self._tensorrt.error(self.label, f"the run failed on N = {batch}: {quoted(error)}") from error

    def _queue(self, feed: Mapping[str, Array], batch: int, stream: Any) -> dict[str, Array]:
        self._tensorrt.logger.errors.clear()  # what was said before is not about this run
        self._make_room(batch, stream)
        outputs = {name: self._buffers[name][:batch] for name in self.outputs}
        inputs = {name: self._readable(name, feed[name], batch) for name in self.inputs}
        self._reading = inputs  # a copy must not be given back while the network may read it
        arrays = {**inputs, **outputs}
        if self._bound is not None:
            self._bound.bind(arrays, batch)
            self._bound.enqueue(stream.ptr)
        elif batch in self._graphs:
            self._graphs[batch].graph.launch(stream)
        else:
            bound = self._new_bound()
            bound.bind(arrays, batch)
            bound.enqueue(stream.ptr)  # what is done once per shape, and may not be captured, is done here
            stream.synchronize()
            self._graphs[batch] = bound.capture(self._capture_stream)
        return outputs

    def _make_room(self, batch: int, stream: Any) -> None:
        """Take buffers for N = ``batch``. Graphs hold addresses, so they go when a buffer moves."""
        small = not self._buffers or any(len(buffer) < batch for buffer in self._buffers.values())
        full = batch not in self._graphs and len(self._graphs) >= _MAX_GRAPHS
        if self._buffers and (small or full):
            stream.synchronize()  # nothing that goes now is in use any more, on whatever stream it was
        if full and not small:
            del self._graphs[next(iter(self._graphs))]
        if small:
            self._graphs.clear()
            wanted = {**self.outputs, **(self.inputs if self.cuda_graph else {})}
            self._buffers = {name: self._empty(spec, batch) for name, spec in wanted.items()}

    def _readable(self, name: str, array: Array, batch: int) -> Array:
        """Return ``array`` itself where TensorRT can read it in place, else a copy."""
        if self.cuda_graph:
            staged = self._buffers[name][:batch]
            staged[...] = array
            return staged
        array = self._cupy.ascontiguousarray(array)
        return array if array.data.ptr % _ALIGNMENT == 0 else array.copy()

    def _new_bound(self) -> BoundContext:
        context = self._tensorrt.context(self._engine, self.label, for_capture=self.cuda_graph)
        context.set_device_memory(self._activations.data.ptr, self._activations.nbytes)
        return BoundContext(self._tensorrt, context, self.label, tuple(self.inputs))

    @property
    def _tensorrt(self) -> TensorRt:
        """Return the TensorRT of an open runner."""
        assert self._api is not None
        return self._api

    def _check_tensors(self, found: list[EngineTensor]) -> None:
        """Raise EngineError unless the engine's inputs and outputs are those of the bundle."""
        wanted = [(True, spec) for spec in self.inputs.values()] + [(False, spec) for spec in self.outputs.values()]
        has = {(t.is_input, t.name, tuple(None if n == -1 else n for n in t.shape), t.dtype) for t in found}
        needs = {(is_input, spec.name, spec.shape, spec.dtype) for is_input, spec in wanted}
        again = f"build it again with: {rebuild_command(self.network)}"
        if has != needs:
            given = ", ".join(f"{t.name} {list(t.shape)} {t.dtype}" for t in found)
            raise EngineError(f"{self.plan}: wanted {', '.join(str(s) for _, s in wanted)}, has {given}; {again}")
        largest = min(t.max_batch for t in found if t.is_input)
        if largest != self.max_batch:
            raise EngineError(
                f"{self.plan}: the sidecar says at most N = {self.max_batch}, the plan {largest}; {again}"
            )
