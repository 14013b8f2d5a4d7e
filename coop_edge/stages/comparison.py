"""Solves for the poses that comparisons of renders with an image lead to, the last ones together.

A network's matches are wrong by a pixel or so, and in ways of its own: in a crop that is turned they are wrong in other
ways. So iterations turn their crops, and those before have their say beside the last (``Matches``). Each says as much,
and together they weigh as one: what a pose is known to does not grow by asking the same network twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import EstimatorConfig
from coop_edge.geometry import se3
from coop_edge.ops.base import Array
from coop_edge.pnp.base import DepthTargets, PnpSolver, PnpStatus, PosePrior
from coop_edge.stages.depth import cells_used, match_targets
from coop_edge.stages.flow import Correspondences, correspondences, residuals
from coop_edge.stages.pairs import Pairs
from coop_edge.stages.prior import lm_weights, pose_prior

Floats = NDArray[np.float64]

LEAST_WEIGHTED = 3
"""Cells of positive weight; with fewer there is no evidence, and a prior alone is no refinement."""


class Residuals(NamedTuple):
    """What M poses are solved from, in the crops' axes; on the device."""

    points: Array  # float32 [M,P,3] metres, object's frame
    pixels: Array  # float32 [M,P,2] of the crop
    weight: Array  # float32 [M,P] 1 / pixel, see ``prior.lm_weights``
    depths: DepthTargets | None  # None without a depth image


class Matches(NamedTuple):
    """What one comparison of M pairs has found, for comparisons after it; on the device."""

    points: Array  # float32 [M,P,3] metres, object's frame
    image: Array  # float64 [M,P,3] where the network finds them: homogeneous pixels of the ideal image
    weight: Array  # float32 [M,P] 1 / pixel of the crops
    focal: Floats  # [M] of the crops, pixels, on the host
    depths: DepthTargets | None  # of the camera's axes; None without a depth image

    @classmethod
    def of(cls, pairs: Pairs, seen: Residuals) -> Matches:
        """Take the matches of pairs out of their crops."""
        inverse = pairs.ops.xp.asarray(np.linalg.inv(pairs.crop.H))
        image = pairs.ops.linear(inverse[:, :, :2], seen.pixels) + inverse[:, None, :, 2]
        R_camera_crop = np.swapaxes(pairs.crop.R_crop_camera, 1, 2)
        focal = pairs.crop.K[:, 0, 0]
        return cls(seen.points, image, seen.weight, focal, _turned(pairs, seen.depths, R_camera_crop))

    def take(self, rows: NDArray[np.integer], xp: Any) -> Matches:
        """Return those of the pairs at ``rows``."""
        at = xp.asarray(rows)
        depths = None if self.depths is None else DepthTargets(*(a[at] for a in self.depths))
        return Matches(self.points[at], self.image[at], self.weight[at], self.focal[rows], depths)

    def within(self, pairs: Pairs) -> Residuals:
        """Return them as the crops of other pairs of the same image have them.

        What lies behind a crop's camera weighs nothing.
        """
        xp = pairs.ops.xp
        seen = pairs.ops.linear(xp.asarray(pairs.crop.H), self.image)
        ahead = seen[..., 2] > 0
        pixels = seen[..., :2] / xp.where(ahead, seen[..., 2], np.nan)[..., None]
        zoom = xp.asarray((self.focal / pairs.crop.K[:, 0, 0]).astype(np.float32))
        weight = xp.where(ahead, self.weight * zoom[:, None], np.float32(0.0))
        depths = _turned(pairs, self.depths, pairs.crop.R_crop_camera)
        return Residuals(self.points, pixels.astype(np.float32), weight, depths)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What one comparison of M pairs leads to. Poses and covariances are on the host, the rest on the device."""

    T_crop_object: Floats  # [M,4,4]
    T_camera_object: Floats  # [M,4,4]
    covariance: Floats  # [M,6,6] of (translation m, rotation rad) in camera axes
    status: NDArray[np.integer]  # [M] PnpStatus; poses and covariances mean something where it is SOLVED
    found: Correspondences
    residual_px: Array  # float32 [M,P] reprojection errors at the poses, pixels of the crop; inf = undefined
    used_depth: NDArray[np.bool_]  # [M] on the host
    matches: Matches


def refine_step(
    pairs: Pairs,
    points: Array,
    cells: Array,
    outputs: Mapping[str, Array],
    T_anchor: Floats,
    *,
    solver: PnpSolver,
    config: EstimatorConfig,
    radius_px: float,
    earlier: Sequence[Matches] = (),
) -> Comparison:
    """Solve for the poses that the refiner's outputs for M pairs lead to. M = 0 is legal.

    Without ``LEAST_WEIGHTED`` cells of positive weight there is no pose (TOO_FEW_POINTS), though the prior alone would
    give one.

    Args:
        pairs: what the network was shown.
        points, cells: of ``Pairs.cells``.
        outputs: of the network, by name, on the device of the pairs.
        T_anchor: float64 [M,4,4], T_camera_object that the prior is about.
        solver: of the device of the pairs.
        config: ``advanced.refine`` (the prior), ``advanced.lm`` and ``depth``.
        radius_px: R of the flow probability, pixels of the crop.
        earlier: comparisons of the same M hypotheses whose matches are solved for as well.
    """
    ops, xp = pairs.ops, pairs.ops.xp
    found = correspondences(pairs, outputs, points, cells, radius_px)
    prior = pose_prior(config.advanced.refine, pairs.crop.to_crop(T_anchor), pairs.centre, pairs.diameter)
    if prior is not None:
        prior = PosePrior(*map(xp.asarray, prior))
    weight = lm_weights(config.advanced.refine, found.weight, found.precision)
    used = cells_used(pairs, found.silhouette)
    depths = match_targets(pairs, found, weight, outputs["scale"].reshape(weight.shape), used, config.depth)
    own = Residuals(found.points, found.pixels, weight, depths)
    told = _together([own, *(matches.within(pairs) for matches in earlier)], xp)
    for matches in earlier:
        if matches.depths is not None:
            used = used | (matches.depths.weights > 0).any(axis=1)
    count = 1 + len(earlier)
    lm = replace(config.advanced.lm, loss_scale_px=config.advanced.lm.loss_scale_px * count**-0.5)
    K, T = (xp.asarray(a) for a in (pairs.crop.K, pairs.T_crop_object))
    result = solver.weighted_lm(told.points, told.pixels, told.weight, K, T, lm, prior=prior, depths=told.depths)
    # Without a prior the solver takes the residuals' scatter for their variance, and there are count times as many.
    uncertain = result.covariance * (1.0 if prior is not None else float(count))
    blind = (found.weight > 0).sum(axis=1) < LEAST_WEIGHTED
    T_found = xp.where(blind[:, None, None], np.nan, result.T_camera_object)
    solved = T_found, uncertain, result.statistics.status, blind, used
    T_crop, covariance, status, blind, used = ops.to_host_together(*solved)
    return Comparison(
        T_crop_object=T_crop,
        T_camera_object=pairs.crop.to_camera(T_crop),
        covariance=se3.turn_covariances(np.swapaxes(pairs.crop.R_crop_camera, 1, 2), covariance),
        status=np.where(blind & (status == PnpStatus.SOLVED), PnpStatus.TOO_FEW_POINTS, status),
        found=found,
        residual_px=residuals(pairs, found, T_found),
        used_depth=used,
        matches=Matches.of(pairs, own),
    )


def _together(parts: Sequence[Residuals], xp: Any) -> Residuals:
    """Return several comparisons as one that says as much as each of them."""
    if len(parts) == 1:
        return parts[0]
    share = np.float32(len(parts) ** -0.5)
    points, pixels, weight = (
        xp.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("points", "pixels", "weight")
    )
    depths = [part.depths for part in parts if part.depths is not None]
    joined = DepthTargets(*(xp.concatenate(each, axis=1) for each in zip(*depths, strict=True))) if depths else None
    if joined is not None:
        joined = joined._replace(weights=share * joined.weights)
    return Residuals(points, pixels, share * weight, joined)


def _turned(pairs: Pairs, depths: DepthTargets | None, R: Floats) -> DepthTargets | None:
    """Return measured places of M objects in axes that R [M,3,3] turns into."""
    if depths is None:
        return None
    turn, kept = pairs.ops.xp.asarray(R), np.float32
    places, normals = (pairs.ops.linear(turn, a).astype(kept) for a in (depths.places, depths.normals))
    return depths._replace(places=places, normals=normals)
