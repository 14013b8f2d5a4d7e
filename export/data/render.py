"""What draws views of the objects of a stock, as tensors on its device: the contract of ``render_cpu`` and
``render_cuda``. Pictures follow ``coop_edge.render.base``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layers:
    """V views of size n x n."""

    rgb: Tensor  # uint8 [V,n,n,3], 0 where there is nothing
    depth: Tensor  # float32 [V,n,n] metres, 0 = nothing
    triangle: Tensor  # int32 [V,n,n], -1 = nothing


@dataclass(frozen=True, eq=False)
class Composite:
    """What is nearest in each of N views of several items; n x n pixels."""

    albedo: Tensor  # uint8 [N,n,n,3], 0 where there is nothing
    depth: Tensor  # float32 [N,n,n] metres of the scene, 0 = nothing
    item: Tensor  # int64 [N,n,n], -1 = nothing
    triangle: Tensor  # int32 [N,n,n], -1 = nothing


@dataclass(frozen=True, eq=False)
class Lights:
    """How each of V views is lit: float64 [V] each, and which are drawn in plain white instead of their colours."""

    ambient: Tensor
    diffuse: Tensor
    plain: Tensor  # bool [V]

    def rows(self, low: int, high: int) -> Lights:
        """Return the lights of views low .. high - 1."""
        return Lights(self.ambient[low:high], self.diffuse[low:high], self.plain[low:high])


class StockRenderer(ABC):
    """Draws objects of one stock. Views are given by slots int64 [V] (-1: an empty view), T_camera_object [V,4,4] and K
    [V,3,3], float64."""

    @abstractmethod
    def unlit(self, slots: Tensor, T: Tensor, K: Tensor, size: int) -> Layers:
        """Draw albedo, which is colour without light."""

    @abstractmethod
    def lit(self, slots: Tensor, T: Tensor, K: Tensor, size: int, lights: Lights, samples: int = 1) -> Layers:
        """Draw with the renderers' light at the camera, ``samples`` per pixel side."""

    def depths(self, slots: Tensor, T: Tensor, K: Tensor, size: int) -> Tensor:
        """Draw depth alone, float32 [V,size,size], infinite where there is nothing."""
        layers = self.unlit(slots, T, K, size)
        return torch.where(layers.triangle >= 0, layers.depth, torch.inf)

    def nearest(self, slots: Tensor, T: Tensor, scale: Tensor, K: Tensor, size: int, colors: bool = True) -> Composite:
        """Draw N views of k items each and keep the nearest at each pixel, of equal depths the first item's.

        slots [N,k]; T [N,k,4,4]; scale [N,k]: depths in the scene over those of T; K [N,3,3]. colors: whether
        ``albedo`` is wanted; it means nothing otherwise.
        """
        n, k = slots.shape
        layers = self.unlit(slots.flatten(), T.flatten(0, 1), K[:, None].expand(n, k, 3, 3).flatten(0, 1), size)
        rgb, triangle = layers.rgb.unflatten(0, (n, k)), layers.triangle.unflatten(0, (n, k))
        depth = layers.depth.unflatten(0, (n, k)) * scale.float()[..., None, None]
        nearest, who = torch.where(triangle >= 0, depth, torch.inf).min(dim=1)
        there = torch.isfinite(nearest)
        albedo = rgb[:, 0].clone()
        for place in range(1, k):
            albedo = torch.where((who == place)[..., None], rgb[:, place], albedo)
        return Composite(
            albedo,
            torch.where(there, nearest, 0.0),
            torch.where(there, who, -1),
            triangle.gather(1, who[:, None])[:, 0],
        )


def camera_floats(K: Tensor, samples: int) -> Tensor:
    """Return (fx, skew, cx, fy, cy, 1 / fx, 1 / fy) of the grids of samples, float64 [V,7]."""
    shift = (samples - 1) / 2
    fx, skew, fy = samples * K[:, 0, 0], samples * K[:, 0, 1], samples * K[:, 1, 1]
    cx, cy = samples * K[:, 0, 2] + shift, samples * K[:, 1, 2] + shift
    return torch.stack([fx, skew, cx, fy, cy, 1 / fx, 1 / fy], dim=1)
