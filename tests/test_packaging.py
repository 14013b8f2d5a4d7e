"""The wheel, installed into an empty environment: what is in it, what is not, and that it starts."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import coop_edge

ROOT = Path(__file__).parents[1]


def _run(*command: object, **options) -> str:
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, check=False, **options)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the tracked files, so that leftovers of the checkout cannot hide a missing entry."""
    source = tmp_path_factory.mktemp("source")
    listed = _run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--wheel", "--outdir", out, source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_module_and_data_file(names):
    package = ROOT / "coop_edge"
    wanted = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.suffix in (".py", ".cu", ".cuh") or path.name == "py.typed"
    }
    assert wanted <= names, f"missing from the wheel: {sorted(wanted - names)}"
    assert any(name.endswith(".cu") for name in wanted)
    assert "coop_edge/engines/__init__.py" in names
    bundles = {f"coop_edge/engines/{p.relative_to(ROOT / 'engines')}" for p in (ROOT / "engines").rglob("*.onnx")}
    assert bundles <= names


def test_what_runs_the_networks_on_a_cpu_is_installed_with_it(wheel):
    """``pip install`` without extras is enough: ONNX Runtime belongs to no extra."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        rows = archive.read(metadata).decode().splitlines()
    needed = [row.removeprefix("Requires-Dist: ") for row in rows if row.startswith("Requires-Dist: ")]
    core = {re.split(r"[^\w-]", each)[0] for each in needed if "extra ==" not in each}
    assert {"onnxruntime", "numpy", "numba", "opencv-python-headless"} <= core


def test_the_wheel_holds_nothing_else(names):
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"coop_edge"}
    assert not [n for n in names if n.endswith((".plan", ".npz", ".nbi", ".nbc", ".pyc"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_metadata_names_the_licence_the_extras_and_python(wheel, names):
    (entry,) = [n for n in names if n.endswith(".dist-info/METADATA")]
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(entry).decode()
    for line in (
        f"Version: {coop_edge.__version__}",
        "License-Expression: Apache-2.0",
        "Requires-Python: >=3.10",
        "Name: coop-edge",
    ):
        assert line in metadata
    for extra in ("cpu", "gpu", "cuda12", "cuda13", "tensorrt", "onboard", "pycuda", "export", "docs", "dev"):
        assert f"Provides-Extra: {extra}" in metadata
    core = [n for n in metadata.splitlines() if n.startswith("Requires-Dist") and "extra ==" not in n]
    assert not [n for n in core if "torch" in n or "open3d" in n or "cupy" in n]


def test_installed_into_an_empty_environment(wheel, tmp_path):
    environment = tmp_path / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    code = (
        "import coop_edge, coop_edge.engines, coop_edge.errors, coop_edge.config, importlib.util as u, pathlib\n"
        "assert 'venv' in coop_edge.__file__, coop_edge.__file__\n"
        "assert not [m for m in ('export', 'benchmarks', 'tests', 'torch', 'numpy') if u.find_spec(m)]\n"
        "kernels = pathlib.Path(coop_edge.__file__).parent / 'kernels'\n"
        "print(coop_edge.__version__, len(list(kernels.glob('*.cu'))))"
    )
    version, kernels = _run(python, "-c", code, cwd=tmp_path).split()
    assert version == coop_edge.__version__
    assert int(kernels) > 0
    assert (environment / "bin" / "coop-edge").is_file()
