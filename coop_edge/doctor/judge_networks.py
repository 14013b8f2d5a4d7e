"""As ``judge``, for model bundles, their TensorRT plans, and what would run them on the GPU."""

from __future__ import annotations

import shlex

from coop_edge.doctor.advice import Advice
from coop_edge.doctor.isolate import Facts
from coop_edge.doctor.judge import BOTH, CUDA, Outcomes, facts_of, families, has_gpu, row
from coop_edge.doctor.report import Row, Status

PLAN_SPACE = 3
"""Free space wanted for plans, as a multiple of the graphs: the new ones, the old ones until then, and the caches."""
_BUNDLES = "trained networks; at least one bundle is needed"


def network_rows(outcomes: Outcomes, advice: Advice) -> list[Row]:
    """Whether there is a bundle, each bundle, its plans, and the runner of the GPU."""
    each = [_bundle(facts) for facts in bundles_of(outcomes)]
    plans = [_plans(outcomes, facts) for facts in bundles_of(outcomes) if not facts["fails"]]
    return [_summary(outcomes), *each, *plans, _runner(outcomes, advice)]


def bundles_of(outcomes: Outcomes) -> list[Facts]:
    """What the probe found of each bundle."""
    found: list[Facts] = facts_of(outcomes, "bundles").get("bundles", [])
    return found


def _summary(outcomes: Outcomes) -> Row:
    found = bundles_of(outcomes)
    usable = [facts["name"] for facts in found if not facts["fails"]]
    status: Status = "ok" if usable else "broken" if found else "missing"
    text = ", ".join(usable) or (f"none of {len(found)} can be read" if found else "none is installed")
    more = {"required_for": BOTH, "data": {"usable": usable}}
    return row(outcomes, "bundles", "networks", _BUNDLES, status, text, **more)


def _bundle(facts: Facts) -> Row:
    name, purpose = f"bundle:{facts['name']}", "a set of trained networks"
    if facts["fails"]:
        return Row(name, "networks", "broken", facts["fails"], purpose, data=facts)
    size, precision = facts["graph_bytes"] / 1e6, "/".join(facts["precisions"])
    found = f"{facts['version']}, {precision}, {', '.join(facts['roles'])}, {size:.1f} MB; weights: {facts['licence']}"
    return Row(name, "networks", "ok", found, purpose, data=facts)


def covered(facts: Facts) -> bool:
    """Whether every role of the bundle has a plan that fits."""
    fitting = {plan["role"] for plan in facts["plans"] if plan["fits"]}
    return bool(facts["roles"]) and set(facts["roles"]) <= fitting


def build_command(facts: Facts) -> str:
    """The command that builds the plans of a bundle."""
    return f"coop-edge build {shlex.quote(facts['folder'])}"


def _plans(outcomes: Outcomes, facts: Facts) -> Row:
    name, purpose = f"plans:{facts['name']}", "the bundle as TensorRT runs it, built on this very GPU"
    why_none = facts_of(outcomes, "bundles")["no_target"]
    plans, fix = facts["plans"], build_command(facts)
    place = facts["storage"]
    if why_none:
        count = f"{len(plans)} plan(s), none can run here: " if plans else "none; "
        return Row(name, "networks", "optional", f"{count}{why_none}", purpose, data={"plans": plans})
    if covered(facts):
        found = f"fit {facts_of(outcomes, 'bundles')['target']}: {', '.join(facts['roles'])}"
        return Row(name, "networks", "ok", found, purpose, data={"plans": plans})
    unfit = [f"{plan['role']}: {plan['why']}" for plan in plans if plan["fits"] is False]
    open_roles = [role for role in facts["roles"] if not any(p["role"] == role and p["fits"] for p in plans)]
    found = "; ".join(unfit) or f"none for {', '.join(open_roles)}"
    if not place["writable"]:
        found += f"; {place['folder']} cannot be written to"
    elif place["free_bytes"] < PLAN_SPACE * facts["graph_bytes"]:
        found += f"; only {place['free_bytes'] / 1e6:.0f} MB free in {place['folder']}"
    status: Status = "broken" if unfit else "missing"
    return Row(name, "networks", status, found, purpose, fix=fix, data={"plans": plans})


def _runner(outcomes: Outcomes, advice: Advice) -> Row:
    """The row that an Estimator on CUDA depends on: TensorRT with plans that fit, or ONNX Runtime on CUDA."""
    purpose = "runs a bundle on the GPU: TensorRT with plans, or ONNX Runtime's CUDA provider"
    usable = [facts for facts in bundles_of(outcomes) if not facts["fails"]]
    planned = [facts["name"] for facts in usable if covered(facts)]
    onnx = facts_of(outcomes, "onnxruntime")
    ways = [f"TensorRT: {', '.join(planned)}"] if planned else []
    if usable and onnx and onnx["fails"]["cuda"] is None:
        ways.append("ONNX Runtime on CUDA: " + ", ".join(facts["name"] for facts in usable))
    if ways:
        return Row("cuda_runner", "networks", "ok", "; ".join(ways), purpose, CUDA)
    status: Status = "missing" if has_gpu(outcomes) else "optional"
    fix = _way_to_run(outcomes, advice, usable) if has_gpu(outcomes) else ""
    return Row("cuda_runner", "networks", status, "none", purpose, CUDA, fix)


def _way_to_run(outcomes: Outcomes, advice: Advice, usable: list[Facts]) -> str:
    """ONNX Runtime where a wheel has code for this GPU, since nothing has to be built; else TensorRT."""
    tensorrt = facts_of(outcomes, "tensorrt")
    build = build_command(usable[0]) if usable else "coop-edge build BUNDLE"
    if tensorrt and any(tensorrt["modules"].values()) and tensorrt["fails"] is None:
        return build
    if advice.onnxruntime_build() == "onnxruntime-gpu":
        there = list(families(outcomes).get("onnxruntime", {}))
        wrong = there and there != ["onnxruntime-gpu"]
        return advice.reinstall("onnxruntime-gpu", there) if wrong else advice.install("onnxruntime-gpu")
    return f"{advice.tensorrt()} && {build}"
