"""From a ``.cu`` file to a shared library, by g++, cached by the content of all that goes into it."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

SHIM_DIR = Path(__file__).parent
FLAGS = (
    *("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-ffp-contract=off"),
    *("-fno-math-errno", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE"),
    *("-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function"),
)
# Compiled in, but not linked with libubsan: the handlers are in faults.cpp and end the launch with an error.
SANITIZE = ("-fsanitize=undefined,float-cast-overflow", "-fno-sanitize=vptr")

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)
_BOUNDS = r"(?:__launch_bounds__\s*\([^)]*\)\s*)?"
_KERNEL = re.compile(rf'extern\s+"C"\s+__global__\s+{_BOUNDS}void\s+{_BOUNDS}(\w+)\s*\(')


def kernel_names(source: Path) -> list[str]:
    """Names of the ``extern "C" __global__`` functions that ``source`` itself defines."""
    return _KERNEL.findall(_COMMENT.sub(" ", source.read_text()))


def source_closure(source: Path, include_dir: Path) -> list[Path]:
    """``source`` and every file it includes by quotes, directly or not."""
    seen: list[Path] = []
    todo = [source]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.append(path)
        for name in _INCLUDE.findall(_COMMENT.sub(" ", path.read_text())):
            found = next((d / name for d in (path.parent, include_dir) if (d / name).is_file()), None)
            if found is None:
                raise FileNotFoundError(f'{path}: #include "{name}" is neither beside it nor in {include_dir}')
            todo.append(found)
    return seen


def cache_dir() -> Path:
    """Folder of the compiled libraries; ``COOP_EDGE_CUDA_HOST_CACHE`` overrides the user's cache folder."""
    given = os.environ.get("COOP_EDGE_CUDA_HOST_CACHE")
    path = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "coop_edge_tests"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        path = Path(tempfile.gettempdir()) / f"coop_edge_tests-{os.getuid()}"
        path.mkdir(parents=True, exist_ok=True)
    return path


def build(source: Path, include_dir: Path, sanitize: bool) -> Path:
    """The shared library of ``source``; raises RuntimeError with the compiler's messages."""
    names = kernel_names(source)
    if not names:
        raise RuntimeError(f'{source}: holds no `extern "C" __global__ void` function')
    flags = [*FLAGS, *(SANITIZE if sanitize else ())]
    shim = b"".join(path.read_bytes() for path in sorted(SHIM_DIR.glob("*.h")))
    objects = [_compile_shim(SHIM_DIR / name, shim) for name in ("cuda_shim.cpp", "faults.cpp")]
    unit = f'#include "{source}"\n' + "".join(f"CUDA_SHIM_EXPORT({name})\n" for name in names)
    contents = shim + b"".join(p.read_bytes() for p in sorted(source_closure(source, include_dir)))
    contents += "".join([unit, *flags, *map(str, objects)]).encode()

    def commands(out: str) -> list[list[str]]:
        main = f"{out}.cpp"
        Path(main).write_text(unit)
        include = ["-I", str(include_dir), "-include", str(SHIM_DIR / "cuda_shim.h")]
        return [
            ["g++", *flags, *include, "-c", main, "-o", f"{out}.o"],
            ["g++", "-shared", f"{out}.o", *map(str, objects), "-o", out],
        ]

    return _cached(contents, ".so", commands)


def _compile_shim(source: Path, headers: bytes) -> Path:
    contents = source.read_bytes() + headers + " ".join(FLAGS).encode()
    return _cached(contents, ".o", lambda out: [["g++", *FLAGS, "-c", str(source), "-o", out]])


def _cached(contents: bytes, suffix: str, commands: Callable[[str], list[list[str]]]) -> Path:
    key = platform.machine().encode() + contents  # a home folder may be shared by different machines
    target = cache_dir() / (hashlib.sha256(key).hexdigest()[:32] + suffix)
    if not target.exists():
        # Made elsewhere and renamed: several test processes may build the same library at the same time.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            out = str(Path(folder) / f"out{suffix}")
            for command in commands(out):
                run = subprocess.run(command, capture_output=True, text=True, check=False)
                if run.returncode:
                    raise RuntimeError(f"{' '.join(command)}\n{run.stderr[-6000:]}")
            os.replace(out, target)
    return target
