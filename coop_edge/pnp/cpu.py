"""Solves poses on the CPU: Numba, float64, problems shared out among threads.

A problem is computed by one thread from start to end, so the number of threads never changes a result.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from coop_edge.base.hardware import thread_count
from coop_edge.config import LmConfig, RansacConfig, RansacSearchConfig
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.pnp.base import (
    DepthTargets,
    LineTargets,
    LmResult,
    LmStatistics,
    LmStop,
    MeasuredDepths,
    PnpStatus,
    PosePrior,
    RansacResult,
    RansacStatistics,
)
from coop_edge.pnp.checks import broadcast_intrinsics, check_correspondences, check_substreams
from coop_edge.pnp.checks_targets import check_lm_inputs, check_measured
from coop_edge.pnp.lm import Schedule, solve_lm
from coop_edge.pnp.normal_equations import LOSSES, Targets
from coop_edge.pnp.ransac import Settings, solve_ransac


def _schedule(lm: LmConfig) -> Schedule:
    damping = float(lm.damping), float(lm.damping_up), float(lm.damping_down)
    tolerances = float(lm.step_tolerance), float(lm.cost_tolerance)
    return Schedule(lm.iterations, *damping, *tolerances, LOSSES[lm.loss], float(lm.loss_scale_px))


def _settings(config: RansacConfig, search: RansacSearchConfig) -> Settings:
    return Settings(
        float(config.threshold_px),
        search.hypotheses,
        float(search.confidence),
        search.minimal == "p3p",
        search.sample_size,
        search.refine,
        search.min_inliers,
        config.seed,
        _REFINEMENT,
    )


_REFINEMENT = _schedule(LmConfig())  # of RANSAC's result; part of the algorithm, the same on every backend


class CpuPnpSolver:
    """``PnpSolver`` in NumPy arrays.

    Args:
        threads: problems solved at the same time; default: the cores this process may use.

    Raises:
        InputError: ``threads`` is no positive integer, or far more than the cores.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = thread_count(threads)
        self._pool: tuple[int, ThreadPoolExecutor] | None = None  # and the process that started it

    def ransac_epnp(
        self,
        points_object: Any,
        points_image: Any,
        valid: Any,
        K: Any,
        config: RansacConfig | None = None,
        *,
        search: RansacSearchConfig | None = None,
        substreams: Any = None,
        measured: MeasuredDepths | None = None,
    ) -> RansacResult:
        """Find robust poses from B sets of N correspondences; see ``PnpSolver.ransac_epnp``.

        Computes in float64 whatever the input's floating type; ``valid`` must be bool.

        Raises:
            InputError: shapes do not fit together, an array is not of numbers, or ``valid`` is not bool.
        """
        batch = check_correspondences(points_object, points_image, valid, "valid", K)
        if valid.dtype != np.bool_:
            raise InputError(f"valid: wanted dtype bool, got {valid.dtype}; compare a score with a threshold first")
        if substreams is None:
            substreams = np.arange(batch, dtype=np.uint32)
        check_substreams(substreams, batch)
        check_measured(measured, batch, points_object.shape[1])
        nothing = np.empty((batch, 0))
        depths = MeasuredDepths(*(_readable(a, np.float64) for a in measured or (nothing, nothing)))
        X, u = _readable(points_object, np.float64), _readable(points_image, np.float64)
        valid = _readable(valid, np.bool_)
        intrinsics = _readable(checked_intrinsics(K, batch), np.float64)
        T = np.full((batch, 4, 4), np.nan)
        inliers = np.zeros(valid.shape, np.bool_)
        counts = np.zeros((3, batch), np.int32)  # status, inliers, hypotheses
        figures = np.empty((2, batch))  # score, RMS
        settings = _settings(config or RansacConfig(), search or RansacSearchConfig())

        def solve(i: int) -> None:
            given = X[i], u[i], valid[i], MeasuredDepths(depths.depth[i], depths.weights[i]), intrinsics[i]
            counts[0, i], counts[1, i], counts[2, i], figures[0, i], figures[1, i] = solve_ransac(
                *given, settings, int(substreams[i]), T[i], inliers[i]
            )

        self._each(solve, batch)
        return RansacResult(T, inliers, RansacStatistics(counts[0], counts[1], counts[2], figures[0], figures[1]))

    def weighted_lm(
        self,
        points_object: Any,
        points_image: Any,
        weights: Any,
        K: Any,
        T_init: Any,
        config: LmConfig | None = None,
        *,
        prior: PosePrior | None = None,
        lines: LineTargets | None = None,
        depths: DepthTargets | None = None,
    ) -> LmResult:
        """Minimise the weighted residuals of points, lines and depths from T_init; see ``PnpSolver.weighted_lm``.

        Computes in float64; float32 targets are read as they are, without a converted copy of the batch. The rotation
        part of T_init is taken as it is: it must be one.

        Raises:
            InputError: shapes do not fit together, an array is not of numbers, or K, T_init or the prior's information
                is no camera, no rigid transform or not positive semi-definite.
        """
        batch = check_lm_inputs(points_object, points_image, weights, K, T_init, prior, lines, depths)
        given = (points_object, points_image, weights, *(lines or ()), *(depths or ()))
        dtype = np.float32 if all(a.dtype == np.float32 for a in given) else np.float64
        X, u, w = (_readable(a, dtype) for a in given[:3])
        no_lines = LineTargets(*(np.empty((batch, 0, *k)) for k in ((3,), (2,), (2,), ())))
        across, no_normals = (
            LineTargets(*(_readable(a, dtype) for a in lines or no_lines)),
            _readable(np.empty((0, 2)), dtype),
        )
        no_depths = DepthTargets(*(np.empty((batch, 0, *k)) for k in ((3,), (3,), (3,), ())))
        measured = DepthTargets(*(_readable(a, dtype) for a in depths or no_depths))
        intrinsics, T_start = _readable(checked_intrinsics(K, batch), np.float64), _readable(T_init, np.float64)
        _check_rotations(T_start, "T_init")
        anchor, centre, information = _prior_arrays(prior, batch)
        schedule = _schedule(config or LmConfig())
        T, covariance = np.full((batch, 4, 4), np.nan), np.full((batch, 6, 6), np.nan)
        costs = np.full((3, batch), np.nan)  # initial, final, damping
        counts = np.zeros((3, batch), np.int32)  # status, iterations, stop

        def solve(i: int) -> None:
            counts[0, i], costs[0, i], costs[1, i], counts[1, i], costs[2, i], counts[2, i] = solve_lm(
                Targets(X[i], u[i], no_normals, w[i]),
                Targets(*(a[i] for a in across)),
                DepthTargets(*(a[i] for a in measured)),
                PosePrior(anchor[i], centre[i], information[i]),
                intrinsics[i],
                T_start[i],
                schedule,
                T[i],
                covariance[i],
            )

        self._each(solve, batch)
        return LmResult(T, covariance, LmStatistics(counts[0], costs[0], costs[1], counts[1], costs[2], counts[2]))

    def close(self) -> None:
        """Stop the threads; the solver starts new ones if it is used again."""
        pool, self._pool = self._pool, None
        if pool is not None and pool[0] == os.getpid():
            pool[1].shutdown()

    def _each(self, solve: Callable[[int], None], batch: int) -> None:
        if self.threads == 1 or batch < 2:
            for i in range(batch):
                solve(i)
            return
        # A forked child inherits the pool but none of its threads: work given to it would wait for ever.
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(self.threads, thread_name_prefix="pnp")
        pool = self._pool[1]
        # Interleaved, since neighbours tend to be equally hard; a task per thread, since tasks cost more than problems.
        count = min(self.threads, batch)

        def share(first: int) -> None:
            for i in range(first, batch, count):
                solve(i)

        list(pool.map(share, range(count)))


def _readable(array: Any, dtype: Any) -> np.ndarray:
    """Return the array contiguous and read-only, so that the kernels are compiled for one kind of array."""
    view = np.ascontiguousarray(array, dtype).view()
    view.flags.writeable = False
    return view


def checked_intrinsics(K: Any, batch: int) -> np.ndarray:
    """Return K as float64 [B,3,3].

    Raises:
        InputError: finite entries are no pinhole camera's; NaN is the status'.
    """
    K = broadcast_intrinsics(K, batch)
    finite = np.isfinite(K).all(axis=(1, 2))
    wrong = finite & ((K[:, 0, 0] <= 0) | (K[:, 1, 1] <= 0))
    if wrong.any():
        raise InputError(f"K: wanted positive focal lengths K[0,0] and K[1,1], got {K[wrong][0].tolist()}")
    wrong = finite & ((K[:, 1, 0] != 0) | (K[:, 2] != (0.0, 0.0, 1.0)).any(axis=1))
    if wrong.any():
        raise InputError(f"K: wanted upper triangular with last row 0 0 1, got {K[wrong][0].tolist()}; transposed?")
    return K


def _prior_arrays(prior: PosePrior | None, batch: int) -> list[np.ndarray]:
    """Return the prior's arrays as ``solve_lm`` takes them, checked; arrays of rows of size 0 for None."""
    if prior is None:
        return [_readable(np.empty((batch, *(0,) * axes)), np.float64) for axes in (2, 1, 2)]
    T_anchor, centre, information = (_readable(a, np.float64) for a in prior)
    _check_rotations(T_anchor, "prior.T_anchor")
    finite = np.isfinite(information).all(axis=(1, 2))
    wrong = finite & ~is_information(information)
    if wrong.any():
        raise InputError(
            "prior.information: wanted symmetric matrices without negative eigenvalues, got "
            f"{information[wrong][0].tolist()}"
        )
    return [T_anchor, centre, information]


def is_information(matrix: np.ndarray) -> np.ndarray:
    """Tell whether matrices [B,6,6] are symmetric with a diagonal that bounds the rest, as informations: bool [B]."""
    diagonal = np.diagonal(matrix, axis1=1, axis2=2)
    with np.errstate(invalid="ignore"):
        bound = np.sqrt(diagonal[:, :, None] * diagonal[:, None]) * (1 + 1e-6)
        least = np.abs(matrix - np.swapaxes(matrix, 1, 2)) <= 1e-6 * bound
        return (diagonal >= 0).all(axis=1) & (least & (np.abs(matrix) <= bound)).all(axis=(1, 2))


def _check_rotations(T: np.ndarray, name: str) -> None:
    """Raise InputError if a finite pose is no rigid motion; NaN is left to the status."""
    finite = np.isfinite(T).all(axis=(1, 2))
    # Float32 poses and a chain of products are welcome; a scale or a transposed matrix is not.
    se3.check_transform(T[finite], name, tolerance=1e-4)


__all__ = ["CpuPnpSolver", "LmStop", "PnpStatus", "checked_intrinsics"]
