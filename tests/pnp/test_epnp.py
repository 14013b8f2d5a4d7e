"""EPnP: known truth in space, on planes and in between, and agreement with numpy.linalg."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.pnp_problems import make_problems, pose_errors
from coop_edge.geometry import se3
from coop_edge.pnp.epnp import epnp
from tests.oracles import pnp_lm
from tests.oracles import pnp_ransac as oracle


def solve(X, u, K):
    R, t = np.empty((3, 3)), np.empty(3)
    error = epnp(np.ascontiguousarray(X.T), np.ascontiguousarray(u.T), K, R, t)
    return se3.from_rt(R, t) if np.isfinite(error) else np.full((4, 4), np.nan), error


def solve_all(problems):
    arrays = zip(problems.points_object, problems.points_image, problems.K, strict=True)
    return np.array([solve(*a)[0] for a in arrays])


@pytest.mark.parametrize("shape", ["box", "plane", "sphere"])
@pytest.mark.parametrize("n", [6, 7, 20, 200])
def test_exact_without_noise(shape, n):
    problems = make_problems(100, n, shape=shape, noise_px=0, seed=n, skew=0.02)
    rotation, translation = pose_errors(solve_all(problems), problems.T_camera_object)
    assert np.deg2rad(rotation).max() < 1e-9
    assert translation.max() < 1e-9


@pytest.mark.parametrize(
    ("shape", "n", "share"), [("plane", 4, 1.0), ("plane", 5, 1.0), ("box", 5, 0.99), ("box", 4, 0.6)]
)
def test_few_points(shape, n, share):
    """Planes are exact from 4 points on. In space 4 or 5 points leave a null space of several dimensions, and the
    Gauss-Newton steps end in the right valley for a share of the problems only (why RANSAC has P3P as its default)."""
    problems = make_problems(200, n, shape=shape, noise_px=0, seed=3)
    rotation, _ = pose_errors(solve_all(problems), problems.T_camera_object)
    assert (np.deg2rad(rotation) < 1e-6).mean() >= share


@pytest.mark.parametrize("thickness", [0.0, 1e-9, 1e-5, 1e-3, 1e-2, 0.05, 0.2])
def test_near_planar(thickness):
    """From a plane to a box without a gap: exact data give the exact pose, up to what float64 leaves of it."""
    problems = make_problems(60, 50, shape="plane", noise_px=0, seed=5)
    rng = np.random.default_rng(0)
    X = problems.points_object.copy()
    X[..., 2] += thickness * problems.diameter[:, None] * rng.uniform(-0.5, 0.5, X.shape[:2])
    p = se3.transform(problems.T_camera_object, X) @ np.swapaxes(problems.K, 1, 2)
    u = p[..., :2] / p[..., 2:]
    T = np.array([solve(*a)[0] for a in zip(X, u, problems.K, strict=True)])
    rotation, _ = pose_errors(T, problems.T_camera_object)
    # Below a ratio of 1e-3 the points count as planar, which costs about that much.
    assert np.quantile(np.deg2rad(rotation), 0.9) < max(1e-6, 10 * thickness if thickness < 2e-3 else 0)


@pytest.mark.parametrize("shape", ["box", "plane", "sphere"])
@pytest.mark.parametrize(("n", "noise_px"), [(6, 0.5), (12, 1.0), (100, 4.0)])
def test_agrees_with_the_oracle(shape, n, noise_px):
    problems = make_problems(50, n, shape=shape, noise_px=noise_px, seed=7)
    T = solve_all(problems)
    arrays = zip(problems.points_object, problems.points_image, problems.K, strict=True)
    expected = np.array([se3.from_rt(*oracle.epnp(*a)) for a in arrays])
    rotation, translation = pose_errors(T, expected)
    assert np.deg2rad(rotation).max() < 1e-6
    assert translation.max() < 1e-6


def test_noise_behaviour():
    """Twice the noise, about twice the error; and never a pose with a point behind the camera."""
    medians = []
    for noise in (1.0, 2.0):
        problems = make_problems(200, 100, shape="mixed", noise_px=noise, seed=9)
        T = solve_all(problems)
        assert (se3.transform(T, problems.points_object)[..., 2] > 0).all()
        medians.append(np.median(pose_errors(T, problems.T_camera_object)[0]))
    assert 1.5 < medians[1] / medians[0] < 2.5


def test_returned_error_is_the_sum_of_squares():
    problems = make_problems(1, 30, noise_px=2.0)
    X, u, K = problems.points_object[0], problems.points_image[0], problems.K[0]
    T, error = solve(X, u, K)
    np.testing.assert_allclose(error, (pnp_lm.residuals(T, X, u, K)[0] ** 2).sum(), rtol=1e-10)


def test_mirrored_points_never_give_a_reflection():
    problems = make_problems(50, 30, shape="box", noise_px=0, seed=2)
    X = problems.points_object * [1, 1, -1]
    T = np.array([solve(*a)[0] for a in zip(X, problems.points_image, problems.K, strict=True)])
    solved = np.isfinite(T).all(axis=(1, 2))
    np.testing.assert_allclose(np.linalg.det(T[solved, :3, :3]), 1.0, atol=1e-12)
