"""Weighted Levenberg-Marquardt: derivatives, agreement with the oracle, statistics, covariance, degenerate input."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.pnp_problems import make_problems, perturbed, pose_errors, project
from coop_edge.config import LmConfig
from coop_edge.geometry import se3
from coop_edge.pnp.base import LmStop, PnpStatus
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.pnp.linalg import rotate_left
from coop_edge.pnp.normal_equations import HUBER, LOSSES, NONE, SUMS, normal_sums, weighted_sums
from tests.oracles import pnp_lm as oracle

UPPER = np.triu_indices(6)


@pytest.fixture(scope="module")
def solver():
    with_threads = CpuPnpSolver(threads=2)
    yield with_threads
    with_threads.close()


def solve(solver, problems, T_init, config=None, weights=None):
    w = problems.weights if weights is None else weights
    return solver.weighted_lm(problems.points_object, problems.points_image, w, problems.K, T_init, config)


def rows(X, u, w):
    """S [6,n] as the sums take it."""
    return np.ascontiguousarray(np.column_stack([X, u, w**2]).T)


def retract(T, xi):
    """R <- Exp(phi) R, t <- t + rho by the solver's own rotation update."""
    out = T.copy()
    R = np.empty((3, 3))
    rotate_left(np.ascontiguousarray(xi[3:]), np.ascontiguousarray(T[:3, :3]), R)
    out[:3, :3] = R
    out[:3, 3] += xi[:3]
    return out


def sums_at(S, T, K, loss=NONE, scale=2.0):
    sums = np.empty(SUMS)
    R, t = np.ascontiguousarray(T[:3, :3]), np.ascontiguousarray(T[:3, 3])
    normal_sums(S, R, t, K, loss, scale, np.empty(S.shape[1]), sums)
    H = np.zeros((6, 6))
    H[UPPER] = sums[:21]
    return sums[27], H + np.triu(H, 1).T, sums[21:27]


@pytest.mark.parametrize("skew", [0.0, 0.05])
def test_jacobian_by_central_differences_through_the_same_retraction(skew):
    """With the residual set to e_1 or e_2, the gradient of one point is a row of its Jacobian."""
    problems = make_problems(20, 1, noise_px=0, skew=skew, seed=1)
    for X, K, T in zip(problems.points_object, problems.K, problems.T_camera_object, strict=True):
        step = 1e-6 * np.array([*[np.linalg.norm(T[:3, 3])] * 3, 1, 1, 1])
        numeric = np.empty((2, 6))
        for k, h in enumerate(step):
            xi = np.zeros(6)
            xi[k] = h
            numeric[:, k] = (project(X, retract(T, xi), K) - project(X, retract(T, -xi), K))[0] / (2 * h)
        analytic = np.empty((2, 6))
        for row, residual in enumerate(np.eye(2)):
            _, H, g = sums_at(rows(X, project(X, T, K) - residual, np.ones(1)), T, K)
            analytic[row] = g
        np.testing.assert_allclose(analytic, numeric, rtol=1e-7, atol=1e-7 * np.abs(numeric).max())
        np.testing.assert_allclose(H, analytic.T @ analytic, rtol=1e-10, atol=1e-12 * np.abs(H).max())


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_the_derivative_of_the_cost(loss):
    problems = make_problems(5, 40, noise_px=3.0, outliers=0.3, weights="unknown", seed=2)
    for X, u, K, T in zip(
        problems.points_object, problems.points_image, problems.K, problems.T_camera_object, strict=True
    ):
        S = rows(X, u, np.linspace(0.1, 2, len(X)))
        _, _, g = sums_at(S, T, K, LOSSES[loss])
        for k, h in enumerate(1e-6 * np.array([*[np.linalg.norm(T[:3, 3])] * 3, 1, 1, 1])):
            xi = np.zeros(6)
            xi[k] = h
            ahead, behind = (sums_at(S, retract(T, x), K, LOSSES[loss])[0] for x in (xi, -xi))
            # cost = sum f(w^2 |r|^2), so its derivative is 2 g.
            np.testing.assert_allclose(
                2 * g[k], (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-5 * abs(2 * g[k]) + 1e-3
            )


@pytest.mark.parametrize("loss", LOSSES)
def test_sums_agree_with_the_oracle(loss):
    problems = make_problems(5, 200, noise_px=3.0, outliers=0.3, seed=3, skew=0.02)
    T_all = perturbed(problems.T_camera_object, 0.1, 0.05)
    for X, u, w, K, T in zip(
        problems.points_object, problems.points_image, problems.weights, problems.K, T_all, strict=True
    ):
        expected = oracle.normal_equations(T, (X, u, w), oracle.NO_LINES, K, LmConfig(loss=loss))
        for ours, theirs in zip(sums_at(rows(X, u, w), T, K, LOSSES[loss]), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11 * np.abs(theirs).max())


def test_residual_and_gradient_vanish_at_the_truth():
    problems = make_problems(5, 100, noise_px=0, weights="unknown", seed=4)
    for X, u, K, T in zip(
        problems.points_object, problems.points_image, problems.K, problems.T_camera_object, strict=True
    ):
        cost, H, g = sums_at(rows(X, u, np.ones(len(X))), T, K)
        assert cost < 1e-18 * len(X)
        assert (np.abs(g) / np.sqrt(np.diag(H)) < 1e-9).all()


def test_a_point_behind_makes_the_cost_infinite():
    problems = make_problems(1, 10, noise_px=0)
    X, u, K, T = problems.points_object[0], problems.points_image[0], problems.K[0], problems.T_camera_object[0].copy()
    T[2, 3] -= se3.transform(T, X)[:, 2].min() + 1e-3
    sums = np.empty(SUMS)
    S = rows(X, u, np.ones(10))
    weighted_sums(S, S[5], np.ascontiguousarray(T[:3, :3]), np.ascontiguousarray(T[:3, 3]), K, sums)
    assert sums[27] == np.inf
    assert sums_at(S, T, K, HUBER)[0] == np.inf


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("points", [0, 2])
def test_empty_and_tiny(solver, batch, points):
    problems = make_problems(batch, points)
    result = solve(solver, problems, problems.T_camera_object)
    assert result.T_camera_object.shape == (batch, 4, 4)
    assert result.covariance.shape == (batch, 6, 6)
    assert (result.statistics.status == PnpStatus.TOO_FEW_POINTS).all()
    assert (result.statistics.stop == LmStop.UNSOLVED).all()
    assert np.isnan(result.T_camera_object).all()


@pytest.mark.parametrize("shape", ["box", "plane", "sphere"])
@pytest.mark.parametrize("points", [4, 6, 50, 2000])
def test_finds_the_truth_without_noise(solver, shape, points):
    problems = make_problems(30, points, shape=shape, noise_px=0, outliers=0.0, seed=5, skew=0.01)
    T_init = perturbed(problems.T_camera_object, 0.05, 0.02)
    result = solve(solver, problems, T_init, LmConfig(iterations=50, cost_tolerance=0.0, step_tolerance=1e-12))
    rotation, translation = pose_errors(result.T_camera_object, problems.T_camera_object)
    # Four points have several minima; from this start nearly all reach the right one.
    assert np.quantile(np.deg2rad(rotation), 0.9 if points == 4 else 1.0) < 1e-9
    assert np.quantile(translation, 0.9 if points == 4 else 1.0) < 1e-9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_agrees_with_the_oracle(solver, dtype, loss):
    problems = make_problems(8, 60, shape="mixed", noise_px=1.0, outliers=0.2, weights="unknown", padding=7, seed=6)
    w = np.where(problems.valid, 0.7, 0.0).astype(dtype)
    X, u = problems.points_object.astype(dtype), problems.points_image.astype(dtype)
    T_init = perturbed(problems.T_camera_object, 0.1, 0.03)
    config = LmConfig(loss=loss)
    result = solver.weighted_lm(X, u, w, problems.K, T_init, config)
    s = result.statistics
    for i in range(len(problems)):
        T, covariance, *numbers = oracle.weighted_lm(
            *(a[i].astype(float) for a in (X, u, w)), problems.K[i], T_init[i], config
        )
        np.testing.assert_allclose(result.T_camera_object[i], T, atol=1e-10)
        np.testing.assert_allclose(result.covariance[i], covariance, rtol=1e-6, atol=1e-9 * np.abs(covariance).max())
        ours = [s.initial_cost[i], s.final_cost[i], s.iterations[i], s.final_damping[i], s.stop[i]]
        np.testing.assert_allclose(ours, [float(x) for x in numbers], rtol=1e-9)


def test_zero_weights_may_hold_anything_and_change_nothing(solver):
    problems = make_problems(4, 50, noise_px=1.0, seed=7)
    T_init = perturbed(problems.T_camera_object, 0.05, 0.02)
    plain = solve(solver, problems, T_init)
    rng = np.random.default_rng(0)
    extra = 30
    order = rng.permutation(50 + extra)

    def mixed(a, fill):
        return np.concatenate([a, np.broadcast_to(fill, (4, extra, *a.shape[2:]))], axis=1)[:, order]

    for fill in (np.nan, np.inf, 1e300):
        X, u = mixed(problems.points_object, fill), mixed(problems.points_image, fill)
        result = solver.weighted_lm(X, u, mixed(problems.weights, 0.0), problems.K, T_init)
        np.testing.assert_allclose(result.T_camera_object, plain.T_camera_object, atol=1e-12)
        assert (result.statistics.status == PnpStatus.SOLVED).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_cost_never_rises_with_more_iterations(solver, loss):
    problems = make_problems(20, 40, noise_px=2.0, outliers=0.3, weights="unknown", seed=8)
    T_init = perturbed(problems.T_camera_object, 0.6, 0.2)
    costs = []
    for iterations in range(12):
        s = solve(solver, problems, T_init, LmConfig(iterations=iterations, loss=loss)).statistics
        assert (s.final_cost <= s.initial_cost).all()
        costs.append(s.final_cost)
    assert (np.diff(costs, axis=0) <= 0).all()


def test_every_stop(solver):
    problems = make_problems(4, 40, noise_px=1.0, seed=9)
    T_init = perturbed(problems.T_camera_object, 0.05, 0.02)

    def stops(start, **options):
        return set(solve(solver, problems, start, LmConfig(**options)).statistics.stop.tolist())

    assert stops(T_init, iterations=1) == {LmStop.ITERATIONS}
    assert stops(T_init, iterations=50, step_tolerance=1e-3, cost_tolerance=0.0) == {LmStop.STEP}
    assert stops(T_init, iterations=50, step_tolerance=0.0, cost_tolerance=1e-3) == {LmStop.COST}
    assert stops(T_init, iterations=200, step_tolerance=0.0, cost_tolerance=0.0) == {LmStop.DAMPING}
    zero = solve(solver, problems, T_init, LmConfig(iterations=0))
    np.testing.assert_allclose(zero.T_camera_object, T_init, atol=1e-12)
    np.testing.assert_array_equal(zero.statistics.initial_cost, zero.statistics.final_cost)


def test_robust_losses_stand_outliers(solver):
    problems = make_problems(30, 200, noise_px=1.0, outliers=0.15, weights="unknown", seed=10)
    T_init = perturbed(problems.T_camera_object, 0.05, 0.01)
    errors = {}
    for loss in LOSSES:
        result = solve(solver, problems, T_init, LmConfig(iterations=50, loss=loss))
        errors[loss] = np.median(pose_errors(result.T_camera_object, problems.T_camera_object)[0])
    assert errors["huber"] < 0.5 * errors["none"]
    assert errors["cauchy"] < 0.2 * errors["none"]


def test_weights_matter(solver):
    """Known weights leave the outliers out; unknown ones suffer from them."""
    known = make_problems(30, 200, noise_px=1.0, outliers=0.3, weights="known", seed=11)
    T_init = perturbed(known.T_camera_object, 0.05, 0.02)
    errors = [
        np.median(pose_errors(solve(solver, known, T_init, weights=w).T_camera_object, known.T_camera_object)[0])
        for w in (known.weights, np.ones_like(known.weights))
    ]
    assert errors[0] < 0.1 * errors[1]


def test_points_behind_the_camera_take_no_part(solver):
    problems = make_problems(6, 60, noise_px=1.0, seed=12)
    T_init = perturbed(problems.T_camera_object, 0.02, 0.01)
    plain = solve(solver, problems, T_init)
    # A mirror image of ten points through the camera's centre, in object coordinates of the start pose.
    ahead = se3.transform(T_init, problems.points_object[:, :10])
    X = np.concatenate([problems.points_object, se3.transform(se3.invert(T_init), -ahead)], axis=1)
    u = np.concatenate([problems.points_image, problems.points_image[:, :10] + 50], axis=1)
    w = np.concatenate([problems.weights, np.ones((6, 10))], axis=1)
    result = solver.weighted_lm(X, u, w, problems.K, T_init)
    np.testing.assert_allclose(result.T_camera_object, plain.T_camera_object, atol=1e-12)
    np.testing.assert_allclose(result.covariance, plain.covariance, rtol=1e-6)


def test_no_step_loses_a_point(solver):
    """Gross outliers pull the object towards the camera; the participants all stay in front."""
    rng = np.random.default_rng(13)
    problems = make_problems(40, 12, noise_px=0.0, weights="unknown", extent_px=(300.0, 400.0), seed=13)
    u = problems.points_image + rng.normal(size=problems.points_image.shape) * 2000
    T_init = perturbed(problems.T_camera_object, 0.3, 0.05)
    in_front = (se3.transform(T_init, problems.points_object)[..., 2] > 0).all(axis=1)
    result = solver.weighted_lm(
        problems.points_object, u, problems.weights, problems.K, T_init, LmConfig(iterations=100)
    )
    s = result.statistics
    # Some objects flee to infinity, where the normal equations are singular; the others end somewhere in front.
    assert set(s.status.tolist()) <= {PnpStatus.SOLVED, PnpStatus.DEGENERATE}
    kept = in_front & (s.status == PnpStatus.SOLVED)
    assert kept.sum() > 30
    assert (se3.transform(result.T_camera_object[kept], problems.points_object[kept])[..., 2] > 0).all()
    assert (s.final_cost <= s.initial_cost)[kept].all()


def test_covariance_matches_monte_carlo(solver):
    """1,500 noisy copies of one problem: the estimates' scatter is the predicted covariance."""
    count, points, noise = 1500, 60, 1.0
    one = make_problems(1, points, noise_px=0, weights="unknown", extent_px=(200.0, 200.0), seed=14)
    rng = np.random.default_rng(0)
    w = np.linspace(0.5, 2.0, points)
    X, K, T0 = (np.repeat(a, count, axis=0) for a in (one.points_object, one.K, one.T_camera_object))
    # Weights are inverse standard deviations: the noise they describe.
    u = one.points_image + noise * rng.normal(size=(count, points, 2)) / w[:, None]
    result = solver.weighted_lm(X, u, np.tile(w, (count, 1)), K, T0, LmConfig(iterations=30))
    T = result.T_camera_object
    xi = np.concatenate(
        [T[:, :3, 3] - T0[:, :3, 3], se3.so3_log(T[:, :3, :3] @ np.swapaxes(T0[:, :3, :3], 1, 2))], axis=1
    )
    predicted = result.covariance.mean(axis=0)
    L = np.linalg.cholesky(predicted)
    whitened = np.linalg.solve(L, xi.T)
    # The sample covariance of 1,500 white 6-vectors is the identity within about 4 / sqrt(1500) = 0.1 per entry.
    np.testing.assert_allclose(whitened @ whitened.T / count, np.eye(6), atol=0.12)
    np.testing.assert_allclose(result.covariance, np.swapaxes(result.covariance, 1, 2), rtol=0, atol=0)


def test_three_points_have_no_covariance(solver):
    problems = make_problems(10, 3, shape="box", noise_px=0, seed=15)
    result = solve(solver, problems, perturbed(problems.T_camera_object, 0.01, 0.005), LmConfig(iterations=50))
    solved = result.statistics.status == PnpStatus.SOLVED
    assert solved.sum() >= 9
    assert np.isnan(result.covariance).all()
    assert np.median(pose_errors(result.T_camera_object, problems.T_camera_object)[0]) < 1e-6


def spoil(problems, kind):
    X, u, w, K, T = (
        a.copy()
        for a in (problems.points_object, problems.points_image, problems.weights, problems.K, problems.T_camera_object)
    )
    if kind == "nan point":
        X[1, 3, 0] = np.nan
    elif kind == "infinite pixel":
        u[1, 3, 1] = np.inf
    elif kind == "nan weight":
        w[1, 3] = np.nan
    elif kind == "negative weight":
        w[1, 3] = -1
    elif kind == "nan K":
        K[1, 0, 0] = np.nan
    elif kind == "nan pose":
        T[1, 0, 0] = np.nan
    elif kind == "two weights":
        w[1, 2:] = 0
    elif kind == "no weights":
        w[1] = 0
    elif kind == "behind":
        T[1, 2, 3] = -T[1, 2, 3]
    elif kind == "coincident":
        X[1] = X[1, 0]
    elif kind == "collinear":
        X[1] = X[1, 0] + np.linspace(0, 1, X.shape[1])[:, None] * (X[1, 1] - X[1, 0])
    return X, u, w, K, T


SPOILED = {
    "nan point": PnpStatus.NON_FINITE,
    "infinite pixel": PnpStatus.NON_FINITE,
    "nan weight": PnpStatus.NON_FINITE,
    "negative weight": PnpStatus.NON_FINITE,
    "nan K": PnpStatus.NON_FINITE,
    "nan pose": PnpStatus.NON_FINITE,
    "two weights": PnpStatus.TOO_FEW_POINTS,
    "no weights": PnpStatus.TOO_FEW_POINTS,
    "behind": PnpStatus.BEHIND_CAMERA,
    "coincident": PnpStatus.DEGENERATE,
    "collinear": PnpStatus.DEGENERATE,
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_problem_that_cannot_be_solved_says_why_and_disturbs_no_other(solver, kind):
    problems = make_problems(3, 20, noise_px=1.0, weights="unknown", seed=16)
    expected = solve(solver, problems, problems.T_camera_object)
    result = solver.weighted_lm(*spoil(problems, kind))
    s = result.statistics
    assert s.status.tolist() == [PnpStatus.SOLVED, SPOILED[kind], PnpStatus.SOLVED]
    assert s.stop[1] == LmStop.UNSOLVED
    for values in (result.T_camera_object, result.covariance, s.initial_cost, s.final_cost, s.final_damping):
        assert np.isnan(values[1]).all()
    for i in (0, 2):
        np.testing.assert_array_equal(result.T_camera_object[i], expected.T_camera_object[i])
        np.testing.assert_array_equal(result.covariance[i], expected.covariance[i])


def test_an_origin_far_from_the_points_costs_no_accuracy(solver):
    """Points are centred inside: a frame 10 object sizes away converges as well, and the covariance is mapped back."""
    near = make_problems(5, 100, noise_px=1.0, seed=17)
    T_init = perturbed(near.T_camera_object, 0.05, 0.01)
    offset = np.array([3.0, -2.0, 4.0])
    shift = se3.from_rt(np.eye(3), offset)  # near object frame -> far object frame
    config = LmConfig(iterations=30)
    a = solve(solver, near, T_init, config)
    b = solver.weighted_lm(
        near.points_object + offset, near.points_image, near.weights, near.K, T_init @ se3.invert(shift), config
    )
    np.testing.assert_allclose(b.T_camera_object @ shift, a.T_camera_object, atol=1e-8)
    for i in range(5):
        A = np.eye(6)
        A[:3, 3:] = se3.hat(b.T_camera_object[i, :3, :3] @ offset)
        expected = A @ a.covariance[i] @ A.T
        np.testing.assert_allclose(b.covariance[i], expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
