"""Differentiable PnP against scipy, the package's own solver, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

from coop_edge.config import LmConfig
from coop_edge.geometry import se3
from coop_edge.pnp import weighted_lm
from export.train.differentiable_pnp import hat, limit_gradient, so3_exp, solve_pnp


def problem(rng, batch=3, points=40, noise_px=0.0, perturb=1.0):
    """Points of a 10 cm object at 0.5 m, its true pose, and a start 10 degrees and 1, 1, 3 cm off."""
    X = rng.uniform(-0.05, 0.05, (batch, points, 3))
    T = se3.from_rt(
        se3.random_rotation(rng, (batch,)), rng.uniform((-0.02, -0.02, 0.45), (0.02, 0.02, 0.55), (batch, 3))
    )
    K = np.broadcast_to([[420.0, 0, 63.5], [0, 410.0, 63.5], [0, 0, 1]], (batch, 3, 3)).copy()
    p = se3.transform(T, X) @ np.swapaxes(K, 1, 2)
    u = p[..., :2] / p[..., 2:] + noise_px * rng.normal(size=(batch, points, 2))
    w = rng.uniform(0.1, 1.0, (batch, points))
    xi = perturb * rng.normal(size=(batch, 6)) * (0.01, 0.01, 0.03, 0.15, 0.15, 0.15)
    start = se3.from_rt(se3.so3_exp(xi[:, 3:]) @ T[:, :3, :3], T[:, :3, 3] + xi[:, :3])
    return X, u, w, K, start, T


def tensors(*arrays):
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)


def by_scipy(X, u, w, K, start):
    """The minimiser for one problem, over the left perturbation of the contract."""

    def pose(xi):
        return se3.so3_exp(xi[3:]) @ start[:3, :3], start[:3, 3] + xi[:3]

    def residual(xi):
        R, t = pose(xi)
        p = (X @ R.T + t) @ K.T
        return ((p[:, :2] / p[:, 2:] - u) * w[:, None]).ravel()

    return pose(least_squares(residual, np.zeros(6), xtol=1e-15, ftol=1e-15, gtol=1e-15).x)


def test_so3_exp_equals_the_package_and_is_smooth_at_zero():
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(50, 3)) * np.geomspace(1e-9, 3, 50)[:, None]
    np.testing.assert_allclose(so3_exp(torch.from_numpy(phi)).numpy(), se3.so3_exp(phi), atol=1e-15)
    np.testing.assert_allclose(hat(torch.from_numpy(phi)).numpy(), se3.hat(phi))
    for scale in (0.0, 1e-3, 0.0099, 0.0101, 1.0):
        x = torch.tensor([[0.6, -0.8, 0.1]], dtype=torch.float64) * scale
        assert torch.autograd.gradcheck(so3_exp, x.requires_grad_())


def test_the_minimiser_is_scipys():
    rng = np.random.default_rng(1)
    X, u, w, K, start, _ = problem(rng, noise_px=1.0)
    solution = solve_pnp(*tensors(X, u, w, K, start), lm_steps=30)
    assert solution.valid.all()
    for i in range(len(X)):
        R, t = by_scipy(X[i], u[i], w[i], K[i], start[i])
        np.testing.assert_allclose(solution.R[i].numpy(), R, atol=1e-8)
        np.testing.assert_allclose(solution.t[i].numpy(), t, atol=1e-8)


def test_the_minimiser_is_that_of_the_packages_own_solver():
    rng = np.random.default_rng(2)
    X, u, w, K, start, _ = problem(rng, batch=5, noise_px=1.0)
    w[:, :7] = 0
    X[:, :7] = np.nan
    solution = solve_pnp(*tensors(X, u, w, K, start), lm_steps=30)
    result = weighted_lm(X, u, w, K, start, LmConfig(iterations=50))
    np.testing.assert_allclose(solution.R.numpy(), result.T_camera_object[:, :3, :3], atol=1e-7)
    np.testing.assert_allclose(solution.t.numpy(), result.T_camera_object[:, :3, 3], atol=1e-7)


def test_three_steps_and_one_recover_the_pose_of_clean_points():
    rng = np.random.default_rng(3)
    X, u, w, K, start, T = problem(rng, batch=20)
    solution = solve_pnp(*tensors(X, u, w, K, start))
    assert solution.valid.all()
    before = np.linalg.norm(start[:, :3, 3] - T[:, :3, 3], axis=1)
    after = np.linalg.norm(solution.t.numpy() - T[:, :3, 3], axis=1)
    assert np.median(after) < 1e-6
    assert (after < 0.1 * before).all()


@pytest.mark.parametrize("lm_steps", [0])
def test_the_gauss_newton_step_passes_gradcheck(lm_steps):
    """Without steps in front, what is differentiated is the whole function."""
    X, u, w, K, start, _ = tensors(*problem(np.random.default_rng(4), batch=2, points=6, noise_px=2.0, perturb=0.3))

    def step(image, weights):
        solution = solve_pnp(X, image, weights, K, start, lm_steps)
        assert solution.valid.all()
        return solution.R, solution.t

    assert torch.autograd.gradcheck(step, (u.requires_grad_(), w.requires_grad_()), eps=1e-6, atol=1e-6, rtol=1e-4)


def test_at_zero_residual_the_gradient_is_that_of_the_minimiser():
    """Implicit function theorem: finite differences of scipy's converged answer equal the one-step derivative."""
    X, u, w, K, start, _ = problem(np.random.default_rng(5), batch=1, points=12)
    image = torch.from_numpy(u).requires_grad_()
    solution = solve_pnp(*tensors(X), image, *tensors(w, K, start), lm_steps=30)
    for axis in range(3):
        (gradient,) = torch.autograd.grad(solution.t[0, axis], image, retain_graph=True)
        for point in (0, 5):
            for side in range(2):
                moved = [u[0].copy(), u[0].copy()]
                for sign, m in zip((1, -1), moved, strict=True):
                    m[point, side] += sign * 1e-3
                t = [by_scipy(X[0], m, w[0], K[0], start[0])[1][axis] for m in moved]
                assert gradient[0, point, side].item() == pytest.approx((t[0] - t[1]) / 2e-3, rel=1e-3, abs=1e-9)


def test_weights_learn_to_distrust_an_outlier():
    """The sensitivity's only teacher: the pose error must fall when an outlier's weight does."""
    X, u, w, K, start, T = problem(np.random.default_rng(6), batch=1)
    u[0, 0] += 30
    weights = torch.from_numpy(w).requires_grad_()
    solution = solve_pnp(*tensors(X, u), weights, *tensors(K, start))
    error = (solution.t - torch.from_numpy(T[:, :3, 3])).abs().sum() + (
        solution.R - torch.from_numpy(T[:, :3, :3])
    ).abs().sum()
    error.backward()
    assert weights.grad[0, 0] > 0
    assert weights.grad[0, 0] > 3 * weights.grad[0, 1:].abs().max()


def test_an_empty_batch_is_legal():
    solution = solve_pnp(
        *(torch.zeros(s, dtype=torch.float64) for s in [(0, 9, 3), (0, 9, 2), (0, 9), (0, 3, 3), (0, 4, 4)])
    )
    assert solution.R.shape == (0, 3, 3)
    assert solution.t.shape == (0, 3)
    assert solution.valid.shape == (0,)


def test_what_cannot_be_solved_is_said_and_leaves_no_gradient():
    X, u, w, K, start, _ = problem(np.random.default_rng(7), batch=5)
    w[0] = 0  # nothing to go by
    w[1, 2:] = 0  # two points
    X[2] = X[2, :1]  # one point, many times
    start[3, 2, 3] = -0.5  # behind the camera
    image, weights = (torch.from_numpy(a).requires_grad_() for a in (u, w))
    solution = solve_pnp(*tensors(X), image, weights, *tensors(K, start))
    assert solution.valid.tolist() == [False, False, False, False, True]
    np.testing.assert_array_equal(solution.t[:4].detach().numpy(), start[:4, :3, 3])
    (solution.R.sum() + solution.t.sum()).backward()
    for gradient in (image.grad, weights.grad):
        assert torch.isfinite(gradient).all()
        assert (gradient[:4] == 0).all()
        assert (gradient[4] != 0).any()


def test_masked_points_may_hold_nan_and_do_not_leak_into_the_gradient():
    X, u, w, K, start, _ = problem(np.random.default_rng(8), batch=2)
    clean = solve_pnp(*tensors(X[:, 5:], u[:, 5:], w[:, 5:], K, start))
    X[:, :5], u[:, :5], w[:, :5] = np.nan, np.nan, 0.0
    image, weights = (torch.from_numpy(a).requires_grad_() for a in (u, w))
    dirty = solve_pnp(*tensors(X), image, weights, *tensors(K, start))
    np.testing.assert_allclose(dirty.t.detach().numpy(), clean.t.numpy(), rtol=1e-12)
    dirty.t.sum().backward()
    assert torch.isfinite(image.grad).all()
    assert torch.isfinite(weights.grad).all()


def test_limit_gradient_changes_nothing_but_long_gradients():
    x = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = limit_gradient(x, 2.0)
    assert torch.equal(x, y)
    gradient = torch.zeros(3, 2, 4, dtype=torch.float64)
    gradient[0, 0, 0], gradient[1, 1, 2], gradient[1, 0, 0] = 1.5, 30.0, 40.0  # norms 1.5, 50, 0
    y.backward(gradient)
    torch.testing.assert_close(x.grad[0], gradient[0])
    torch.testing.assert_close(x.grad[1], gradient[1] * 2 / 50)
    assert (x.grad[2] == 0).all()
    empty = torch.zeros(0, 5, requires_grad=True)
    limit_gradient(empty, 1.0).sum().backward()
    assert empty.grad.shape == (0, 5)
