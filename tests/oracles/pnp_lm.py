"""Weighted Levenberg-Marquardt of ``coop_edge.pnp``, one problem, NumPy float64: short, slow, straight."""

from __future__ import annotations

import numpy as np

from coop_edge.config import LmConfig
from coop_edge.geometry import se3
from coop_edge.pnp.base import LmStop

MIN_DEPTH = 1e-6


def step(T, xi):
    """The retraction of the contract: R <- Exp(phi) R, t <- t + rho, with xi = (rho, phi)."""
    return se3.from_rt(se3.so3_exp(xi[3:]) @ T[:3, :3], T[:3, 3] + xi[:3])


def residuals(T, X, u, K):
    """pi(K (R X + t)) - u, [n,2], and the depths [n]."""
    p = (X @ T[:3, :3].T + T[:3, 3]) @ K.T
    return p[:, :2] / p[:, 2:] - u, p[:, 2]


def jacobian(T, X, K):
    """d r / d xi at xi = 0, [n,2,6]."""
    rotated = X @ T[:3, :3].T
    p = rotated + T[:3, 3]
    J = np.zeros((len(X), 2, 6))
    for i, (x, y, z) in enumerate(p):
        projection = K[:2, :2] @ np.array([[1 / z, 0, -x / z**2], [0, 1 / z, -y / z**2]])
        J[i, :, :3] = projection
        J[i, :, 3:] = projection @ -se3.hat(rotated[i])
    return J


def robust(s, loss, scale):
    """f(s) and f'(s) of s = w^2 |r|^2."""
    d2 = scale**2
    if loss == "huber":
        safe = np.where(s > d2, s, 1.0)
        return np.where(s > d2, 2 * scale * np.sqrt(safe) - d2, s), np.where(s > d2, scale / np.sqrt(safe), 1.0)
    if loss == "cauchy":
        return d2 * np.log1p(s / d2), 1 / (1 + s / d2)
    return s, np.ones_like(s)


def normal_equations(T, X, u, w, K, config):
    """cost, H, g at T; an infinite cost if a point is not in front."""
    r, z = residuals(T, X, u, K)
    if (z <= MIN_DEPTH).any():
        return np.inf, None, None
    f, slope = robust(w**2 * (r**2).sum(1), config.loss, config.loss_scale_px)
    J = jacobian(T, X, K)
    weight = w**2 * slope
    return f.sum(), np.einsum("n,nia,nib->ab", weight, J, J), np.einsum("n,nia,ni->a", weight, J, r)


def weighted_lm(X, u, w, K, T_init, config: LmConfig = LmConfig()):  # noqa: B008 (frozen)
    """One problem: (T, covariance, initial cost, final cost, iterations, damping, stop)."""
    used = w > 0
    used[used] = residuals(T_init, X[used], u[used], K)[1] > MIN_DEPTH
    X, u, w = X[used], u[used], w[used]
    c = (w**2 @ X) / (w**2).sum()
    X = X - c
    T = se3.from_rt(T_init[:3, :3], T_init[:3, :3] @ c + T_init[:3, 3])
    damping, stop, iterations = config.damping, LmStop.ITERATIONS, 0
    cost, H, g = normal_equations(T, X, u, w, K, config)
    initial = cost
    while iterations < config.iterations:
        iterations += 1
        xi = np.linalg.solve(H + damping * np.diag(np.diag(H)), -g)
        if max(np.linalg.norm(xi[3:]), np.linalg.norm(xi[:3]) / np.linalg.norm(T[:3, 3])) < config.step_tolerance:
            stop = LmStop.STEP
            break
        trial = normal_equations(step(T, xi), X, u, w, K, config)
        if trial[0] < cost:
            T, previous = step(T, xi), cost
            cost, H, g = trial
            damping = max(damping / config.damping_down, 1e-12)
            if previous - cost < config.cost_tolerance * previous:
                stop = LmStop.COST
                break
        else:
            damping = max(damping, 1e-12) * config.damping_up
            if damping > 1e12:
                stop = LmStop.DAMPING
                break
    n = len(X)
    with np.errstate(divide="ignore", invalid="ignore"):
        covariance = np.linalg.inv(H) * np.float64(cost) / (2 * n - 6)
    A = np.eye(6)
    A[:3, 3:] = se3.hat(T[:3, :3] @ c)
    T = se3.from_rt(T[:3, :3], T[:3, 3] - T[:3, :3] @ c)
    return T, A @ covariance @ A.T if n > 3 else np.full((6, 6), np.nan), initial, cost, iterations, damping, stop
