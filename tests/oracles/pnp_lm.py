"""Weighted Levenberg-Marquardt of docs/solvers.md without a prior, one problem, NumPy float64: short and slow."""

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


def normal_equations(T, points, lines, K, config, depths=None):
    """cost, H, g at T of points (X, u, w), lines (X, u, n, w) and depths (X, z, w), z along the optical axis; an
    infinite cost if one is not in front."""
    X, u, w = points
    Y, v, n, q = lines
    r, z = residuals(T, X, u, K)
    across, depth = residuals(T, Y, v, K)
    if min([*z, *depth], default=1.0) <= MIN_DEPTH:
        return np.inf, None, None
    J = jacobian(T, X, K)
    f, slope = robust(w**2 * (r**2).sum(1), config.loss, config.loss_scale_px)
    weight = w**2 * slope
    # A line's residual is the point's along the normal.
    d, D = (n * across).sum(1), np.einsum("la,lai->li", n, jacobian(T, Y, K))
    e, steep = robust(q**2 * d**2, config.loss, config.loss_scale_px)
    pull = q**2 * steep
    H = np.einsum("n,nia,nib->ab", weight, J, J) + np.einsum("l,la,lb->ab", pull, D, D)
    g = np.einsum("n,nia,ni->a", weight, J, r) + np.einsum("l,la,l->a", pull, D, d)
    cost = f.sum() + e.sum()
    for Z, z, k in zip(*depths, strict=True) if depths else ():
        along = np.array([0, 0, 1.0])
        row = np.concatenate([along, np.cross(T[:3, :3] @ Z, along)])
        off = (T[:3, :3] @ Z + T[:3, 3])[2] - z
        cost, H, g = cost + (k * off) ** 2, H + k**2 * np.outer(row, row), g + k**2 * off * row
    return cost, H, g


def in_front(T, X, *rest, K):
    """The rows of arrays with weights (the last) > 0 whose points X are in front at T."""
    used = rest[-1] > 0
    used[used] = residuals(T, X[used], np.zeros((used.sum(), 2)), K)[1] > MIN_DEPTH
    return [a[used] for a in (X, *rest)]


NO_LINES = tuple(np.zeros((0, *k)) for k in ((3,), (2,), (2,), ()))


def weighted_lm(X, u, w, K, T_init, config: LmConfig = LmConfig(), lines=NO_LINES, depths=None):  # noqa: B008 (frozen)
    """One problem: (T, covariance, initial cost, final cost, iterations, damping, stop).

    depths: (X, z, w) as in ``normal_equations``, without robust loss, in front, and uncounted in the variance.
    """
    X, u, w = in_front(T_init, X, u, w, K=K)
    Y, *across = in_front(T_init, *lines, K=K)
    c = (w**2 @ X) / (w**2).sum() if len(X) else (across[-1] ** 2 @ Y) / (across[-1] ** 2).sum()
    given = (X - c, u, w), (Y - c, *across)
    depths = None if depths is None else (depths[0] - c, *depths[1:])
    T = se3.from_rt(T_init[:3, :3], T_init[:3, :3] @ c + T_init[:3, 3])
    damping, stop, iterations = config.damping, LmStop.ITERATIONS, 0
    cost, H, g = normal_equations(T, *given, K, config, depths)
    initial = cost
    while iterations < config.iterations:
        iterations += 1
        xi = np.linalg.solve(H + damping * np.diag(np.diag(H)), -g)
        if max(np.linalg.norm(xi[3:]), np.linalg.norm(xi[:3]) / np.linalg.norm(T[:3, 3])) < config.step_tolerance:
            stop = LmStop.STEP
            break
        trial = normal_equations(step(T, xi), *given, K, config, depths)
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
    left = 2 * len(X) + len(Y) - 6
    with np.errstate(divide="ignore", invalid="ignore"):
        covariance = np.linalg.inv(H) * np.float64(cost) / left
    A = np.eye(6)
    A[:3, 3:] = se3.hat(T[:3, :3] @ c)
    T = se3.from_rt(T[:3, :3], T[:3, 3] - T[:3, :3] @ c)
    return T, A @ covariance @ A.T if left > 0 else np.full((6, 6), np.nan), initial, cost, iterations, damping, stop
