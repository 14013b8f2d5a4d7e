"""A batched Levenberg-Marquardt in plain PyTorch: what one would write without kernels of one's own. FP32, on a GPU."""

from __future__ import annotations

from typing import Any

import torch


def rotations(phi: Any) -> Any:
    """Convert rotation vectors [B,3] (radians) to matrices [B,3,3]."""
    x, y, z = phi.unbind(-1)
    o = torch.zeros_like(x)
    return torch.linalg.matrix_exp(torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(-1, 3, 3))


def _normal_equations(R: Any, t: Any, X: Any, u: Any, w: Any, K: Any) -> tuple[Any, Any, Any]:
    q = X @ R.transpose(1, 2)
    p = q + t[:, None]
    inverse = 1.0 / p[..., 2]
    x, y = p[..., 0] * inverse, p[..., 1] * inverse
    fx, fy = K[:, 0, 0, None], K[:, 1, 1, None]
    r = torch.stack([fx * x + K[:, 0, 2, None] - u[..., 0], fy * y + K[:, 1, 2, None] - u[..., 1]], -1)
    o = torch.zeros_like(x)
    a = torch.stack([fx * inverse, o, -fx * x * inverse], -1)
    b = torch.stack([o, fy * inverse, -fy * y * inverse], -1)
    J = torch.stack([torch.cat([a, torch.linalg.cross(q, a)], -1), torch.cat([b, torch.linalg.cross(q, b)], -1)], 2)
    r, J = r * w[..., None], J * w[..., None, None]
    J = J.reshape(len(X), -1, 6)
    r = r.reshape(len(X), -1, 1)
    JT = J.transpose(1, 2)
    return JT @ J, (JT @ r)[..., 0], (r * r).sum((1, 2))


def weighted_lm(X: Any, u: Any, w: Any, K: Any, T: Any, iterations: int, damping: float = 1e-3) -> Any:
    """Return T [B,4,4] after ``iterations`` steps, without waiting for the GPU.

    X [B,P,3], u [B,P,2], w [B,P], K [B,3,3].
    """
    R, t = T[:, :3, :3].contiguous(), T[:, :3, 3].contiguous()
    H, g, cost = _normal_equations(R, t, X, u, w, K)
    damp = torch.full_like(cost, damping)
    for _ in range(iterations):
        A = H + torch.diag_embed(damp[:, None] * torch.diagonal(H, dim1=1, dim2=2))
        xi = torch.linalg.solve_ex(A, -g[..., None])[0][..., 0]
        R_new, t_new = rotations(xi[:, 3:]) @ R, t + xi[:, :3]
        H_new, g_new, cost_new = _normal_equations(R_new, t_new, X, u, w, K)
        better = cost_new < cost
        pick = better[:, None, None]
        R, t = torch.where(pick, R_new, R), torch.where(better[:, None], t_new, t)
        H, g = torch.where(pick, H_new, H), torch.where(better[:, None], g_new, g)
        cost, damp = torch.where(better, cost_new, cost), torch.where(better, damp * 0.1, damp * 10.0)
    out = T.clone()
    out[:, :3, :3], out[:, :3, 3] = R, t
    return out
