"""Every attribute of TensorRT that the package names exists in every supported version, by recorded API surfaces.

``tests/runtime/record_surface.py`` records them. Which class a variable holds is known by its name: ``VARIABLES``.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import coop_edge.runtime
from tests.runtime.fake_tensorrt import SURFACES

RUNTIME = Path(coop_edge.runtime.__file__).parent
SOURCES = [
    RUNTIME / f"{name}.py" for name in ("tensorrt_api", "tensorrt_callbacks", "tensorrt", "tensorrt_context", "build")
]
VARIABLES = {
    "builder": "Builder",
    "definition": "INetworkDefinition",
    "tensor": "ITensor",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "settings": "IRuntimeConfig",
    "context": "IExecutionContext",
}
# What TensorRT for RTX alone has: allowed only in functions that ask for the flavour first.
RTX_ALONE = {
    ("ComputeCapability", None),
    ("BuilderFlag", "REQUIRE_USER_ALLOCATION"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("DynamicShapesKernelSpecializationStrategy", None),
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
    ("IRuntimeConfig", "set_execution_context_allocation_strategy"),
    ("ICudaEngine", "create_runtime_config"),
    ("IExecutionContext", "is_stream_capturable"),
}


def uses(source: str) -> set[tuple[str, str | None, bool]]:
    """(class, member, whether the function asks for the flavour) of each use; member None: the class itself."""
    found = set()
    tree = ast.parse(source)
    guarded = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and "self.flavour" in ast.unparse(function)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr[0] == "_":
            continue
        holder, guard = node.value, node in guarded
        if ast.unparse(holder).startswith("cupy."):  # has a "runtime" of its own
            continue
        name = (holder.id if isinstance(holder, ast.Name) else getattr(holder, "attr", "")).lstrip("_")
        if name == "trt":
            found.add((node.attr, None, guard))
        elif name in VARIABLES:
            found.add((VARIABLES[name], node.attr, guard))
        elif (
            isinstance(holder, ast.Attribute)
            and getattr(holder.value, "id", getattr(holder.value, "attr", "")) == "trt"
        ):
            found.add((holder.attr, node.attr, guard))
    return found


def missing(source: str, surface: dict) -> list[str]:
    """What ``source`` uses and ``surface`` lacks."""
    members = {name: set(entries) for part in ("classes", "enums") for name, entries in surface[part].items()}
    lacking = []
    for kind, member, guard in sorted(uses(source), key=str):
        there = kind in members and (member is None or member in members[kind])
        if not there and not (guard and ((kind, member) in RTX_ALONE or (kind, None) in RTX_ALONE)):
            lacking.append(kind if member is None else f"{kind}.{member}")
    return lacking


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_attribute_exists_in(path, surface):
    assert missing(path.read_text(), SURFACES[surface]) == []


def test_what_only_rtx_has_is_on_its_surface():
    rtx = SURFACES["tensorrt_rtx-1.7.1"]
    members = {**rtx["classes"], **rtx["enums"]}
    for kind, member in RTX_ALONE:
        assert kind in members, kind
        assert member is None or member in members[kind], (kind, member)


def test_the_walk_sees_what_the_code_uses():
    """Guards the test itself: renaming a variable would make it look past a class."""
    found = {kind for path in SOURCES for kind, _, _ in uses(path.read_text())}
    assert found >= {*VARIABLES.values(), "BuilderFlag", "NetworkDefinitionCreationFlag", "ILogger", "TensorIOMode"}
    classes = {*SURFACES["tensorrt_rtx-1.7.1"]["classes"], *SURFACES["tensorrt_rtx-1.7.1"]["enums"]}
    assert found <= classes, f"not recorded: {found - classes}"


@pytest.mark.parametrize(
    ("line", "lacking_in"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", {"tensorrt-11.0.0", "tensorrt-11.4.0", "tensorrt_rtx-1.7.1"}),
        ("builder.platform_has_fast_fp16", {"tensorrt-11.0.0", "tensorrt-11.4.0", "tensorrt_rtx-1.7.1"}),
        ("self._engine.device_memory_size", {"tensorrt-11.0.0", "tensorrt-11.4.0", "tensorrt_rtx-1.7.1"}),
        (
            "self.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
            {"tensorrt-11.0.0", "tensorrt-11.4.0"} | {"tensorrt_rtx-1.7.1"},
        ),
        ("bound.context.execute_async_v2(0)", set(SURFACES)),
        ("config.num_compute_capabilities = 1", set(SURFACES) - {"tensorrt_rtx-1.7.1"}),
    ],
)
def test_a_name_that_is_gone_is_found(line, lacking_in):
    assert {name for name, surface in SURFACES.items() if missing(line, surface)} == lacking_in


def test_the_strongly_typed_bit_moved_between_10_and_11():
    bits = {
        name: surface["enums"]["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"] for name, surface in SURFACES.items()
    }
    assert bits["tensorrt-10.3.0"] == 1
    assert bits["tensorrt-11.0.0"] == 0


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_the_installed_module_has_no_less_than_its_recorded_surface(name):
    module = pytest.importorskip(name)
    recorded = SURFACES.get(f"{name}-{'.'.join(module.__version__.split('.')[:3])}")
    if recorded is None:
        pytest.skip(f"no surface of {name} {module.__version__} is recorded")
    for kind, members in {**recorded["classes"], **recorded["enums"]}.items():
        assert set(members) <= set(dir(getattr(module, kind)))
