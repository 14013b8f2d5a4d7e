"""Judges the facts of a probe: a function for each kind of row. Each takes the facts and all findings."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import coop_edge
from coop_edge.base.hardware import cuda_version
from coop_edge.doctor.findings import OLDEST_CUDA, Findings
from coop_edge.doctor.isolate import Facts
from coop_edge.doctor.report import Status

CACHE_BYTES = 200_000_000
"""Space wanted for compiled code; all of the CPU kernels take 12 MB, CuPy's a few."""
PLAN_SPACE = 3
"""Free space wanted for plans, as a multiple of the graphs: the new ones, the old ones until then, and the caches."""


class Judged(NamedTuple):
    """Status and text of a row.

    Attributes:
        data: what was measured; None: all that the judge was given.
    """

    status: Status
    found: str
    data: Facts | None = None


def python(facts: Facts, _: Findings) -> Judged:
    found = f"{facts['version']}, {facts['executable']}"
    return Judged("ok", found) if facts["supported"] else Judged("broken", f"{found}: wanted 3.10 or newer")


def system(facts: Facts, _: Findings) -> Judged:
    memory = f", {facts['memory_bytes'] / 1e9:.1f} GB" if facts["memory_bytes"] else ""
    return Judged("ok", f"{facts['os']}, {facts['machine']}, {facts['processors']} processors{memory}")


def jetson(facts: Facts, _: Findings) -> Judged:
    release = f"Jetson Linux {facts['l4t']}" if facts["l4t"] else "no /etc/nv_tegra_release"
    jetpack = f", JetPack {facts['jetpack']}" if facts["jetpack"] else ""
    return Judged("ok", f"{facts['model'] or 'model unknown'}, {release}{jetpack}")


def itself(_: Facts, __: Findings) -> Judged:
    data = {"version": coop_edge.__version__, "folder": str(Path(coop_edge.__file__).parent)}
    return Judged("ok", ", ".join(data.values()), data)


def library(facts: Facts, _: Findings) -> Judged:
    others = ", ".join(f"{key} {facts[key]}" for key in ("scipy", "pillow", "llvmlite") if key in facts)
    found, fails = f"{facts['version']} ({others})" if others else facts["version"], facts.get("fails", {}).get("cpu")
    return Judged("broken", f"{found}: {fails}") if fails else Judged("ok", found)


def conflicts(facts: Facts, _: Findings) -> Judged:
    doubled = [there for there in facts["families"].values() if len(there) > 1]
    found = "; ".join(" and ".join(map(" ".join, there.items())) for there in doubled)
    if doubled:
        return Judged("broken", f"{found}: installed into the same folder")
    return Judged("ok", "no two packages overwrite each other")


def cache(facts: Facts, _: Findings) -> Judged:
    found = f"{facts['folder']}, {facts['free_bytes'] / 1e9:.1f} GB free"
    if facts["folder"] is None:
        return Judged("broken", "no folder can be written to")
    if not facts["writable"]:
        return Judged("broken", f"{found}: cannot be written to")
    if facts["free_bytes"] < CACHE_BYTES:
        return Judged("broken", f"{found}: wanted {CACHE_BYTES / 1e9:.1f} GB")
    if damaged := facts.get("damaged"):
        return Judged("broken", f"{found}: {len(damaged)} files of compiled code are damaged, it is compiled again")
    return Judged("ok", found)


def cupy_cache(facts: Facts, findings: Findings) -> Judged:
    judged = cache(facts, findings)
    return judged if findings.has_gpu else judged._replace(status="optional")


def version(version: str, _: Findings) -> Judged:
    return Judged("ok", version)


def open3d(version: str, findings: Findings) -> Judged:
    """Judge Open3D by the distributions found; only ``examine(deep=True)`` imports it."""
    if problem := findings["open3d"].problem:
        return Judged("broken", f"{version}: {problem}")
    return Judged("ok", version if findings.facts("open3d") else f"{version} (not imported; --deep does)")


def gpu(facts: Facts, _: Findings) -> Judged:
    if facts["absent"]:
        return Judged("optional", facts["absent"])
    devices = "; ".join(f"{d['name']}, SM {d['sm']}, {d['memory_bytes'] / 1e9:.1f} GB" for d in facts["devices"])
    cuda = facts["driver_cuda"]
    found = f"{devices}; driver {facts['driver'] or 'of unknown release'}, CUDA up to {cuda_version(cuda)}"
    if cuda < OLDEST_CUDA * 1000:
        return Judged("broken", f"{found}: wanted a driver for CUDA {OLDEST_CUDA} or newer")
    return Judged("ok", found)


def cupy(facts: Facts, findings: Findings) -> Judged:
    found, fails = f"{facts['version']}, CUDA runtime {cuda_version(facts['runtime'])}", facts["fails"]
    if fails:
        return Judged("broken", f"{found}: {fails if findings.has_gpu else 'not usable without a GPU'}")
    return Judged("ok", found)


def onnxruntime_cuda(fails: Facts, findings: Findings) -> Judged:
    facts, why = findings.facts("onnxruntime"), fails["cuda"]
    if why is None:
        return Judged("ok", f"{facts['version']}: a session on CUDA computes", {})
    listed, found, said = "CUDAExecutionProvider" in facts["listed"], why, ""
    if listed:  # the library that the provider could not load is told by ONNX Runtime's log alone
        lines = (line for line in findings["onnxruntime"].said.splitlines() if "providers_cuda" in line)
        said = next(filter(None, (line.partition("error:")[2].strip() for line in lines)), "")
    if said:
        found = f"{why.partition(' (its reason is on stderr')[0]} ({said})"
    if findings.has_gpu and findings.jetpack is not None:
        found += "; onnxruntime-gpu's wheel has no code for Orin or Thor: build TensorRT plans instead"
    return Judged("broken" if listed else "optional", found, {"listed": listed, "fails": why, "said": said})


def tensorrt(facts: Facts, findings: Findings) -> Judged:
    there = {name: module for name, module in facts["modules"].items() if module}
    listed = [f"{name}: {m['fails']}" if m["fails"] else f"{name} {m['version']}" for name, m in there.items()]
    if findings.tensorrt_works:
        return Judged("ok", "; ".join(listed))
    if there:
        return Judged("broken", "; ".join([*listed, *filter(None, [facts["fails"]])]))
    seen = findings.facts("system_tensorrt").get("folder")
    found = f"{seen} is not visible in this environment" if seen else "not installed"
    only_way = not findings.onnxruntime_works_on_cuda and findings.onnxruntime_build != "onnxruntime-gpu"
    return Judged("missing" if only_way else "optional", found)


def bundles(facts: Facts, findings: Findings) -> Judged:
    data = {"usable": [bundle["name"] for bundle in findings.usable]}
    if findings.usable:
        return Judged("ok", ", ".join(data["usable"]), data)
    if findings.bundles:
        return Judged("broken", f"none of {len(findings.bundles)} can be read", data)
    return Judged("missing", "none is installed", data)


def bundle(facts: Facts, _: Findings) -> Judged:
    if facts["fails"]:
        return Judged("broken", facts["fails"])
    size, precision = facts["graph_bytes"] / 1e6, "/".join(facts["precisions"])
    found = f"{facts['version']}, {precision}, {', '.join(facts['roles'])}, {size:.1f} MB; weights: {facts['licence']}"
    return Judged("ok", found)


def plans(facts: Facts, findings: Findings) -> Judged:
    plans, place, data = facts["plans"], facts["storage"], {"plans": facts["plans"]}
    if why_none := findings.facts("bundles")["no_target"]:
        count = f"{len(plans)} plan(s), none can run here: " if plans else "none can be built or run here: "
        return Judged("optional", f"{count}{why_none}", data)
    without = _roles_without_plan(facts)
    if not without:
        return Judged("ok", f"fit {findings.facts('bundles')['target']}: {', '.join(facts['roles'])}", data)
    reasons = dict.fromkeys(plan["why"] for plan in plans if plan["fits"] is False)
    unfit = [f"{', '.join(plan['role'] for plan in plans if plan['why'] == why)}: {why}" for why in reasons]
    found = "; ".join(unfit) or f"none for {', '.join(without)}"
    if not place["writable"]:
        found += f"; {place['folder']} cannot be written to"
    elif place["free_bytes"] < PLAN_SPACE * facts["graph_bytes"]:
        found += f"; only {place['free_bytes'] / 1e6:.0f} MB free in {place['folder']}"
    return Judged("broken" if unfit else "missing", found, data)


def _roles_without_plan(bundle: Facts) -> list[str]:
    fitting = {plan["role"] for plan in bundle["plans"] if plan["fits"]}
    return [role for role in bundle["roles"] if role not in fitting]


def cuda_runner(_: Facts, findings: Findings) -> Judged:
    """Judge what an Estimator on CUDA depends on: TensorRT with plans that fit, or ONNX Runtime on CUDA."""
    planned = [b["name"] for b in findings.usable if b["roles"] and not _roles_without_plan(b)]
    ways = [f"TensorRT with plans of {', '.join(planned)}"] if planned else []
    ways += ["ONNX Runtime"] if findings.onnxruntime_works_on_cuda else []
    if ways:
        return Judged("ok", "; ".join(ways))
    why = "no bundle has plans that fit" if findings.tensorrt_works else "does not work"
    return Judged("missing", f"TensorRT: {why}; ONNX Runtime on CUDA: does not work")
