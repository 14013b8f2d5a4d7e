"""A stand-in for TensorRT with exactly the names of a recorded surface: what that version lacks is an AttributeError.

"Building" keeps the ONNX graph inside the plan, and "running" hands it to ONNX Runtime on the host memory that stands
for the device's (``fake_cupy``). Calls are written down in ``FakeTensorRt.calls``, faults are asked for by its other
attributes. It checks what TensorRT checks: shapes inside the profile, addresses set and aligned, memory given.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

from tests.runtime.fake_cupy import FakeCupy
from tests.runtime.fake_tensorrt_classes import CLASSES

SURFACES = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "surfaces").glob("*"))}


class FakeTensorRt(types.ModuleType):
    """The module of a surface ("tensorrt-10.3.0", "tensorrt_rtx-1.7.1", ...).

    fail: names of the calls that fail the way TensorRT fails them ("parse", "build_serialized_network", "Builder",
    "deserialize_cuda_engine", "create_execution_context", "set_input_shape", "set_tensor_address", "execute_async_v3",
    "set_timing_cache", "is_stream_capturable"). noise: added to floating-point outputs. on_build: called in a build.
    """

    def __init__(self, surface: str) -> None:
        super().__init__(surface.split("-")[0])
        self.surface = SURFACES[surface]
        self.__version__ = self.surface["version"]
        self.calls: list[tuple[Any, ...]] = []
        self.fail: set[str] = set()
        self.noise = 0.0
        self.on_build: Any = lambda monitor: None
        for name, members in self.surface["enums"].items():
            setattr(self, name, _enumeration(name, members))
        for kind in CLASSES:
            if kind.__name__ in self.surface["classes"]:
                setattr(self, kind.__name__, _only(kind, self))

    def failing(self, name: str) -> bool:
        self.calls.append((name,))
        return name in self.fail

    def count(self, name: str) -> int:
        return sum(call[0] == name for call in self.calls)


def install(monkeypatch: Any, surface: str, sm: str = "86") -> tuple[FakeTensorRt, FakeCupy]:
    """Put a fresh stand-in for TensorRT (the only one then) and for CuPy where imports find them."""
    trt, cupy = FakeTensorRt(surface), FakeCupy(sm)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, trt if name == trt.__name__ else None)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return trt, cupy


def _enumeration(name: str, members: dict[str, int]) -> type:
    """Like pybind11's: a class whose members have ``name`` and convert to int."""
    kind = type(name, (int,), {"__repr__": lambda self: f"<{name}.{self.name}>"})
    entries = {}
    for key, value in members.items():
        entries[key] = kind(value)
        entries[key].name = key
        setattr(kind, key, entries[key])
    kind.__members__ = entries
    return kind


def _only(kind: type, trt: FakeTensorRt) -> type:
    """``kind`` with the members of the surface alone; anything else it is asked for, or given, is an error."""
    allowed = set(trt.surface["classes"][kind.__name__])

    def getattribute(self: Any, name: str) -> Any:
        if name[0] != "_" and name in _public(kind) and name not in allowed:
            raise AttributeError(f"{kind.__name__} of {trt.__version__} has no {name}")
        return object.__getattribute__(self, name)

    def setattribute(self: Any, name: str, value: Any) -> None:
        if name[0] != "_" and name not in allowed and type(self).__name__ == kind.__name__:
            raise AttributeError(f"{kind.__name__} of {trt.__version__} has no {name}")
        object.__setattr__(self, name, value)

    body = {"_trt": trt, "__getattribute__": getattribute, "__setattr__": setattribute}
    return type(kind.__name__, (kind,), body)


def _public(kind: type) -> set[str]:
    return {name for name in dir(kind) if name[0] != "_"}
