"""Launches weighted Levenberg-Marquardt on the GPU: ``kernels/lm.cu``, which says how the passes work."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from coop_edge.config import ROBUST_LOSSES, LmConfig
from coop_edge.kernels.device import Device
from coop_edge.pnp.base import DepthTargets, LineTargets, LmResult, LmStatistics, PosePrior
from coop_edge.pnp.cuda_arrays import Outputs, Scratch, as_floats, check_count, check_outputs, empty_outputs

Array = Any

_SOURCE = "lm.cu"
_THREADS = 256  # LM_THREADS
_POINTS_PER_THREAD = 8
_MAX_BLOCKS = 64
_STATE_BYTES = 1032  # sizeof(LmState), asserted in lm.cu
_SUMS = 32


class _Targets(NamedTuple):  # LmTargets
    points: Array
    pixels: Array
    normals: Array | None
    weights: Array
    size: np.int32
    axes: np.int32


class _Input(NamedTuple):  # LmInput
    points: _Targets
    lines: _Targets
    depths: _Targets
    K: Array
    T_init: Array
    K_stride: np.int32
    prior: PosePrior


class _Work(NamedTuple):  # LmWork
    problems: np.int32
    blocks: np.int32
    points: np.int32
    lines: np.int32
    depths: np.int32
    gathered_points: Array
    gathered_lines: Array
    gathered_depths: Array
    partials: Array
    arrived: Array
    states: Array


class _Outputs(NamedTuple):  # LmOutputs
    T: Array
    covariance: Array
    status: Array
    initial_cost: Array
    final_cost: Array
    steps: Array
    damping: Array
    stop: Array


class Options(NamedTuple):
    """LmOptions of ``kernels/lm_step.cuh``."""

    iterations: np.int32
    loss: np.int32
    damping: np.float64
    damping_up: np.float64
    damping_down: np.float64
    step_tolerance: np.float64
    cost_tolerance: np.float64
    loss_scale: np.float64


def options_of(config: LmConfig) -> Options:
    """Return the options as the kernels take them."""
    reals = "damping", "damping_up", "damping_down", "step_tolerance", "cost_tolerance", "loss_scale_px"
    flags = np.int32(config.iterations), np.int32(ROBUST_LOSSES.index(config.loss))
    return Options(*flags, *(np.float64(getattr(config, name)) for name in reals))


def blocks_per_problem(targets: int) -> int:
    """Return a number that the targets alone decide, so that a problem's sums do not depend on its batch."""
    return min(max(-(-targets // (_THREADS * _POINTS_PER_THREAD)), 1), _MAX_BLOCKS)


def _arrays(batch: int) -> Outputs:
    return {"T_camera_object": ((batch, 4, 4), np.float64), "covariance": ((batch, 6, 6), np.float64)}


def _statistics(batch: int) -> Outputs:
    figures = dict.fromkeys(("initial_cost", "final_cost", "final_damping"), ((batch,), np.float64))
    return {**figures, **dict.fromkeys(("status", "iterations", "stop"), ((batch,), np.int32))}


def empty_result(device: Device, batch: int) -> LmResult:
    """Return outputs for ``batch`` problems, uninitialised."""
    statistics = LmStatistics(**empty_outputs(device, _statistics(batch)))
    return LmResult(**empty_outputs(device, _arrays(batch)), statistics=statistics)


def check_result(out: LmResult, batch: int) -> None:
    """Raise InputError unless ``out`` can take the results of ``batch`` problems."""
    check_outputs(out, _arrays(batch))
    check_outputs(out.statistics, _statistics(batch))


def run(
    device: Device,
    scratch: Scratch,
    given: tuple[Array, Array, Array, Array, Array],
    config: LmConfig,
    prior: PosePrior | None,
    lines: LineTargets | None,
    depths: DepthTargets | None,
    out: LmResult,
) -> None:
    """Launch all passes on the current stream, for ``given`` as ``weighted_lm`` takes it; checked, B >= 1."""
    source, suffix = _input(device, given, prior, lines, depths)
    batch = len(source.T_init)
    points, across, measured = (int(each.size) for each in (source.points, source.lines, source.depths))
    for count in (points, across, measured):
        check_count(count)
    blocks = blocks_per_problem(points + across + measured)
    work = device.pack(
        _Work(
            np.int32(batch),
            np.int32(blocks),
            np.int32(points),
            np.int32(across),
            np.int32(measured),
            scratch.take("lm_points", (batch, 6, points), np.float32),
            scratch.take("lm_lines", (batch, 8, across), np.float32),
            scratch.take("lm_depths", (batch, 8, measured), np.float32),
            scratch.take("lm_partials", (batch, blocks, _SUMS), np.float64),
            scratch.take_zeroed("lm_arrived", batch, np.uint32),
            scratch.take("lm_states", (batch, _STATE_BYTES), np.uint8),
        )
    )
    grid, block = (batch * blocks,), (_THREADS,)
    read, options = device.pack(source), device.pack(options_of(config))
    device.kernel(_SOURCE, f"lm_read_{suffix}")(grid, block, (read, work, np.float64(config.damping)))
    device.kernel(_SOURCE, f"lm_gather_{suffix}")(grid, block, (read, work))
    iterate = device.kernel(_SOURCE, "lm_iterate")
    for _ in range(config.iterations + 1):
        iterate(grid, block, (options, work))
    s = out.statistics
    results = _Outputs(
        *(out.T_camera_object, out.covariance, s.status, s.initial_cost, s.final_cost),
        *(s.iterations, s.final_damping, s.stop),
    )
    device.kernel(_SOURCE, "lm_finish")((-(-batch // _THREADS),), block, (work, device.pack(results)))


def _input(
    device: Device,
    given: tuple[Array, Array, Array, Array, Array],
    prior: PosePrior | None,
    lines: LineTargets | None,
    depths: DepthTargets | None,
) -> tuple[_Input, str]:
    """Return the caller's arrays as the kernels read them, and the suffix of the kernels for their dtype."""
    X, u, w, *others = as_floats(device, *given[:3], *(lines or ()), *(depths or ()))
    K, T_init, *held = (device.xp.ascontiguousarray(a, dtype=np.float64) for a in (*given[3:], *(prior or ())))
    across, measured = (others[:4], others[4:]) if lines else ([], others)
    source = _Input(
        _Targets(X, u, None, w, np.int32(X.shape[1]), np.int32(2)),
        _targets(across, 2),
        _targets(measured, 3),
        K,
        T_init,
        np.int32(0 if K.ndim == 2 else 9),
        PosePrior(*held) if prior else PosePrior(None, None, None),
    )
    return source, "f32" if np.float32 == X.dtype else "f64"


def _targets(arrays: list[Array], axes: int) -> _Targets:
    """Return lines or depths as the kernels read them; none for no arrays."""
    if not arrays:
        return _Targets(None, None, None, None, np.int32(0), np.int32(axes))
    points, pixels, normals, weights = arrays
    return _Targets(points, pixels, normals, weights, np.int32(points.shape[1]), np.int32(axes))
