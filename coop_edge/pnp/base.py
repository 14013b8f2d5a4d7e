"""Defines the contract of the pose solvers: two operations, one meaning each, whichever backend runs them.

Conventions
-----------
A point X of the object projects to pixel u = pi(K (R X + t)), with T_camera_object = [R t; 0 1], metres and pixels; the
centre of the top-left pixel is (0, 0).

The tangent vector is xi = (rho, phi), translation (metres) before rotation (radians), both in camera axes::

    R(xi) = Exp(phi) R        t(xi) = t + rho

This is a left perturbation of rotation and translation taken apart, and the order and the fixed axes of ROS's
PoseWithCovariance; every 6x6 covariance of this package is the covariance of this xi.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import numpy as np

from coop_edge.config import LmConfig, RansacConfig, RansacSearchConfig
from coop_edge.errors import InputError
from coop_edge.pnp.checks import check_batch

Array = Any  # np.ndarray on the CPU backend, cupy.ndarray on the CUDA backend


class PnpStatus(IntEnum):
    """Why a problem ended as it did; the value is what the kernels write."""

    SOLVED = 0
    TOO_FEW_POINTS = 1  # RANSAC: fewer than 4 valid; LM: fewer than 6 weighted residuals, 2 a point, 1 a line or depth
    NON_FINITE = 2  # NaN or infinity in a valid point, an intrinsic or the start pose; a weight below 0
    DEGENERATE = 3  # all valid points coincide or lie on one line, or the normal equations are singular
    NO_HYPOTHESIS = 4  # no sample gave a pose with its points in front of the camera
    TOO_FEW_INLIERS = 5  # the best hypothesis has fewer than min_inliers inliers
    BEHIND_CAMERA = 6  # LM: every weighted point lies behind the camera at the start pose

    @property
    def reason(self) -> str:
        """Return one readable line for ``PoseEstimate.reason``."""
        return _REASONS[self]


_REASONS = {
    PnpStatus.SOLVED: "solved",
    PnpStatus.TOO_FEW_POINTS: "too few valid correspondences",
    PnpStatus.NON_FINITE: "NaN or infinity in the input",
    PnpStatus.DEGENERATE: "degenerate points (coincident or collinear)",
    PnpStatus.NO_HYPOTHESIS: "no RANSAC sample gives a pose in front of the camera",
    PnpStatus.TOO_FEW_INLIERS: "too few inliers",
    PnpStatus.BEHIND_CAMERA: "all points lie behind the camera at the start pose",
}


class LmStop(IntEnum):
    """Why Levenberg-Marquardt stopped."""

    ITERATIONS = 0  # the iteration bound
    STEP = 1  # the step fell below step_tolerance
    COST = 2  # the relative decrease fell below cost_tolerance
    DAMPING = 3  # no step lowered the cost up to the largest damping
    UNSOLVED = 4  # not run; see status


class PosePrior(NamedTuple):
    """Where B poses are expected to be: a Gaussian about an anchor each.

    With p the place of the object's ``centre`` in camera axes, xi = (p - p_anchor, log(R R_anchor^T)), metres along the
    camera's x, y, z, then radians about them, has mean 0 and the inverse covariance ``information``. A matrix need not
    have full rank: what it says nothing about is free.
    """

    T_anchor: Array  # [B,4,4] T_camera_object
    centre: Array  # [B,3] metres, object frame
    information: Array  # [B,6,6] symmetric, positive semidefinite

    @staticmethod
    def from_sigmas(T_anchor: Array, centre: Array, sigma: np.ndarray) -> PosePrior:
        """Make the prior with independent components of standard deviations ``sigma`` [B,6], NumPy, in the units of xi.

        Infinity leaves an axis free.

        Raises:
            InputError: another shape, or numbers that are not positive; NaN is left to the status of the problem.
        """
        sigma = np.asarray(sigma)
        check_batch("sigma", sigma, (6,), 2)
        wrong = (sigma <= 0).any(axis=1)
        if wrong.any():
            raise InputError(
                "sigma: wanted positive standard deviations, infinite where an axis is free, got "
                f"{sigma[wrong][0].tolist()}"
            )
        inverse = 1.0 / sigma.astype(np.float64)
        return PosePrior(T_anchor, centre, (inverse * inverse)[:, :, None] * np.eye(6))


class LineTargets(NamedTuple):
    """L lines that B objects show in the image, and the object points that lie on them.

    The residual of a line is weight * normal . (pi(K (R X + t)) - pixel), a number: it tells nothing along the line.
    """

    points: Array  # [B,L,3] metres, object frame
    pixels: Array  # [B,L,2] one pixel of each line
    normals: Array  # [B,L,2] unit vectors across the lines, in the image
    weights: Array  # [B,L] 1 / pixel, >= 0


class DepthTargets(NamedTuple):
    """D measured places of each of B objects, and the object points that belong there.

    The residual is weight * normal . (R X + t - place), a number. With the normal (0, 0, 1) it is the difference of
    depths; with that of the surface, the distance from its plane: it tells nothing along the surface.
    """

    points: Array  # [B,D,3] metres, object frame
    places: Array  # [B,D,3] metres, camera axes
    normals: Array  # [B,D,3] unit vectors, camera axes
    weights: Array  # [B,D] 1 / metre, >= 0


class MeasuredDepths(NamedTuple):
    """Depths measured at the image points of B problems, by which RANSAC scores poses as well.

    An object point at depth z counts as off by weight * (z - depth) pixels, beside its reprojection error.
    """

    depth: Array  # [B,N] metres along the optical axis
    weights: Array  # [B,N] pixels / metre, >= 0; where 0 the depth is unknown and may hold anything


@dataclass(frozen=True)
class RansacStatistics:
    """Per problem, arrays of length B."""

    status: Array  # int32, PnpStatus
    n_inliers: Array  # int32
    hypotheses: Array  # int32, minimal samples drawn
    score: Array  # float64, MSAC score of the result (smaller is better), pixels^2; inf if unsolved
    reprojection_rms_px: Array  # float64, over the inliers; NaN if unsolved


@dataclass(frozen=True)
class RansacResult:
    """``T_camera_object`` float64 [B,4,4], NaN where unsolved; ``inliers`` bool [B,N]; ``statistics``."""

    T_camera_object: Array
    inliers: Array
    statistics: RansacStatistics


@dataclass(frozen=True)
class LmStatistics:
    """Per problem, arrays of length B."""

    status: Array  # int32, PnpStatus
    initial_cost: Array  # float64, what is minimised (loss and prior included) at T_init; NaN if unsolved
    final_cost: Array  # float64
    iterations: Array  # int32, steps tried
    final_damping: Array  # float64
    stop: Array  # int32, LmStop


@dataclass(frozen=True)
class LmResult:
    """``T_camera_object`` float64 [B,4,4] and ``covariance`` float64 [B,6,6], NaN where unsolved; ``statistics``."""

    T_camera_object: Array
    covariance: Array
    statistics: LmStatistics


class PnpSolver(Protocol):
    """The operations of a backend. Implementations: ``pnp.cpu.CpuPnpSolver``, ``pnp.cuda.CudaPnpSolver``."""

    def ransac_epnp(
        self,
        points_object: Array,
        points_image: Array,
        valid: Array,
        K: Array,
        config: RansacConfig = ...,
        *,
        search: RansacSearchConfig = ...,
        substreams: Array | None = None,
        measured: MeasuredDepths | None = None,
    ) -> RansacResult:
        """Find robust poses from B independent sets of N correspondences (Co-op, stage 1).

        B = 0 and N = 0 are legal. A problem that cannot be solved comes back with its status and NaN, the others
        untouched.

        Args:
            points_object: [B,N,3], metres, object frame.
            points_image: [B,N,2], pixels. Invalid entries of either may hold anything, NaN included.
            valid: bool [B,N], which correspondences count.
            K: [B,3,3] or [3,3], pixels.
            config: threshold and seed; the defaults of the class if not given.
            search: how the search goes; the defaults of the class if not given.
            substreams: uint32 [B], which of the seed's 2^32 sequences of samples each problem draws from; by default
                its index in the batch. Two problems may share one. With substreams that say what a problem is, and not
                where it stands, a result depends on nothing else in the batch: the same bits alone and among others.
            measured: depths at the points; a point then is an inlier if reprojection and depth agree together, and
                three points of known depth give a pose as a motion in space (Kabsch), beside those of P3P. The RMS
                error stays that of reprojection.

        Returns:
            Poses, inliers and statistics, an entry for each problem.

        Raises:
            InputError: wrong shapes or dtypes.
        """
        ...

    def weighted_lm(
        self,
        points_object: Array,
        points_image: Array,
        weights: Array,
        K: Array,
        T_init: Array,
        config: LmConfig = ...,
        *,
        prior: PosePrior | None = None,
        lines: LineTargets | None = None,
        depths: DepthTargets | None = None,
    ) -> LmResult:
        """Minimise sum_p w_p^2 |pi(K (R X_p + t)) - u_p|^2 over poses, from T_init (Co-op, stage 2).

        P, L or D = 0 are legal. A point counts as two residuals, a line or a depth as one, and a pose takes six. The
        covariance is (J^T W J)^-1 times the residual variance (cost / (residuals - 6)), for xi as defined above.

        Args:
            points_object: [B,P,3], metres, object frame.
            points_image: [B,P,2], pixels.
            weights: [B,P], 1 / pixel, >= 0. Entries of weight zero may hold anything, NaN included; points behind the
                camera take no part.
            K: [B,3,3] or [3,3], pixels.
            T_init: [B,4,4], T_camera_object, metres.
            config: steps, damping, loss; the defaults of the class if not given.
            prior: adds xi^T information xi, which gives the weights a unit: they are inverse standard deviations in
                pixels, and the covariance is the inverse of the information of all, not scaled. A prior of full rank
                needs no residuals at all: without any the result is the anchor.
            lines: add the squares of their residuals; weights and participation as for points.
            depths: likewise.

        Returns:
            Poses, covariances and statistics, an entry for each problem.

        Raises:
            InputError: wrong shapes or dtypes and, on the CPU, matrices that cannot be meant.
        """
        ...

    def close(self) -> None:
        """Give back threads and memory that are kept between calls; a later call takes them anew. May be repeated."""
        ...
