"""Every CUDA source compiles to a cubin for every supported SM, with NVRTC and without any host header."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from coop_edge.kernels.device import COMPILE_OPTIONS, SOURCE_DIR, read_source, source_closure
from tests.cuda_host.build import kernel_names

ARCHITECTURES = ("sm_75", "sm_86", "sm_87", "sm_89", "sm_90", "sm_110", "sm_120")
# The kernels of the shim's own test are compiled too: what the shim gives a meaning to is CUDA.
SHIM_KERNELS = Path(__file__).parents[1] / "cuda_host" / "shim_kernels.cu"
SOURCES = [*sorted(SOURCE_DIR.glob("*.cu")), SHIM_KERNELS]
_REGISTERS = re.compile(r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", re.DOTALL)


def _cubin(source: Path, architecture: str) -> tuple[bytes, str]:
    core = pytest.importorskip("cuda.core", reason="cuda-core and nvidia-cuda-nvrtc come with the dev extra")
    options = core.ProgramOptions(
        std="c++17", arch=architecture, include_path=str(source.parent), ptxas_options="-v", use_bundled_headers=False
    )
    log = io.StringIO()
    code = core.Program(source.read_text(), "c++", options).compile("cubin", logs=log).code
    return bytes(code), log.getvalue()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles(source, architecture, record_property):
    assert COMPILE_OPTIONS == ("-std=c++17",)  # what _cubin asks for
    cubin, log = _cubin(source, architecture)
    assert cubin.startswith(b"\x7fELF")
    usage = {name: (int(registers), int(spilled)) for name, spilled, registers in _REGISTERS.findall(log)}
    names = kernel_names(source)
    assert names
    assert set(names) == set(usage)
    for name, (registers, spilled) in usage.items():
        record_property(name, f"{registers} registers, {spilled} bytes spilled")
        assert f".text.{name}".encode() in cubin


@pytest.mark.parametrize("source", sorted(SOURCE_DIR.glob("*.cu*")), ids=lambda path: path.name)
def test_no_number_is_the_result_of_an_invalid_operation(source):
    """NaN and infinity are constants (``linalg.cuh``): the square root of -1 is whatever the compiler likes."""
    text = source.read_text()
    assert not re.search(r"(sqrtf?|logf?|acosf?)\s*\(\s*(-\s*[\d.]|0*\.?0+f?\s*\))|[\d.]f?\s*/\s*0*\.0*f?[^\d.]", text)


@pytest.mark.parametrize("source", sorted(SOURCE_DIR.glob("*.cu*")), ids=lambda path: path.name)
def test_needs_no_header_of_the_toolkit(source):
    assert not re.search(r"#\s*include\s*<", source.read_text())


@pytest.mark.parametrize("source", sorted(SOURCE_DIR.glob("*.cu")), ids=lambda path: path.name)
def test_source_text_changes_with_its_includes(source, monkeypatch, tmp_path):
    """CuPy caches compiled kernels by their text; a change in an included file has to show in it."""
    names = [path.name for path in source_closure(source.name)]
    for name in names:
        (tmp_path / name).write_bytes((SOURCE_DIR / name).read_bytes())
    before = read_source(source.name)
    assert before.startswith(source.read_text())
    monkeypatch.setattr("coop_edge.kernels.device.SOURCE_DIR", tmp_path)
    assert read_source(source.name) == before
    for name in names:
        changed = tmp_path / name
        text = changed.read_text()
        changed.write_text(text + "\n// changed\n")
        assert read_source(source.name) != before
        changed.write_text(text)
