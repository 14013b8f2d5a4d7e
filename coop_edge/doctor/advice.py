"""The command that brings a missing package, for this machine: interpreter, board, driver."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SYSTEM_LIBRARIES_OF_OPENCV = "libgl1 libglib2.0-0"
OLDEST_CUDA = 12
AGAIN = "--force-reinstall"
ONNXRUNTIME_GPU = {12: "onnxruntime-gpu[cuda,cudnn]>=1.21,<1.27", 13: "onnxruntime-gpu[cuda,cudnn]>=1.27"}
"""By the driver's CUDA: the wheels on PyPI are of CUDA 12 up to 1.26 and of CUDA 13 from then on; the extras bring the
libraries that the CUDA provider loads."""


def pip() -> str:
    """How to install into the interpreter that runs this, activated or not, with pip or (an environment of) uv."""
    if importlib.util.find_spec("pip") is None and shutil.which("uv"):
        return f"uv pip install --python {shlex.quote(sys.executable)}"
    on_path = shutil.which("python")
    same = on_path is not None and Path(on_path) == Path(sys.executable)
    return f"{'python' if same else shlex.quote(sys.executable)} -m pip install"


def requirement(name: str) -> str:
    """``name`` with the versions that coop_edge's own metadata asks for, such as "numba>=0.60"."""
    try:
        listed = importlib.metadata.requires("coop-edge") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was never installed
        listed = []
    wanted = [text.split(";")[0].strip() for text in listed]
    return next((text for text in wanted if re.match(rf"{re.escape(name)}(?![\w.-])", text)), name)


@dataclass(frozen=True)
class Advice:
    """What this machine is, as far as it decides what to install.

    jetpack: major release, 0 if a Jetson's is unknown, None if this is no Jetson. cuda: major version that the driver
    supports, None if there is no driver. toolkit: whether a CUDA toolkit is installed. installer: the command that
    ``pip`` gives. tensorrt_folder: TensorRT of the system's Python, if there is one.
    """

    jetpack: int | None = None
    cuda: int | None = None
    toolkit: bool = False
    installer: str = "python -m pip install"
    tensorrt_folder: str | None = None

    def install(self, *names: str) -> str:
        """Install packages in the versions that coop_edge asks for."""
        return f"{self.installer} {' '.join(_quoted(self._requirement(name)) for name in names)}"

    def repair(self, *names: str) -> str:
        """Install packages again that are here and broken; a plain install would be satisfied with them."""
        return self.install(*names).replace(self.installer, f"{self.installer} {AGAIN}", 1)

    def reinstall(self, keep: str, installed: Sequence[str]) -> str:
        """Leave ``keep`` alone of several distributions that share a folder; all go first, files of one are broken."""
        return f"{self._remove(installed)} && {self.install(keep)}"

    def cupy(self, installed: Sequence[str] = ()) -> str:
        """CuPy for the CUDA version of the driver; with the toolkit's libraries where no toolkit is installed.

        installed: distributions of CuPy that are here; those for another CUDA go first.
        """
        if self.cuda is not None and self.cuda < OLDEST_CUDA:
            return ""  # no CuPy that this package supports runs on so old a driver
        distribution = self.cupy_distribution()
        wanted = requirement(distribution)
        if not self.toolkit and self.jetpack is None:
            wanted = wanted.replace(distribution, f"{distribution}[ctk]", 1)
        command = f"{self.installer} {_quoted(wanted)}"
        return f"{self._remove(installed)} && {command}" if installed and distribution not in installed else command

    def cupy_distribution(self) -> str:
        """The CuPy of the driver's CUDA version, or of what JetPack brings."""
        return f"cupy-cuda{'13' if (self.cuda or self._cuda_of_jetpack()) >= 13 else '12'}x"

    def onnxruntime_build(self) -> str:
        """onnxruntime-gpu where it runs: not on old drivers, nor on a Jetson, for which its wheel has no code."""
        runs = self.jetpack is None and self.cuda is not None and self.cuda >= OLDEST_CUDA
        return "onnxruntime-gpu" if runs else "onnxruntime"

    def tensorrt(self) -> str:
        """TensorRT: from JetPack on a Jetson, from pip elsewhere."""
        if self.jetpack is None:
            return self._tensorrt_of_pip()
        if self.tensorrt_folder and sys.prefix != sys.base_prefix:
            settings = shlex.quote(str(Path(sys.prefix) / "pyvenv.cfg"))
            return f"sed -i 's/^include-system-site-packages.*/include-system-site-packages = true/' {settings}"
        return "sudo apt-get update && sudo apt-get install -y python3-libnvinfer"

    def _remove(self, installed: Sequence[str]) -> str:
        yes = "" if self.installer.startswith("uv ") else "-y "
        return f"{self.installer.replace(' install', ' uninstall', 1)} {yes}{' '.join(installed)}"

    def _requirement(self, name: str) -> str:
        if name == "onnxruntime-gpu" and self.cuda is not None:
            return ONNXRUNTIME_GPU[min(max(self.cuda, OLDEST_CUDA), max(ONNXRUNTIME_GPU))]
        return requirement(name)

    def _tensorrt_of_pip(self) -> str:
        if self.cuda is None or self.cuda > OLDEST_CUDA:
            return self.install("tensorrt")
        wanted = requirement("tensorrt").replace("tensorrt", "tensorrt-cu12", 1)  # the plain name brings CUDA 13
        return f"{self.installer} {_quoted(wanted)}" if self.cuda == OLDEST_CUDA else ""

    def _cuda_of_jetpack(self) -> int:
        return 13 if self.jetpack is None or self.jetpack >= 7 else 12


def _quoted(wanted: str) -> str:
    """In double quotes where a shell would take a character for its own; these read better than single ones."""
    return f'"{wanted}"' if re.search(r"[<>\[\]!~=*; ]", wanted) else wanted
