"""As ``judge``, for the GPU: driver, CuPy, and what runs networks there."""

from __future__ import annotations

from coop_edge.doctor.advice import OLDEST_CUDA, Advice
from coop_edge.doctor.isolate import Outcome
from coop_edge.doctor.judge import CUDA, NOT_INSTALLED, Outcomes, cache_problem, facts_of, families, has_gpu, row
from coop_edge.doctor.report import Row, Status

_RUNNERS = "runs networks on the GPU; one of it and {} is needed there"


def cuda_rows(outcomes: Outcomes, advice: Advice) -> list[Row]:
    """GPU, CuPy, and what runs networks on the GPU."""
    return [
        _gpu(outcomes),
        _cupy(outcomes, advice),
        _cupy_cache(outcomes),
        _onnxruntime_cuda(outcomes, advice),
        _tensorrt(outcomes, advice),
    ]


def _gpu(outcomes: Outcomes) -> Row:
    facts = facts_of(outcomes, "gpu")
    purpose = "renders, matches and solves many times faster than the CPU"
    if facts.get("absent") or not facts:
        found = facts.get("absent") or "not looked at"
        return row(outcomes, "gpu", "cuda", purpose, "optional", found, required_for=CUDA, data=facts)
    devices = "; ".join(f"{d['name']}, SM {d['sm']}, {d['memory_bytes'] / 1e9:.1f} GB" for d in facts["devices"])
    cuda = facts["driver_cuda"]
    found = f"{devices}; driver {facts['driver'] or 'of unknown release'}, CUDA up to {cuda_version(cuda)}"
    old = cuda < OLDEST_CUDA * 1000
    return row(
        *(outcomes, "gpu", "cuda", purpose),
        "broken" if old else "ok",
        f"{found}: wanted a driver for CUDA {OLDEST_CUDA} or newer" if old else found,
        required_for=CUDA,
        data=facts,
    )


def _cupy(outcomes: Outcomes, advice: Advice) -> Row:
    outcome, purpose = outcomes.get("cupy"), "renderer and pose solvers on the GPU"
    fix = advice.cupy(list(families(outcomes).get("cupy", {}))) if has_gpu(outcomes) else ""
    absent: Status = "missing" if has_gpu(outcomes) else "optional"
    if outcome and outcome.facts is None and not outcome.problem:
        return Row("cupy", "cuda", absent, NOT_INSTALLED, purpose, CUDA, fix)
    facts = facts_of(outcomes, "cupy")
    found = f"{facts.get('version')}, CUDA runtime {cuda_version(facts.get('runtime'))}"
    fails = facts.get("fails")
    if fails and not has_gpu(outcomes):  # it cannot work without a GPU, which is a row of its own
        return Row("cupy", "cuda", "optional", f"{found}: not usable without a GPU", purpose, CUDA, "", facts)
    status: Status = "broken" if fails else "ok"
    more = {"required_for": CUDA, "data": facts, "fix": fix if fails or (outcome and outcome.problem) else ""}
    return row(outcomes, "cupy", "cuda", purpose, status, f"{found}: {fails}" if fails else found, **more)


def _cupy_cache(outcomes: Outcomes) -> Row:
    purpose = "keeps compiled CUDA kernels; without it every process compiles them"
    space = facts_of(outcomes, "cupy_storage")
    found = f"{space.get('folder')}, {space.get('free_bytes', 0) / 1e9:.1f} GB free"
    status: Status = "ok" if has_gpu(outcomes) else "optional"
    fix = ""
    if status == "ok" and (why := cache_problem(space)):
        status, found, fix = "broken", f"{found}: {why}", "export CUPY_CACHE_DIR=/var/tmp/coop_edge-cupy"
    return row(outcomes, "cupy_cache", "cuda", purpose, status, found, fix=fix, data=space, source="cupy_storage")


def _onnxruntime_cuda(outcomes: Outcomes, advice: Advice) -> Row:
    facts, purpose = facts_of(outcomes, "onnxruntime"), _RUNNERS.format("TensorRT")
    fails = onnxruntime_fails(outcomes)
    if fails is None:
        return Row("onnxruntime_cuda", "cuda", "ok", f"{facts['version']}: a session on CUDA computes", purpose)
    listed = "CUDAExecutionProvider" in facts.get("listed", [])
    said = _why_said(outcomes["onnxruntime"].said) if listed else ""
    data = {"listed": listed, "fails": fails, "said": said}
    found, fix = f"{fails.partition(' (its reason is on stderr')[0]} ({said})" if said else fails, ""
    if has_gpu(outcomes) and advice.onnxruntime_build() == "onnxruntime-gpu":
        fix = onnxruntime_fix(outcomes, advice)
    elif has_gpu(outcomes) and advice.jetpack is not None:
        found += "; onnxruntime-gpu's wheel has no code for Orin or Thor: build TensorRT plans instead"
    status: Status = "broken" if listed and has_gpu(outcomes) else "optional"
    return Row("onnxruntime_cuda", "cuda", status, found, purpose, fix=fix, data=data)


def onnxruntime_fails(outcomes: Outcomes) -> str | None:
    """Why ONNX Runtime does not compute on CUDA, None if it does."""
    facts = facts_of(outcomes, "onnxruntime")
    if facts:
        why: str | None = facts["fails"]["cuda"]
        return why
    return "ONNX Runtime does not work" if outcomes.get("onnxruntime", Outcome()).problem else NOT_INSTALLED


def onnxruntime_fix(outcomes: Outcomes, advice: Advice) -> str:
    """The command that brings ONNX Runtime with CUDA, in the place of any build without."""
    there = list(families(outcomes).get("onnxruntime", {}))
    wrong = there not in ([], ["onnxruntime-gpu"])
    return advice.reinstall("onnxruntime-gpu", there) if wrong else advice.install("onnxruntime-gpu")


def _why_said(said: str) -> str:
    """The library that ONNX Runtime's CUDA provider could not load, which only its log tells."""
    lines = [line.partition("error:")[2].strip() for line in said.splitlines() if "providers_cuda" in line]
    return next((line for line in lines if line), "")


def _tensorrt(outcomes: Outcomes, advice: Advice) -> Row:
    facts = facts_of(outcomes, "tensorrt")
    purpose = _RUNNERS.format("ONNX Runtime's CUDA provider") + "; the fastest, after `coop-edge build`"
    there = {name: module for name, module in facts.get("modules", {}).items() if module}
    listed = [f"{name} {m['version']}" if not m["fails"] else f"{name}: {m['fails']}" for name, m in there.items()]
    if tensorrt_works(outcomes):
        return row(outcomes, "tensorrt", "cuda", purpose, "ok", "; ".join(listed), data=facts)
    if facts.get("fails"):
        listed.append(facts["fails"])
    only_way = onnxruntime_fails(outcomes) is not None and advice.onnxruntime_build() != "onnxruntime-gpu"
    status: Status = "broken" if there else "missing" if has_gpu(outcomes) and only_way else "optional"
    seen = facts_of(outcomes, "system_tensorrt").get("folder")
    found = "; ".join(listed) or (f"{seen} is not visible in this environment" if seen else NOT_INSTALLED)
    fix = advice.tensorrt() if has_gpu(outcomes) else ""
    return row(outcomes, "tensorrt", "cuda", purpose, status, found, fix=fix, data=facts)


def tensorrt_works(outcomes: Outcomes) -> bool:
    """Whether a TensorRT is installed that this package can use."""
    facts = facts_of(outcomes, "tensorrt")
    return any(facts.get("modules", {}).values()) and facts["fails"] is None


def cuda_version(number: int | None) -> str:
    """ "13.2" for CUDA's own 13020."""
    return "unknown" if number is None else f"{number // 1000}.{number % 1000 // 10}"
