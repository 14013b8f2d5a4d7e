"""As ``judge``, for model bundles, their TensorRT plans, and what would run them on the GPU."""

from __future__ import annotations

import shlex

from coop_edge.doctor.advice import Advice
from coop_edge.doctor.isolate import Facts
from coop_edge.doctor.judge import BOTH, CUDA, Outcomes, facts_of, has_gpu, row
from coop_edge.doctor.judge_cuda import onnxruntime_fails, onnxruntime_fix, tensorrt_works
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
    reasons = dict.fromkeys(plan["why"] for plan in plans if plan["fits"] is False)
    unfit = [f"{', '.join(plan['role'] for plan in plans if plan['why'] == why)}: {why}" for why in reasons]
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
    ways = [f"TensorRT with plans of {', '.join(planned)}"] if planned else []
    ways += ["ONNX Runtime"] if onnxruntime_fails(outcomes) is None else []
    if ways:
        return Row("cuda_runner", "networks", "ok", "; ".join(ways), purpose, CUDA)
    tensorrt = "no bundle has plans that fit" if tensorrt_works(outcomes) else "does not work"
    found = f"TensorRT: {tensorrt}; ONNX Runtime on CUDA: does not work"
    if not has_gpu(outcomes):
        return Row("cuda_runner", "networks", "optional", found, purpose, CUDA)
    return Row("cuda_runner", "networks", "missing", found, purpose, CUDA, _way_to_run(outcomes, advice, usable))


def _way_to_run(outcomes: Outcomes, advice: Advice, usable: list[Facts]) -> str:
    """A build where TensorRT works; else ONNX Runtime where its wheel runs, which needs no build; else TensorRT."""
    build = build_command(usable[0]) if usable else "coop-edge build NAME"
    if tensorrt_works(outcomes):
        return build
    if advice.onnxruntime_build() == "onnxruntime-gpu":
        return onnxruntime_fix(outcomes, advice)
    tensorrt = advice.tensorrt()
    return f"{tensorrt} && {build}" if tensorrt else ""
