"""Holds the table of checks: a row each of what the probes found."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from coop_edge.doctor import judges
from coop_edge.doctor.findings import Findings
from coop_edge.doctor.judges import Judged
from coop_edge.doctor.report import DEVICES, Row, Status

CPU, CUDA, BOTH = ("cpu",), ("cuda",), DEVICES
ABSENT = {"jetson": "no Jetson", "numba_cache": "unknown: Numba tells"}
"""What a row says where there is nothing, if not "not installed"."""
Fix = Callable[[Findings, Status], str]


class Check(NamedTuple):
    """One row of the report; ``name``, ``required_for`` and ``purpose`` are those of ``report.Row``.

    Attributes:
        probe: dotted name of the facts that are judged: a probe, or a part of what it found; "": the judge needs none.
            A probe that failed is "broken", a part of it is unknown; what is not there is "missing" if required, else
            "optional".
        judge: says status and text, if there are facts.
        fix: makes the command that helps, by the status.
    """

    name: str
    required_for: tuple[str, ...]
    probe: str
    judge: Callable[[Any, Findings], Judged]
    fix: Fix | None
    purpose: str

    def row(self, group: str, findings: Findings) -> Row:
        """Make the row."""
        name, _, part = self.probe.partition(".")
        problem, facts = (findings[name].problem, findings.part(name, part)) if name else ("", {})
        if problem:
            judged = (
                Judged("optional", f"unknown: {name} could not be looked at") if part else Judged("broken", problem)
            )
        elif facts is None:
            judged = Judged("missing" if self.required_for else "optional", ABSENT.get(self.name, "not installed"))
        else:
            judged = self.judge(facts, findings)
        status, found, data = judged
        without_gpu = not findings.has_gpu and (group == "cuda" or self.required_for == CUDA)
        if without_gpu and status != "ok" and not problem:
            status = "optional"  # the row of the GPU says what is missing
        fix = self.fix(findings, status) if self.fix and status != "ok" and not without_gpu else ""
        if data is None:
            data = {"version": facts} if isinstance(facts, str) else facts or {}
        return Row(self.name, group, status, found, self.purpose, self.required_for, fix, data)


def rows(findings: Findings) -> tuple[Row, ...]:
    """Make all rows: of the table, of each bundle and its plans, and of what runs networks on the GPU."""
    bundles, plans = [], []
    for i, bundle in enumerate(findings.bundles):
        probe, name, fix = f"bundles.bundles.{i}", bundle["name"], partial(Findings.build, bundle=bundle)
        bundles.append(Check(f"bundle:{name}", (), probe, judges.bundle, None, "a set of trained networks"))
        if not bundle["fails"]:
            plans.append(Check(f"plans:{name}", (), probe, judges.plans, fix, _PLANS))
    first, last = CHECKS["networks"]
    table = CHECKS | {"networks": (first, *bundles, *plans, last)}
    return tuple(check.row(group, findings) for group, checks in table.items() for check in checks)


def _packages(*names: str) -> Fix:
    return lambda findings, status: findings.bring(status, *names)


def _export(variable: str, name: str) -> Fix:
    return lambda findings, status: f"export {variable}=/var/tmp/coop_edge-{name}" if status == "broken" else ""


def _mend_code(findings: Findings, status: Status) -> str:
    """Delete what is damaged, or keep compiled code elsewhere."""
    if damaged := findings.part("numba", "storage.damaged"):
        return f"rm {' '.join(map(shlex.quote, damaged))}"
    return _export("NUMBA_CACHE_DIR", "numba")(findings, status)


def _optional(name: str, judge: Callable[[Any, Findings], Judged], purpose: str) -> Check:
    """A package that onboarding can use, and that is found among the distributions."""
    return Check(name.replace("-", "_"), (), f"distributions.versions.{name}", judge, _packages(name), purpose)


_TRIMESH = _packages("trimesh", "scipy", "pillow")
_CONFLICTS = "packages that overwrite each other's files: keep one of each kind"
_NUMBA_CACHE = "keeps compiled CPU code; without it every process compiles for half a minute"
_OPEN3D = "reference renderer of `coop-edge onboard`; --renderer cpu does without"
_GPU = "renders, matches and solves many times faster than the CPU"
_CUPY_CACHE = "keeps compiled CUDA kernels; without it every process compiles them"
_ONE_OF = "runs networks on the GPU; one of it and {} is needed there"
_ONNX_CUDA = _ONE_OF.format("TensorRT")
_TENSORRT = _ONE_OF.format("ONNX Runtime's CUDA provider") + "; the fastest, after `coop-edge build`"
_PLANS = "the bundle as TensorRT runs it, built on this very GPU"
_RUNNER = "runs a bundle on the GPU: TensorRT with plans, or ONNX Runtime's CUDA provider"
CHECKS: dict[str, tuple[Check, ...]] = {
    "machine": (
        Check("python", BOTH, "python", judges.python, None, "runs everything"),
        Check("system", (), "system", judges.system, None, "where it runs"),
        Check("jetson", (), "system.jetson", judges.jetson, None, "its board"),
    ),
    "packages": (
        Check("coop_edge", (), "", judges.itself, None, "this package"),
        Check("numpy", BOTH, "numpy", judges.library, _packages("numpy"), "arrays"),
        Check("opencv", BOTH, "opencv", judges.library, Findings.bring_opencv, "crops and pictures"),
        Check("trimesh", BOTH, "trimesh", judges.library, _TRIMESH, "reads meshes, with SciPy and Pillow"),
        Check("numba", CPU, "numba", judges.library, _packages("numba"), "renderer and pose solvers on the CPU"),
        Check(
            "onnxruntime", CPU, "onnxruntime", judges.library, Findings.bring_onnxruntime, "runs networks on the CPU"
        ),
        Check("conflicts", (), "distributions", judges.conflicts, Findings.end_conflicts, _CONFLICTS),
        Check("numba_cache", (), "numba.storage", judges.cache, _mend_code, _NUMBA_CACHE),
        _optional("open3d", judges.open3d, _OPEN3D),
        _optional("fast-simplification", judges.version, "simplifies meshes above 100,000 faces"),
    ),
    "cuda": (
        Check("gpu", CUDA, "gpu", judges.gpu, None, _GPU),
        Check("cupy", CUDA, "cupy", judges.cupy, Findings.bring_cupy, "renderer and pose solvers on the GPU"),
        Check("cupy_cache", (), "cupy_storage", judges.cupy_cache, _export("CUPY_CACHE_DIR", "cupy"), _CUPY_CACHE),
        Check(
            "onnxruntime_cuda", (), "onnxruntime.fails", judges.onnxruntime_cuda, Findings.bring_gpu_build, _ONNX_CUDA
        ),
        Check("tensorrt", (), "tensorrt", judges.tensorrt, Findings.bring_tensorrt, _TENSORRT),
    ),
    "networks": (
        Check("bundles", BOTH, "bundles", judges.bundles, None, "trained networks; at least one bundle is needed"),
        Check("cuda_runner", CUDA, "", judges.cuda_runner, Findings.bring_cuda_runner, _RUNNER),
    ),
}
"""By the group of the row."""
