"""Holds what the probes found on a machine, and the commands that bring what is missing there."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coop_edge.doctor.isolate import Facts, Outcome
from coop_edge.doctor.report import AGAIN, Status

OLDEST_CUDA = 12
ONNXRUNTIME_GPU = {12: "onnxruntime-gpu[cuda,cudnn]>=1.21,<1.27", 13: "onnxruntime-gpu[cuda,cudnn]>=1.27"}
"""By the driver's CUDA: the wheels on PyPI are of CUDA 12 up to 1.26 and of CUDA 13 from then on; the extras bring the
libraries that the CUDA provider loads."""
TOOLKITS = ("/usr/local/cuda", "/opt/cuda")


def pip() -> str:
    """Return how to install into the interpreter that runs this, activated or not, with pip or uv."""
    if importlib.util.find_spec("pip") is None and shutil.which("uv"):
        return f"uv pip install --python {shlex.quote(sys.executable)}"
    on_path = shutil.which("python")
    same = on_path is not None and Path(on_path) == Path(sys.executable)
    return f"{'python' if same else shlex.quote(sys.executable)} -m pip install"


class Findings:
    """The outcomes of the probes, and what decides on this machine which packages are the right ones.

    Attributes:
        jetpack: major release, 0 if a Jetson's is unknown, None if this is no Jetson.
        cuda: major version that the driver supports, None without a driver.
        families: the installed distributions, with versions, of ``libraries.FAMILIES``.
        bundles: what was found of each bundle.
        usable: what was found of those that can be read.
    """

    def __init__(self, outcomes: Mapping[str, Outcome]) -> None:
        self._outcomes = outcomes
        jetson, driver = self.facts("system").get("jetson"), self.facts("gpu").get("driver_cuda")
        self.jetpack: int | None = (jetson["jetpack"] or 0) if jetson else None
        self.cuda: int | None = driver // 1000 if driver else None
        self.has_gpu = bool(self.facts("gpu").get("devices"))
        self.families: dict[str, dict[str, str]] = self.facts("distributions").get("families", {})
        self.bundles: list[Facts] = self.facts("bundles").get("bundles", [])
        self.usable = [bundle for bundle in self.bundles if not bundle["fails"]]
        self.installer = pip()

    def __getitem__(self, probe: str) -> Outcome:
        return self._outcomes.get(probe, Outcome(problem="was not looked at"))

    def facts(self, probe: str) -> Facts:
        """Return what a probe found; nothing if it failed, was not run or its package is not here."""
        return self[probe].facts or {}

    def part(self, probe: str, part: str) -> Any:
        """Return what a probe found, or the part of it with this dotted name; None where there is none."""
        found: Any = self[probe].facts
        for key in part.split(".") if part else ():
            found = found[int(key)] if isinstance(found, list) else (found or {}).get(key)
        return found

    @property
    def onnxruntime_build(self) -> str:
        """Name onnxruntime-gpu where it runs: not on old drivers, nor on a Jetson, for which its wheel has no code."""
        runs = self.jetpack is None and self.cuda is not None and self.cuda >= OLDEST_CUDA
        return "onnxruntime-gpu" if runs else "onnxruntime"

    @property
    def tensorrt_works(self) -> bool:
        """Tell whether a TensorRT is installed that this package can use."""
        facts = self.facts("tensorrt")
        return any(facts.get("modules", {}).values()) and facts["fails"] is None

    @property
    def onnxruntime_works_on_cuda(self) -> bool:
        """Tell whether ONNX Runtime computes on CUDA."""
        facts = self.facts("onnxruntime")
        return bool(facts) and facts["fails"]["cuda"] is None

    def bring(self, status: Status, *names: str) -> str:
        """Install packages in the versions that coop_edge asks for; again if they are here and broken."""
        again = f" {AGAIN}" if status == "broken" else ""  # a plain install would be satisfied with them
        return f"{self.installer}{again} {' '.join(_quoted(self._requirement(name)) for name in names)}"

    def bring_opencv(self, status: Status) -> str:
        """Install OpenCV, or the libraries of a desktop that its build with windows needs."""
        there = self._installed("opencv")
        if ".so" in self["opencv"].problem and there and "opencv-python-headless" not in there:
            return "sudo apt-get install -y libgl1 libglib2.0-0"
        return self.bring(status, "opencv-python-headless")

    def bring_onnxruntime(self, status: Status) -> str:
        """Install ONNX Runtime; all of its builds go first if it imports and does not compute."""
        build = self.onnxruntime_build
        return self._keep(build, "onnxruntime") if self.facts("onnxruntime") else self.bring(status, build)

    def bring_gpu_build(self, status: Status) -> str:
        """Install ONNX Runtime with CUDA, in the place of any build without; "" where its wheel does not run."""
        if self.onnxruntime_build != "onnxruntime-gpu":
            return ""
        wrong = self._installed("onnxruntime") not in ([], ["onnxruntime-gpu"])
        return self._keep("onnxruntime-gpu", "onnxruntime") if wrong else self.bring("missing", "onnxruntime-gpu")

    def bring_cupy(self, status: Status) -> str:
        """Install CuPy, with CUDA's libraries where no toolkit is installed; one for another CUDA goes first.

        "" if no CuPy that this package supports runs on so old a driver.
        """
        if self.cuda is not None and self.cuda < OLDEST_CUDA:
            return ""
        name, there, wanted = self._cupy(), self._installed("cupy"), _listed(self._cupy())
        toolkit = os.environ.get("CUDA_PATH") or any(Path(place).is_dir() for place in TOOLKITS)
        if self.jetpack is None and not toolkit:
            wanted = wanted.replace(name, f"{name}[ctk]", 1)
        command = f"{self.installer} {_quoted(wanted)}"
        return f"{self._uninstall('cupy')} && {command}" if there and name not in there else command

    def bring_tensorrt(self, status: Status) -> str:
        """Install TensorRT: from JetPack on a Jetson, from pip elsewhere; "" if the driver is too old for it."""
        if self.jetpack is None:
            return self.bring("missing", "tensorrt") if self.cuda is None or self.cuda >= OLDEST_CUDA else ""
        if self.facts("system_tensorrt").get("folder") and sys.prefix != sys.base_prefix:
            settings = shlex.quote(str(Path(sys.prefix) / "pyvenv.cfg"))
            return f"sed -i 's/^include-system-site-packages.*/include-system-site-packages = true/' {settings}"
        return "sudo apt-get update && sudo apt-get install -y python3-libnvinfer"

    def bring_cuda_runner(self, status: Status) -> str:
        """Build plans where TensorRT works; else install ONNX Runtime where its wheel runs; else TensorRT first."""
        build = self.build(status, self.usable[0]) if self.usable else "coop-edge build NAME"
        if self.tensorrt_works:
            return build
        if onnxruntime := self.bring_gpu_build(status):
            return onnxruntime
        tensorrt = self.bring_tensorrt(status)
        return f"{tensorrt} && {build}" if tensorrt else ""

    def build(self, status: Status, bundle: Facts) -> str:
        """Build the plans of a bundle; "" where nothing could run any."""
        return "" if status == "optional" else f"coop-edge build {shlex.quote(bundle['folder'])}"

    def end_conflicts(self, status: Status) -> str:
        """Keep, of packages that overwrite each other, the one that is of use here."""
        keep = {"onnxruntime": self.onnxruntime_build, "opencv": "opencv-python-headless", "cupy": self._cupy()}
        return " && ".join(self._keep(keep[name], name) for name, there in self.families.items() if len(there) > 1)

    def _installed(self, family: str) -> list[str]:
        return list(self.families.get(family, {}))

    def _keep(self, name: str, family: str) -> str:
        """Install ``name`` alone of a family whose distributions share a folder; all go first: files are mixed up."""
        return f"{self._uninstall(family)} && {self.bring('missing', name)}"

    def _cupy(self) -> str:
        """Return the CuPy of the driver's CUDA version, or of what JetPack brings."""
        of_jetpack = 13 if self.jetpack is None or self.jetpack >= 7 else 12
        return f"cupy-cuda{'13' if (self.cuda or of_jetpack) >= 13 else '12'}x"

    def _uninstall(self, family: str) -> str:
        yes = "" if self.installer.startswith("uv ") else "-y "
        return f"{self.installer.replace(' install', ' uninstall', 1)} {yes}{' '.join(self._installed(family))}"

    def _requirement(self, name: str) -> str:
        if name == "onnxruntime-gpu" and self.cuda is not None:
            return ONNXRUNTIME_GPU[min(max(self.cuda, OLDEST_CUDA), max(ONNXRUNTIME_GPU))]
        if name == "tensorrt" and self.cuda == OLDEST_CUDA:
            return _listed(name).replace(name, "tensorrt-cu12", 1)  # the plain name brings CUDA 13
        return _listed(name)


def _listed(name: str) -> str:
    """Return ``name`` with the versions that coop_edge's own metadata asks for, such as "numba>=0.60"."""
    try:
        listed = importlib.metadata.requires("coop-edge") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was never installed
        listed = []
    wanted = (text.split(";")[0].strip() for text in listed)
    return next((text for text in wanted if re.match(rf"{re.escape(name)}(?![\w.-])", text)), name)


def _quoted(wanted: str) -> str:
    """Quote where a shell would take a character for its own; double quotes read better than single ones."""
    return f'"{wanted}"' if re.search(r"[<>\[\]!~=*; ]", wanted) else wanted
