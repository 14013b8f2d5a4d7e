"""Finds the installed TensorRT, 10.3 to 11.x, or TensorRT for RTX, and settles their differences.

| | 10.x | 11.x | RTX 1.x |
|---|---|---|---|
| strongly typed networks | a flag, bit 1 | always; the flag is bit 0 and ignored | always |
| ``BuilderFlag.FP16`` and its kin | there | gone | gone |
| GPU needed to build | yes | yes | no, the targets' SM are named |
| timing cache | yes | yes | without effect, deprecated |
| capture of a stream | as it is | as it is | only with ``REQUIRE_USER_ALLOCATION`` |

So precision lives in the graph alone, and a flag's bit always comes from the enumeration. Variables keep the names that
``tests/runtime/test_tensorrt_surfaces.py`` looks for, which holds every attribute used against recorded API surfaces.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from coop_edge.errors import BackendUnavailable, EngineError
from coop_edge.runtime.tensorrt_callbacks import Progress, make_logger, make_monitor

log = logging.getLogger("coop_edge.tensorrt")

MODULES = ("tensorrt", "tensorrt_rtx")
OLDEST = (10, 3)
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}
_INSTALL = (
    "pip install tensorrt on a desktop GPU; on a Jetson it comes with JetPack, and a virtual environment "
    "sees it only with --system-site-packages"
)


@dataclass(frozen=True)
class Built:
    """Result of a build.

    Attributes:
        shapes: input name -> its smallest, optimal and largest shape.
    """

    plan: bytes
    shapes: dict[str, list[list[int]]]
    timing_cache: bytes | None


@dataclass(frozen=True)
class EngineTensor:
    """Input or output of an engine; a dynamic axis is -1.

    Attributes:
        max_batch: largest N of an input's profile, 0 for outputs.
    """

    name: str
    is_input: bool
    shape: tuple[int, ...]
    dtype: str
    max_batch: int


def load(name: str | None = None) -> TensorRt:
    """Load TensorRT by the name of its module, or the first of ``MODULES`` that can be used.

    Raises:
        BackendUnavailable: it is not installed, does not load, or is older than 10.3.
        EngineError: another name.
    """
    if name is not None and name not in MODULES:
        raise EngineError(f"TensorRT: wanted one of the modules {', '.join(MODULES)}, got {name!r}")
    return next(installed(MODULES if name is None else (name,)))


def installed(names: Sequence[str] = MODULES) -> Iterator[TensorRt]:
    """Yield each of ``names`` that can be used, imported when it is its turn.

    Raises:
        BackendUnavailable: if none can.
    """
    found, failures = False, []
    for name in names:
        try:
            api = _of_module(importlib.import_module(name))
        except (ImportError, OSError, AttributeError, BackendUnavailable) as error:
            # OSError: its shared libraries are not there. AttributeError: some other folder of that name is.
            failures.append(f"{name}: {error}")
        else:
            found = True
            yield api
    if not found:
        raise BackendUnavailable(f"no TensorRT here ({'; '.join(failures)}); {_INSTALL}")


@cache
def _of_module(module: Any) -> TensorRt:
    """Make one TensorRt per module: a process keeps its first logger for as long as anything made with one lives."""
    return TensorRt(module)


class TensorRt:
    """One installed TensorRT. Make it with ``load``.

    Attributes:
        flavour: "trt" or "rtx"; version: as the module gives it.
    """

    def __init__(self, module: Any) -> None:
        self.trt = module
        self.name: str = module.__name__
        self.flavour = "rtx" if self.name == "tensorrt_rtx" else "trt"
        self.version: str = module.__version__
        release = tuple(int(part) for part in re.findall(r"\d+", self.version)[:2])
        if self.flavour == "trt" and release < OLDEST:
            raise BackendUnavailable(f"TensorRT {self.version} is too old; wanted {OLDEST[0]}.{OLDEST[1]} or newer")
        self.logger = make_logger(module)

    def build(
        self,
        onnx: bytes,
        what: str,
        batch: tuple[int, int, int],
        *,
        workspace_mb: int | None = None,
        timing_cache: bytes | None = None,
        tf32: bool = True,
        targets: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Built:
        """Build a plan from a graph whose only dynamic axis is the first.

        Args:
            what: name of the graph in errors.
            batch: smallest, optimal and largest N.
            timing_cache: serialised, b"" for a new one, None for none.
            tf32: let FP32 products round to TF32.
            targets: SM of the GPUs to build for ("86"), RTX alone; otherwise the current GPU.

        Raises:
            EngineError: with TensorRT's own words.
        """
        trt = self.trt
        self.logger.restart()
        builder = self._made(what, trt.Builder)
        definition = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(definition, self.logger)
        if not parser.parse(onnx):
            raise self.error(what, "the graph cannot be parsed", "; ".join(map(_parser_error, _errors_of(parser))))
        config = builder.create_builder_config()
        shapes = self._add_profile(what, builder, definition, config, batch)
        if workspace_mb is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
        if not tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        self._set_targets(what, config, targets)
        cache = self._set_timing_cache(what, config, timing_cache)
        config.progress_monitor = monitor = make_monitor(trt, self.logger, progress)
        memory = builder.build_serialized_network(definition, config)
        if self.logger.raised is not None:
            raise self.logger.raised
        if memory is None:
            raise self.error(what, "the build was stopped" if monitor.stopped else "TensorRT could not build it")
        return Built(bytes(memory), shapes, None if cache is None else bytes(cache.serialize()))

    def deserialize(self, plan: bytes, what: str) -> tuple[Any, Any]:
        """Return IRuntime and ICudaEngine of a plan that was checked before.

        Raises:
            EngineError: TensorRT does not load the plan.
        """
        self.logger.restart()
        runtime = self._made(what, self.trt.Runtime)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self.error(what, "TensorRT does not load this plan")
        return runtime, engine

    def tensors(self, engine: Any) -> list[EngineTensor]:
        """Return the inputs and outputs of an engine."""
        found = []
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            is_input = engine.get_tensor_mode(name) == self.trt.TensorIOMode.INPUT
            kind = engine.get_tensor_dtype(name).name
            largest = int(engine.get_tensor_profile_shape(name, 0)[2][0]) if is_input else 0
            shape = tuple(int(n) for n in engine.get_tensor_shape(name))
            found.append(EngineTensor(name, is_input, shape, _DTYPES.get(kind, kind.lower()), largest))
        return found

    def context(self, engine: Any, what: str, *, for_capture: bool = False) -> Any:
        """Make an IExecutionContext; the caller gives its memory (``set_device_memory``).

        Args:
            for_capture: RTX then compiles the kernels of a shape at its first run, and not in the background, where a
                CUDA graph would have captured the slower ones that stand in for them.

        Raises:
            EngineError: TensorRT cannot create the context.
        """
        trt = self.trt
        self.logger.restart()
        how = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if for_capture and self.flavour == "rtx":
            settings = engine.create_runtime_config()
            settings.set_execution_context_allocation_strategy(how)
            eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            settings.dynamic_shapes_kernel_specialization_strategy = eager
            how = settings
        context = engine.create_execution_context(how)
        if context is None:
            raise self.error(what, "TensorRT could not create an execution context")
        return context

    def capturable(self, context: Any, stream: int) -> bool:
        """Return False if TensorRT says that a context cannot be captured. Only RTX can tell; elsewhere one tries."""
        return bool(context.is_stream_capturable(stream)) if self.flavour == "rtx" else True

    def _made(self, what: str, kind: Any) -> Any:
        """Make a Builder or a Runtime. Without a driver their constructors return nothing; pybind11 says TypeError."""
        try:
            return kind(self.logger)
        except TypeError as error:
            raise self.error(
                what, f"TensorRT {self.version} does not start (no GPU, or its driver is too old)", str(error)
            ) from None

    def _add_profile(
        self, what: str, builder: Any, definition: Any, config: Any, batch: tuple[int, int, int]
    ) -> dict[str, list[list[int]]]:
        profile, shapes = builder.create_optimization_profile(), {}
        for tensor in (definition.get_input(i) for i in range(definition.num_inputs)):
            shape = [int(n) for n in tensor.shape]
            if not shape or shape[0] != -1 or -1 in shape[1:]:
                raise self.error(what, f"input {tensor.name}: wanted a dynamic first axis and no other, found {shape}")
            shapes[tensor.name] = [[n, *shape[1:]] for n in batch]
            profile.set_shape(tensor.name, *(tuple(wanted) for wanted in shapes[tensor.name]))
        config.add_optimization_profile(profile)
        return shapes

    def _set_targets(self, what: str, config: Any, targets: Sequence[str]) -> None:
        trt = self.trt
        if self.flavour != "rtx":
            if targets:
                raise self.error(what, f"TensorRT builds for the GPU it runs on, not for SM {', '.join(targets)}")
            return
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # without it a stream cannot be captured
        config.num_compute_capabilities = len(targets) or 1
        known = trt.ComputeCapability.__members__
        for index, target in enumerate([f"SM{sm}" for sm in targets] or ["CURRENT"]):
            if target not in known:
                there = ", ".join(name for name in known if name.startswith("SM"))
                raise self.error(what, f"TensorRT for RTX {self.version} does not build for {target}; it knows {there}")
            if not config.set_compute_capability(known[target], index):
                raise self.error(what, f"TensorRT for RTX does not take the target {target}")

    def _set_timing_cache(self, what: str, config: Any, content: bytes | None) -> Any:
        if content is None or self.flavour == "rtx":
            return None
        for attempt in (content, b"") if content else (b"",):
            cache = config.create_timing_cache(attempt)
            if cache is not None and config.set_timing_cache(cache, False):
                return cache
            log.warning("%s: the timing cache is not of this TensorRT and GPU, or damaged; starting a new one", what)
        return None

    def error(self, what: str, why: str, detail: str = "") -> EngineError:
        """Return the error that says why ``what`` failed, with TensorRT's own words."""
        said = "; ".join(filter(None, (detail, *self.logger.errors)))
        return EngineError(f"{what}: {why}" + (f"; TensorRT says: {said}" if said else ""))


def _errors_of(parser: Any) -> list[Any]:
    return [parser.get_error(i) for i in range(parser.num_errors)]


def _parser_error(parser_error: Any) -> str:
    name = parser_error.node_name()
    return parser_error.desc() + (f" (node {name}, {parser_error.node_operator()})" if name else "")
