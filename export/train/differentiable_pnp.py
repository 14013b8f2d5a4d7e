"""Weighted PnP through which gradients flow: what teaches the refiner its sensitivity, and its flow where it matters.

As in GenFlow (Moon et al., CVPR 2024): a few Levenberg-Marquardt steps without gradient, then one Gauss-Newton step
with it. At the minimum the Gauss-Newton step is zero and its derivative is that of the minimiser with respect to the
weights and the image points, up to second derivatives of the projection (implicit function theorem).

Conventions are those of ``coop_edge.pnp.base``: xi = (rho, phi), R <- Exp(phi) R, t <- t + rho, pixels and metres;
minimised is sum_p w_p^2 |pi(K (R X_p + t)) - u_p|^2. Everything is computed in the dtype of the inputs: give float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

MIN_DEPTH = 1e-6
"""Points nearer than this to the camera's plane take no part, metres."""
_DAMPING = (1e-3, 1e-12, 1e12)


class PnpSolution(NamedTuple):
    """R [B,3,3] and t [B,3] carry gradients to the weights and image points; ``valid`` bool [B]."""

    R: Tensor
    t: Tensor
    valid: Tensor


class _LimitGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        ctx.limit = limit
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        factor = (ctx.limit / norm.clamp(min=ctx.limit)).view(-1, *[1] * (gradient.ndim - 1))
        return gradient * factor, None


def limit_gradient(x: Tensor, limit: float) -> Tensor:
    """Return ``x`` [B,...] unchanged; on the way back scale each problem's gradient down to a norm of ``limit``.

    A badly conditioned problem has a derivative hundreds of times that of the others, and would be all that the
    network learns from.
    """
    return _LimitGradient.apply(x, limit)  # type: ignore[no-untyped-call]


def hat(v: Tensor) -> Tensor:
    """Return cross-product matrices, [...,3] -> [...,3,3]: ``hat(a) @ b == cross(a, b)``."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def so3_exp(phi: Tensor) -> Tensor:
    """Convert rotation vectors [...,3] (radians) to matrices [...,3,3]; smooth through zero (Rodrigues)."""
    x2 = (phi * phi).sum(-1)[..., None, None]
    small = x2 < 1e-4
    safe = torch.where(small, torch.ones_like(x2), x2)
    x = safe.sqrt()
    # Taylor up to x^6: below 1e-16 at the switch. Both branches are finite, so that no NaN enters the gradient.
    a = torch.where(small, 1 - x2 / 6 * (1 - x2 / 20 * (1 - x2 / 42)), x.sin() / x)
    b = torch.where(small, 0.5 - x2 / 24 * (1 - x2 / 30 * (1 - x2 / 56)), 2 * (x / 2).sin() ** 2 / safe)
    K = hat(phi)
    return torch.eye(3, dtype=phi.dtype, device=phi.device) + a * K + b * (K @ K)


def solve_pnp(
    points_object: Tensor, points_image: Tensor, weights: Tensor, K: Tensor, T_init: Tensor, lm_steps: int = 3
) -> PnpSolution:
    """Refine B poses, differentiably in ``points_image`` and ``weights``.

    points_object [B,P,3] metres; points_image [B,P,2] pixels; weights [B,P] >= 0; K [B,3,3]; T_init [B,4,4]. Entries of
    weight zero may hold anything, NaN included. B = 0 is legal. ``valid`` is False, and the pose T_init without a
    gradient, where fewer than 3 weighted points lie in front of the camera, the normal equations are singular, or the
    answer has left the neighbourhood of T_init: moved by more than half the distance, or turned by more than a radian
    in the last step.
    """
    R, t = T_init[:, :3, :3], T_init[:, :3, 3]
    with torch.no_grad():
        used = weights > 0
        X = torch.where(used[..., None], points_object, torch.zeros_like(points_object))
        used = used & ((X @ R.transpose(1, 2) + t[:, None])[..., 2] > MIN_DEPTH)
    X = torch.where(used[..., None], points_object, torch.zeros_like(points_object))
    u = torch.where(used[..., None], points_image, torch.zeros_like(points_image))
    w = torch.where(used, weights, torch.zeros_like(weights))
    R_lm, t_lm = _levenberg_marquardt(X, u, w, used, K, R, t, lm_steps)
    H, g, _ = _normal_equations(X, u, w, used, K, R_lm, t_lm)
    step, solvable = _solve(H, g, torch.zeros_like(t[:, 0]))
    with torch.no_grad():
        moved = (t_lm + step[:, :3] - t).norm(dim=-1)
        near = (step[:, 3:].norm(dim=-1) < 1) & (moved < 0.5 * t.norm(dim=-1))
        valid = solvable & near & (used.sum(dim=-1) >= 3)
    step = torch.where(valid[:, None], step, torch.zeros_like(step))
    R_gn, t_gn = so3_exp(step[:, 3:]) @ R_lm, t_lm + step[:, :3]
    return PnpSolution(torch.where(valid[:, None, None], R_gn, R), torch.where(valid[:, None], t_gn, t), valid)


@torch.no_grad()
def _levenberg_marquardt(
    X: Tensor, u: Tensor, w: Tensor, used: Tensor, K: Tensor, R: Tensor, t: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Marquardt's scaling by the diagonal; a step is kept where it lowers the cost, else the damping rises."""
    start, low, high = _DAMPING
    damping = torch.full_like(t[:, 0], start)
    H, g, cost = _normal_equations(X, u, w, used, K, R, t)
    for _ in range(steps):
        step, solvable = _solve(H, g, damping)
        R_new, t_new = so3_exp(step[:, 3:]) @ R, t + step[:, :3]
        H_new, g_new, cost_new = _normal_equations(X, u, w, used, K, R_new, t_new)
        better = solvable & (cost_new < cost)
        R, t = torch.where(better[:, None, None], R_new, R), torch.where(better[:, None], t_new, t)
        H, g = torch.where(better[:, None, None], H_new, H), torch.where(better[:, None], g_new, g)
        cost = torch.where(better, cost_new, cost)
        damping = torch.where(better, damping / 10, damping * 10).clamp(low, high)
    return R, t


def _normal_equations(
    X: Tensor, u: Tensor, w: Tensor, used: Tensor, K: Tensor, R: Tensor, t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """H = J^T W^2 J [B,6,6], g = J^T W^2 r [B,6] and the cost [B], infinite if a used point falls behind the camera."""
    rotated = X @ R.transpose(1, 2)
    p = rotated + t[:, None]
    in_front = p[..., 2] > MIN_DEPTH
    z = torch.where(in_front & used, p[..., 2], torch.ones_like(p[..., 2]))
    x, y = p[..., 0] / z, p[..., 1] / z
    fx, fy, skew = K[:, None, 0, 0], K[:, None, 1, 1], K[:, None, 0, 1]
    r = torch.stack([fx * x + skew * y + K[:, None, 0, 2], fy * y + K[:, None, 1, 2]], dim=-1) - u
    zero = torch.zeros_like(z)
    J_t = torch.stack([fx / z, skew / z, -(fx * x + skew * y) / z, zero, fy / z, -fy * y / z], dim=-1).unflatten(
        -1, (2, 3)
    )
    J = torch.cat([J_t, -J_t @ hat(rotated)], dim=-1) * w[..., None, None]  # d(rotated) = -hat(rotated) phi
    r = r * w[..., None]
    J, r = J.flatten(1, 2), r.flatten(1)
    cost = (r * r).sum(dim=-1)
    cost = torch.where((in_front | ~used).all(dim=-1), cost, torch.full_like(cost, torch.inf))
    return J.transpose(1, 2) @ J, (J.transpose(1, 2) @ r[..., None])[..., 0], cost


def _solve(H: Tensor, g: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """(H + damping diag H) step = -g -> step [B,6], zero where not solvable, and whether it is, bool [B].

    Scaled to a unit diagonal first: metres and radians differ by orders of magnitude.
    """
    diagonal = H.diagonal(dim1=1, dim2=2)
    positive = (diagonal > 0).all(dim=-1) & torch.isfinite(H).all(dim=-1).all(dim=-1)
    scale = torch.where(positive[:, None], diagonal, torch.ones_like(diagonal)).rsqrt()
    eye = torch.eye(6, dtype=H.dtype, device=H.device)
    A = torch.where(positive[:, None, None], H * scale[:, :, None] * scale[:, None, :], eye)
    A = A + damping[:, None, None] * eye
    with torch.no_grad():
        L, info = torch.linalg.cholesky_ex(A)
        solvable = positive & (info == 0) & (L.diagonal(dim1=1, dim2=2).min(dim=-1).values > 1e-6)
    A = torch.where(solvable[:, None, None], A, eye)
    # solve_ex: its unchecked form does not wait for the GPU; what is not solvable has been replaced.
    step = -torch.linalg.solve_ex(A, (g * scale)[..., None])[0][..., 0] * scale
    return torch.where(solvable[:, None], step, torch.zeros_like(step)), solvable
