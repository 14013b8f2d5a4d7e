"""Draws 2D-3D correspondences with a known pose, in metres and pixels, for tests and benchmarks of the solvers.

Problem i of a set depends on (seed, i) alone: a longer set starts with the shorter one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from coop_edge.geometry import se3

SHAPES = ("box", "plane", "sphere")
IMAGE_SIZE = (640, 480)  # width, height
_MAX_TILT = np.deg2rad(70.0)  # of a plane against the view direction; beyond it the pose is hardly observable


@dataclass(frozen=True)
class PnpProblems:
    """B problems of N correspondences; a field that is an array has the leading axis B."""

    points_object: np.ndarray  # float64 [B,N,3]; NaN in the padding
    points_image: np.ndarray  # float64 [B,N,2]; NaN in the padding
    valid: np.ndarray  # bool [B,N]; False in the padding
    weights: np.ndarray  # float64 [B,N]; 0 in the padding
    K: np.ndarray  # float64 [B,3,3]
    T_camera_object: np.ndarray  # float64 [B,4,4], the truth
    inliers: np.ndarray  # bool [B,N], the truth: neither outlier nor padding
    diameter: np.ndarray  # float64 [B]

    def __len__(self) -> int:
        return len(self.K)


def make_problems(
    batch: int,
    points: int,
    *,
    shape: str = "box",
    noise_px: float | tuple[float, float] = 1.0,
    outliers: float | tuple[float, float] = 0.0,
    weights: str = "known",
    focal_px: tuple[float, float] = (300.0, 2000.0),
    extent_px: tuple[float, float] = (80.0, 400.0),
    skew: float = 0.0,
    padding: int = 0,
    seed: int = 0,
) -> PnpProblems:
    """Draw ``batch`` problems of ``points`` correspondences and ``padding`` invalid ones.

    Args:
        batch, points, padding: how many.
        shape: points in a "box", on a "plane" (one face of it), on the visible side of a "sphere", or "mixed" (problem
            i takes shape i mod 3).
        noise_px: standard deviation per axis, a number or a range to draw from per problem.
        outliers: share of wrong correspondences, likewise: pixels drawn over the object's surroundings.
        weights: "known": positive for inliers, 0 for outliers; "unknown": 1 for all.
        focal_px: range of focal lengths.
        extent_px: range of the object's diameter in the image; sets the distance.
        skew: K[0, 1], in focal lengths.
        seed: of all that is drawn.
    """
    drawn = [
        _problem(
            np.random.default_rng([seed, i]),
            points,
            SHAPES[i % 3] if shape == "mixed" else shape,
            noise_px,
            outliers,
            weights,
            focal_px,
            extent_px,
            skew,
            padding,
        )
        for i in range(batch)
    ]
    total = points + padding
    empty = ((total, 3), (total, 2), (total,), (total,), (3, 3), (4, 4), (total,), ())
    kinds = (float, float, bool, float, float, float, bool, float)
    columns = zip(*drawn, strict=True) if drawn else [()] * 8
    return PnpProblems(*(np.array(c, k).reshape(batch, *s) for c, s, k in zip(columns, empty, kinds, strict=True)))


def perturbed(T: np.ndarray, rotation: float, translation: float, seed: int = 0) -> np.ndarray:
    """Turn poses [B,4,4] by ``rotation`` radians about random axes; move them by ``translation`` of their distance."""
    rng = np.random.default_rng(seed)
    axis, direction = rng.normal(size=(2, len(T), 3))
    axis *= rotation / np.linalg.norm(axis, axis=-1, keepdims=True)
    direction *= translation / np.linalg.norm(direction, axis=-1, keepdims=True)
    out = T.copy()
    out[:, :3, :3] = se3.so3_exp(axis) @ T[:, :3, :3]
    out[:, :3, 3] += direction * np.linalg.norm(T[:, :3, 3], axis=-1, keepdims=True)
    return out


def project(points: np.ndarray, T: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Project points, pi(K (R X + t)): points [...,N,3], T [...,4,4], K [...,3,3] -> pixels [...,N,2]."""
    p = se3.transform(T, points) @ np.swapaxes(K, -1, -2)
    return p[..., :2] / p[..., 2:]


def pose_errors(T: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rotation errors in degrees and translation errors over the distance, [B] each; NaN where T is NaN."""
    solved = np.isfinite(T).all(axis=(1, 2))
    rotation, translation = np.full((2, len(T)), np.nan)
    rotation[solved] = np.rad2deg(se3.rotation_angle(T[solved, :3, :3], truth[solved, :3, :3]))
    moved = np.linalg.norm(T[solved, :3, 3] - truth[solved, :3, 3], axis=-1)
    translation[solved] = moved / np.linalg.norm(truth[solved, :3, 3], axis=-1)
    return rotation, translation


def _problem(
    rng: np.random.Generator,
    points: int,
    shape: str,
    noise_px: float | tuple[float, float],
    outliers: float | tuple[float, float],
    weights: str,
    focal_px: tuple[float, float],
    extent_px: tuple[float, float],
    skew: float,
    padding: int,
) -> tuple[Any, ...]:
    """Draw one problem: the fields of ``PnpProblems`` in their order."""
    if weights not in ("known", "unknown"):
        raise ValueError(f"weights: wanted 'known' or 'unknown', got {weights!r}")
    diameter = np.exp(rng.uniform(np.log(0.05), np.log(0.5)))
    focal = np.exp(rng.uniform(*np.log(focal_px)))
    width, height = IMAGE_SIZE
    K = np.array(
        [[focal, skew * focal, width / 2 - 0.5], [0, focal * rng.uniform(0.97, 1.03), height / 2 - 0.5], [0, 0, 1]]
    )
    extent = rng.uniform(*extent_px)
    pixel = np.array([width, height]) / 2 + rng.uniform(-0.5, 0.5, 2) * (np.array([width, height]) - extent)
    # At least one diameter away, so that no point comes near the camera.
    z = max(focal * diameter / extent, diameter)
    centre = z * np.linalg.solve(K, [*pixel, 1.0])
    R = se3.random_rotation(rng)
    while shape == "plane" and abs(R[:, 2] @ centre) < np.cos(_MAX_TILT) * np.linalg.norm(centre):
        R = se3.random_rotation(rng)
    X = _points(rng, points, shape, diameter, R.T @ centre)
    # The object's own origin is not its middle.
    offset = rng.uniform(-0.3, 0.3, 3) * diameter
    T = se3.from_rt(R, centre - R @ offset)
    X = X + offset
    u = project(X, T, K) + rng.normal(size=(points, 2)) * _draw(rng, noise_px)
    wrong = np.zeros(points, bool)
    wrong[rng.permutation(points)[: round(points * _draw(rng, outliers))]] = True
    size = 1.5 * focal * diameter / z
    middle = project(offset[None], T, K)[0]
    u[wrong] = middle + rng.uniform(-0.5, 0.5, (int(wrong.sum()), 2)) * size
    w = np.where(wrong, 0.0, rng.uniform(0.2, 1.0, points)) if weights == "known" else np.ones(points)
    # Padding goes to random places: a solver that takes the first N entries fails.
    place = rng.permutation(points + padding)[:points]
    place.sort()
    valid = np.zeros(points + padding, bool)
    valid[place] = True

    def spread(a: np.ndarray, fill: float) -> np.ndarray:
        out = np.full((points + padding, *a.shape[1:]), fill, a.dtype)
        out[place] = a
        return out

    return spread(X, np.nan), spread(u, np.nan), valid, spread(w, 0.0), K, T, spread(~wrong, False), diameter


def _points(rng: np.random.Generator, n: int, shape: str, diameter: float, view: np.ndarray) -> np.ndarray:
    """Draw points of an object of a diameter about its middle; ``view``: camera -> object middle, object axes."""
    if shape == "sphere":
        v = rng.normal(size=(n, 3))
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        # Visible: the outward normal looks back along the ray from the camera to the surface point.
        hidden = ((v * diameter / 2 + view) * v).sum(1) > 0
        while hidden.any():
            w = rng.normal(size=(int(hidden.sum()), 3))
            v[hidden] = w / np.linalg.norm(w, axis=1, keepdims=True)
            hidden = ((v * diameter / 2 + view) * v).sum(1) > 0
        return v * diameter / 2
    if shape not in SHAPES:
        raise ValueError(f"shape: wanted one of {SHAPES} or 'mixed', got {shape!r}")
    sides = rng.uniform(0.5, 1.0, 3)
    if shape == "plane":
        sides[2] = 0.0
    return rng.uniform(-0.5, 0.5, (n, 3)) * sides * diameter / np.linalg.norm(sides)


def _draw(rng: np.random.Generator, value: float | tuple[float, float]) -> float:
    return rng.uniform(*value) if isinstance(value, tuple) else float(value)
