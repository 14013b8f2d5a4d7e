"""From what the probes found to rows: what works, what is missing, what it is for and what brings it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coop_edge.doctor.advice import SYSTEM_LIBRARIES_OF_OPENCV, Advice
from coop_edge.doctor.isolate import Facts, Outcome
from coop_edge.doctor.report import DEVICES, Row, Status

Outcomes = Mapping[str, Outcome]
CPU, CUDA, BOTH = ("cpu",), ("cuda",), DEVICES
CACHE_BYTES = 200_000_000
"""Space wanted for compiled code; all of the CPU kernels take 12 MB, CuPy's a few."""
NOT_INSTALLED = "not installed"


def facts_of(outcomes: Outcomes, name: str) -> Facts:
    """What a probe found; nothing if it failed, was not run or its package is not here."""
    outcome = outcomes.get(name)
    return outcome.facts or {} if outcome else {}


def has_gpu(outcomes: Outcomes) -> bool:
    """Whether the driver lists a GPU."""
    return bool(facts_of(outcomes, "gpu").get("devices"))


def machine_rows(outcomes: Outcomes) -> list[Row]:
    """Python, system, Jetson."""
    return [_python(outcomes), _system(outcomes), _jetson(outcomes)]


def package_rows(outcomes: Outcomes, advice: Advice) -> list[Row]:
    """What every Estimator needs, and what onboarding can use."""
    rows = [
        library(outcomes, advice, "numpy", "arrays", BOTH, "numpy"),
        _opencv(outcomes, advice),
        library(outcomes, advice, "trimesh", "reads meshes, with SciPy and Pillow", BOTH, "trimesh", "scipy", "pillow"),
        library(outcomes, advice, "numba", "renderer and pose solvers on the CPU", CPU, "numba"),
        _onnxruntime(outcomes, advice),
        _conflicts(outcomes, advice),
        _numba_cache(outcomes),
    ]
    return rows + _onboarding(outcomes, advice)


def row(outcomes: Outcomes, name: str, group: str, purpose: str, status: Status, found: str, **more: Any) -> Row:
    """A row; one whose probe failed is broken and quotes the failure, whatever was made of the missing facts."""
    source = more.pop("source", name)
    outcome = outcomes.get(source, Outcome(problem="was not looked at"))
    if outcome.problem:
        return Row(name, group, "broken", outcome.problem, purpose, **{**more, "data": {}})
    return Row(name, group, status, found, purpose, **more)


def _python(outcomes: Outcomes) -> Row:
    facts = facts_of(outcomes, "python")
    found = f"{facts.get('version')}, {facts.get('executable')}"
    supported = facts.get("supported")
    return row(
        *(outcomes, "python", "machine", "runs everything"),
        "ok" if supported else "broken",
        found if supported else f"{found}: wanted 3.10 or newer",
        required_for=BOTH,
        data=facts,
    )


def _system(outcomes: Outcomes) -> Row:
    facts = facts_of(outcomes, "system")
    memory = facts.get("memory_bytes")
    parts = [facts.get("os"), facts.get("machine"), f"{facts.get('processors')} processors"]
    found = ", ".join(map(str, parts)) + (f", {memory / 1e9:.1f} GB" if memory else "")
    data = {key: value for key, value in facts.items() if key != "jetson"}
    return row(outcomes, "system", "machine", "where it runs", "ok", found, data=data)


def _jetson(outcomes: Outcomes) -> Row:
    facts = facts_of(outcomes, "system").get("jetson")
    found = "no Jetson"
    if facts:
        release = f"Jetson Linux {facts['l4t']}" if facts["l4t"] else "no /etc/nv_tegra_release"
        jetpack = f", JetPack {facts['jetpack']}" if facts["jetpack"] else ""
        found = f"{facts['model'] or 'model unknown'}, {release}{jetpack}"
    status: Status = "ok" if facts else "optional"
    return row(outcomes, "jetson", "machine", "its board", status, found, data=facts or {}, source="system")


def library(
    outcomes: Outcomes, advice: Advice, name: str, purpose: str, required_for: tuple[str, ...], *packages: str
) -> Row:
    """A package that its probe imports and uses; ``packages`` are what is installed, or repaired, for it."""
    outcome = outcomes.get(name, Outcome(problem="was not looked at"))
    if outcome.facts is None and not outcome.problem:
        status: Status = "missing" if "cpu" in required_for or has_gpu(outcomes) else "optional"
        return Row(name, "packages", status, NOT_INSTALLED, purpose, required_for, advice.install(*packages))
    facts = facts_of(outcomes, name)
    others = ", ".join(f"{key} {facts[key]}" for key in ("scipy", "pillow", "llvmlite") if key in facts)
    found = str(facts.get("version")) + (f" ({others})" if others else "")
    fix = advice.repair(*packages) if outcome.problem else ""
    return row(outcomes, name, "packages", purpose, "ok", found, required_for=required_for, data=facts, fix=fix)


def _opencv(outcomes: Outcomes, advice: Advice) -> Row:
    there = families(outcomes).get("opencv", {})
    found = library(outcomes, advice, "opencv", "crops and pictures", BOTH, "opencv-python-headless")
    if found.status == "broken" and ".so" in found.found and there and "opencv-python-headless" not in there:
        # The build with windows needs libraries of a desktop.
        return replace(found, fix=f"sudo apt-get install -y {SYSTEM_LIBRARIES_OF_OPENCV}")
    return found


def families(outcomes: Outcomes) -> dict[str, dict[str, str]]:
    """Installed distributions of ONNX Runtime, OpenCV and CuPy, with their versions."""
    found: dict[str, dict[str, str]] = facts_of(outcomes, "distributions").get("families", {})
    return found


def _onnxruntime(outcomes: Outcomes, advice: Advice) -> Row:
    purpose = "runs networks on the CPU"
    row = library(outcomes, advice, "onnxruntime", purpose, CPU, advice.onnxruntime_build())
    fails = facts_of(outcomes, "onnxruntime").get("fails", {}).get("cpu")
    if row.status != "ok" or not fails:
        return row
    fix = advice.reinstall(advice.onnxruntime_build(), list(families(outcomes).get("onnxruntime", {})))
    return Row("onnxruntime", "packages", "broken", f"{row.found}: {fails}", purpose, CPU, fix, row.data)


def _conflicts(outcomes: Outcomes, advice: Advice) -> Row:
    keep = {
        "onnxruntime": advice.onnxruntime_build(),
        "opencv": "opencv-python-headless",
        "cupy": advice.cupy_distribution(),
    }
    doubled = {family: there for family, there in families(outcomes).items() if len(there) > 1}
    found = "; ".join(" and ".join(f"{n} {v}" for n, v in there.items()) for there in doubled.values())
    return row(
        *(outcomes, "conflicts", "packages", "packages that overwrite each other's files: keep one of each kind"),
        "broken" if doubled else "ok",
        f"{found}: installed into the same folder" if doubled else "no two packages overwrite each other",
        fix=" && ".join(advice.reinstall(keep[family], list(there)) for family, there in doubled.items()),
        data={"families": families(outcomes)},
        source="distributions",
    )


def _numba_cache(outcomes: Outcomes) -> Row:
    facts, space = facts_of(outcomes, "numba"), facts_of(outcomes, "numba_storage")
    purpose = "keeps compiled CPU code; without it every process compiles for half a minute"
    folder, free = facts.get("cache_folder"), space.get("free_bytes", 0)
    if not facts:
        return Row("numba_cache", "packages", "optional", "unknown: Numba tells", purpose)
    fix = "export NUMBA_CACHE_DIR=/var/tmp/coop_edge-numba"
    if folder is None:
        return Row("numba_cache", "packages", "broken", "no folder can be written to", purpose, fix=fix, data=space)
    found = f"{folder}, {free / 1e9:.1f} GB free"
    if why := cache_problem(space):
        more = {"fix": fix, "data": space, "source": "numba_storage"}
        return row(outcomes, "numba_cache", "packages", purpose, "broken", f"{found}: {why}", **more)
    return row(outcomes, "numba_cache", "packages", purpose, "ok", found, data=space, source="numba_storage")


def cache_problem(space: Facts) -> str:
    """Why compiled code cannot be kept in a folder; "" if it can."""
    if not space.get("writable"):
        return "cannot be written to"
    return "" if space["free_bytes"] >= CACHE_BYTES else f"wanted {CACHE_BYTES / 1e9:.1f} GB"


def _onboarding(outcomes: Outcomes, advice: Advice) -> list[Row]:
    versions = facts_of(outcomes, "distributions").get("versions", {})
    rows = []
    for name, purpose in (
        ("open3d", "reference renderer of `coop-edge onboard`; --renderer cpu does without"),
        ("fast-simplification", "simplifies meshes above 100,000 faces"),
        ("pycollada", "reads COLLADA (.dae) meshes"),
    ):
        version, deep = versions.get(name), outcomes.get(name, Outcome())
        status: Status = "ok" if version else "optional"
        found = version or NOT_INSTALLED
        if version and deep.problem:
            status, found = "broken", f"{version}: {deep.problem}"
        elif version and name == "open3d" and not deep.facts:
            found = f"{version} (not imported; --deep does)"
        more = {"fix": "" if version else advice.install(name), "data": {"version": version}, "source": "distributions"}
        rows.append(row(outcomes, name.replace("-", "_"), "packages", purpose, status, found, **more))
    return rows
