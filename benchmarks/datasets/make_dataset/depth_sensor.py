"""From true depth to that of an active stereo camera such as those on robots: noise, steps, holes, flying pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class SensorOptions:
    """What a depth camera does to depth.

    noise: standard deviation at 1 m, metres; it grows with z^2. grain: share of its variance that neighbours have in
    common, over ``patch`` pixels (a stereo camera matches windows). step: of disparity, as a depth at 1 m, metres; it
    grows with z^2 too. resolution: of the values, metres. grazing: cosine between normal and ray from which on nothing
    comes back; half of it comes back at twice that. jump: differences of depth between neighbours, metres per metre,
    that are an edge. shadow: width of the shadow that a camera beside the projector sees, pixels per metre^-1 of
    inverse depth. flying: share of the pixels at edges that lie in between; the others at edges
    are unknown. dropouts: share of the picture in patches
    without depth.
    """

    noise: float = 0.002
    grain: float = 0.5
    patch: float = 2.0
    step: float = 0.0008
    resolution: float = 0.001
    grazing: float = 0.12
    jump: float = 0.02
    shadow: float = 12.0
    flying: float = 0.3
    dropouts: float = 0.02


def measure(
    depth: np.ndarray, K: np.ndarray, rng: np.random.Generator, options: SensorOptions | None = None
) -> np.ndarray:
    """Return what the sensor says of true depth, float32 [h,w] metres, 0 = unknown.

    depth: [h,w] metres along the optical axis, 0 = nothing. K [3,3]. rng: all that is drawn.
    """
    options = options or SensorOptions()
    z = depth.astype(np.float64)
    known = z > 0
    edges = _edges(z, known, options.jump)
    out = z + options.noise * z**2 * _noise(z.shape, options, rng)
    steps = options.step * z**2
    out = np.where(known, np.rint(out / np.maximum(steps, 1e-9)) * steps, 0.0)
    near, far = (_extreme(z, known, farthest) for farthest in (False, True))
    between = near + rng.random(z.shape) * (far - near)
    flying = edges & (rng.random(z.shape) < options.flying)
    out = np.where(flying, between, out)
    seen = ~_shadows(z, known, options.shadow) & (rng.random(z.shape) < _returned(z, K, options))
    kept = known & (flying | (seen & ~edges)) & ~_patches(z.shape, options.dropouts, rng)
    out = np.rint(out / options.resolution) * options.resolution
    return np.where(kept, np.maximum(out, 0.0), 0.0).astype(np.float32)


def _noise(shape: tuple[int, ...], options: SensorOptions, rng: np.random.Generator) -> np.ndarray:
    """Unit variance; ``grain`` of it smooth."""
    smooth = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), options.patch)
    return np.sqrt(options.grain) * smooth / smooth.std() + np.sqrt(1.0 - options.grain) * rng.normal(size=shape)


def _edges(z: np.ndarray, known: np.ndarray, jump: float) -> np.ndarray:
    """Pixels whose 3 x 3 neighbourhood holds a jump in depth, or unknown pixels."""
    near, far = _extreme(z, known, False), _extreme(z, known, True)
    gap = cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    slope = np.abs(cv2.Laplacian(z, cv2.CV_64F, ksize=1))  # a slanted plane is no edge
    return known & (gap | ((far - near > jump * z) & (slope > 0.5 * jump * z)))


def _extreme(z: np.ndarray, known: np.ndarray, farthest: bool) -> np.ndarray:
    """The farthest or nearest known depth in each 3 x 3 neighbourhood."""
    window = np.ones((3, 3), np.uint8)
    if farthest:
        return cv2.dilate(np.where(known, z, 0.0), window)
    return np.where(known, cv2.erode(np.where(known, z, 1e9), window), 0.0)


def _shadows(z: np.ndarray, known: np.ndarray, width: float) -> np.ndarray:
    """Pixels that the second camera, to the left, cannot see: left of what is nearer, as far as disparities differ."""
    inverse = np.where(known, 1.0 / np.where(known, z, 1.0), 0.0)
    hidden = np.zeros(z.shape, bool)
    for shift in range(1, int(width * inverse.max(initial=0.0)) + 1):
        ahead = np.zeros(z.shape)
        ahead[:, :-shift] = inverse[:, shift:]
        hidden |= width * (ahead - inverse) >= shift
    return hidden & known


def _returned(z: np.ndarray, K: np.ndarray, options: SensorOptions) -> np.ndarray:
    """The share of pixels from which depth comes back, by the angle under which the surface is seen."""
    v, u = np.mgrid[: z.shape[0], : z.shape[1]].astype(np.float64)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(K).T
    points = rays * z[..., None]
    along, down = (np.gradient(points, axis=axis) for axis in (1, 0))
    normal = np.cross(along, down)
    length = np.linalg.norm(normal, axis=-1) * np.linalg.norm(rays, axis=-1)
    cosine = np.abs((normal * rays).sum(axis=-1)) / np.maximum(length, 1e-12)
    return np.clip((cosine - options.grazing) / (2.0 * options.grazing), 0.0, 1.0)


def _patches(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> np.ndarray:
    """Where nothing comes back though it should: dark or shining patches, ``share`` of the picture."""
    if share <= 0.0:
        return np.zeros(shape, bool)
    field = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), 4.0)
    return field > np.quantile(field, 1.0 - share)
