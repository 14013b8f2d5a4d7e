"""Lines beside points in Levenberg-Marquardt, of both backends: SciPy's minima, statuses, shapes, batches."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from benchmarks.pnp_problems import make_problems, perturbed, project
from coop_edge.config import LmConfig
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.pnp import LineTargets, weighted_lm
from coop_edge.pnp.base import LmStop, PnpStatus
from coop_edge.pnp.cpu import CpuPnpSolver
from tests.oracles import pnp_lm
from tests.pnp.cuda_support import arrays_of, assert_same_bits
from tests.pnp.test_prior import LONG, correlated, one, problem, solve, whitened, xi_between  # noqa: F401


def mixed(B=4, P=30, L=40, seed=0, noise_px=1.0, **options):
    """Arguments of a solver, a prior and lines of the same objects: pixels slid along the lines, unequal weights."""
    given, prior = problem(B, P, seed=seed, **options)
    truth = make_problems(B, P, noise_px=noise_px, seed=seed, **options).T_camera_object
    rng = np.random.default_rng([seed, 1])
    X = make_problems(B, max(L, 8), noise_px=0, seed=seed, **options).points_object[:, :L]
    angle = rng.uniform(0, 2 * np.pi, (B, L))
    n = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    along = np.stack([-n[..., 1], n[..., 0]], axis=-1) * rng.uniform(-30, 30, (B, L, 1))
    u = project(X, truth, given[3]) + along + noise_px * rng.normal(size=(B, L, 1)) * n
    return given, prior, LineTargets(X, u, n, rng.uniform(0.3, 1.5, (B, L)))


def item(lines, i):
    return LineTargets(*(a[i : i + 1] for a in lines))


def stacked(given, lines, prior, i):
    """The residuals of problem i as a function of the pose, by their definitions."""
    X, u, w, K, _ = (a[i] for a in given)
    Y, v, n, q = (a[i] for a in lines)

    def residuals(T):
        across = q * (n * (project(Y, T, K) - v)).sum(axis=1)
        held = [] if prior is None else whitened(xi_between(T[None], one(prior, i)), one(prior, i))[0]
        return np.concatenate([(w[:, None] * (project(X, T, K) - u)).ravel(), across, held])

    return residuals


def scipy_minimum(residuals, start):
    """Pose, cost and J^T J there, by numerical derivatives."""
    options = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "x_scale": [0.1] * 3 + [1] * 3, "jac": "3-point"}
    T = start
    for _ in range(3):  # from the pose found, so that the last derivatives are by its own tangent vector
        found = least_squares(lambda xi, at=T: residuals(pnp_lm.step(at, xi)), np.zeros(6), max_nfev=300, **options)
        T = pnp_lm.step(T, found.x)
    return T, 2 * found.cost, found.jac.T @ found.jac


@pytest.mark.parametrize("change", [None, lambda prior: prior, correlated], ids=["alone", "prior", "correlated"])
@pytest.mark.parametrize(("points", "lines"), [(30, 40), (0, 40), (2, 5), (1, 60), (30, 1)])
def test_agrees_with_scipy_on_the_stacked_residuals(solve, points, lines, change):  # noqa: F811
    given, prior, across = mixed(P=30, L=max(lines, 1), seed=points + lines)
    given[2] = np.where(np.arange(30) < points, given[2], 0.0)
    prior = change(prior) if change else None
    result = solve(*given, LONG, prior, across)
    assert (result.statistics.status == PnpStatus.SOLVED).all()
    for i in range(4):
        T, cost, information = scipy_minimum(stacked(given, across, prior, i), result.T_camera_object[i])
        variance = 1.0 if prior else cost / (2 * points + lines - 6)
        covariance = np.linalg.inv(information) * variance
        sigma = np.sqrt(np.diag(covariance))
        left = 1e-5 if solve.exact else 0.02
        moved = result.T_camera_object[i, :3, 3] - T[:3, 3]
        turned = se3.so3_log(result.T_camera_object[i, :3, :3] @ T[:3, :3].T)
        # What is left, in standard deviations; test_prior.py says why FP32 leaves more where residuals are large.
        slack = left + (0 if solve.exact else 10 * np.sqrt(1e-6 * cost / variance))
        assert (np.abs(np.concatenate([moved, turned])) < slack * sigma).all()
        np.testing.assert_allclose(result.statistics.final_cost[i], cost, rtol=1e-8 if solve.exact else 1e-4, atol=1e-6)
        scale = np.outer(sigma, sigma)
        np.testing.assert_allclose(result.covariance[i] / scale, covariance / scale, atol=2e-5 if solve.exact else 0.02)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", ["none", "huber", "cauchy"])
@pytest.mark.parametrize("points", [20, 0])
def test_goes_the_oracles_way(solve, loss, dtype, points):  # noqa: F811
    given, _, lines = mixed(P=20, L=40, seed=3)
    given[:3] = (a[:, :points].astype(dtype) for a in given[:3])
    lines = LineTargets(*(a.astype(dtype) for a in lines))
    lines.weights[:, 5:9] = 0
    lines.pixels[:, 10:13] += 40  # outliers, for the robust losses
    config = LmConfig(loss=loss)
    result = solve(*given, config, None, lines)
    s = result.statistics
    for i in range(4):
        T, covariance, *numbers = pnp_lm.weighted_lm(
            *(a[i].astype(float) for a in given), config, [a[i].astype(float) for a in lines]
        )
        ours = [s.initial_cost[i], s.final_cost[i], s.iterations[i], s.final_damping[i], s.stop[i]]
        if solve.exact:
            np.testing.assert_allclose(result.T_camera_object[i], T, atol=1e-9)
            np.testing.assert_allclose(
                result.covariance[i], covariance, rtol=1e-6, atol=1e-9 * np.abs(covariance).max()
            )
            np.testing.assert_allclose(ours, [float(x) for x in numbers], rtol=1e-8)
        else:
            np.testing.assert_allclose(ours[:2], numbers[:2], rtol=1e-4)


def test_finds_the_truth_by_lines_alone(solve):  # noqa: F811
    given, _, lines = mixed(P=5, L=60, seed=4, noise_px=0.0)
    truth = make_problems(4, 5, noise_px=0, seed=4).T_camera_object
    result = solve(*(a[:, :0] for a in given[:3]), given[3], perturbed(truth, 0.05, 0.02), LONG, None, lines)
    np.testing.assert_allclose(result.T_camera_object, truth, atol=1e-9 if solve.exact else 2e-6)


def test_the_place_along_a_line_does_not_matter(solve):  # noqa: F811
    given, _, lines = mixed(seed=5)
    along = np.stack([-lines.normals[..., 1], lines.normals[..., 0]], axis=-1)
    slid = lines._replace(pixels=lines.pixels + 50.0 * along)
    a, b = solve(*given, LONG, None, lines), solve(*given, LONG, None, slid)
    np.testing.assert_allclose(a.T_camera_object, b.T_camera_object, atol=1e-9 if solve.exact else 1e-5)


@pytest.mark.parametrize(("B", "P", "L"), [(0, 0, 0), (0, 3, 4), (3, 0, 0), (3, 5, 0), (3, 0, 5), (3, 2, 1)])
def test_empty_and_too_few(solve, B, P, L):  # noqa: F811
    lines = LineTargets(np.ones((B, L, 3)), np.zeros((B, L, 2)), np.ones((B, L, 2)), np.ones((B, L)))
    T = np.tile(se3.from_rt(np.eye(3), [0, 0, 1.0]), (B, 1, 1))
    weights = np.full((B, P), 1.0 if P < 5 else 0.0)
    result = solve(np.ones((B, P, 3)), np.zeros((B, P, 2)), weights, np.eye(3), T, None, None, lines)
    assert result.T_camera_object.shape == (B, 4, 4)
    assert (result.statistics.status == PnpStatus.TOO_FEW_POINTS).all()
    assert (result.statistics.stop == LmStop.UNSOLVED).all()


def test_no_lines_are_as_none_at_all(solve):  # noqa: F811
    given, prior, lines = mixed(seed=6)
    none = solve(*given, None, prior)
    assert_same_bits(solve(*given, None, prior, LineTargets(*(a[:, :0] for a in lines))), none)
    assert_same_bits(solve(*given, None, prior, lines._replace(weights=0 * lines.weights)), none)


def test_a_pose_takes_six_residuals_and_an_incomplete_prior_is_none_of_them(solve):  # noqa: F811
    for points, lines, enough in (
        (3, 0, 1),
        (2, 2, 1),
        (1, 4, 1),
        (0, 6, 1),
        (2, 1, 0),
        (1, 3, 0),
        (0, 5, 0),
        (0, 0, 0),
    ):
        given, prior, across = mixed(2, seed=7)
        given[2][:, points:] = 0
        across.weights[:, lines:] = 0
        prior.information[:, 5, 5] = 0.0
        for held in (None, prior):
            status = solve(*given, None, held, across).statistics.status
            assert (status == (PnpStatus.SOLVED if enough else PnpStatus.TOO_FEW_POINTS)).all(), (points, lines)


def test_failures_say_why_and_disturb_no_other(solve):  # noqa: F811
    given, _, lines = mixed(9, seed=8)
    X, u, n, w = lines
    X[1, 3, 1], u[2, 3, 0], n[3, 3, 1], w[4, 3], w[5, 3] = np.nan, np.inf, np.nan, -1.0, np.nan
    X[6, 3], u[6, 3], n[6, 3], w[6, 3] = np.nan, np.nan, np.nan, 0.0  # not looked at
    given[4][7, 2, 3] = -3.0
    given[2][8] = 0
    X[8] = X[8, :1]  # one point on many lines
    result = solve(*given, None, None, lines)
    bad = PnpStatus.NON_FINITE
    assert result.statistics.status.tolist() == [0, *[bad] * 5, 0, PnpStatus.BEHIND_CAMERA, PnpStatus.DEGENERATE]
    assert np.isnan(result.T_camera_object[[1, 2, 3, 4, 5, 7, 8]]).all()
    assert np.isfinite(result.T_camera_object[[0, 6]]).all()


def test_lines_behind_the_camera_take_no_part(solve):  # noqa: F811
    given, _, lines = mixed(2, seed=9)
    T = given[4]
    behind = -np.linalg.inv(T[:, :3, :3]) @ (T[:, :3, 3, None] + [[0.0], [0.0], [1.0]])
    lines.points[:, 0] = behind[..., 0]  # 1 m behind
    without = lines._replace(weights=lines.weights * (np.arange(40) > 0))
    assert_same_bits(solve(*given, None, None, lines), solve(*given, None, None, without))


@pytest.mark.parametrize("points", [30, 0])
def test_alone_and_in_a_batch(solve, points):  # noqa: F811
    given, prior, lines = mixed(6, seed=10)
    given[:3] = (a[:, :points] for a in given[:3])
    together = arrays_of(solve(*given, None, prior, lines))
    for i in (0, 3, 5):
        alone = arrays_of(solve(*(a[i : i + 1] for a in given), None, one(prior, i), item(lines, i)))
        for name, value in together.items():
            np.testing.assert_array_equal(alone[name][0], value[i], err_msg=name)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("points", lambda a: a[:2], r"lines.points: wanted \[4,40,3\] to go with points_object, got \[2, 40, 3\]"),
        ("points", lambda a: a[..., :2], r"lines.points: wanted an array \[B,N,3\]"),
        ("pixels", lambda a: a[:, :5], r"lines.pixels: wanted an array \[B,40,2\], got shape \(4, 5, 2\)"),
        ("normals", lambda a: a[..., 0], r"lines.normals: wanted an array \[B,40,2\]"),
        ("weights", lambda a: a[..., None], r"lines.weights: wanted an array \[B,40\]"),
        ("weights", lambda a: a.astype(complex), "lines.weights: wanted real numbers, got dtype complex128"),
    ],
)
def test_wrong_shapes_say_what_was_wanted(solve, name, change, message):  # noqa: F811
    given, _, lines = mixed(seed=11)
    with pytest.raises(InputError, match=message):
        solve(*given, None, None, lines._replace(**{name: change(getattr(lines, name))}))


def test_something_else_than_lines_is_refused(solve):  # noqa: F811
    given, _, lines = mixed(seed=11)
    with pytest.raises(InputError, match="lines: wanted LineTargets or None, got tuple"):
        solve.solver.weighted_lm(*map(solve.put, given), None, lines=tuple(map(solve.put, lines)))


def test_the_modules_function_takes_them_and_nothing_is_written_to():
    given, prior, lines = mixed(seed=12)
    for a in (*given, *prior, *lines):
        a.flags.writeable = False
    result = weighted_lm(*given, prior=prior, lines=lines)
    assert_same_bits(result, CpuPnpSolver(1).weighted_lm(*given, prior=prior, lines=lines))
