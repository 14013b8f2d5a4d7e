"""How long an Estimator takes on the demo's scene: per stage, per network and in all, and what memory that needs.

Every refinement does all of its iterations (it never stops early), so the figures are those of the slowest frames. A
detection that is not found leaves early and costs less: ``found`` says how many of them there were.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from coop_edge.backend import Backend
from coop_edge.config import EstimatorConfig
from coop_edge.demo import DemoScene, load_scene
from coop_edge.errors import InputError
from coop_edge.estimator import Estimator
from coop_edge.runtime.base import Runner
from coop_edge.runtime.bundle import Bundle
from coop_edge.types import Detection, PoseEstimate, StageTimes

FEWEST = 3
"""Calls of a case, however long they take."""


@dataclass(frozen=True)
class Case:
    """What is called: ``estimate`` of some detections with some hypotheses each, or ``track`` of as many poses."""

    name: str
    detections: int = 1
    hypotheses: int = 1
    track: bool = False


CASES = (
    Case("1 object, 1 hypothesis"),
    Case("1 object, 5 hypotheses", hypotheses=5),
    Case("8 objects, 1 hypothesis", detections=8),
    Case("track 1 object", track=True),
)


class NetworkClock:
    """Milliseconds in networks by role; counts only inside ``counting``."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._counts = False

    @contextmanager
    def counting(self) -> Iterator[dict[str, float]]:
        """From zero on; yields what is being counted."""
        self.ms, self._counts = {}, True
        try:
            yield self.ms
        finally:
            self._counts = False

    def watch(self, role: str, runner: Runner) -> Runner:
        """``runner`` itself, from now on with its runs timed; on a GPU each of them is then waited for."""
        run = runner.run

        def timed(feed: Mapping[str, Any], stream: Any = None) -> dict[str, Any]:
            if not self._counts:
                return run(feed, stream)
            _wait(runner.device)
            start = time.perf_counter()
            outputs = run(feed, stream)
            _wait(runner.device)
            self.ms[role] = self.ms.get(role, 0.0) + 1e3 * (time.perf_counter() - start)
            return outputs

        runner.run = timed  # type: ignore[method-assign]
        return runner


def measure(
    engines: str | Path,
    *,
    device: str = "auto",
    threads: int = 0,
    repeats: int = 100,
    seconds: float = 120.0,
    iterations: int = 5,
    track_iterations: int = 2,
    cases: Sequence[Case] = CASES,
) -> dict[str, Any]:
    """Figures of one bundle as plain data; milliseconds, MiB.

    engines: name or folder. repeats: calls timed per case; fewer, but ``FEWEST``, where ``seconds`` are over before.
    "cold" is of the first Estimator: its opening ("load_s"), an object's registration ("object_s") and its first call
    without ``warmup``. That is cold only in a process that has not run another one. Raises what ``Estimator`` raises.
    """
    if not cases or repeats < 1:
        raise InputError(f"wanted at least one case and one call, got {len(cases)} and {repeats}")
    scene, bundle = load_scene(), Bundle.load(engines)
    out: dict[str, Any] = {"engines": bundle.name, "version": bundle.version, "input_size": bundle.input_size}
    refine = {"iterations": iterations, "track_iterations": track_iterations, "stop_px": 0.0, "stop_diameter": 0.0}
    figures: dict[str, Any] = {}
    for hypotheses in dict.fromkeys(case.hypotheses for case in cases):
        config = EstimatorConfig.from_dict({"coarse": {"hypotheses": hypotheses}, "refine": refine})
        clock = NetworkClock()
        start = time.perf_counter()
        with _opened(engines, device, config, threads, clock) as estimator:
            cold = _cold(estimator, scene, time.perf_counter() - start)
            out.setdefault("cold", cold)
            out.setdefault("backend", {"name": estimator.backend.name, "reason": estimator.backend.reason})
            estimator.warmup()
            for case in cases:
                if case.hypotheses == hypotheses:
                    figures[case.name] = _case(estimator, scene, case, clock, repeats, seconds)
    settings = {"threads": threads, "image": list(scene.camera.size), "refine": refine}
    return out | {"settings": settings, "cases": {case.name: figures[case.name] for case in cases}, "memory": memory()}


def memory() -> dict[str, float | None]:
    """Largest resident set of this process so far, MiB; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)
    except OSError:  # not Linux
        peak = None
        if sys.platform == "darwin":
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    return {"peak_mb": None if peak is None else round(peak, 1)}


def _opened(engines: str | Path, device: str, config: EstimatorConfig, threads: int, clock: NetworkClock) -> Estimator:
    """An Estimator whose networks ``clock`` watches."""

    class Watched(Backend):
        def runner(self, bundle: Bundle, role: str, **options: Any) -> Runner:
            return clock.watch(role, super().runner(bundle, role, **options))

    class WatchedEstimator(Estimator):
        def __init__(self, bundle: Bundle, backend: Backend, config: EstimatorConfig, threads: int) -> None:
            super().__init__(bundle, Watched(backend.name, backend.reason), config, threads)

    return WatchedEstimator.from_engines(engines, device=device, config=config, threads=threads)


def _cold(estimator: Estimator, scene: DemoScene, load_s: float) -> dict[str, float]:
    """Register the scene's objects, and estimate one of them before anything has been warmed up."""
    start = time.perf_counter()
    for i, (name, (mesh, unit)) in enumerate(scene.meshes.items()):
        estimator.add_object(name, mesh, unit=unit)
        if i == 0:
            first_s = time.perf_counter() - start
    call_ms = _time_ms(lambda: estimator.estimate(scene.image, scene.camera, scene.detections[:1]))[0]
    return {"load_s": load_s, "object_s": first_s, "first_call_ms": call_ms}


def _case(
    estimator: Estimator, scene: DemoScene, case: Case, clock: NetworkClock, repeats: int, seconds: float
) -> dict[str, Any]:
    call = _call(estimator, scene, case)
    call()  # buffers of this batch size
    totals: list[float] = []
    stages: list[StageTimes] = []
    results: list[PoseEstimate] = []
    start = time.perf_counter()
    while len(totals) < repeats and (len(totals) < FEWEST or time.perf_counter() - start < seconds):
        ms, results = _time_ms(call)
        totals.append(ms)
        stages.append(next((result.times for result in results if result.times is not None), StageTimes()))
    names = [f.name for f in fields(StageTimes)]
    return {
        "n": len(totals),
        "found": sum(result.success for result in results),
        "of": len(results),
        "ms": percentiles(totals),
        "stages": {name.removesuffix("_ms"): percentiles([getattr(t, name) for t in stages]) for name in names},
        "network": _network(call, clock, max(FEWEST, len(totals) // 5)),
    }


def _call(estimator: Estimator, scene: DemoScene, case: Case) -> Callable[[], list[PoseEstimate]]:
    """Detections of the scene in turn; for tracking, its true poses."""
    wanted: list[Detection] = [scene.detections[i % len(scene.detections)] for i in range(case.detections)]
    if not case.track:
        return lambda: estimator.estimate(scene.image, scene.camera, wanted)
    known = [PoseEstimate(True, T_camera_object=scene.truth[d.object], object=d.object) for d in wanted]
    return lambda: estimator.track(scene.image, scene.camera, known)


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
    """p50, p90 and p99, interpolated: with fewer than 100 values p99 is hardly less than the largest."""
    return {f"p{q}": float(np.percentile(ms, q)) for q in (50, 90, 99)}


def _time_ms(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    answer = call()
    return 1e3 * (time.perf_counter() - start), answer


def _wait(device: str) -> None:
    if device == "cuda":
        import cupy

        cupy.cuda.get_current_stream().synchronize()
