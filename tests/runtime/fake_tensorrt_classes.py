"""The classes of the stand-in for TensorRT; ``fake_tensorrt`` leaves each the members of a surface."""

from __future__ import annotations

import ctypes
import json
import types
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.runtime.fake_cupy import FakeCupy

_MAGIC = b"FAKE"
_KINDS = {onnx.TensorProto.FLOAT: ("FLOAT", np.float32), onnx.TensorProto.INT32: ("INT32", np.int32)}


class ILogger:
    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    pass


class ITensor:
    def __init__(self, info: onnx.ValueInfoProto) -> None:
        self.name = info.name
        self.kind, self.dtype = _KINDS[info.type.tensor_type.elem_type]
        self.shape = tuple(dim.dim_value or -1 for dim in info.type.tensor_type.shape.dim)


class Builder:
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        if self._trt.failing("Builder"):
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> Any:
        self._trt.calls.append(("create_network", flags))
        return self._trt.INetworkDefinition()

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig()

    def create_optimization_profile(self) -> Any:
        return self._trt.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 2)
        for step in range(2):
            self._trt.on_build(monitor)
            if not monitor.step_complete("Building engine", step):
                return None
        monitor.phase_finish("Building engine")
        if self._trt.failing("build_serialized_network"):
            self._logger.log(types.SimpleNamespace(name="ERROR"), "no implementation found for node")
            return None
        header = {"version": self._trt.__version__, "shapes": config._profile._shapes}
        text = json.dumps(header).encode()
        return _MAGIC + len(text).to_bytes(4, "little") + text + network._model.SerializeToString()


class INetworkDefinition:
    _model: Any = None

    @property
    def num_inputs(self) -> int:
        return len(self._model.graph.input)

    def get_input(self, index: int) -> ITensor:
        return ITensor(self._model.graph.input[index])


class ParserError:
    def desc(self) -> str:
        return "unsupported"

    def node_name(self) -> str:
        return "matmul_3"

    def node_operator(self) -> str:
        return "MatMul"


class OnnxParser:
    def __init__(self, network: Any, logger: Any) -> None:
        self._network = network

    num_errors = 1

    def get_error(self, index: int) -> Any:
        return self._trt.ParserError()

    def parse(self, model: bytes, path: str | None = None) -> bool:
        if self._trt.failing("parse"):
            return False
        self._network._model = onnx.load_from_string(model)
        return True


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self._shapes[name] = [list(low), list(best), list(high)]


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return b"timings" + self._content[:0]


class IBuilderConfig:
    progress_monitor: Any = None
    num_compute_capabilities = 0

    def add_optimization_profile(self, profile: Any) -> int:
        self._profile = profile
        return 0

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._trt.calls.append(("set_memory_pool_limit", pool.name, size))

    def clear_flag(self, flag: Any) -> None:
        self._trt.calls.append(("clear_flag", flag.name))

    def set_flag(self, flag: Any) -> None:
        self._trt.calls.append(("set_flag", flag.name))

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        self._trt.calls.append(("set_compute_capability", capability.name, index))
        return index < self.num_compute_capabilities

    def create_timing_cache(self, content: bytes) -> Any:
        self._trt.calls.append(("create_timing_cache", content))
        return self._trt.ITimingCache(content)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        return not (cache._content and self._trt.failing("set_timing_cache"))


class Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        if self._trt.failing("deserialize_cuda_engine") or plan[:4] != _MAGIC:
            self._logger.log(types.SimpleNamespace(name="ERROR"), "Serialization assertion failed")
            return None
        return self._trt.ICudaEngine(plan)


class ICudaEngine:
    device_memory_size_v2 = 1000

    def __init__(self, plan: bytes) -> None:
        size = int.from_bytes(plan[4:8], "little")
        self._profile = json.loads(plan[8 : 8 + size])["shapes"]
        graph = plan[8 + size :]
        model = onnx.load_from_string(graph)
        self._tensors = {info.name: ITensor(info) for info in (*model.graph.input, *model.graph.output)}
        self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if name in self._profile else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._trt.DataType, self._tensors[name].kind)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def get_tensor_profile_shape(self, name: str, index: int) -> Any:
        return self._profile[name]

    def create_runtime_config(self) -> Any:
        return self._trt.IRuntimeConfig()

    def create_execution_context(self, how: Any = None) -> Any:
        return None if self._trt.failing("create_execution_context") else self._trt.IExecutionContext(self)


class IRuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        assert strategy.name == "USER_MANAGED"


class IExecutionContext:
    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0
        self._memory = size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._trt.failing("set_input_shape"):
            return False
        low, _, high = self._engine._profile[name]
        self._shapes[name] = shape
        return all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        failing = self._trt.failing("set_tensor_address")
        self._addresses[name] = address
        return not failing and address % 256 == 0

    def is_stream_capturable(self, stream: int) -> bool:
        return not self._trt.failing("is_stream_capturable")

    def execute_async_v3(self, stream_handle: int) -> bool:
        tensors = self._engine._tensors
        if self._trt.failing("execute_async_v3") or set(self._addresses) != set(tensors):
            return False
        assert self._memory >= self._engine.device_memory_size_v2
        addresses, shapes = dict(self._addresses), dict(self._shapes)
        FakeCupy.current.streams[stream_handle].do(lambda: self._execute(addresses, shapes))
        return True

    def _execute(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
        tensors = self._engine._tensors
        feed = {}
        for name, shape in shapes.items():
            array = np.empty(shape, tensors[name].dtype)
            ctypes.memmove(array.ctypes.data, addresses[name], array.nbytes)
            feed[name] = array
        names = [name for name in tensors if name not in feed]
        for name, array in zip(names, self._engine._session.run(names, feed), strict=True):
            shifted = array + np.float32(self._trt.noise) if array.dtype == np.float32 else array
            result = np.ascontiguousarray(shifted)
            ctypes.memmove(addresses[name], result.ctypes.data, result.nbytes)


CLASSES = (
    ILogger,
    IProgressMonitor,
    Builder,
    INetworkDefinition,
    OnnxParser,
    ParserError,
    IOptimizationProfile,
    ITimingCache,
    IBuilderConfig,
    Runtime,
    ICudaEngine,
    IRuntimeConfig,
    IExecutionContext,
)
