"""Batched geometry in PyTorch, on whichever device its tensors are: what ``coop_edge.geometry`` has for NumPy.

Nothing here waits for a GPU: no value decides what is launched.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coop_edge.errors import InputError


class Draw:
    """Random numbers on a device, float64, from one generator."""

    def __init__(self, device: torch.device, seed: int = 0) -> None:
        self.device = device
        self._generator = torch.Generator(device)
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Start the sequence of this number, 0 <= seed < 2^63."""
        if not 0 <= seed < 1 << 63:
            raise InputError(f"seed: wanted 0 <= seed < 2^63, got {seed}")
        self._generator.manual_seed(seed)

    def uniform(self, low: float | Tensor, high: float | Tensor, *shape: int) -> Tensor:
        """Uniform in [low, high), of this shape."""
        u = torch.rand(shape, generator=self._generator, device=self.device, dtype=torch.float64)
        return low + (high - low) * u

    def normal(self, *shape: int) -> Tensor:
        """Of mean 0 and standard deviation 1."""
        return torch.randn(shape, generator=self._generator, device=self.device, dtype=torch.float64)

    def noise(self, *shape: int) -> Tensor:
        """As ``normal``, float32: for images."""
        return torch.randn(shape, generator=self._generator, device=self.device)

    def chance(self, share: float | Tensor, *shape: int) -> Tensor:
        """True in this share of the cases, bool."""
        return self.uniform(0.0, 1.0, *shape) < share

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform in 0 .. high - 1, int64."""
        return (self.uniform(0.0, 1.0, *shape) * high).long().clamp(max=high - 1)

    def permutation(self, n: int) -> Tensor:
        """0 .. n - 1 in a random order, int64 [n]."""
        return torch.argsort(torch.rand(n, generator=self._generator, device=self.device))


def hat(v: Tensor) -> Tensor:
    """Cross-product matrices. [...,3] -> [...,3,3]."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], dim=-1).unflatten(-1, (3, 3))


def so3_exp(phi: Tensor) -> Tensor:
    """Rotation vectors (radians) to matrices, float64. [...,3] -> [...,3,3]."""
    angle = phi.norm(dim=-1)[..., None, None]
    safe = angle.clamp(min=1e-8)  # below it sin x / x and its like are 1 and 1/2 to the last bit
    K = hat(phi)
    half = torch.sin(0.5 * safe) / safe
    return _eye(phi) + torch.sin(safe) / safe * K + 2.0 * half * half * (K @ K)


def random_rotation(draw: Draw, *shape: int) -> Tensor:
    """Rotations uniform over SO(3) (normalised Gaussian quaternions), float64 [*shape,3,3]."""
    q = draw.normal(*shape, 4)
    q = q / q.norm(dim=-1, keepdim=True)
    K = hat(q[..., 1:])
    return _eye(q) + 2.0 * q[..., :1, None] * K + 2.0 * (K @ K)


def from_rt(R: Tensor, t: Tensor) -> Tensor:
    """[...,3,3] and [...,3] -> [...,4,4]."""
    T = torch.zeros((*t.shape[:-1], 4, 4), dtype=R.dtype, device=R.device)
    T[..., :3, :3], T[..., :3, 3] = R, t
    T[..., 3, 3].fill_(1.0)
    return T


def rotate(R: Tensor, points: Tensor) -> Tensor:
    """R [...,3,3] on single points [...,3]."""
    return (R @ points[..., None])[..., 0]


def transform(T: Tensor, points: Tensor) -> Tensor:
    """T [...,4,4] on sets of points [...,P,3]."""
    return points @ T[..., :3, :3].mT + T[..., None, :3, 3]


def turned(R: Tensor, T: Tensor) -> Tensor:
    """Poses T [...,4,4] in a camera of the same centre, turned by R [...,3,3]."""
    return from_rt(R @ T[..., :3, :3], rotate(R, T[..., :3, 3]))


def camera_matrix(focal: Tensor, middle: float) -> Tensor:
    """K [...,3,3] of square pixels, the principal point at (middle, middle)."""
    o, m, one = torch.zeros_like(focal), torch.full_like(focal, middle), torch.ones_like(focal)
    return torch.stack([focal, o, m, o, focal, m, o, o, one], dim=-1).unflatten(-1, (3, 3))


def inverse_camera(K: Tensor) -> Tensor:
    """K^-1 [...,3,3] of cameras without skew; in closed form, because torch.linalg.inv waits to see whether it may."""
    o, one = torch.zeros_like(K[..., 0, 0]), torch.ones_like(K[..., 0, 0])
    x, y = 1.0 / K[..., 0, 0], 1.0 / K[..., 1, 1]
    rows = [x, o, -K[..., 0, 2] * x, o, y, -K[..., 1, 2] * y, o, o, one]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def project(K: Tensor, points: Tensor) -> Tensor:
    """Pixels [...,P,2] of points [...,P,3] in the camera of K [...,3,3] (no skew); NaN behind it."""
    x, y, z = points.unbind(-1)
    fx, fy, cx, cy = (K[..., i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    uv = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1)
    return torch.where(z[..., None] > 0, uv, torch.nan)


def rays(K: Tensor, size: int) -> Tensor:
    """K^-1 (u, v, 1) of all pixels of size x size images, [...,size,size,3], in K's precision."""
    at = torch.arange(size, device=K.device, dtype=K.dtype)
    x = (at - K[..., 0, 2, None]) / K[..., 0, 0, None]
    y = (at - K[..., 1, 2, None]) / K[..., 1, 1, None]
    shape = (*K.shape[:-2], size, size)
    x, y = x[..., None, :].expand(shape), y[..., :, None].expand(shape)
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def crop_camera(focal: float, box: Tensor, size: int, margin: float | Tensor) -> tuple[Tensor, Tensor]:
    """R_crop_camera [N,3,3] and K [N,3,3]: ``coop_edge.geometry.crop.crop_camera`` of K = diag(focal, focal, 1).

    box float64 [N,4] (x, y, width, height), boxes whose corners are less than 90 degrees off their middles. margin: [N]
    or one number.
    """
    low = box[:, :2] - 0.5
    high = low + box[:, 2:]
    axis = torch.cat([(low + high) / (2.0 * focal), torch.ones_like(low[:, :1])], dim=1)
    d = axis / axis.norm(dim=1, keepdim=True)
    # The smallest rotation that takes d to z, about d x z.
    K = hat(torch.stack([d[:, 1], -d[:, 0], torch.zeros_like(d[:, 0])], dim=1))
    R = _eye(box) + K + (K @ K) / (1.0 + d[:, 2])[:, None, None]
    x = torch.stack([low[:, 0], high[:, 0], high[:, 0], low[:, 0]], dim=1)
    y = torch.stack([low[:, 1], low[:, 1], high[:, 1], high[:, 1]], dim=1)
    seen = torch.stack([x / focal, y / focal, torch.ones_like(x)], dim=2) @ R.mT
    reach = (seen[..., :2] / seen[..., 2:].clamp(min=1e-6)).abs().amax(dim=(1, 2))
    return R, camera_matrix(size / (2.0 * margin * reach), (size - 1) / 2.0)


def _eye(like: Tensor) -> Tensor:
    return torch.eye(3, dtype=like.dtype, device=like.device)
