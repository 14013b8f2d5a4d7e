"""Records what a TensorRT's Python API offers (classes and members, enumerations and values) as a small JSON file.

    python -m tests.runtime.record_surface tensorrt_rtx OUT.json                  an installed module
    python -m tests.runtime.record_surface tensorrt_cu13_bindings-*.whl OUT.json

The last form needs neither a GPU nor TensorRT's libraries: the wheel's extension module is loaded against empty
libraries that define the nine symbols it takes from them, which is enough to look at its classes. The wheel must be for
the Python that runs this; it needs gcc.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

# fmt: off
CLASSES = [
    "Builder", "IBuilderConfig", "INetworkDefinition", "ITensor", "OnnxParser", "ParserError",
    "IOptimizationProfile", "ITimingCache", "IHostMemory", "Runtime", "ICudaEngine", "IExecutionContext",
    "IRuntimeConfig", "ILogger", "IProgressMonitor",
]
ENUMS = [
    "NetworkDefinitionCreationFlag", "BuilderFlag", "MemoryPoolType", "TensorIOMode", "DataType",
    "ComputeCapability", "ExecutionContextAllocationStrategy", "DynamicShapesKernelSpecializationStrategy",
    "HardwareCompatibilityLevel",
]
_SYMBOLS = [
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
]
# fmt: on


def of_module(module: Any, source: str) -> dict[str, Any]:
    """The surface of an imported module."""
    classes = {
        name: [m for m in dir(getattr(module, name)) if m[0] != "_"] for name in CLASSES if hasattr(module, name)
    }
    members = {name: getattr(module, name).__members__ for name in ENUMS if hasattr(module, name)}
    enums = {name: {key: int(value) for key, value in entries.items()} for name, entries in members.items()}
    return {"version": module.__version__, "source": source, "classes": classes, "enums": enums}


def of_wheel(path: Path) -> dict[str, Any]:
    """The surface of a bindings wheel, see above."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        zipfile.ZipFile(path).extractall(folder)
        extension = folder / "tensorrt_bindings" / "tensorrt.so"
        needed = subprocess.run(["readelf", "-d", extension], capture_output=True, text=True, check=True).stdout
        code = folder / "empty.c"
        code.write_text("".join(f"void* {symbol}(void) {{ return 0; }}\n" for symbol in _SYMBOLS))
        for name in re.findall(r"\[(libnv[\w.]+)\]", needed):
            subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, code], check=True)
        run = "import tensorrt_bindings as m, json; from tests.runtime.record_surface import of_module; "
        result = subprocess.run(
            [sys.executable, "-c", run + f"print(json.dumps(of_module(m, {path.name!r})))"],
            env={"LD_LIBRARY_PATH": scratch, "PYTHONPATH": f"{scratch}:{Path(__file__).parents[2]}"},
            capture_output=True,
            text=True,
            check=True,
        )
    return json.loads(result.stdout)


def dump(surface: dict[str, Any], path: Path) -> None:
    """Write a surface, one class a line."""
    lines = [f' "version": {json.dumps(surface["version"])},', f' "source": {json.dumps(surface["source"])},']
    for part in ("classes", "enums"):
        entries = [f"  {json.dumps(name)}: {json.dumps(content)}" for name, content in surface[part].items()]
        lines += [f' "{part}": {{', ",\n".join(entries), " }" + ("," if part == "classes" else "")]
    path.write_text("{\n" + "\n".join(lines) + "\n}\n")


def main(what: str, out: str) -> None:
    if what.endswith(".whl"):
        surface = of_wheel(Path(what))
    else:
        module = importlib.import_module(what)
        surface = of_module(module, f"{what} {module.__version__}")
    dump(surface, Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
