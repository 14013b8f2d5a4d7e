"""Measures how long an Estimator takes on the demo's scene: per stage, per network and in all, and its memory.

Every refinement does all of its iterations (it never stops early), so the figures are those of the slowest frames. A
detection that is not found leaves early and costs less: ``found`` says how many of them there were.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.backend import Backend, probe_networks
from coop_edge.base.compile_time import compile_seconds, working_time
from coop_edge.cli.network_time import NetworkClock, TimedBackend
from coop_edge.config import EFFORTS, Effort, EstimatorConfig
from coop_edge.demo import DemoScene, load_scene
from coop_edge.errors import InputError
from coop_edge.estimator import Estimator
from coop_edge.runtime.bundle import Bundle
from coop_edge.types import Detection, PoseEstimate, StageTimes

FEWEST = 3
"""Calls of a case, however long they take."""


@dataclass(frozen=True)
class Case:
    """What is called: ``estimate`` of some detections with an effort, ``track`` of as many poses, or ``find`` of
    objects, if there are any to find."""

    name: str
    effort: Effort
    detections: int = 1
    track: bool = False
    find: int = 0


def cases_of(efforts: Sequence[Effort], find: Sequence[int] = ()) -> list[Case]:
    """Return the cases measured: one object and eight with each effort, and tracking, where efforts do not differ.

    find: numbers of objects to be found without boxes, at the first of the efforts.
    """
    cases = [Case(f"1 object, {effort}", effort) for effort in efforts]
    cases += [Case(f"8 objects, {effort}", effort, detections=8) for effort in efforts]
    cases += [Case("track 1 object", effort, track=True) for effort in efforts[:1]]
    counted = [(n, f"{n} object" if n == 1 else f"{n} objects") for n in find]
    return cases + [Case(f"find {named}, {efforts[0]}", efforts[0], find=n) for n, named in counted]


def measure(
    engines: str | Path,
    *,
    device: str = "auto",
    threads: int = 0,
    repeats: int = 100,
    seconds: float = 120.0,
    efforts: Sequence[Effort] = tuple(EFFORTS),
    settings: Sequence[str] = (),
    depth: NDArray[np.float32] | None = None,
    find: Sequence[int] = (),
) -> dict[str, Any]:
    """Measure one bundle. Returns figures as plain data: milliseconds, MiB.

    "cold" is of the first Estimator: its opening ("load_s"), an object's registration ("object_s") and its first call
    without ``warmup``. That is cold only in a process that has not run another one. Compilation, once per installation,
    is in none of these, but in "compile_s".

    Args:
        engines: name or folder of a bundle.
        device, threads: as of ``Estimator.from_engines``.
        repeats: calls timed per case; fewer where ``seconds`` are over before, but at least ``FEWEST``.
        efforts: which of ``EFFORTS`` are measured, each once.
        settings: options of the Estimator, as ``Config.updated`` takes them; not those that are fixed here, the effort
            and when refinement stops. The report's "schedules" are the numbers of each effort (``config.Schedule``).
        depth: of the demo's scene, metres [height,width]. Each case is then timed with it too, call by call in turn
            with those without; "depth" of a case has the milliseconds, "ratio" (the median of the pairs' ratios) and
            stages.
        find: numbers of objects that are to be found without boxes in one call; more than the scene has are more of
            the same.

    Raises:
        InputError: fewer than one repeat, no effort, or fewer than one object to find.
        CoopEdgeError: what ``Estimator.from_engines`` raises.
    """
    efforts = list(dict.fromkeys(efforts))
    if not efforts or repeats < 1:
        raise InputError(f"wanted at least one effort and one call, got {len(efforts)} and {repeats}")
    if min(find, default=1) < 1:
        raise InputError(f"find: wanted numbers of objects of at least 1, got {list(find)}")
    cases = cases_of(efforts, find)
    scene, bundle = load_scene(), Bundle.load(engines)
    out: dict[str, Any] = {"engines": bundle.name, "version": bundle.version, "input_size": bundle.input_size}
    figures: dict[str, Any] = {}
    schedules: dict[str, dict[str, int]] = {}
    for effort in efforts:
        stop = (f"advanced.refine.{name}=0" for name in ("stop_px", "stop_diameter"))
        config = EstimatorConfig().updated([f"effort={effort}", *stop, *settings])
        schedules[effort] = config.schedule._asdict()
        clock = NetworkClock()
        start, compiled = working_time(), compile_seconds()
        with _open(engines, device, config, threads, clock) as estimator:
            cold = _cold(estimator, scene, working_time() - start)
            out.setdefault("compile_s", compile_seconds() - compiled)
            out.setdefault("cold", cold)
            out.setdefault("backend", {"name": estimator.backend.name, "reason": estimator.backend.reason})
            estimator.warmup()
            for case in cases:
                if case.effort == effort:
                    figures[case.name] = _case(estimator, scene, case, clock, repeats, seconds, depth)
    names = ("iterations", "track_iterations", "stop_px", "stop_diameter")
    options = config.refine.to_dict() | config.advanced.refine.to_dict()
    refine = {name: options[name] for name in names}
    used = {"threads": threads, "image": list(scene.camera.size), "refine": refine, "set": list(settings)}
    used["schedules"] = schedules
    return out | {"settings": used, "cases": {case.name: figures[case.name] for case in cases}, "memory": memory()}


def memory() -> dict[str, float | None]:
    """Return the largest resident set of this process so far, MiB; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)
    except OSError:  # not Linux
        peak = None
        if sys.platform == "darwin":
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    return {"peak_mb": None if peak is None else round(peak, 1)}


def _open(engines: str | Path, device: str, config: EstimatorConfig, threads: int, clock: NetworkClock) -> Estimator:
    """Make an Estimator whose networks ``clock`` times."""
    bundle = Bundle.load(engines, check_hashes=False)
    picked = Backend.pick(device, probe=functools.partial(probe_networks, bundle))
    return Estimator(bundle, TimedBackend(picked.name, picked.reason, clock), config, threads)


def _cold(estimator: Estimator, scene: DemoScene, load_s: float) -> dict[str, float]:
    """Register the scene's objects, and estimate one of them before anything has been warmed up."""
    start = working_time()
    for i, (name, (mesh, unit)) in enumerate(scene.meshes.items()):
        estimator.add_object(name, mesh, unit=unit)
        if i == 0:
            first_s = working_time() - start
    call_ms = _time_ms(lambda: estimator.estimate(scene.image, scene.camera, scene.detections[:1]))[0]
    return {"load_s": load_s, "object_s": first_s, "first_call_ms": call_ms}


def _case(
    estimator: Estimator,
    scene: DemoScene,
    case: Case,
    clock: NetworkClock,
    repeats: int,
    seconds: float,
    depth: NDArray[np.float32] | None,
) -> dict[str, Any]:
    calls = [_call(estimator, scene, case, given) for given in ([None] if depth is None else [None, depth])]
    for call in calls:
        call()  # buffers of this batch size
    runs: list[list[tuple[float, list[PoseEstimate]]]] = [[] for _ in calls]
    start = working_time()
    while len(runs[0]) < repeats and (len(runs[0]) < FEWEST or working_time() - start < seconds):
        for call, run in zip(calls, runs, strict=True):
            run.append(_time_ms(call))
    results = runs[0][-1][1]
    out: dict[str, Any] = {"n": len(runs[0]), "found": sum(result.success for result in results), "of": len(results)}
    out |= _times(runs[0])
    out["network"] = _network(calls[0], clock, max(FEWEST, len(runs[0]) // 5))
    for run in runs[1:]:
        ratio = np.median([with_depth[0] / without[0] for without, with_depth in zip(runs[0], run, strict=True)])
        used = sum(result.used_depth for result in run[-1][1])
        out["depth"] = {"ratio": float(ratio), "used_depth": used, **_times(run)}
    return out


def _times(run: Sequence[tuple[float, list[PoseEstimate]]]) -> dict[str, Any]:
    """Return percentiles of calls, in all and by stage."""
    stages = [next((r.times for r in results if r.times is not None), StageTimes()) for _, results in run]
    names = [f.name for f in fields(StageTimes)]
    each = {name.removesuffix("_ms"): percentiles([getattr(t, name) for t in stages]) for name in names}
    return {"ms": percentiles([ms for ms, _ in run]), "stages": each}


def _call(
    estimator: Estimator, scene: DemoScene, case: Case, depth: NDArray[np.float32] | None
) -> Callable[[], list[PoseEstimate]]:
    """Detections of the scene in turn, or its objects; for tracking, its true poses."""
    wanted: list[Detection] = [scene.detections[i % len(scene.detections)] for i in range(case.detections)]
    more = () if depth is None else (depth,)
    if case.find:
        names = _registered(estimator, scene, case.find)
        return lambda: estimator.find(scene.image, scene.camera, names, depth=depth)
    if not case.track:
        return lambda: estimator.estimate(scene.image, scene.camera, wanted, *more)
    known = [PoseEstimate(True, T_camera_object=scene.truth[d.object], object=d.object) for d in wanted]
    return lambda: estimator.track(scene.image, scene.camera, known, *more)


def _registered(estimator: Estimator, scene: DemoScene, count: int) -> list[str]:
    """Return the names of ``count`` objects, the scene's in turn; those there are not yet are added."""
    names, meshes = [], [*scene.meshes.items()]
    for i in range(count):
        again, which = divmod(i, len(meshes))
        name, (mesh, unit) = meshes[which]
        names.append(f"{name} {again + 1}" if again else name)
        if names[-1] not in estimator.objects:
            estimator.add_object(names[-1], mesh, unit=unit)
    return names


def _network(call: Callable[[], object], clock: NetworkClock, repeats: int) -> dict[str, Any]:
    """Median milliseconds per role and of all roles, and their share of the time, in calls of their own.

    "ms" is the floor: what a call would take if all but the networks were free.
    """
    totals, roles = [], []
    for _ in range(repeats):
        with clock.counting() as ms:
            totals.append(_time_ms(call)[0])
        roles.append(ms)
    sums = [sum(each.values()) for each in roles]
    named = dict.fromkeys(role for each in roles for role in each)
    return {
        "ms": float(np.median(sums)),
        "share": sum(sums) / sum(totals),
        "roles": {role: float(np.median([each.get(role, 0.0) for each in roles])) for role in named},
    }


def percentiles(ms: Sequence[float]) -> dict[str, float]:
    """Return p50, p90 and p99, interpolated: with fewer than 100 values p99 is hardly less than the largest."""
    return {f"p{q}": float(np.percentile(ms, q)) for q in (50, 90, 99)}


def _time_ms(call: Callable[[], Any]) -> tuple[float, Any]:
    start = working_time()
    answer = call()
    return 1e3 * (working_time() - start), answer
