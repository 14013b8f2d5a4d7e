"""Alignment of refined poses with the object's outline in the image, for their depth above all.

A network that tells where things are to a few pixels leaves a pose off along the line of sight, as a percent of scale
is half a pixel. The outline tells it better, wherever it stands out from the background. So the refined pose is the
start and, as a Gaussian, the prior of a few Gauss-Newton steps on the distances between the rendered outline and the
edge that colours show (see ``outline_lines``). Ours, not Co-op's.

A line counts by its posterior variance and by how clear the edge is: a hidden or missed outline says little. The
aligned pose is taken only if the object stands out along enough of its outline (``OutlineConfig.min_share``) and better
than at the start; else the refined pose stays.

The lines are worked out on the host: on a GPU the crops and depths come back once per iteration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import OutlineConfig
from coop_edge.geometry import se3
from coop_edge.stages.objects import ObjectModel, centres_and_diameters
from coop_edge.stages.outline_lines import CONTRAST_SPAN, Lines, find_edges, find_lines, object_probability
from coop_edge.stages.pairs import PairMaker, Pairs

Floats = NDArray[np.float64]

CLEAR, FAINT = 0.6, 0.2
"""Contrast from which a line counts in full, and up to which not at all."""
STANDS_OUT = 0.4
"""Contrast at its own place from which a line is one where the object stands out."""
LEAST_VARIANCE = 0.25
"""Of an edge's position, pixels^2: no line is better than half a pixel."""
LARGEST_SHIFT = 2.0
"""Of an edge, pixels, beyond which its line counts as Huber's loss would have it."""
LARGEST_TURN = 0.3
"""Of one step, radians."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """M poses in the order given; what was not aligned is as it was."""

    T_camera_object: Floats  # [M,4,4]
    covariance: Floats  # [M,6,6] of ``pnp.base``; NaN where not aligned
    aligned: NDArray[np.bool_]  # [M]
    share: Floats  # [M] of the outline where the object stands out at the last pose; NaN where it could not be told


@dataclass(frozen=True, eq=False)
class Fit:
    """How one outline lies: normal equations about the object's centre, and how clear it is."""

    H: Floats  # [6,6] of (displacement of the centre in diameters, rotation vector), axes of the crop's camera
    g: Floats  # [6]
    share: float
    contrast: float


def align(
    maker: PairMaker,
    T_camera_object: Floats,
    object_index: NDArray[np.integer],
    config: OutlineConfig,
    iterations: int,
    covariance: Floats | None = None,
) -> Aligned:
    """Align poses T_camera_object [M,4,4], metres, NaN where there is none, of the objects at ``object_index`` [M].

    M = 0 is legal.
    covariance: of the poses [M,6,6] (``pnp.base``), NaN or None where unknown: the surer a pose, the less it is moved.
    Each pose for itself: the result does not depend on the others.
    """
    known = np.full((len(T_camera_object), 6, 6), np.nan) if covariance is None else covariance
    T, index = np.array(T_camera_object, np.float64).reshape(-1, 4, 4), np.asarray(object_index, np.int64)
    start = T.copy()
    first: list[Fit | None] = [None] * len(T)
    spread, share = np.full((len(T), 6, 6), np.nan), np.full(len(T), np.nan)
    better = np.zeros(len(T), np.bool_)
    active = np.flatnonzero(np.isfinite(T).all(axis=(1, 2)))
    for iteration in range(iterations + 1):
        active = active[maker.in_sight(T[active], index[active])]
        if not active.size or not iterations:
            break
        pairs = maker.make(T[active], index[active])
        fits = _fits(maker, pairs, index[active], config)
        for row, (i, fit) in enumerate(zip(active, fits, strict=True)):
            if fit is None:
                continue
            before = first[i] = first[i] or fit
            share[i] = fit.share
            if iteration == iterations:  # the last look only judges
                better[i] = fit.share >= config.min_share and fit.contrast >= before.contrast
            else:
                R = pairs.crop.R_crop_camera[row]
                T[i], spread[i] = _step(maker.objects[index[i]], R, fit, start[i], T[i], known[i], config)
        active = active[[fit is not None for fit in fits]]
    T[~better] = start[~better]
    spread[~better] = np.nan
    return Aligned(T, spread, better, share)


def _fits(maker: PairMaker, pairs: Pairs, index: NDArray[np.int64], config: OutlineConfig) -> list[Fit | None]:
    query, depth = pairs.ops.to_host_together(pairs.query, pairs.depth)
    centre, diameter = centres_and_diameters(maker.objects, index)
    images = np.rint(np.moveaxis(query, 1, -1) * 255).astype(np.uint8)
    middle = np.einsum("mij,mj->mi", pairs.T_crop_object[:, :3, :3], centre) + pairs.T_crop_object[:, :3, 3]
    fits: list[Fit | None] = []
    for m in range(len(pairs)):
        lines = find_lines(depth[m], config.lines)
        probability = object_probability(images[m], depth[m] > 0)
        if lines is None or probability is None:
            fits.append(None)
            continue
        inside = _in_image(maker, pairs, m, lines)
        fits.append(_fit(probability, lines, pairs.crop.K[m], middle[m], float(diameter[m]), inside, config))
    return fits


def _fit(
    probability: NDArray[np.float32],
    lines: Lines,
    K: Floats,
    middle: Floats,
    diameter: float,
    inside: NDArray[np.bool_],
    config: OutlineConfig,
) -> Fit:
    edges = find_edges(probability, lines)
    clear = np.clip((edges.contrast - FAINT) / (CLEAR - FAINT), 0.0, 1.0)
    weight = inside * clear * config.information / np.maximum(edges.variance, LEAST_VARIANCE)
    weight = weight * np.minimum(1.0, LARGEST_SHIFT / np.maximum(np.abs(edges.shift), 1e-9))  # Huber
    J = jacobian(lines, K, middle, diameter)
    total = max(int(np.count_nonzero(inside)), 1)
    share = int(np.count_nonzero(inside & (edges.contrast_here > STANDS_OUT))) / total
    contrast = float((inside * np.clip(edges.contrast_here, 0.0, 1.0)).sum() / total)
    return Fit((J * weight[:, None]).T @ J, J.T @ (weight * edges.shift), share, contrast)


def jacobian(lines: Lines, K: Floats, middle: Floats, diameter: float) -> Floats:
    """d (position along the normal, px) / d (displacement of the centre in diameters, rotation vector), [P,6].

    K [3,3] of the crop; middle [3]: the object's centre in the crop's camera, about which it turns.
    """
    ray = np.concatenate([lines.centre, np.ones((len(lines.centre), 1))], axis=1) @ np.linalg.inv(K).T
    X = ray * lines.depth[:, None]
    z = lines.depth
    # n . d pi / d X, pi(X) = (K X)[:2] / z
    a = np.concatenate([lines.normal @ K[:2, :2], np.zeros((len(z), 1))], axis=1) / z[:, None]
    a[:, 2] = -((lines.normal @ K[:2, :2]) * X[:, :2]).sum(axis=1) / z**2
    return np.concatenate([a * diameter, np.cross(X - middle, a)], axis=1)


def _step(
    model: ObjectModel, R: Floats, fit: Fit, start: Floats, T: Floats, known: Floats, config: OutlineConfig
) -> tuple[Floats, Floats]:
    """One Gauss-Newton step towards the outline and the prior: the pose in the camera [4,4], its covariance [6,6].

    R [3,3]: camera -> crop; start [4,4] and its covariance ``known`` [6,6], in the camera.
    """
    now, anchor = (_about_centre(R, pose, model.centre) for pose in (T, start))
    sigma = np.array([config.prior_sideways] * 2 + [config.prior_depth] + [config.prior_rotation] * 3)
    information = np.diag(sigma**-2.0)
    if np.isfinite(known).all() and config.prior_refined > 0:
        to_pose = _to_pose(R, anchor[0], model)
        information += config.prior_refined * to_pose.T @ np.linalg.pinv(known, hermitian=True) @ to_pose
    off = np.concatenate([(now[1] - anchor[1]) / model.diameter, se3.so3_log(now[0] @ anchor[0].T)])
    H = fit.H + information
    step = np.linalg.solve(H, fit.g - information @ off)
    step[3:] *= min(1.0, LARGEST_TURN / max(float(np.linalg.norm(step[3:])), 1e-12))
    turned = se3.so3_exp(step[3:]) @ now[0]
    centre = now[1] + step[:3] * model.diameter
    pose = se3.from_rt(R.T @ turned, R.T @ (centre - turned @ model.centre))
    to_pose = _to_pose(R, turned, model)
    return pose, to_pose @ np.linalg.inv(H) @ to_pose.T


def _to_pose(R: Floats, turned: Floats, model: ObjectModel) -> Floats:
    """d (t, phi) in the camera / d (centre in diameters, rotation vector) in the crop's, [6,6], at rotation ``turned``.

    t = centre - R c, and R c turns with phi.
    """
    A = np.eye(6)
    A[:3, :3] *= model.diameter
    A[:3, 3:] = se3.hat(turned @ model.centre)
    A[:3] = R.T @ A[:3]
    A[3:] = R.T @ A[3:]
    return A


def _about_centre(R: Floats, T: Floats, centre: Floats) -> tuple[Floats, Floats]:
    """Rotation [3,3] and the centre's place [3] in the axes R [3,3] of a crop's camera."""
    return R @ T[:3, :3], R @ (T[:3, :3] @ centre + T[:3, 3])


def _in_image(maker: PairMaker, pairs: Pairs, row: int, lines: Lines) -> NDArray[np.bool_]:
    """Which lines have both sides of the outline in the image, bool [P]."""
    inside = np.ones(len(lines.centre), np.bool_)
    inverse = np.linalg.inv(pairs.crop.H[row])
    for end in (-CONTRAST_SPAN, CONTRAST_SPAN):
        q = np.concatenate([lines.centre + end * lines.normal, np.ones((len(inside), 1))], axis=1) @ inverse.T
        x, y = q[:, 0] / q[:, 2], q[:, 1] / q[:, 2]
        inside &= (q[:, 2] > 0) & (x >= 0) & (y >= 0) & (x <= maker.camera.width - 1) & (y <= maker.camera.height - 1)
    return inside
