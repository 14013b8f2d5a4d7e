"""The table of checks: a row each of what the probes found."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from coop_edge.doctor import judges
from coop_edge.doctor.findings import Findings
from coop_edge.doctor.judges import Judged
from coop_edge.doctor.report import DEVICES, Row, Status

CPU, CUDA, BOTH = ("cpu",), ("cuda",), DEVICES
TRIMESH = ("trimesh", "scipy", "pillow")


class Check(NamedTuple):
    """One row of the report; ``name``, ``purpose`` and ``required_for`` are those of ``report.Row``.

    judge: says status and text, if the probe found something. fix: the command if something is wrong, by the status.
    probe: dotted name of the facts that are judged: a probe, or a part of what it found; None: the judge needs none. A
    probe that failed is "broken", a part of it is unknown; what is not there is "missing" if required, else "optional".
    absent: the text if it is not there.
    """

    name: str
    purpose: str
    judge: Callable[[Any, Findings], Judged]
    fix: Callable[[Findings, Status], str] = lambda findings, status: ""
    required_for: tuple[str, ...] = ()
    probe: str | None = ""
    absent: str = "not installed"

    def row(self, group: str, findings: Findings) -> Row:
        """Make the row."""
        name, _, part = ("" if self.probe is None else self.probe or self.name).partition(".")
        problem, facts = findings[name].problem if name else "", findings.part(name, part) if name else {}
        if problem and not part:
            judged = Judged("broken", problem)
        elif problem:
            judged = Judged("optional", f"unknown: {name} could not be looked at")
        elif facts is None:
            judged = Judged("missing" if self.required_for else "optional", self.absent)
        else:
            judged = self.judge(facts, findings)
        status, found, data = judged
        without_gpu = not findings.has_gpu and (group == "cuda" or self.required_for == CUDA)
        if without_gpu and status != "ok" and not problem:
            status = "optional"  # the row of the GPU says what is missing
        fix = "" if status == "ok" or without_gpu else self.fix(findings, status)
        data = (facts or {}) if data is None else data
        return Row(self.name, group, status, found, self.purpose, self.required_for, fix, data)


def rows(findings: Findings) -> tuple[Row, ...]:
    """Make all rows: of the table, of each bundle and its plans, and of what runs networks on the GPU."""
    built, bundles, plans = "the bundle as TensorRT runs it, built on this very GPU", [], []
    for i, bundle in enumerate(findings.bundles):
        probe, name, fix = f"bundles.bundles.{i}", bundle["name"], partial(Findings.build, bundle=bundle)
        bundles.append(Check(f"bundle:{name}", "a set of trained networks", judges.bundle, probe=probe))
        if not bundle["fails"]:
            plans.append(Check(f"plans:{name}", built, judges.plans, fix, probe=probe))
    first, last = CHECKS["networks"]
    table = CHECKS | {"networks": (first, *bundles, *plans, last)}
    return tuple(check.row(group, findings) for group, checks in table.items() for check in checks)


def _packages(*names: str) -> Callable[[Findings, Status], str]:
    return lambda findings, status: findings.bring(status, *names)


def _optional(name: str, purpose: str, judge: Callable[[Any, Findings], Judged] = judges.version) -> Check:
    """A package that onboarding can use, and that is found among the distributions."""
    return Check(name.replace("-", "_"), purpose, judge, _packages(name), probe=f"distributions.versions.{name}")


def _export(variable: str, name: str) -> Callable[[Findings, Status], str]:
    return lambda findings, status: f"export {variable}=/var/tmp/coop_edge-{name}" if status == "broken" else ""


CHECKS: dict[str, tuple[Check, ...]] = {
    "machine": (
        Check("python", "runs everything", judges.python, required_for=BOTH),
        Check("system", "where it runs", judges.system),
        Check("jetson", "its board", judges.jetson, probe="system.jetson", absent="no Jetson"),
    ),
    "packages": (
        Check("coop_edge", "this package", judges.itself, probe=None),
        Check("numpy", "arrays", judges.library, _packages("numpy"), BOTH),
        Check("opencv", "crops and pictures", judges.library, Findings.bring_opencv, BOTH),
        Check("trimesh", "reads meshes, with SciPy and Pillow", judges.library, _packages(*TRIMESH), BOTH),
        Check("numba", "renderer and pose solvers on the CPU", judges.library, _packages("numba"), CPU),
        Check("onnxruntime", "runs networks on the CPU", judges.library, Findings.bring_onnxruntime, CPU),
        Check(
            "conflicts",
            "packages that overwrite each other's files: keep one of each kind",
            judges.conflicts,
            Findings.end_conflicts,
            probe="distributions",
        ),
        Check(
            "numba_cache",
            "keeps compiled CPU code; without it every process compiles for half a minute",
            judges.cache,
            _export("NUMBA_CACHE_DIR", "numba"),
            probe="numba.storage",
            absent="unknown: Numba tells",
        ),
        _optional("open3d", "reference renderer of `coop-edge onboard`; --renderer cpu does without", judges.open3d),
        _optional("fast-simplification", "simplifies meshes above 100,000 faces"),
        _optional("pycollada", "reads COLLADA (.dae) meshes"),
    ),
    "cuda": (
        Check("gpu", "renders, matches and solves many times faster than the CPU", judges.gpu, required_for=CUDA),
        Check("cupy", "renderer and pose solvers on the GPU", judges.cupy, Findings.bring_cupy, CUDA),
        Check(
            "cupy_cache",
            "keeps compiled CUDA kernels; without it every process compiles them",
            judges.cupy_cache,
            _export("CUPY_CACHE_DIR", "cupy"),
            probe="cupy_storage",
        ),
        Check(
            "onnxruntime_cuda",
            "runs networks on the GPU; one of it and TensorRT is needed there",
            judges.onnxruntime_cuda,
            Findings.bring_onnxruntime_cuda,
            probe="onnxruntime.fails",
        ),
        Check(
            "tensorrt",
            "runs networks on the GPU; one of it and ONNX Runtime's CUDA provider is needed there; the fastest, after "
            "`coop-edge build`",
            judges.tensorrt,
            Findings.bring_tensorrt,
        ),
    ),
    "networks": (
        Check("bundles", "trained networks; at least one bundle is needed", judges.bundles, required_for=BOTH),
        Check(
            "cuda_runner",
            "runs a bundle on the GPU: TensorRT with plans, or ONNX Runtime's CUDA provider",
            judges.cuda_runner,
            Findings.bring_cuda_runner,
            CUDA,
            probe=None,
        ),
    ),
}
