"""Measured depths beside points and lines in Levenberg-Marquardt, of both backends: SciPy's minima, derivatives."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.pnp_problems import make_problems, perturbed
from coop_edge.config import LmConfig
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.pnp import DepthTargets, weighted_lm
from coop_edge.pnp.base import PnpStatus
from coop_edge.pnp.depths import add_depths
from coop_edge.pnp.normal_equations import LOSSES, SUMS
from tests.oracles import pnp_lm
from tests.pnp.cuda_support import assert_same_bits
from tests.pnp.test_lines import item, mixed, scipy_minimum, stacked
from tests.pnp.test_prior import LONG, solve  # noqa: F401

UPPER = np.triu_indices(6)
SCALE = 2.0


def depths_of(B=4, D=50, seed=0, noise=0.002, **options):
    """Places measured along random normals, slid along the surfaces, of the objects of ``make_problems``."""
    p = make_problems(B, max(D, 8), noise_px=0, seed=seed, **options)
    rng, X = np.random.default_rng([seed, 2]), p.points_object[:, :D]
    n = rng.normal(size=(B, D, 3))
    n /= np.linalg.norm(n, axis=-1, keepdims=True)
    slide = rng.normal(size=(B, D, 3)) * 0.02
    slide -= (slide * n).sum(axis=-1, keepdims=True) * n
    places = se3.transform(p.T_camera_object, X) + slide + noise * rng.normal(size=(B, D, 1)) * n
    return DepthTargets(X, places, n, rng.uniform(200, 800, (B, D)))


def with_depths(given, lines, prior, depths, i):
    """The residuals of problem i as a function of the pose, by their definitions."""
    others = stacked(given, lines, prior, i)
    X, q, n, w = (a[i] for a in depths)
    return lambda T: np.concatenate([others(T), w * (n * (se3.transform(T, X) - q)).sum(axis=1)])


@pytest.mark.parametrize("loss", LOSSES)
def test_sums_are_those_of_the_residual_and_its_numerical_derivative(loss):
    p = make_problems(40, 1, noise_px=0, seed=1)
    T = perturbed(p.T_camera_object, 0.1, 0.03)
    X, q, n, w = (a[:, 0] for a in depths_of(40, 1, seed=1))

    def residual(i, xi):
        return w[i] * n[i] @ (se3.transform(pnp_lm.step(T[i], xi), X[i : i + 1])[0] - q[i])

    for i in range(40):
        sums, S = np.zeros(SUMS), np.array([[*X[i], n[i] @ q[i], 0.0, w[i] ** 2, *n[i]]]).T.copy()
        add_depths(S, T[i, :3, :3].copy(), T[i, :3, 3].copy(), LOSSES[loss], SCALE, sums)
        J = np.array([(residual(i, row) - residual(i, -row)) / 2e-6 for row in 1e-6 * np.eye(6)])
        r = residual(i, np.zeros(6))
        cost, slope = pnp_lm.robust(np.array([r**2]), loss, SCALE)
        size = np.abs(J).max()
        np.testing.assert_allclose(sums[:21], slope[0] * np.outer(J, J)[UPPER], atol=1e-6 * slope[0] * size**2)
        np.testing.assert_allclose(sums[21:27], slope[0] * J * r, atol=1e-6 * slope[0] * size * abs(r))
        np.testing.assert_allclose(sums[27], cost[0], rtol=1e-9)


def test_a_depth_behind_makes_the_cost_infinite():
    S, sums = np.ones((9, 1)), np.zeros(SUMS)
    add_depths(S, np.eye(3), np.array([0.0, 0.0, -1.0]), 0, SCALE, sums)
    assert sums[27] == np.inf


@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize(("points", "lines"), [(30, 40), (30, 0), (0, 0), (2, 5)])
def test_agrees_with_scipy_on_the_stacked_residuals(solve, points, lines, with_prior):  # noqa: F811
    given, prior, across = mixed(P=30, L=40, seed=points + lines)
    prior = prior if with_prior else None
    given[2] = np.where(np.arange(30) < points, given[2], 0.0)
    across = across._replace(weights=np.where(np.arange(40) < lines, across.weights, 0.0))
    depths = depths_of(seed=points + lines)
    result = solve(*given, LONG, prior, across if lines else None, depths)
    assert (result.statistics.status == PnpStatus.SOLVED).all()
    for i in range(4):
        T, cost, information = scipy_minimum(with_depths(given, across, prior, depths, i), result.T_camera_object[i])
        variance = 1.0 if prior else cost / (2 * points + lines + 50 - 6)
        covariance = np.linalg.inv(information) * variance
        sigma = np.sqrt(np.diag(covariance))
        moved = result.T_camera_object[i, :3, 3] - T[:3, 3]
        turned = se3.so3_log(result.T_camera_object[i, :3, :3] @ T[:3, :3].T)
        slack = 1e-5 if solve.exact else 0.02 + 10 * np.sqrt(1e-6 * cost / variance)
        assert (np.abs(np.concatenate([moved, turned])) < slack * sigma).all()
        np.testing.assert_allclose(result.statistics.final_cost[i], cost, rtol=1e-8 if solve.exact else 1e-4)
        scale = np.outer(sigma, sigma)
        np.testing.assert_allclose(result.covariance[i] / scale, covariance / scale, atol=2e-5 if solve.exact else 0.02)


def test_finds_the_truth_by_depths_alone(solve):  # noqa: F811
    truth, depths = make_problems(4, 50, noise_px=0, seed=4).T_camera_object, depths_of(seed=4, noise=0.0)
    K = make_problems(4, 50, noise_px=0, seed=4).K
    nothing = [np.zeros((4, 0, *k)) for k in ((3,), (2,), ())]
    result = solve(*nothing, K, perturbed(truth, 0.05, 0.02), LONG, None, None, depths)
    np.testing.assert_allclose(result.T_camera_object, truth, atol=1e-9 if solve.exact else 2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_depths_and_those_of_weight_0_change_no_bit(solve, dtype):  # noqa: F811
    given, prior, lines = mixed(seed=6)
    given[:3] = (a.astype(dtype) for a in given[:3])
    lines = type(lines)(*(a.astype(dtype) for a in lines))
    nothing = DepthTargets(*(a[:, :0].astype(dtype) for a in depths_of()))
    blank = DepthTargets(*(np.full_like(a, np.nan, dtype) for a in depths_of(D=20)))
    blank.weights[...] = 0
    config = LmConfig(loss="huber")
    wanted = solve(*given, config, prior, lines)
    assert_same_bits(solve(*given, config, prior, lines, nothing), wanted)
    if solve.exact:  # a problem's blocks on a GPU are a function of the number of its targets
        assert_same_bits(solve(*given, config, prior, lines, blank), wanted)


def test_a_problem_does_not_depend_on_its_batch(solve):  # noqa: F811
    given, prior, lines = mixed(seed=7)
    depths = depths_of(seed=7)
    whole = solve(*given, LmConfig(), prior, lines, depths)
    for i in range(4):
        one = slice(i, i + 1)
        alone = solve(
            *(a[one] for a in given), LmConfig(), type(prior)(*(a[one] for a in prior)), item(lines, i),
            DepthTargets(*(a[one] for a in depths)),
        )  # fmt: skip
        np.testing.assert_array_equal(alone.T_camera_object[0], whole.T_camera_object[i])
        np.testing.assert_array_equal(alone.covariance[0], whole.covariance[i])


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda d: d.points[0, 3].fill(np.nan), PnpStatus.NON_FINITE),
        (lambda d: d.places[0, 3].fill(np.inf), PnpStatus.NON_FINITE),
        (lambda d: d.normals[0, 3].fill(np.nan), PnpStatus.NON_FINITE),
        (lambda d: d.weights[0, 3:4].fill(-1.0), PnpStatus.NON_FINITE),
        (lambda d: d.weights[0, 5:].fill(0.0), PnpStatus.TOO_FEW_POINTS),
        (lambda d: d.points[0].__isub__((0.0, 0.0, 100.0)), PnpStatus.BEHIND_CAMERA),
    ],
)
def test_statuses(solve, change, status):  # noqa: F811
    p = make_problems(2, 50, noise_px=0, seed=8)
    T = np.tile(np.eye(4), (2, 1, 1))
    T[:, 2, 3] = 1.0
    depths = depths_of(2, 50, seed=8)
    change(depths)
    nothing = [np.zeros((2, 0, *k)) for k in ((3,), (2,), ())]
    result = solve(*nothing, p.K, T, LmConfig(), None, None, depths)
    assert result.statistics.status[0] == status
    assert np.isnan(result.T_camera_object[0]).all()
    assert result.statistics.status[1] == PnpStatus.SOLVED


def test_refuses_other_shapes():
    given, _, _ = mixed(seed=9)
    depths = depths_of(seed=9)
    with pytest.raises(InputError, match=r"depths.places: wanted an array \[B,50,3\], got shape \(4, 49, 3\)"):
        weighted_lm(*given, depths=depths._replace(places=depths.places[:, 1:]))
    with pytest.raises(InputError, match="depths: wanted DepthTargets or None, got tuple"):
        weighted_lm(*given, depths=tuple(depths))
