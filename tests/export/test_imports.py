"""The rooms of export: which may import which; no module imports itself through others."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

EXPORT = Path(__file__).parents[2] / "export"
MAY_IMPORT = {
    "networks": set(),
    "data": set(),
    "train": {"networks", "data"},
    "onnx": {"networks", "data", "train"},
    "verify": {"networks", "data", "train", "onnx"},
    "cli": {"networks", "data", "train", "onnx", "verify"},
}
MODULES = {
    ".".join(("export", *path.relative_to(EXPORT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in EXPORT.rglob("*.py")
}


def imported_by(path):
    """Every module that a file names in an import, wherever in the file it is."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (name for alias in node.names if (name := f"{node.module}.{alias.name}") in MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_room_imports_only_the_rooms_below_it(module):
    imported = set(imported_by(MODULES[module]))
    assert not {name.split(".")[0] for name in imported} & {"benchmarks", "tests"}
    parts = module.split(".")
    if len(parts) > 2:
        rooms = {name.split(".")[1] for name in imported if name.startswith("export.")}
        assert rooms <= MAY_IMPORT[parts[1]] | {parts[1]}


def test_no_module_imports_itself_through_others():
    graph = {module: {n for n in imported_by(path) if n in MODULES and n != module} for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
