"""The house: which room may import which, that no imports form a circle, and what an import may cost and load."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import coop_edge

PACKAGE = Path(coop_edge.__file__).parent
ROOT = PACKAGE.parent

# Room -> rooms it may import (besides itself). Only `backend` may name implementations; see IMPLEMENTATIONS.
FOUNDATION = {"errors", "base", "config", "types", "geometry"}
MAY_IMPORT = {
    "errors": set(),
    "base": {"errors"},
    "config": {"errors", "base"},
    "geometry": {"errors", "base"},
    "calibration": {"errors", "base"},
    "types": {"errors", "base", "geometry", "calibration"},
    "kernels": {"errors", "base"},
    "mesh": FOUNDATION,
    "render": FOUNDATION | {"mesh", "kernels"},
    "templates": FOUNDATION | {"mesh", "render"},
    "pnp": FOUNDATION | {"kernels"},
    "ops": {"errors", "base", "geometry", "kernels"},
    "runtime": FOUNDATION | {"kernels"},
    "stages": FOUNDATION | {"mesh", "ops", "render", "templates", "pnp", "runtime"},
    "visual": FOUNDATION | {"mesh", "render"},
    "labels": FOUNDATION | {"mesh", "render", "visual"},
    "annotate": FOUNDATION | {"cli", "estimator", "labels", "mesh", "render", "visual"},
    "view": FOUNDATION | {"cli", "estimator", "inputs", "labels", "mesh", "render", "stages", "templates", "visual"},
    "serving": {"*"},
    "demo": FOUNDATION,
    "backend": FOUNDATION | {"mesh", "ops", "render", "pnp", "kernels", "runtime"},
    "inputs": {"backend", "config", "errors", "ops", "types"},
    "doctor": FOUNDATION | {"backend", "runtime"},
    "pipeline": FOUNDATION | {"mesh", "ops", "render", "pnp", "runtime", "stages"},
    "finding": FOUNDATION | {"ops", "render", "runtime", "stages", "pipeline"},
    "following": FOUNDATION | {"ops", "render", "stages", "pipeline", "finding"},
    "registry": FOUNDATION | {"backend", "mesh", "ops", "render", "templates", "runtime", "stages"},
    "estimator": FOUNDATION
    | {
        "backend",
        "inputs",
        "mesh",
        "templates",
        "runtime",
        "stages",
        "pipeline",
        "finding",
        "following",
        "registry",
        "visual",
    },
    "cli": {"*"},
    "__main__": {"*"},
    "__init__": {"*"},
}
IMPLEMENTATIONS = {
    "coop_edge.ops.cpu",
    "coop_edge.ops.cuda",
    "coop_edge.render.cpu",
    "coop_edge.render.cuda",
    "coop_edge.render.open3d",
    "coop_edge.pnp.cpu",
    "coop_edge.pnp.cuda",
    "coop_edge.runtime.onnx",
    "coop_edge.runtime.tensorrt",
}
MAY_IMPORT_CUPY = {"coop_edge.backend", "coop_edge.kernels.device", "coop_edge.runtime.plan_check"}
"""Besides the implementations, which ask ``kernels.device`` for it, as every other room does."""
MODULES = sorted(
    ".".join(("coop_edge", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)


def _imports(path: Path) -> set[str]:
    """Modules and names that a file imports, at the top, in functions and for type checking alike."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_the_rooms_below_it(module):
    path = Path(importlib.util.find_spec(module).origin)
    room = _room(module)
    assert room in MAY_IMPORT, f"{module} is in a room that the house does not have; add it to MAY_IMPORT"
    imported = {name for name in _imports(path) if name.startswith("coop_edge.")}
    rooms = {
        _room(name) for name in imported if (PACKAGE / _room(name)).is_dir() or (PACKAGE / f"{_room(name)}.py").exists()
    }
    allowed = MAY_IMPORT[room] | {room}
    assert "*" in allowed or rooms <= allowed, f"{module} imports {sorted(rooms - allowed)}"
    if room not in ("backend", "ops", "render", "pnp", "runtime", "cli"):
        assert not imported & IMPLEMENTATIONS, f"{module} names implementations; ask `backend` for them"


def test_every_implementation_of_the_backend_is_known_here():
    source = (PACKAGE / "backend.py").read_text()
    assert set(re.findall(r"\"(coop_edge[\w.]+):\w+\"", source)) == IMPLEMENTATIONS


@pytest.mark.parametrize("module", MODULES)
def test_cupy_is_imported_where_a_device_is_asked_for_alone(module):
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())
    named = {name.split(".")[0] for name in _imports(Path(importlib.util.find_spec(module).origin))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            named |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    allowed = module in MAY_IMPORT_CUPY | IMPLEMENTATIONS or _room(module) == "doctor"  # it says what is installed
    assert allowed or "cupy" not in named, f"{module} imports cupy; ask `kernels.device` or an implementation for it"


STAGES = [module for module in MODULES if _room(module) == "stages"]


@pytest.mark.parametrize("module", STAGES)
def test_a_stage_does_not_ask_where_its_arrays_are(module):
    """What NumPy and CuPy do in different ways is ``ops``' to know: no test of a type, a module or a device."""
    found = []
    for node in ast.walk(ast.parse(Path(importlib.util.find_spec(module).origin).read_text())):
        text = ast.unparse(node) if isinstance(node, (ast.Call, ast.Compare, ast.MatchClass)) else ""
        tests_a_type = re.match(r"(isinstance|issubclass|hasattr|getattr|type)\(", text) and re.search(
            r"ndarray|array_interface|__module__|'get'|device", text
        )
        tests_a_device = isinstance(node, ast.Compare) and re.search(r"\.device\b|\bxp is\b|\btype\(|__module__", text)
        copies = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args + node.keywords
        to_host = copies and node.func.attr == "get"  # a dictionary's takes an argument
        names = {getattr(node, field, None) for field in ("id", "attr", "name", "module")}
        knows_cuda = any(isinstance(n, str) and re.search(r"cupy|_cuda\b|Cuda[A-Z]", n) for n in names)
        is_cupy = isinstance(node, ast.Constant) and node.value in ("cupy", "cuda", "__cuda_array_interface__")
        if tests_a_type or tests_a_device or to_host or knows_cuda or is_cupy:
            found.append(f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)}")
    assert not found, f"{module} knows what its arrays are: {found}; let `Operations` do it"


def _import_graph(package: str) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports, lazily and for type checking too.

    A name that is no module stands for the module it is imported from, so one that ``__init__`` passes on stands for
    ``__init__`` and all that this imports. That a module's import runs the ``__init__`` above it does not count. A
    text "module:name" counts as an import of the module: that is how ``backend`` names implementations.
    """
    paths = {
        ".".join((package, *path.relative_to(ROOT / package).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in (ROOT / package).rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in paths else node.module for name in names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(":") == 1:
                found.add(node.value.split(":")[0])
        graph[module] = found & (paths.keys() - {module})
    return graph


@pytest.mark.parametrize("package", ["coop_edge", "export", "benchmarks"])
def test_no_imports_form_a_circle(package):
    graph = _import_graph(package)
    assert any(graph.values())
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("module", MODULES)
def test_the_runtime_never_imports_the_workstation_side(module):
    path = Path(importlib.util.find_spec(module).origin)
    tops = {name.split(".")[0] for name in _imports(path)}
    assert not tops & {"torch", "export", "benchmarks", "tests", "pycuda"}


LAZY = ["viser", "ray", "rerun", "playwright", "pyrealsense2", "tritonclient"]
"""Packages of extras that are imported by what needs them, when it does."""


def _run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


BLOCK = """
import importlib.machinery as machinery
find = machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in {blocked!r} else find(name, path, target)
machinery.PathFinder.find_spec = find_spec
"""


def test_import_coop_edge_needs_nothing_but_the_standard_library():
    third_party = ["numpy", "cv2", "scipy", "trimesh", "numba", "typer", "rich", "PIL", "onnxruntime", "cupy", "open3d"]
    assert _run(BLOCK.format(blocked=third_party) + "import coop_edge; print(coop_edge.__version__)").strip()


def test_types_config_and_geometry_need_numpy_alone():
    blocked = ["cv2", "scipy", "trimesh", "numba", "typer", "rich", "PIL", "onnxruntime", "cupy", "open3d", "torch"]
    code = BLOCK.format(blocked=blocked) + (
        "import coop_edge, coop_edge.geometry.crop\n"
        "from coop_edge import Camera, Detection, EstimatorConfig, Mesh, PoseEstimate, TemplateSet\n"
        "import coop_edge.render.base, coop_edge.pnp.base\nprint('ok')"
    )
    assert _run(code).strip() == "ok"


def test_every_module_imports_without_the_optional_packages():
    blocked = [
        "cupy",
        "open3d",
        "torch",
        "onnxruntime",
        "tensorrt",
        "fast_simplification",
        "pycuda",
        "matplotlib",
        *LAZY,
    ]
    code = (
        BLOCK.format(blocked=blocked)
        + f"import importlib\nfor m in {MODULES!r}: importlib.import_module(m)\nprint('ok')"
    )
    assert _run(code).strip() == "ok"


def test_what_only_some_commands_need_is_not_imported_by_the_others():
    """Packages of extras that are installed here too: in place of each stands one that says that it was imported."""
    code = f"""
import sys, types
class Seen:
    def find_spec(self, name, path=None, target=None):
        assert name.split(".")[0] not in {LAZY!r}, name
sys.meta_path.insert(0, Seen())
import importlib
for m in {MODULES!r}: importlib.import_module(m)
print('ok')
"""
    assert _run(code).strip() == "ok"


def test_importing_the_package_loads_no_heavy_module():
    loaded = json.loads(_run("import coop_edge, json, sys; print(json.dumps(sorted(sys.modules)))"))
    heavy = {"cv2", "scipy", "numba", "trimesh", "cupy", "open3d", "onnxruntime", "typer", "rich", "numpy"}
    assert not heavy & set(loaded)


def test_every_public_name_resolves_and_a_wrong_one_says_what_exists():
    for name in coop_edge.__all__:
        assert getattr(coop_edge, name) is not None
    assert set(coop_edge.__all__) <= set(dir(coop_edge))
    with pytest.raises(AttributeError, match=r"it offers: .*Camera"):
        coop_edge.Kamera  # noqa: B018


def test_type_checkers_are_told_the_same_public_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))  # TYPE_CHECKING
    told = [
        node for node in ast.walk(block) if isinstance(node, ast.ImportFrom) and node.module.startswith("coop_edge.")
    ]
    names = {(alias.name, alias.asname, node.module) for node in told for alias in node.names}
    assert names == {(name, name, f"coop_edge.{home}") for name, home in coop_edge._HOME.items()}
    assert len(coop_edge.__all__) == len(set(coop_edge.__all__))


def test_every_option_class_is_public():
    from coop_edge import config
    from coop_edge.base.options import Config

    options = {
        name
        for name, value in vars(config).items()
        if isinstance(value, type) and issubclass(value, Config) and value is not Config
    }
    assert {"EstimatorConfig", "OutlineConfig", "LmConfig"} <= options <= set(coop_edge.__all__)


@pytest.mark.parametrize("version", [(3, 9, 18), (2, 7, 18)])
def test_an_older_python_is_refused_at_once(version):
    script = f"import sys; sys.version_info, sys.version = {version!r}, '{'.'.join(map(str, version))} (main)'\n"
    done = subprocess.run([sys.executable, "-c", script + "import coop_edge"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    wanted = f"ImportError: coop_edge needs Python 3.10 or newer, this is {'.'.join(map(str, version))}"
    assert done.stderr.splitlines()[-1] == wanted


@pytest.mark.parametrize(
    ("command", "lacks"),
    [
        (["export", "options", "coarse"], "torch"),
        (["benchmarks.runtime", "--help"], "torch"),
        (["benchmarks.accuracy", "--help"], "cv2"),
        (["benchmarks.solvers", "--help"], "numpy"),
    ],
)
def test_a_program_without_its_extras_says_so_in_one_line(command, lacks, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(blocked=[lacks]))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
    )
    if done.returncode == 0:
        pytest.skip("this command does without")
    assert done.returncode == 1
    name = command[0].split(".")[0]
    assert done.stderr.splitlines() == [
        f"error: python -m {name} needs {lacks}, which is not installed: pip install "
        f"'{'.[export]' if name == 'export' else '.[export,dev]'}' in the folder of the checkout"
    ]
