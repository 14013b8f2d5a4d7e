"""Launches EPnP inside RANSAC on the GPU: ``kernels/ransac.cu``; how it works: see ``kernels/ransac.cuh``."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from coop_edge.config import MINIMAL_SOLVERS, LmConfig, RansacConfig, RansacSearchConfig
from coop_edge.kernels.device import Device
from coop_edge.pnp.base import MeasuredDepths, RansacResult, RansacStatistics
from coop_edge.pnp.cuda_arrays import Outputs, Scratch, as_floats, check_count, check_outputs, empty_outputs
from coop_edge.pnp.cuda_lm import Options as LmOptions
from coop_edge.pnp.cuda_lm import options_of as lm_options_of

Array = Any

_SOURCE = "ransac.cu"
_THREADS = 128  # RANSAC_THREADS
_PROBLEM_BYTES = 72  # sizeof(RansacProblem), asserted in ransac.cu


class _Input(NamedTuple):  # RansacInput
    points_object: Array
    points_image: Array
    valid: Array
    depth: Array | None
    weights: Array | None
    K: Array
    K_stride: np.int32


class _Work(NamedTuple):  # RansacWork
    size: np.int32
    planes: np.int32
    problems: Array
    points: Array
    motions: Array | None
    index: Array
    flags: Array
    substreams: Array | None


class _Options(NamedTuple):  # RansacOptions
    threshold2: np.float32
    hypotheses: np.int32
    minimal: np.int32
    sample_size: np.int32
    refine: np.int32
    min_inliers: np.int32
    adaptive: np.int32
    log_miss: np.float64
    seed: np.uint64
    lm: LmOptions


class _Outputs(NamedTuple):  # RansacOutputs
    T: Array
    inliers: Array
    status: Array
    n_inliers: Array
    hypotheses: Array
    score: Array
    rms: Array


def _arrays(batch: int, count: int) -> Outputs:
    return {"T_camera_object": ((batch, 4, 4), np.float64), "inliers": ((batch, count), np.bool_)}


def _statistics(batch: int) -> Outputs:
    figures = dict.fromkeys(("score", "reprojection_rms_px"), ((batch,), np.float64))
    return {**figures, **dict.fromkeys(("status", "n_inliers", "hypotheses"), ((batch,), np.int32))}


def empty_result(device: Device, batch: int, count: int) -> RansacResult:
    """Return outputs for ``batch`` problems of ``count`` correspondences, uninitialised."""
    statistics = RansacStatistics(**empty_outputs(device, _statistics(batch)))
    return RansacResult(**empty_outputs(device, _arrays(batch, count)), statistics=statistics)


def check_result(out: RansacResult, batch: int, count: int) -> None:
    """Raise InputError unless ``out`` can take the results of ``batch`` problems of ``count`` correspondences."""
    check_outputs(out, _arrays(batch, count))
    check_outputs(out.statistics, _statistics(batch))


def run(
    device: Device,
    scratch: Scratch,
    points_object: Array,
    points_image: Array,
    valid: Array,
    K: Array,
    config: RansacConfig,
    search: RansacSearchConfig,
    out: RansacResult,
    *,
    substreams: Array | None = None,
    measured: MeasuredDepths | None = None,
) -> None:
    """Launch both kernels on the current stream; shapes are checked, B >= 1."""
    batch, count = points_object.shape[:2]
    check_count(count)
    X, u, *depths = as_floats(device, points_object, points_image, *(measured or ()))
    K = device.xp.ascontiguousarray(K, dtype=np.float64)
    if substreams is not None:
        substreams = device.xp.ascontiguousarray(substreams)
    depth, weights = depths or (None, None)
    source = _Input(X, u, device.xp.ascontiguousarray(valid), depth, weights, K, np.int32(0 if K.ndim == 2 else 9))
    planes = 7 if depths else 5
    work = device.pack(
        _Work(
            np.int32(count),
            np.int32(planes),
            scratch.take("ransac_problems", (batch, _PROBLEM_BYTES), np.uint8),
            scratch.take("ransac_points", (batch, planes, count), np.float32),
            scratch.take("ransac_motions", (batch, _THREADS, 12), np.float32) if depths else None,
            scratch.take("ransac_index", (batch, count), np.int32),
            scratch.take("ransac_flags", (batch, 2, count), np.uint8),
            substreams,
        )
    )
    s = out.statistics
    results = _Outputs(
        *(out.T_camera_object, out.inliers, s.status, s.n_inliers, s.hypotheses, s.score, s.reprojection_rms_px)
    )
    grid, block, suffix = (batch,), (_THREADS,), "f32" if np.float32 == X.dtype else "f64"
    device.kernel(_SOURCE, f"ransac_read_{suffix}")(grid, block, (device.pack(source), work))
    options = device.pack(_options(config, search))
    device.kernel(_SOURCE, "ransac_solve")(grid, block, (options, work, device.pack(results)))


def _options(config: RansacConfig, search: RansacSearchConfig) -> _Options:
    """Return the options as the kernel takes them; LM is that of the refinement on inliers."""
    adaptive = search.confidence < 1.0
    threshold = np.float32(config.threshold_px)
    return _Options(
        threshold * threshold,
        np.int32(search.hypotheses),
        np.int32(MINIMAL_SOLVERS.index(search.minimal)),
        np.int32(search.sample_size),
        np.int32(search.refine),
        np.int32(search.min_inliers),
        np.int32(adaptive),
        np.float64(math.log1p(-search.confidence) if adaptive else 0.0),
        np.uint64(config.seed),
        lm_options_of(LmConfig()),
    )
