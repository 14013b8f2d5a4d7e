"""Measures speed and accuracy of the CPU pose solvers beside OpenCV and PoseLib.

    python -m benchmarks.solvers --json benchmarks/results/solvers.json --plot benchmarks/results/solvers.png

RANSAC: 42 problems of 196 points, 40 % outliers; equal threshold, confidence and bound on the iterations. LM: 5
problems of 50,176 points, 10 iterations. Milliseconds are medians for the whole set, first on one thread, then on all
cores (a problem a thread). PoseLib is timed twice: with its default of 1,000 iterations at least, and with our 32.
Peers get float64 arrays. Calling them costs little beside what they compute: the selection of valid points takes 6 us
of a problem, and all of PoseLib's or OpenCV's call with a single iteration, conversions included, about 50 us.

Every third problem is planar, and OpenCV's EPnP has no planar case: all its failures are planes, where it misses the
pose even if given the true inliers alone. ``solvePnPRansac`` ends with the method it is given, on the inliers, and with
EPnP for AP3P; so both fail alike. SQPnP, which samples by EPnP too, ends right: OpenCV at its most accurate.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.common import print_table, time_ms, versions, write_json
from benchmarks.pnp_peers import opencv_ransac, opencv_refine_lm, poselib_ransac
from benchmarks.pnp_problems import PnpProblems, make_problems, perturbed, pose_errors
from coop_edge.base.hardware import available_cores, hardware
from coop_edge.config import LmConfig, RansacConfig, RansacSearchConfig
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.pnp.ransac import ROUND

LIMITS: dict[str, Any] = {"threshold_px": 4.0, "iterations": 1000, "confidence": 0.999}
CONFIG = RansacConfig(threshold_px=4.0)
SEARCH = RansacSearchConfig(hypotheses=1000, confidence=0.999)
LM_ITERATIONS = 10

Solve = Callable[[PnpProblems], np.ndarray]


def ours(threads: int, config: RansacConfig = CONFIG, search: RansacSearchConfig = SEARCH) -> Solve:
    """Return our RANSAC as a function of problems -> T [B,4,4]."""
    solver = CpuPnpSolver(threads=threads)
    options: dict[str, Any] = {"config": config, "search": search}
    return lambda p: solver.ransac_epnp(p.points_object, p.points_image, p.valid, p.K, **options).T_camera_object


def spread(solve: Callable[..., np.ndarray], threads: int) -> Callable[..., np.ndarray]:
    """Spread problems over threads: problem i goes to thread i mod ``threads``; further arguments are split alike."""
    if threads == 1:
        return solve
    pool = ThreadPoolExecutor(threads)

    def run(problems: PnpProblems, *more: np.ndarray) -> np.ndarray:
        out = np.empty((len(problems), 4, 4))

        def share(first: int) -> None:
            part = slice(first, None, threads)
            chosen = replace(problems, **{f.name: getattr(problems, f.name)[part] for f in fields(problems)})
            out[part] = solve(chosen, *(a[part] for a in more))

        list(pool.map(share, range(threads)))
        return out

    return run


def accuracy(T: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return medians over the solved problems, and the share unsolved or off by more than 5 degrees or 5 %."""
    rotation, translation = pose_errors(T, truth)
    failed = ~((rotation <= 5.0) & (translation <= 0.05))
    return {
        "rotation_deg": float(np.nanmedian(rotation)),
        "translation_share": float(np.nanmedian(translation)),
        "failures": float(failed.mean()),
    }


def benchmark_ransac(threads: int, repeats: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Time 42 problems, and measure the accuracy over 420 problems of the same kind."""
    kind: dict[str, Any] = {"shape": "mixed", "noise_px": 1.0, "outliers": 0.4, "weights": "unknown", "seed": 1}
    problems, more = make_problems(42, 196, **kind), make_problems(420, 196, **kind)
    solvers: dict[str, Solve] = {
        "ours_ms": ours(threads),
        "opencv_epnp_ms": spread(lambda p: opencv_ransac(p, **LIMITS), threads),
        "opencv_ap3p_ms": spread(lambda p: opencv_ransac(p, **LIMITS, flags=cv2.SOLVEPNP_AP3P), threads),
        "opencv_sqpnp_ms": spread(lambda p: opencv_ransac(p, **LIMITS, flags=cv2.SOLVEPNP_SQPNP), threads),
        "poselib_ms": spread(lambda p: poselib_ransac(p, **LIMITS, min_iterations=ROUND), threads),
        "poselib_default_ms": spread(lambda p: poselib_ransac(p, **LIMITS, min_iterations=1000), threads),
    }
    times = {
        name: time_ms(functools.partial(solve, problems), repeats=repeats)["p50"] for name, solve in solvers.items()
    }
    if threads > 1:
        return times, {}
    return times, {name[:-3]: accuracy(solve(more), more.T_camera_object) for name, solve in solvers.items()}


def benchmark_lm(threads: int, repeats: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Time 5 problems of 50,176 points and exactly 10 iterations each, from 5 degrees and 3 % off."""
    problems = make_problems(5, 50176, shape="mixed", noise_px=1.0, weights="unknown", seed=1)
    T_init = perturbed(problems.T_camera_object, np.deg2rad(5.0), 0.03)
    solver = CpuPnpSolver(threads=threads)
    config = LmConfig(iterations=LM_ITERATIONS, step_tolerance=0.0, cost_tolerance=0.0)

    def own(p: PnpProblems, start: np.ndarray) -> np.ndarray:
        result = solver.weighted_lm(p.points_object, p.points_image, p.weights, p.K, start, config)
        if not (result.statistics.iterations == LM_ITERATIONS).all():
            raise AssertionError(f"wanted {LM_ITERATIONS} iterations, got {result.statistics.iterations}")
        return result.T_camera_object

    single = replace(
        problems, **{n: getattr(problems, n).astype(np.float32) for n in ("points_object", "points_image", "weights")}
    )
    peer = spread(lambda p, start: opencv_refine_lm(p, start, iterations=LM_ITERATIONS), threads)
    times = {
        "ours_ms": time_ms(lambda: own(problems, T_init), repeats=repeats)["p50"],
        "ours_float32_input_ms": time_ms(lambda: own(single, T_init), repeats=repeats)["p50"],
        "opencv_ms": time_ms(lambda: peer(problems, T_init), repeats=max(3, repeats // 5), warmup=1)["p50"],
    }
    truth = problems.T_camera_object
    return times, {"ours": accuracy(own(problems, T_init), truth), "opencv": accuracy(peer(problems, T_init), truth)}


def benchmark_minimal(repeats: int) -> dict[str, dict[str, float]]:
    """Compare P3P with EPnP as minimal solver: 300 problems, noise 0 to 4 px, outliers 0 to 80 %."""
    problems = make_problems(
        300, 100, shape="mixed", noise_px=(0.0, 4.0), outliers=(0.0, 0.8), weights="unknown", seed=3
    )
    out = {}
    searches: dict[str, dict[str, Any]] = {"p3p": {"minimal": "p3p"}}
    searches |= {f"epnp_{n}": {"minimal": "epnp", "sample_size": n} for n in (4, 5, 6)}
    for name, options in searches.items():
        solve = ours(1, RansacConfig(threshold_px=8.0), RansacSearchConfig(hypotheses=2000, **options))
        ms = time_ms(functools.partial(solve, problems), repeats=max(3, repeats // 5), warmup=1)["p50"]
        out[name] = {"ms": ms, **accuracy(solve(problems), problems.T_camera_object)}
    return out


def benchmark_scaling(repeats: int) -> dict[str, list[dict[str, float]]]:
    """Time a problem on one thread over N, B and outlier share; what is not varied is in ``plot``'s title."""
    base: dict[str, Any] = {"shape": "mixed", "noise_px": 1.0, "weights": "unknown", "seed": 1}
    cases: dict[str, list[tuple[float, PnpProblems]]] = {
        "points": [(n, make_problems(16, n, outliers=0.4, **base)) for n in (16, 48, 196, 784, 3136, 12544)],
        "batch": [(b, make_problems(b, 196, outliers=0.4, **base)) for b in (1, 4, 16, 42, 168)],
        "outliers": [(o, make_problems(42, 196, outliers=o, **base)) for o in (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8)],
    }
    solvers: dict[str, Solve] = {
        "ours": ours(1),
        "opencv_epnp": lambda p: opencv_ransac(p, **LIMITS),
        "poselib": lambda p: poselib_ransac(p, **LIMITS, min_iterations=ROUND),
    }
    out: dict[str, list[dict[str, float]]] = {}
    for axis, problems_of in cases.items():
        out[axis] = []
        for value, problems in problems_of:
            row = {axis: float(value)}
            for name, solve in solvers.items():
                few = 3 if name == "opencv_epnp" else repeats
                ms = time_ms(functools.partial(solve, problems), repeats=few, warmup=1)["p50"]
                row[f"{name}_ms"] = ms / len(problems)
            out[axis].append(row)
    return out


def plot(result: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Plot how the cost grows: three panels, log scales, PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = {
        "ours_ms": "coop_edge",
        "poselib_ms": f"PoseLib (min. {ROUND} iterations)",
        "opencv_epnp_ms": "OpenCV EPnP",
    }
    titles = {"points": "points per problem", "batch": "problems per call", "outliers": "outlier share"}
    figure, panels = plt.subplots(1, 3, figsize=(13, 4.2), sharey=True)
    for axis, (name, rows) in zip(panels, result["scaling"].items(), strict=True):
        for (key, label), marker in zip(labels.items(), "os^", strict=True):
            axis.plot([r[name] for r in rows], [r[key] for r in rows], marker=marker, label=label)
        axis.set_xlabel(titles[name])
        axis.set_yscale("log")
        if name != "outliers":
            axis.set_xscale("log")
        axis.grid(True, which="both", alpha=0.25)
    panels[0].set_ylabel("ms per problem, one thread")
    panels[0].legend()
    machine = result["hardware"]
    figure.suptitle(
        f"RANSAC, {machine['cpu']}, one thread; where not varied: 196 points, 40 % outliers, 42 problems "
        "(16 in the left panel)\n"
        f"threshold {LIMITS['threshold_px']:g} px, confidence {LIMITS['confidence']}, "
        f"at most {LIMITS['iterations']} iterations",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def run(repeats: int) -> dict[str, Any]:
    """Make all measurements, as plain data."""
    cores = available_cores()
    cv2.setNumThreads(1)
    ransac, ransac_accuracy = benchmark_ransac(1, repeats)
    lm, lm_accuracy = benchmark_lm(1, repeats)
    result = {
        "hardware": hardware(),
        "versions": versions("coop-edge", "numpy", "numba", "opencv-python-headless", "poselib"),
        "limits": LIMITS,
        "ransac": {**ransac, "accuracy": ransac_accuracy},
        "lm": {**lm, "accuracy": lm_accuracy},
        "minimal": benchmark_minimal(repeats),
        "scaling": benchmark_scaling(repeats),
    }
    result["all_cores"] = {
        "threads": cores,
        "ransac": benchmark_ransac(cores, repeats)[0],
        "lm": benchmark_lm(cores, repeats)[0],
    }
    return result


def report(result: dict[str, Any]) -> None:
    """Print the tables."""
    cores = result["all_cores"]
    for name, unit in (("ransac", "42 problems of 196 points, 40 % outliers"), ("lm", "5 problems of 50,176 points")):
        figures = result[name]
        rows = [
            (
                key[:-3],
                ms,
                cores[name][key],
                ms / figures["ours_ms"],
                *figures["accuracy"].get(key[:-3], {}).values(),
            )
            for key, ms in figures.items()
            if key.endswith("_ms")
        ]
        columns = ("", "ms, 1 thread", f"ms, {cores['threads']} threads", "x ours", "rot. deg", "transl.", "failures")
        print_table(f"{name}: {unit}", rows, columns)
    rows = [(name, *values.values()) for name, values in result["minimal"].items()]
    print_table("minimal solver, 300 problems, one thread", rows, ("", "ms", "rot. deg", "transl.", "failures"))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the picture of how the cost grows goes (PNG)")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls per figure")
    arguments = parser.parse_args()
    result = run(arguments.repeats)
    report(result)
    write_json(arguments.json, result)
    if arguments.plot:
        plot(result, arguments.plot)


if __name__ == "__main__":
    main()
