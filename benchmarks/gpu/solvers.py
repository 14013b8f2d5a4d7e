"""Speed of the CUDA pose solvers: ``python -m benchmarks.gpu.solvers [--json FILE]``.

RANSAC on 42 problems of 196 points with 40 % outliers; weighted Levenberg-Marquardt on 5 problems of 50,176 points, at
most 10 iterations. Against the CPU solver on all cores and, where PyTorch with CUDA is installed, a batched LM in plain
PyTorch, which always runs all 10. Times on the GPU are of whole calls, inputs and outputs on the device: CUDA events
around a call, and the same call replayed as a CUDA graph, which leaves out Python's launches. Exits 2 without a GPU.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.common import time_ms
from benchmarks.gpu.command import gpu_ms, graph_ms, run
from benchmarks.pnp_problems import PnpProblems, make_problems, perturbed, pose_errors
from coop_edge.config import LmConfig, RansacConfig
from coop_edge.kernels.device import CupyDevice
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.pnp.cuda import CudaPnpSolver

LM_CONFIG = LmConfig(iterations=10)
RANSAC_CONFIG = RansacConfig(threshold_px=4.0)  # exact points with 1 px noise, not patch matches


def ransac_problems() -> PnpProblems:
    return make_problems(42, 196, shape="mixed", noise_px=1.0, outliers=0.4)


def lm_problems() -> tuple[PnpProblems, np.ndarray]:
    """Return the problems and the poses to start from."""
    problems = make_problems(5, 50176, shape="sphere", noise_px=1.0, outliers=0.2)
    return problems, perturbed(problems.T_camera_object, np.deg2rad(5.0), 0.02)


def measure_ransac(solver: CudaPnpSolver, repeats: int) -> dict[str, float]:
    cupy, p = solver.device.xp, ransac_problems()
    single = functools.partial(cupy.asarray, dtype=cupy.float32)
    inputs: tuple[Any, Any, Any, Any] = (
        single(p.points_object),
        single(p.points_image),
        cupy.asarray(p.valid),
        cupy.asarray(p.K),
    )
    out = solver.ransac_epnp(*inputs, RANSAC_CONFIG)
    error = pose_errors(cupy.asnumpy(out.T_camera_object), p.T_camera_object)[0]
    cpu = CpuPnpSolver()
    return {
        "cuda_ms": gpu_ms(cupy, lambda: solver.ransac_epnp(*inputs, RANSAC_CONFIG, out=out), repeats),
        "cuda_graph_ms": graph_ms(cupy, lambda: solver.ransac_epnp(*inputs, RANSAC_CONFIG, out=out), repeats),
        "cpu_ms": time_ms(lambda: cpu.ransac_epnp(p.points_object, p.points_image, p.valid, p.K, RANSAC_CONFIG))["p50"],
        "median_hypotheses": float(np.median(cupy.asnumpy(out.statistics.hypotheses))),
        "median_rotation_error_deg": float(np.nanmedian(error)),
        "solved": float(np.isfinite(error).mean()),
    }


def measure_lm(solver: CudaPnpSolver, repeats: int) -> dict[str, float]:
    cupy = solver.device.xp
    p, T = lm_problems()
    arrays = [np.asarray(a, np.float32) for a in (p.points_object, p.points_image, p.weights)]
    points, pixels, weights = arrays
    X, u, w, K, start = (cupy.asarray(a) for a in (*arrays, p.K, T))
    inputs = (X, u, w, K, start)
    out = solver.weighted_lm(*inputs, LM_CONFIG)
    error = pose_errors(cupy.asnumpy(out.T_camera_object), p.T_camera_object)[0]
    cpu = CpuPnpSolver()
    figures = {
        "cuda_ms": gpu_ms(cupy, lambda: solver.weighted_lm(*inputs, LM_CONFIG, out=out), repeats),
        "cuda_graph_ms": graph_ms(cupy, lambda: solver.weighted_lm(*inputs, LM_CONFIG, out=out), repeats),
        "cpu_ms": time_ms(lambda: cpu.weighted_lm(points, pixels, weights, p.K, T, LM_CONFIG), repeats=20)["p50"],
        "mean_iterations": float(cupy.asnumpy(out.statistics.iterations).mean()),
        "median_rotation_error_deg": float(np.median(error)),
    }
    return figures | torch_lm_figures(arrays, p, T, repeats)


def torch_lm_figures(arrays: Sequence[np.ndarray], p: PnpProblems, T: np.ndarray, repeats: int) -> dict[str, float]:
    """Measure the PyTorch peer's time and accuracy; empty where PyTorch cannot use a GPU."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    from benchmarks.gpu.torch_lm import weighted_lm

    X, u, w, K, start_pose = (torch.as_tensor(np.asarray(a, np.float32), device="cuda") for a in (*arrays, p.K, T))
    times = []
    for repeat in range(repeats + 3):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        result = weighted_lm(X, u, w, K, start_pose, LM_CONFIG.iterations)
        stop.record()
        stop.synchronize()
        if repeat >= 3:
            times.append(start.elapsed_time(stop))
    error = pose_errors(result.double().cpu().numpy(), p.T_camera_object)[0]
    return {"torch_ms": float(np.median(times)), "torch_median_rotation_error_deg": float(np.median(error))}


def main() -> int:
    def figures(device: CupyDevice, repeats: int) -> dict[str, Any]:
        solver = CudaPnpSolver(device)
        return {"ransac": measure_ransac(solver, repeats), "lm": measure_lm(solver, repeats)}

    return run("solvers", __doc__, 50, figures, packages=["torch"])


if __name__ == "__main__":
    sys.exit(main())
