"""``labels`` for a whole batch, as tensors: which template patch a query patch shows, the flow, what is visible.

Geometry is float64, as there: a depth comparison decides the same way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from coop_edge.render.base import Shading
from export.data import labels
from export.data.batch import PATCH
from export.data.device_geometry import project, rays, rotate, transform
from export.data.device_render import Layers, Rasterizer
from export.data.device_scenes import Scenes, inside, look, pixel_grid, points_seen
from export.data.device_stock import Stock

DEFAULT_SHADING = Shading()


def sides_seen(normals: Tensor, points: Tensor, T: Tensor) -> Tensor:
    """Whether cameras T [N,4,4] see the front of the triangles with normals [N,P,3] at points [N,P,3]; bool [N,P]."""
    eye = -rotate(T[:, :3, :3].mT, T[:, :3, 3])
    return (normals * (eye[:, None] - points)).sum(dim=-1) >= 0


def visible_in(points: Tensor, T: Tensor, K: Tensor, depth: Tensor, tolerance: Tensor) -> tuple[Tensor, Tensor]:
    """``labels.visible_in`` of N views: points [N,P,3], depth float32 [N,n,n], tolerance [N] -> [N,P,2], bool [N,P]."""
    n = depth.shape[-1]
    moved = transform(T, points)
    uv = project(K, moved)
    z = moved[..., 2]
    inside_image = torch.isfinite(uv).all(dim=-1)
    safe = torch.where(inside_image[..., None], uv, 0.0)
    inside_image &= ((safe >= -0.5) & (safe < n - 0.5)).all(dim=-1)
    x0, y0 = (safe[..., i].floor().clamp(-1, n).long() for i in (0, 1))
    low, high = torch.full_like(z, torch.inf), torch.full_like(z, -torch.inf)
    flat = depth.flatten(1)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        at = (y0 + dy).clamp(0, n - 1) * n + (x0 + dx).clamp(0, n - 1)
        near = flat.gather(1, at).double()
        low = torch.minimum(low, torch.where(near > 0, near, torch.inf))
        high = torch.maximum(high, near)
    t = tolerance[:, None]
    return uv, inside_image & (z >= low - t) & (z <= high + t)


def point_map(depth: Tensor, T: Tensor, K: Tensor) -> Tensor:
    """Surface points in the object's frame of views [N,n,n], float64 [N,n,n,3]; means nothing where depth is 0."""
    x = rays(K, depth.shape[-1]) * depth.double()[..., None] - T[:, None, None, :3, 3]
    return (x.flatten(1, 2) @ T[:, :3, :3]).unflatten(1, depth.shape[1:])


def match_labels(pixels: Tensor, matched: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """``labels.match_labels`` of a batch: pixels [N,T,2], bool [N,T] -> int64 [N,T], float32 [N,T,2]."""
    side = size // PATCH
    position = torch.where(matched[..., None], (pixels + 0.5) / PATCH, 0.0)
    cell = position.floor().clamp(0, side - 1)
    index = torch.where(matched, cell[..., 1] * side + cell[..., 0], float(side * side)).long()
    offset = torch.where(matched[..., None], position - cell - 0.5, 0.0)
    return index, offset.float()


def coarse_labels(
    rasterizer: Rasterizer, stock: Stock, scene: Scenes, R: Tensor, K: Tensor, size: int, T_template: Tensor,
    K_template: Tensor, template_depth: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """match_index int64 [N,T], offset float32 [N,T,2], on_target bool [N,T]: ``pairs.coarse_labels`` of a batch."""
    side = size // PATCH
    seen = look(rasterizer, scene.items, R, _patch_camera(K), side)  # what is seen exactly at the patch centres
    target, T = scene.items.slot[:, 0], scene.items.T[:, 0]
    points = points_seen(seen, scene.items, 0).flatten(1, 2)
    normals = face_normals(stock, target, seen.triangle).flatten(1, 2)
    uv, shown = visible_in(points, T_template, K_template, template_depth, labels.TOLERANCE * scene.diameter)
    shown &= sides_seen(normals, points, T) == sides_seen(normals, points, T_template)
    centres = PATCH * (pixel_grid(side, K.device) + 0.5) - 0.5
    on_target = (seen.item == 0).flatten(1) & inside(scene.edge, R, K, centres.expand(len(K), -1, -1))
    return *match_labels(uv, shown & on_target, size), on_target


def flow_labels(
    stock: Stock, slot: Tensor, points: Tensor, seen: Layers, T_init: Tensor, T_true: Tensor, K: Tensor,
    depth: Tensor, tolerance: Tensor, within: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Flow float32 [N,2,S,S] and visibility bool [N,S,S] of rendered points [N,S,S,3]; see RefinerBatch.

    seen: the render at T_init. depth: the query's, metres where it shows this object, 0 elsewhere. within: whether
    pixels [N,P,2] of the query belong to the photograph, bool [N,P].
    """
    n, size = points.shape[:2]
    surface = points.flatten(1, 2)
    normals = face_normals(stock, slot, seen.triangle).flatten(1, 2)
    uv, visible = visible_in(surface, T_true, K, depth, tolerance)
    visible &= sides_seen(normals, surface, T_init) == sides_seen(normals, surface, T_true)
    on = (seen.triangle >= 0).flatten(1)
    visible &= on & within(uv)
    flow = torch.where(on[..., None], uv - pixel_grid(size, uv.device), 0.0)
    return flow.float().mT.reshape(n, 2, size, size), visible.view(n, size, size)


def face_normals(stock: Stock, slot: Tensor, triangle: Tensor) -> Tensor:
    """Of triangles [N,n,n] of slots [N], float64 [N,n,n,3]; anything where the triangle is -1."""
    return stock.face_normals[slot[:, None, None], triangle.long().clamp(min=0)].double()


def _patch_camera(K: Tensor) -> Tensor:
    """``labels.patch_camera`` of K [N,3,3]."""
    small = K.clone()
    small[:, :2, 2] -= PATCH / 2 - 0.5
    small[:, :2] /= PATCH
    return small
