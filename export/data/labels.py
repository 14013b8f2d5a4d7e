"""What a network is asked for, worked out from geometry alone: matches, flow, visibility; for a batch, as tensors.

A surface point is visible in a view if its own side faces the camera and the depth image holds it there. The depth
image is known at whole pixels; between them the surface lies between the depths of the four around, so a point is
accepted within that range, widened by a tolerance. Only pixels of the same object count, so whatever stands in front
hides it. The side settles what depth cannot: the two faces of a thin plate. Within a pixel of an outline the answer may
err to either side: there a depth image does not tell.

Geometry is float64. Points are [3,P], with the number of the view that each belongs to in ``row`` [P].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from export.data.batch import PATCH
from export.data.geometry import (
    per_pixel,
    projected,
    rotate,
    selected_pixels,
    transformed,
    turned,
    unprojected,
)
from export.data.render import Layers, StockRenderer
from export.data.scenes import Scenes, depths_at, inside, look
from export.data.stock import ObjectStock
from export.data.symmetry import nearest_pose

TOLERANCE = 0.01
"""Tolerance of depth comparisons, as a share of the diameter."""


def patch_camera(K: Tensor) -> Tensor:
    """Return K [N,3,3] of the small images whose pixels are centred at the patch centres of K's images."""
    small = K.clone()
    small[:, :2, 2] -= PATCH / 2 - 0.5
    small[:, :2] /= PATCH
    return small


def sides_seen(normals: Tensor, points: Tensor, T: Tensor, row: Tensor) -> Tensor:
    """Tell whether cameras at T[row], T_camera_object [N,4,4], see the front of triangles of the objects, bool [P]."""
    eye = -rotate(T[:, :3, :3].mT, T[:, :3, 3])
    return (normals * (per_pixel(eye, row) - points)).sum(dim=0) >= 0


def visible_in(
    points: Tensor, row: Tensor, T: Tensor, K: Tensor, depth: Tensor, tolerance: Tensor
) -> tuple[Tensor, Tensor]:
    """Project points [3,P] (object's frame) into the views T[row], K[row], and tell which of them the views show.

    Args:
        points: float64 [3,P], metres.
        row: int64 [P], the view of each point.
        T: T_camera_object [N,4,4].
        K: [N,3,3].
        depth: float32 [N,n,n] metres where a view shows this object, 0 elsewhere.
        tolerance: [N] metres.

    Returns:
        Pixels [2,P], and bool [P].
    """
    n = depth.shape[-1]
    moved = transformed(T, points, row)
    uv = projected(K, moved, row)
    z = moved[2]
    inside_image = torch.isfinite(uv).all(dim=0)
    safe = torch.where(inside_image, uv, 0.0)
    inside_image &= ((safe >= -0.5) & (safe < n - 0.5)).all(dim=0)
    x0, y0 = (safe[i].floor().clamp(-1, n).long() for i in (0, 1))
    low, high = torch.full_like(z, torch.inf), torch.full_like(z, -torch.inf)
    flat, first = depth.flatten(), row * (n * n)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        at = first + (y0 + dy).clamp(0, n - 1) * n + (x0 + dx).clamp(0, n - 1)
        near = flat.index_select(0, at).double()
        low = torch.minimum(low, torch.where(near > 0, near, torch.inf))
        high = torch.maximum(high, near)  # 0 never is the largest where there is something
    t = tolerance.index_select(0, row)
    return uv, inside_image & (z >= low - t) & (z <= high + t)


def match_labels(pixels: Tensor, matched: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return match_index int64 [N,T] and offset float32 [N,T,2] of template pixels [N,T,2] where ``matched`` [N,T]."""
    side = size // PATCH
    position = torch.where(matched[..., None], (pixels + 0.5) / PATCH, 0.0)
    cell = position.floor().clamp(0, side - 1)
    index = torch.where(matched, cell[..., 1] * side + cell[..., 0], float(side * side)).long()
    offset = torch.where(matched[..., None], position - cell - 0.5, 0.0)
    return index, offset.float()


def coarse_labels(
    renderer: StockRenderer, stock: ObjectStock, scene: Scenes, R: Tensor, K: Tensor, size: int, T_template: Tensor,
    K_template: Tensor, template_depth: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return match_index int64 [L,T], offset float32 [L,T,2] and on_target bool [L,T] of L = N times labels templates.

    The templates of query i are rows i L / N .. (i + 1) L / N - 1 of T_template, K_template and template_depth
    [L,size,size]. An object with a symmetry is labelled at its pose nearest to the template's.
    """
    n, side, count = len(scene), size // PATCH, len(T_template)
    times = max(1, count // max(n, 1))
    tolerance = (TOLERANCE * scene.diameter).repeat_interleave(times)
    views = look(renderer, scene.items, R, patch_camera(K), side, colors=False)  # exactly at the patch centres
    at = selected_pixels(views.seen.item == 0)
    slot, T, z = scene.items.slot[:, 0], turned(R, scene.items.T[:, 0]), depths_at(views, scene.items, 0, at)
    normals = face_normals(stock, slot.index_select(0, at.row), at.of(views.seen.triangle))
    front = sides_seen(normals, unprojected(T, views.K, at, z), T, at.row)
    alike = nearest_pose(stock, slot.repeat_interleave(times), T.repeat_interleave(times, dim=0), T_template).unflatten(
        0, (n, times)
    )
    shown_target = (at.of(views.seen.item) == 0) & inside(scene.edge, R, views.K, at.row, at.u, at.v)
    parts = []
    on_target = at.spread(shown_target).flatten(1)
    for label in range(times):
        row = at.row * times + label
        points = unprojected(alike[:, label], views.K, at, z)
        turn = per_pixel(alike[:, label, :3, :3].mT @ T[:, :3, :3], at.row)
        moved = (turn * normals).sum(dim=1)
        uv, shown = visible_in(points, row, T_template, K_template, template_depth, tolerance)
        shown &= front == sides_seen(moved, points, T_template, row)
        pixels = at.spread(uv).flatten(2).permute(1, 2, 0)
        matched = at.spread(shown & shown_target).flatten(1)
        parts.append((*match_labels(pixels, matched, size), on_target))
    index, offset, on = (torch.stack(part, dim=1).flatten(0, 1) for part in zip(*parts, strict=True))
    return index, offset, on


def flow_labels(
    stock: ObjectStock, slot: Tensor, seen: Layers, T_init: Tensor, T_true: Tensor, K: Tensor, depth: Tensor,
    tolerance: Tensor, within: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Compute flow float32 [N,2,S,S], visibility bool [N,S,S] and object points float32 [N,S,S,3] of ``RefinerBatch``.

    Args:
        stock: holds the objects of ``slot``, int64 [N].
        seen: the render at T_init.
        T_init, T_true: T_camera_object [N,4,4] of render and query; both have the cameras K [N,3,3].
        depth: the query's [N,S,S], metres where it shows this object, 0 elsewhere; ``tolerance`` [N] metres.
        within: tells of points [3,P] (object's frame), their query pixels [2,P] and rows [P] whether the photograph
            holds them, bool [P].
    """
    at = selected_pixels(seen.triangle >= 0)
    triangle = at.of(seen.triangle)
    on = triangle >= 0
    points = unprojected(T_init, K, at, at.of(seen.depth).double())
    normals = face_normals(stock, slot.index_select(0, at.row), triangle)
    uv, visible = visible_in(points, at.row, T_true, K, depth, tolerance)
    visible &= sides_seen(normals, points, T_init, at.row) == sides_seen(normals, points, T_true, at.row)
    visible &= on & within(points, uv, at.row)
    flow = at.spread(torch.where(on, uv - torch.stack([at.u, at.v]), 0.0).float()).transpose(0, 1)
    surface = at.spread(torch.where(on, points, torch.nan).float(), torch.nan).permute(1, 2, 3, 0)
    return flow.contiguous(), at.spread(visible), surface.contiguous()


def point_map(seen: Layers, T: Tensor, K: Tensor) -> Tensor:
    """Return the surface points of renders in the object's frame, float32 [N,n,n,3], NaN off the object."""
    at = selected_pixels(seen.triangle >= 0)
    points = unprojected(T, K, at, at.of(seen.depth).double())
    points = torch.where(at.of(seen.triangle) >= 0, points, torch.nan).float()
    return at.spread(points, torch.nan).permute(1, 2, 3, 0).contiguous()


def face_normals(stock: ObjectStock, slot: Tensor, triangle: Tensor) -> Tensor:
    """Return unit normals float64 [3,P] of triangles [P] of slots [P]; arbitrary where the triangle is -1."""
    which = slot * stock.limits.faces + triangle.long().clamp(min=0)
    return stock.face_normals.view(-1, 3).index_select(0, which).T.double()
