"""Alignment of refined poses with the object's outline in the image, for their depth above all.

A network that tells where things are to a few pixels leaves a pose off along the line of sight, because a percent of
scale is half a pixel. The outline tells it better, wherever it stands out from the background. So the refined pose is
the start and, as a Gaussian, the prior of a few steps of the pose solver, whose residuals are the distances of the
rendered outline from the edge that colours show (``Operations.outlines``). Ours, not Co-op's.

The aligned pose is taken only if the object stands out along enough of its outline (``OutlineConfig.min_share``) and
more clearly than at the start; else the refined pose stays.

On a GPU the crops, renders and lines stay there. Once per iteration the host reads poses, covariances and how clear
each outline is, because it aims the next virtual cameras.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import DepthConfig, LmConfig, OutlineConfig
from coop_edge.geometry import se3
from coop_edge.ops.depth import Surfaces
from coop_edge.ops.outline import MeasuredEdges, Outlines
from coop_edge.pnp.base import LineTargets, LmResult, PnpSolver, PnpStatus, PosePrior
from coop_edge.stages.depth import compare, evidence, gate_of, is_used, targets
from coop_edge.stages.pairs import PairMaker, Pairs

Floats = NDArray[np.float64]

PRIOR_SIDEWAYS, PRIOR_DEPTH, PRIOR_ROTATION = 0.03, 0.2, 0.2
"""Standard deviations of refined poses across the line of sight and along it, in diameters, and about each axis, in
radians: networks place an object well across the line of sight, and leave to the outline what they see badly."""
BESIDE_DEPTH = 0.1
"""Factor on the weights of lines beside measured depth: edges are wrong together by pixels, and surfaces are not. The
lines then decide only what depth leaves free, such as a flat face's place in its plane."""
EDGE_TOLERANCE = 0.1
"""Difference of measured from rendered depth, in diameters, beyond which a place shows the background."""
SOLVER = LmConfig(iterations=1, damping=3e-4)
"""One step between two renders: the lines belong to the render, and where they are wrong further steps follow them."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """M poses in the order given; what was not aligned is as it was."""

    T_camera_object: Floats  # [M,4,4]
    covariance: Floats  # [M,6,6] of ``pnp.base``; NaN where not aligned
    aligned: NDArray[np.bool_]  # [M]
    used_depth: NDArray[np.bool_]  # [M] aligned, and with measured depth
    share: Floats  # [M] of the outline where the object stands out at the last pose; NaN where it could not be told


def align(
    maker: PairMaker,
    T_camera_object: Floats,
    object_index: NDArray[np.integer],
    *,
    solver: PnpSolver,
    config: OutlineConfig,
    iterations: int,
    covariance: Floats | None = None,
    depth: DepthConfig | None = None,
) -> Aligned:
    """Align poses with the outlines of their objects. A pose's result does not depend on the others; M = 0 is legal.

    Args:
        maker: renders and crops the image.
        T_camera_object: float64 [M,4,4], metres; NaN where there is no pose.
        object_index: integers [M], the objects of ``maker``.
        solver: of the device where ``maker`` works.
        config: only ``min_share`` is read.
        iterations: renders per pose that are followed by steps of the solver; 0 leaves poses as they are.
        covariance: of the poses, float64 [M,6,6] (``pnp.base``), NaN or None where unknown: the surer a pose, the less
            it is moved.
        depth: of the depth camera; without effect where the image has no depth.
    """
    T, index = np.array(T_camera_object, np.float64).reshape(-1, 4, 4), np.asarray(object_index, np.int64)
    start, first_contrast = T.copy(), np.full(len(T), np.nan)
    known = _known_information(maker, T, index, covariance)
    spread, share = np.full((len(T), 6, 6), np.nan), np.full(len(T), np.nan)
    better, used = np.zeros((2, len(T)), np.bool_)
    fits = np.zeros(len(T))  # of measured depth, at the start
    active = np.flatnonzero(np.isfinite(T).all(axis=(1, 2)))
    for iteration in range(iterations + 1):
        active = active[maker.in_sight(T[active], index[active])]
        if not active.size or not iterations:
            break
        pairs = maker.make(T[active], index[active])
        surfaces = edges = None
        if pairs.measured is not None and depth is not None:
            surfaces = compare(pairs, depth, gate_of(iteration, iterations))
            edges = MeasuredEdges(pairs.measured, EDGE_TOLERANCE * pairs.diameter)
        shown = pairs.query, pairs.depth, pairs.crop, pairs.T_crop_object, pairs.image_size
        seen = pairs.ops.outlines(*shown, edges)
        if iteration == iterations:  # the last look only judges
            lines, share_here, contrast = pairs.ops.to_host(seen.verdict).T
            clear = (lines > 0) & (share_here >= config.min_share) & (contrast >= first_contrast[active])
            if surfaces is not None:
                said = evidence(pairs.ops.to_host(surfaces.tally))
                clear = np.where(said.used, said.agreement + said.clear >= fits[active], clear)
                used[active] = said.used
            better[active], share[active] = clear, np.where(lines > 0, share_here, share[active])
            break
        found = _solve(pairs, seen, surfaces, solver, start[active], known[active], config.min_share)
        figures = found.T_camera_object, found.covariance, found.statistics.status, seen.verdict
        T_crop, covariance_crop, status, verdict = pairs.ops.to_host_together(*figures)
        lines, share_here, contrast = verdict.T
        there = lines > 0
        share[active[there]] = share_here[there]
        if surfaces is not None:
            said = evidence(pairs.ops.to_host(surfaces.tally))
            there |= said.used
            if iteration == 0:
                fits[active] = said.agreement + said.clear
        first_contrast[active] = np.where(np.isnan(first_contrast[active]), contrast, first_contrast[active])
        there &= status == PnpStatus.SOLVED
        active = active[there]
        T[active] = pairs.crop.to_camera(T_crop)[there]
        spread[active] = se3.turn_covariances(np.swapaxes(pairs.crop.R_crop_camera, 1, 2), covariance_crop)[there]
    T[~better] = start[~better]
    spread[~better] = np.nan
    return Aligned(T, spread, better, better & used, share)


def _solve(
    pairs: Pairs,
    seen: Outlines,
    surfaces: Surfaces | None,
    solver: PnpSolver,
    start: Floats,
    known: Floats,
    min_share: float,
) -> LmResult:
    """Solve for poses in the crops' cameras that fit the lines, the surfaces and the prior about ``start`` [M,4,4].

    known: what refinement says of ``start``, see ``_known_information``. Beside surfaces, an outline that does not
    stand out along ``min_share`` has no say.
    """
    xp, R = pairs.ops.xp, pairs.crop.R_crop_camera
    sigma = np.tile([PRIOR_SIDEWAYS] * 2 + [PRIOR_DEPTH] + [PRIOR_ROTATION] * 3, (len(R), 1))
    sigma[:, :3] *= pairs.diameter[:, None]
    information = sigma[:, :, None] ** -2.0 * np.eye(6) + se3.turn_covariances(R, known)
    prior = PosePrior(*(xp.asarray(a) for a in (pairs.crop.to_crop(start), pairs.centre, information)))
    points, pixels, weights = (xp.zeros((len(R), 0, *axes), np.float32) for axes in ((3,), (2,), ()))
    K, T = (xp.asarray(a) for a in (pairs.crop.K, pairs.T_crop_object))
    lines, depths = LineTargets(seen.points, seen.pixels, seen.normals, seen.weights), None
    if surfaces is not None:
        used, depths = is_used(surfaces.tally), targets(surfaces)
        faint = used & (seen.verdict[:, 1] < min_share)
        share = xp.where(used, xp.where(faint, np.float32(0.0), np.float32(BESIDE_DEPTH)), np.float32(1.0))
        lines = lines._replace(weights=lines.weights * share[:, None])
        depths = depths._replace(weights=xp.where(used[:, None], depths.weights, np.float32(0.0)))
    return solver.weighted_lm(points, pixels, weights, K, T, SOLVER, prior=prior, lines=lines, depths=depths)


def _known_information(maker: PairMaker, T: Floats, index: NDArray[np.int64], covariance: Floats | None) -> Floats:
    """What is known of poses [M,4,4] beforehand, as information [M,6,6] about (the centre's place, rotation), in camera
    axes; 0 where nothing is."""
    information = np.zeros((len(T), 6, 6))
    if covariance is None:
        return information
    sure = np.isfinite(T).all(axis=(1, 2)) & np.isfinite(covariance).all(axis=(1, 2))
    centre, _ = maker.centres_and_diameters(index[sure])
    # t = p - R c for the centre's place p, and R c turns with phi: d t = d p + hat(R c) d phi.
    A = np.tile(np.eye(6), (len(centre), 1, 1))
    A[:, :3, 3:] = se3.hat((T[sure, :3, :3] @ centre[..., None])[..., 0])
    inverse = np.linalg.pinv(covariance[sure], hermitian=True)
    information[sure] = np.swapaxes(A, 1, 2) @ inverse @ A
    return information
