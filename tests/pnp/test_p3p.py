"""P3P: the truth is among the roots, every root is a pose, and they are those of Grunert's quartic."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.pnp_problems import make_problems
from coop_edge.pnp.p3p import MAX_ROOTS, p3p
from tests.oracles import pnp_ransac as oracle


def rays_of(problems):
    x = np.concatenate([problems.points_image, np.ones((*problems.points_image.shape[:2], 1))], -1)
    x = x @ np.swapaxes(np.linalg.inv(problems.K), 1, 2)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def roots(X, rays):
    R, t = np.empty((MAX_ROOTS, 3, 3)), np.empty((MAX_ROOTS, 3))
    count = p3p(np.ascontiguousarray(X), np.ascontiguousarray(rays), R, t)
    return R[:count], t[:count]


def test_truth_is_among_the_roots():
    problems = make_problems(2000, 3, noise_px=0, seed=3, skew=0.01)
    errors = []
    for X, y, T in zip(problems.points_object, rays_of(problems), problems.T_camera_object, strict=True):
        R, t = roots(X, y)
        distance = np.linalg.norm(T[:3, 3])
        errors.append(
            min(
                (
                    max(np.abs(a - T[:3, :3]).max(), np.abs(b - T[:3, 3]).max() / distance)
                    for a, b in zip(R, t, strict=True)
                ),
                default=9,
            )
        )
    # Conditioning varies by many orders of magnitude (danger cylinder, flat triangles): quantiles, and a bound for all.
    assert np.quantile(errors, 0.99) < 1e-9
    assert max(errors) < 1e-6


def test_every_root_is_a_motion_that_puts_the_points_on_their_rays_in_front():
    # Rays to other points: any three rays and any triangle, not only those that come from a pose.
    problems = make_problems(1000, 3, noise_px=30.0, seed=4)
    found = 0
    for X, y in zip(problems.points_object, rays_of(problems), strict=True):
        R, t = roots(X, y)
        for a, b in zip(R, t, strict=True):
            np.testing.assert_allclose(a @ a.T, np.eye(3), atol=1e-12)
            assert np.linalg.det(a) > 0
            Y = X @ a.T + b
            assert (Y[:, 2] > 0).all()
            np.testing.assert_allclose(Y / np.linalg.norm(Y, axis=1, keepdims=True), y, atol=1e-6)
            found += 1
        for i in range(len(R)):
            for j in range(i):
                assert max(np.abs(R[i] - R[j]).max(), np.abs(t[i] - t[j]).max()) > 1e-9, "a root came twice"
    assert found > 1000


def test_roots_are_those_of_the_quartic():
    problems = make_problems(1000, 3, noise_px=30.0, seed=5)
    different = 0
    for X, y in zip(problems.points_object, rays_of(problems), strict=True):
        R, _ = roots(X, y)
        expected = oracle.p3p(X, y)
        matched = all(any(np.abs(R_o - a).max() < 1e-5 for a in R) for R_o, _ in expected)
        different += not (matched and len(R) == len(expected))
    # Double roots are real in one formulation and complex by rounding in the other.
    assert different <= 5


@pytest.mark.parametrize(
    "X",
    [
        [[0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [0.2, 0.1, 0]],
        [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
        [[0, 0, 0], [0.1, 0, 0], [0.2, 1e-9, 0]],
    ],
    ids=["line", "two equal", "three equal", "almost a line"],
)
def test_flat_triangles_give_no_pose(X):
    y = np.array([[0.1, 0, 1], [0, 0.1, 1], [0, 0, 1.0]])
    assert len(roots(np.array(X, float), y / np.linalg.norm(y, axis=1, keepdims=True))[0]) == 0


def test_equal_rays_give_no_pose():
    assert len(roots(np.eye(3), np.tile([0, 0, 1.0], (3, 1)))[0]) == 0


def test_symmetric_configuration():
    """An equilateral triangle seen along its axis: a cubic with special roots, four poses of which one is frontal."""
    angle = 2 * np.pi * np.arange(3) / 3
    X = np.column_stack([np.cos(angle), np.sin(angle), np.zeros(3)])
    y = X + [0, 0, 4.0]
    R, t = roots(X, y / np.linalg.norm(y, axis=1, keepdims=True))
    assert min(np.abs(a - np.eye(3)).max() + np.abs(b - [0, 0, 4]).max() for a, b in zip(R, t, strict=True)) < 1e-9
