"""Weighted Levenberg-Marquardt on the GPU: the launches of ``kernels/lm.cu``, which says how the passes work."""

from __future__ import annotations

from typing import Any

import numpy as np

from coop_edge.config import ROBUST_LOSSES, LmConfig
from coop_edge.kernels.device import Device
from coop_edge.pnp.base import LmResult, LmStatistics, PosePrior
from coop_edge.pnp.cuda_arrays import Outputs, Scratch, as_floats, check_count, check_outputs, empty_outputs

Array = Any

_SOURCE = "lm.cu"
_THREADS = 256  # LM_THREADS
_POINTS_PER_THREAD = 8
_MAX_BLOCKS = 64
_STATE_BYTES = 792  # sizeof(LmState), asserted in lm.cu
_SUMS = 32


def blocks_per_problem(points: int) -> int:
    """A function of the number of points alone, so that a problem's sums do not depend on its batch."""
    return min(max(-(-points // (_THREADS * _POINTS_PER_THREAD)), 1), _MAX_BLOCKS)


def _arrays(batch: int) -> Outputs:
    return {"T_camera_object": ((batch, 4, 4), np.float64), "covariance": ((batch, 6, 6), np.float64)}


def _statistics(batch: int) -> Outputs:
    figures = dict.fromkeys(("initial_cost", "final_cost", "final_damping"), ((batch,), np.float64))
    return {**figures, **dict.fromkeys(("status", "iterations", "stop"), ((batch,), np.int32))}


def empty_result(device: Device, batch: int) -> LmResult:
    """Outputs for ``batch`` problems, uninitialised."""
    statistics = LmStatistics(**empty_outputs(device, _statistics(batch)))
    return LmResult(**empty_outputs(device, _arrays(batch)), statistics=statistics)


def check_result(out: LmResult, batch: int) -> None:
    """Raise InputError unless ``out`` can take the results of ``batch`` problems."""
    check_outputs(out, _arrays(batch))
    check_outputs(out.statistics, _statistics(batch))


def run(
    device: Device,
    scratch: Scratch,
    points_object: Array,
    points_image: Array,
    weights: Array,
    K: Array,
    T_init: Array,
    config: LmConfig,
    prior: PosePrior | None,
    out: LmResult,
) -> None:
    """Launch all passes on the current stream; shapes are checked, B >= 1."""
    batch, count = points_object.shape[:2]
    check_count(count)
    X, u, w = as_floats(device, points_object, points_image, weights)
    K = device.xp.ascontiguousarray(K, dtype=np.float64)
    T_init = device.xp.ascontiguousarray(T_init, dtype=np.float64)
    expected = _prior_arguments(device, prior, T_init)
    blocks = blocks_per_problem(count)
    states = scratch.take("lm_states", (batch, _STATE_BYTES), np.uint8)
    gathered = scratch.take("lm_points", (batch, 6, count), np.float32)
    partials = scratch.take("lm_partials", (batch, blocks, _SUMS), np.float64)
    arrived = scratch.take_zeroed("lm_arrived", batch, np.uint32)
    suffix = "f32" if np.float32 == X.dtype else "f64"
    grid, block = (batch * blocks,), (_THREADS,)
    n, b, K_stride = np.int32(count), np.int32(blocks), np.int32(0 if K.ndim == 2 else 9)

    device.kernel(_SOURCE, f"lm_read_{suffix}")(
        grid,
        block,
        (X, u, w, K, K_stride, T_init, *expected, n, b, np.float64(config.damping), partials, arrived, states),
    )
    device.kernel(_SOURCE, f"lm_gather_{suffix}")(grid, block, (X, u, w, T_init, n, b, states, gathered))
    options, iterate = _option_arguments(config), device.kernel(_SOURCE, "lm_iterate")
    for _ in range(config.iterations + 1):
        iterate(grid, block, (gathered, n, b, *options, partials, arrived, states))
    s = out.statistics
    device.kernel(_SOURCE, "lm_finish")(
        (-(-batch // _THREADS),),
        block,
        (
            *(states, np.int32(batch), out.T_camera_object, out.covariance, s.status),
            *(s.initial_cost, s.final_cost, s.iterations, s.final_damping, s.stop),
        ),
    )


def _option_arguments(config: LmConfig) -> tuple[Any, ...]:
    """The options as ``lm_iterate`` takes them."""
    reals = "damping", "damping_up", "damping_down", "step_tolerance", "cost_tolerance", "loss_scale_px"
    flags = np.int32(config.iterations), np.int32(ROBUST_LOSSES.index(config.loss))
    return (*flags, *(np.float64(getattr(config, name)) for name in reals))


def _prior_arguments(device: Device, prior: PosePrior | None, T_init: Array) -> tuple[Any, ...]:
    """Anchor, centre, sigma and whether they are meant, as ``lm_read`` takes them."""
    if prior is None:
        return T_init, T_init, T_init, np.int32(0)  # CuPy knows no null pointer
    arrays = (prior.T_anchor, prior.centre, prior.sigma)
    return (*(device.xp.ascontiguousarray(a, dtype=np.float64) for a in arrays), np.int32(1))
