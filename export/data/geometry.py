"""Batched geometry in PyTorch, on whichever device its tensors are: what ``coop_edge.geometry`` has for NumPy.

No value decides what is launched, so nothing here makes the host wait for a GPU; ``selected_pixels`` says how.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coop_edge.errors import InputError


class Random:
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
        """Draw uniformly from [low, high), with this shape."""
        u = torch.rand(shape, generator=self._generator, device=self.device, dtype=torch.float64)
        return low + (high - low) * u

    def normal(self, *shape: int) -> Tensor:
        """Draw from the normal distribution of mean 0 and standard deviation 1."""
        return torch.randn(shape, generator=self._generator, device=self.device, dtype=torch.float64)

    def noise(self, *shape: int) -> Tensor:
        """Draw as ``normal`` does, in float32: for images."""
        return torch.randn(shape, generator=self._generator, device=self.device)

    def chance(self, share: float | Tensor, *shape: int) -> Tensor:
        """Draw bools that are true with probability ``share``."""
        return self.uniform(0.0, 1.0, *shape) < share

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw uniformly from 0 .. high - 1, int64."""
        return (self.uniform(0.0, 1.0, *shape) * high).long().clamp(max=high - 1)

    def permutation(self, n: int) -> Tensor:
        """Draw an order of 0 .. n - 1, int64 [n]."""
        return torch.argsort(torch.rand(n, generator=self._generator, device=self.device))


def on_gpu(tensor: Tensor) -> bool:
    """Tell whether a tensor is on a GPU."""
    return tensor.is_cuda


@dataclass(frozen=True, eq=False)
class Pixels:
    """P pixels of N square images. Vectors of pixels have shape [3,P]: each component lies in one piece of memory."""

    flat: Tensor  # int64 [P], number among all pixels of all images, row by row
    row: Tensor  # int64 [P], which image
    u: Tensor  # float64 [P], column
    v: Tensor  # float64 [P]
    shape: tuple[int, int, int]  # N, n, n

    def of(self, image: Tensor) -> Tensor:
        """Gather the values [P] of images [N,n,n]."""
        return image.flatten().index_select(0, self.flat)

    def spread(self, values: Tensor, empty: float = 0.0) -> Tensor:
        """Put values [...,P] at their places in images [...,N,n,n]; ``empty`` elsewhere."""
        size = self.shape[0] * self.shape[1] * self.shape[2]
        out = torch.full((*values.shape[:-1], size), empty, dtype=values.dtype, device=values.device)
        return out.index_copy_(-1, self.flat, values).unflatten(-1, self.shape)


def selected_pixels(mask: Tensor) -> Pixels:
    """Return the pixels where ``mask`` [N,n,n] holds; on a GPU all pixels.

    Only a CPU gains from leaving pixels out, and counting them would make the host wait for a GPU. So what is computed
    for the pixels must be masked again before it is used.
    """
    n = mask.shape[-1]
    if on_gpu(mask):
        flat = torch.arange(mask.numel(), device=mask.device)
    else:
        flat = mask.flatten().nonzero()[:, 0]
    row = flat // (n * n)
    line = flat // n
    return Pixels(flat, row, (flat - line * n).double(), (line - row * n).double(), (len(mask), n, n))


def per_pixel(values: Tensor, row: Tensor) -> Tensor:
    """Gather rows of values [N,...] for pixels: [...,P]."""
    # Not by [:, row]: on a CPU that takes several times as long.
    return values.flatten(1).T.contiguous().index_select(1, row).view(*values.shape[1:], len(row))


def hat(v: Tensor) -> Tensor:
    """Return cross-product matrices, [...,3] -> [...,3,3]."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], dim=-1).unflatten(-1, (3, 3))


def so3_exp(phi: Tensor) -> Tensor:
    """Convert rotation vectors (radians) to matrices, float64, [...,3] -> [...,3,3]."""
    angle = phi.norm(dim=-1)[..., None, None]
    safe = angle.clamp(min=1e-8)  # below it sin x / x and its like are 1 and 1/2 to the last bit
    K = hat(phi)
    half = torch.sin(0.5 * safe) / safe
    return _eye(phi) + torch.sin(safe) / safe * K + 2.0 * half * half * (K @ K)


def random_rotation(random: Random, *shape: int) -> Tensor:
    """Draw rotations uniform over SO(3), float64 [*shape,3,3], as normalised Gaussian quaternions."""
    q = random.normal(*shape, 4)
    q = q / q.norm(dim=-1, keepdim=True)
    K = hat(q[..., 1:])
    return _eye(q) + 2.0 * q[..., :1, None] * K + 2.0 * (K @ K)


def from_rt(R: Tensor, t: Tensor) -> Tensor:
    """Return rigid transforms [...,4,4] of rotations [...,3,3] and translations [...,3]."""
    T = torch.zeros((*t.shape[:-1], 4, 4), dtype=R.dtype, device=R.device)
    T[..., :3, :3], T[..., :3, 3] = R, t
    T[..., 3, 3].fill_(1.0)
    return T


def rotate(R: Tensor, points: Tensor) -> Tensor:
    """Apply R [...,3,3] to single points [...,3]."""
    return (R @ points[..., None])[..., 0]


def turned(R: Tensor, T: Tensor) -> Tensor:
    """Return poses T [...,4,4] in a camera of the same centre, turned by R [...,3,3]."""
    return from_rt(R @ T[..., :3, :3], rotate(R, T[..., :3, 3]))


def camera_matrix(focal: Tensor, middle: float) -> Tensor:
    """Return K [...,3,3] of square pixels, with the principal point at (middle, middle)."""
    o, m, one = torch.zeros_like(focal), torch.full_like(focal, middle), torch.ones_like(focal)
    return torch.stack([focal, o, m, o, focal, m, o, o, one], dim=-1).unflatten(-1, (3, 3))


def inverse_camera(K: Tensor) -> Tensor:
    """Invert K [...,3,3] without skew, in closed form: torch.linalg.inv would wait for the GPU to check its input."""
    o, one = torch.zeros_like(K[..., 0, 0]), torch.ones_like(K[..., 0, 0])
    x, y = 1.0 / K[..., 0, 0], 1.0 / K[..., 1, 1]
    rows = [x, o, -K[..., 0, 2] * x, o, y, -K[..., 1, 2] * y, o, o, one]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def transformed(T: Tensor, points: Tensor, row: Tensor) -> Tensor:
    """Transform points [3,P] by T[row], T [N,4,4]; [3,P]."""
    M = per_pixel(T[:, :3], row)
    return M[:, 0] * points[0] + M[:, 1] * points[1] + M[:, 2] * points[2] + M[:, 3]


def projected(K: Tensor, points: Tensor, row: Tensor) -> Tensor:
    """Project points [3,P] by the cameras K[row], K [N,3,3] without skew, to pixels [2,P]; NaN behind the camera."""
    fx, fy, cx, cy = _focal_and_centre(K, row)
    x, y, z = points
    uv = torch.stack([fx * x / z + cx, fy * y / z + cy])
    return torch.where(z > 0, uv, torch.nan)


def unprojected(T: Tensor, K: Tensor, pixels: Pixels, z: Tensor) -> Tensor:
    """Return points [3,P] in the objects' frames at depth z [P], metres, behind pixels of K, at poses T [N,4,4]."""
    fx, fy, cx, cy = _focal_and_centre(K, pixels.row)
    M = per_pixel(T[:, :3], pixels.row)
    x, y, z = (pixels.u - cx) / fx * z - M[0, 3], (pixels.v - cy) / fy * z - M[1, 3], z - M[2, 3]
    return M[0, :3] * x + M[1, :3] * y + M[2, :3] * z


def crop_camera(focal: float, box: Tensor, size: int, margin: float | Tensor) -> tuple[Tensor, Tensor]:
    """Compute the crops' cameras as ``coop_edge.geometry.crop.crop_camera`` does for K = diag(focal, focal, 1).

    Args:
        focal: focal length of the images, pixels.
        box: float64 [N,4] (x, y, width, height), pixels from the principal point; corners less than 90 degrees off.
        size: side of the crops, pixels.
        margin: [N] or one number.

    Returns:
        R_crop_camera and K, float64 [N,3,3] each.
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


def _focal_and_centre(K: Tensor, row: Tensor) -> Tensor:
    """fx, fy, cx, cy of the cameras K[row], [4,P]."""
    return per_pixel(torch.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], dim=1), row)


def _eye(like: Tensor) -> Tensor:
    return torch.eye(3, dtype=like.dtype, device=like.device)
