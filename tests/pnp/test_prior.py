"""Levenberg-Marquardt with a prior on the pose, of both backends, against SciPy and against what is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.optimize import least_squares

from benchmarks.pnp_problems import make_problems, perturbed, project
from coop_edge.config import LmConfig
from coop_edge.geometry import se3
from coop_edge.kernels.device import CupyDevice
from coop_edge.pnp import PosePrior
from coop_edge.pnp.base import PnpStatus
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.pnp.cuda import CudaPnpSolver
from tests.cuda_host.host_device import HostDevice
from tests.oracles import pnp_lm
from tests.pnp.cuda_support import arrays_of, to_host

SIGMA = np.array([0.01, 0.01, 0.05, 0.1, 0.15, 0.2])
LONG = LmConfig(iterations=100, cost_tolerance=0.0, step_tolerance=1e-12)


class Backend:
    """A solver; NumPy arrays in and out, those of the prior, lines and depths included."""

    def __init__(self, solver) -> None:
        self.solver = solver
        self.exact = isinstance(solver, CpuPnpSolver)
        self.put = np.asarray if self.exact else solver.device.xp.asarray

    def __call__(self, X, u, w, K, T, config=None, prior=None, lines=None, depths=None):
        held = {"prior": prior, "lines": lines, "depths": depths}
        held = {name: type(given)(*map(self.put, given)) if given else None for name, given in held.items()}
        result = self.solver.weighted_lm(*map(self.put, (X, u, w, K, T)), config, **held)
        return result if self.exact else to_host(self.solver.device, result)


@pytest.fixture(scope="module", params=["cpu", "host", pytest.param("cupy", marks=pytest.mark.gpu)])
def solve(request):
    if request.param == "cpu":
        return Backend(CpuPnpSolver(threads=2))
    return Backend(CudaPnpSolver(HostDevice() if request.param == "host" else CupyDevice()))


def problem(B=5, P=60, seed=0, **options):
    """Arguments of a solver: start poses near the truth, and a prior whose anchor is elsewhere."""
    p = make_problems(B, P, noise_px=1.0, seed=seed, **options)
    anchor = perturbed(p.T_camera_object, 0.1, 0.03)
    centre = p.points_object.mean(axis=1) + (0.01, -0.02, 0.03)
    prior = PosePrior.from_sigmas(anchor, centre, np.tile(SIGMA, (B, 1)))
    start = perturbed(p.T_camera_object, 0.05, 0.02)
    return [p.points_object, p.points_image, p.weights, p.K, start], prior


def correlated(prior, seed=0):
    """The prior with an information that is no diagonal matrix: standard deviations about those given."""
    mix = np.eye(6) + 0.5 * np.random.default_rng(seed).normal(size=prior.information.shape)
    root = mix @ np.sqrt(prior.information)
    return prior._replace(information=np.swapaxes(root, 1, 2) @ root)


def with_sigma(prior, sigma):
    return PosePrior.from_sigmas(prior.T_anchor, prior.centre, sigma)


def whitened(xi, prior):
    """Residuals [B,6] whose squares sum to xi^T information xi."""
    return np.einsum("bji,bj->bi", np.linalg.cholesky(prior.information), xi)


def xi_between(T, prior):
    """xi [B,6] of the contract, from the anchors to poses T."""
    place, expected = (se3.transform(t, prior.centre[:, None])[:, 0] for t in (T, prior.T_anchor))
    return np.concatenate(
        [place - expected, se3.so3_log(T[:, :3, :3] @ np.swapaxes(prior.T_anchor[:, :3, :3], 1, 2))], axis=1
    )


def minimum(X, u, w, K, T, prior):
    """SciPy's minimum for one problem in float64: pose, cost, inverse of J^T J, by derivatives that are numerical."""

    def stacked(xi):
        pose = pnp_lm.step(T, xi)
        seen = w[:, None] * (project(X, pose, K) - u)
        return np.concatenate([seen.ravel(), whitened(xi_between(pose[None], prior), prior)[0]])

    scale = np.r_[np.full(3, 0.1), np.ones(3)]
    options = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "x_scale": scale, "jac": "3-point", "max_nfev": 300}
    found = least_squares(stacked, np.zeros(6), **options)
    at = pnp_lm.step(T, found.x)
    T = at  # derivatives by the tangent vector of the result
    J = least_squares(stacked, np.zeros(6), **{**options, "max_nfev": 1}).jac
    return at, 2 * found.cost, np.linalg.inv(J.T @ J)


def one(prior, i):
    return PosePrior(*(a[i : i + 1] for a in prior))


@pytest.mark.parametrize("points", [0, 1, 2, 3, 60])
@pytest.mark.parametrize("strength", [1.0, 0.03])
@pytest.mark.parametrize("change", [lambda prior: prior, correlated], ids=["diagonal", "correlated"])
def test_agrees_with_scipy_on_the_stacked_residuals(solve, points, strength, change):
    """Strong evidence and weak, many points and none."""
    given, prior = problem(seed=points)
    prior = change(prior)
    given[2] = np.where(np.arange(60) < points, strength, 0.0) * np.linspace(0.5, 1.5, 60) * np.ones((5, 1))
    result = solve(*given, LONG, prior)
    assert (result.statistics.status == PnpStatus.SOLVED).all()
    for i in range(5):
        T, cost, covariance = minimum(*(a[i] for a in given), one(prior, i))
        sigma = np.sqrt(np.diag(covariance))
        found = np.concatenate(
            [result.T_camera_object[i, :3, 3] - T[:3, 3], se3.so3_log(result.T_camera_object[i, :3, :3] @ T[:3, :3].T)]
        )
        # What is left, in standard deviations. FP32: the iteration ends with the first step that promises less than
        # COST_NOISE = 1e-6 of the cost, x = sqrt(1e-6 cost) long; with few points of large residuals steps shrink
        # slowly, and several such steps are left.
        left = 1e-5 if solve.exact else 0.02 if points > 3 else 1e-3 + 10 * np.sqrt(1e-6 * cost)
        assert (np.abs(found) < left * sigma).all()
        np.testing.assert_allclose(result.statistics.final_cost[i], cost, rtol=1e-8 if solve.exact else 1e-4, atol=1e-6)
        scale = np.outer(sigma, sigma)
        np.testing.assert_allclose(result.covariance[i] / scale, covariance / scale, atol=left)


@pytest.mark.parametrize("loss", ["huber", "cauchy"])
def test_a_robust_loss_leaves_the_prior_alone(solve, loss):
    """At the minimum of f(w^2 |r|^2) + |xi / sigma|^2 nothing leads down, by central differences."""
    given, prior = problem(outliers=0.2, weights="unknown", seed=3)
    config = dataclasses.replace(LONG, loss=loss)
    result = solve(*given, config, prior)
    for i in range(5):
        X, u, w, K, _ = (a[i] for a in given)

        def cost(xi, i=i, X=X, u=u, w=w, K=K):
            T = pnp_lm.step(result.T_camera_object[i], xi)
            s = w**2 * ((project(X, T, K) - u) ** 2).sum(axis=1)
            prior_term = (whitened(xi_between(T[None], one(prior, i)), one(prior, i)) ** 2).sum()
            return pnp_lm.robust(s, loss, config.loss_scale_px)[0].sum() + prior_term

        np.testing.assert_allclose(
            result.statistics.final_cost[i], cost(np.zeros(6)), rtol=1e-9 if solve.exact else 1e-5
        )
        h = 1e-2 * np.sqrt(np.diag(result.covariance[i]))
        ahead, behind = (np.array([cost(s * row) for row in np.diag(h)]) for s in (1, -1))
        # In units where the cost is |x|^2, the gradient 2 x of a point that is x standard deviations off. FP32 ends
        # where a step promises 1e-6 of the cost, x = sqrt(1e-6 cost) = 0.02 to 0.03.
        assert (np.abs(ahead - behind) / (2 * 1e-2) < (1e-3 if solve.exact else 0.1)).all()
        assert (np.minimum(ahead, behind) > cost(np.zeros(6)) * (1 - (1e-9 if solve.exact else 2e-6))).all()


def test_without_evidence_the_answer_is_the_anchor(solve):
    given, prior = problem(seed=4)
    given[2] = np.zeros_like(given[2])
    given[0] = np.full_like(given[0], np.nan)
    result = solve(*given, LONG, prior)
    assert (result.statistics.status == PnpStatus.SOLVED).all()
    np.testing.assert_allclose(result.T_camera_object, prior.T_anchor, atol=1e-9)
    np.testing.assert_allclose(result.statistics.final_cost, 0.0, atol=1e-12)
    # xi of the covariance is that of the object's origin, with the prior's at its centre.
    arm = (prior.T_anchor[:, :3, :3] @ prior.centre[..., None])[..., 0]
    A = np.tile(np.eye(6), (5, 1, 1))
    A[:, :3, 3:] = se3.hat(arm)
    np.testing.assert_allclose(result.covariance, A @ np.diag(SIGMA**2) @ np.swapaxes(A, 1, 2), atol=1e-9)
    # And by the default number of iterations, too.
    np.testing.assert_allclose(solve(*given, None, prior).T_camera_object, prior.T_anchor, atol=1e-6)


def test_from_the_other_side_of_the_sphere(solve):
    """179 degrees from the anchor, without evidence: the whole turn is made."""
    given, prior = problem(seed=5)
    turn = se3.so3_exp(np.radians(179.0) * np.array([0.6, 0.0, 0.8]))
    given[4] = given[4].copy()
    given[4][:, :3, :3] = turn @ prior.T_anchor[:, :3, :3]
    given[2] = np.zeros_like(given[2])
    np.testing.assert_allclose(solve(*given, LONG, prior).T_camera_object, prior.T_anchor, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", ["none", "huber"])
def test_an_infinitely_wide_prior_changes_no_bit_of_the_pose(solve, loss, dtype):
    given, prior = problem(8, seed=6)
    given[:3] = (a.astype(dtype) for a in given[:3])
    given[2][1, 2:] = 0  # too few points
    given[4][2, 2, 3] = -3.0  # behind the camera
    given[0][3] = given[0][3, :1]  # one point, many times
    wide = with_sigma(prior, np.full((8, 6), np.inf))
    without, result = solve(*given, LmConfig(loss=loss)), solve(*given, LmConfig(loss=loss), wide)
    found, wanted = arrays_of(result), arrays_of(without)
    unscaled, scaled = found.pop("covariance"), wanted.pop("covariance")
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert wanted["status"].tolist() == [
        0,
        PnpStatus.TOO_FEW_POINTS,
        PnpStatus.BEHIND_CAMERA,
        PnpStatus.DEGENERATE,
        *[0] * 4,
    ]
    np.testing.assert_allclose(unscaled * (wanted["final_cost"] / (2 * 60 - 6))[:, None, None], scaled, rtol=1e-12)


def test_an_infinitely_narrow_prior_is_the_anchor(solve):
    given, prior = problem(seed=7)
    result = solve(*given, LONG, with_sigma(prior, np.full((5, 6), 1e-9)))
    np.testing.assert_allclose(result.T_camera_object, prior.T_anchor, atol=1e-8)


def test_each_axis_is_the_cameras(solve):
    """A prior on depth alone holds depth alone: the other axes are as free as without it."""
    given, prior = problem(seed=8)
    prior.T_anchor[:, 2, 3] += 0.2
    depth = np.full((5, 6), np.inf)
    depth[:, 2] = 3e-5
    xi = xi_between(solve(*given, LONG, with_sigma(prior, depth)).T_camera_object, prior)
    free = xi_between(solve(*given, LONG).T_camera_object, prior)
    assert (np.abs(free[:, 2]) > 0.1).all()
    assert (np.abs(xi[:, 2]) < 0.02 * np.abs(free[:, 2])).all()
    assert (np.abs(xi[:, [0, 1, 3, 4, 5]]).max(axis=1) > 1e-3).all()


def test_which_priors_take_no_points(solve):
    """Those of full rank; with another, three points are wanted as ever."""
    for points in (0, 1, 2):
        given, prior = problem(2, seed=9)
        given[2][:, points:] = 0
        prior.information[1, 5, 5] = 0.0
        assert solve(*given, None, prior).statistics.status.tolist() == [PnpStatus.SOLVED, PnpStatus.TOO_FEW_POINTS]


def test_points_behind_the_camera_alone_fail_even_with_a_prior(solve):
    given, prior = problem(3, seed=10)
    given[4][0, 2, 3] = -3.0
    given[4][1, 2, 3] = -3.0
    given[2][1] = 0
    status = solve(*given, LONG, prior).statistics.status
    assert status.tolist() == [PnpStatus.BEHIND_CAMERA, PnpStatus.SOLVED, PnpStatus.SOLVED]


def test_errors_are_spread_as_the_covariance_says(solve):
    """Truths drawn from the prior, pixels with the noise the weights say: squared Mahalanobis distances average 6."""
    B, P, rng = 400 if solve.exact else 60, 12, np.random.default_rng(11)
    p = make_problems(1, P, noise_px=0, weights="unknown", extent_px=(200.0, 200.0), seed=11)
    X, K, anchor = (np.repeat(a, B, 0) for a in (p.points_object, p.K, p.T_camera_object))
    centre, sigma = X.mean(axis=1), np.array([0.002, 0.002, 0.01, 0.02, 0.02, 0.02])
    xi = rng.normal(size=(B, 6)) * sigma
    R = se3.so3_exp(xi[:, 3:]) @ anchor[:, :3, :3]
    place = se3.transform(anchor, centre[:, None])[:, 0] + xi[:, :3]
    truth = se3.from_rt(R, place - (R @ centre[..., None])[..., 0])
    u = np.array([project(x, T, k) for x, T, k in zip(X, truth, K, strict=True)]) + 3.0 * rng.normal(size=(B, P, 2))
    result = solve(
        X, u, np.full((B, P), 1 / 3.0), K, anchor, None, PosePrior.from_sigmas(anchor, centre, np.tile(sigma, (B, 1)))
    )
    T = result.T_camera_object
    off = np.concatenate([T[:, :3, 3] - truth[:, :3, 3], se3.so3_log(T[:, :3, :3] @ np.swapaxes(R, 1, 2))], axis=1)
    squared = np.einsum("bi,bij,bj->b", off, np.linalg.inv(result.covariance), off)
    assert abs(squared.mean() - 6) < 4 * np.sqrt(12 / B)  # standard errors


def test_alone_and_in_a_batch(solve):
    given, prior = problem(6, seed=12)
    together = solve(*given, None, prior)
    for i in (0, 3, 5):
        alone = arrays_of(solve(*(a[i : i + 1] for a in given), None, one(prior, i)))
        for name, value in arrays_of(together).items():
            np.testing.assert_array_equal(alone[name][0], value[i], err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gpu_agrees_with_the_cpu_on_weak_evidence(dtype):
    """Single points, weak weights, far anchors: where the prior decides, the sums are FP64 on both."""
    given, prior = problem(6, 400, seed=19, shape="mixed")
    given[:3] = (a.astype(dtype) for a in given[:3])
    given[2] *= np.array([1.0, 1e-1, 1e-2, 1e-3, 1e-4, 0.0], dtype)[:, None]
    cpu = CpuPnpSolver(1).weighted_lm(*given, LONG, prior=prior)
    gpu = CudaPnpSolver(HostDevice()).weighted_lm(*given, LONG, prior=prior)
    sigma = np.sqrt(np.diagonal(cpu.covariance, axis1=1, axis2=2))
    off = xi_between(gpu.T_camera_object, prior) - xi_between(cpu.T_camera_object, prior)
    assert (np.abs(off) < 1e-3 * sigma.max(axis=1, keepdims=True)).all()
    np.testing.assert_allclose(gpu.statistics.final_cost, cpu.statistics.final_cost, rtol=1e-4, atol=1e-9)
