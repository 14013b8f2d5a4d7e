"""Scenes of a whole batch at once, as tensors: ``scenes`` and the cameras of ``pairs``, with the same distributions.

Every scene has ``ITEMS`` places; a place may be empty (slot -1). What ``scenes`` draws again until it suits is drawn as
often as it may be here, and the first that suits is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from export.data import scenes
from export.data.device_geometry import (
    Draw,
    crop_camera,
    from_rt,
    random_rotation,
    rays,
    rotate,
    transform,
    turned,
)
from export.data.device_render import Layers, Rasterizer
from export.data.device_stock import Stock

ITEMS = 3
"""Places of a scene: the target, and two others."""
TRIES = 4
"""Occluders that are tried; ``scenes.draw_scene`` tries as many."""
FOCAL = float(scenes.BASE_K[0, 0])


@dataclass(frozen=True, eq=False)
class Items:
    """Objects in N scenes, k to a scene; as ``scenes.Item``, float64 but for ``slot``."""

    slot: Tensor  # int64 [N,k], -1 = empty
    T: Tensor  # [N,k,4,4] object -> base camera, in the object's own metres
    scale: Tensor  # [N,k] depths in the scene over those of that pose

    def __getitem__(self, which: slice | list[int]) -> Items:
        return Items(self.slot[:, which], self.T[:, which], self.scale[:, which])

    def only(self, present: Tensor) -> Items:
        """Those where ``present`` [N,k]; the other places are empty."""
        return replace(self, slot=torch.where(present, self.slot, -1))


@dataclass(frozen=True, eq=False)
class Scenes:
    """N scenes; items[:, 0] are the targets."""

    items: Items
    edge: Tensor  # float64 [N,3]: what lies at x with edge . x < 0 is outside the photograph; 0 = no edge
    diameter: Tensor  # float64 [N] of the targets
    centre: Tensor  # float64 [N,3] of the targets, in the base camera

    def __len__(self) -> int:
        return len(self.edge)


@dataclass(frozen=True, eq=False)
class Views:
    """What N cameras at the base cameras' centres see; n x n pixels, as ``scenes.View``."""

    albedo: Tensor  # uint8 [N,n,n,3]
    depth: Tensor  # float32 [N,n,n] metres of the target, 0 = nothing
    item: Tensor  # int64 [N,n,n], -1 = nothing
    triangle: Tensor  # int64 [N,n,n], -1 = nothing
    R: Tensor  # float64 [N,3,3]
    K: Tensor  # float64 [N,3,3]


@dataclass(frozen=True, eq=False)
class Probe:
    """Small views of whole targets, in which placements are judged."""

    R: Tensor  # float64 [N,3,3]
    K: Tensor  # float64 [N,3,3]
    visible: Tensor  # bool [N,n,n]


def render_items(rasterizer: Rasterizer, items: Items, R: Tensor, K: Tensor, size: int) -> tuple[Layers, Tensor]:
    """Every item by itself: layers of [N*k] views, and depths in the scenes float32 [N,k,n,n], infinite off them."""
    n, k = items.slot.shape
    T = turned(R[:, None], items.T).flatten(0, 1)
    layers = rasterizer.look(items.slot.flatten(), T, K[:, None].expand(n, k, 3, 3).flatten(0, 1), size)
    depth = (layers.depth * items.scale.flatten().float()[:, None, None]).unflatten(0, (n, k))
    return layers, torch.where(layers.triangle.unflatten(0, (n, k)) >= 0, depth, torch.inf)


def look(rasterizer: Rasterizer, items: Items, R: Tensor, K: Tensor, size: int) -> Views:
    """Render all items and keep the nearest at each pixel, as ``scenes.look``."""
    n, k = items.slot.shape
    layers, depth = render_items(rasterizer, items, R, K, size)
    nearest, who = depth.min(dim=1)  # of equal depths the first item's, as there
    there = torch.isfinite(nearest)
    triangle = layers.triangle.unflatten(0, (n, k)).gather(1, who[:, None])[:, 0].long()
    rgb = layers.rgb.unflatten(0, (n, k))
    albedo = rgb[:, 0].clone()
    for place in range(1, k):
        albedo = torch.where((who == place)[..., None], rgb[:, place], albedo)
    return Views(albedo, torch.where(there, nearest, 0.0), torch.where(there, who, -1), triangle, R, K)


def points_seen(views: Views, items: Items, place: int) -> Tensor:
    """Where pixels [N,n,n] look at an item's surface, float64 [N,n,n,3] in its frame; means nothing off it."""
    R, t = views.R @ items.T[:, place, :3, :3], rotate(views.R, items.T[:, place, :3, 3])
    z = views.depth.double() / items.scale[:, place, None, None]
    x = rays(views.K, views.depth.shape[-1]) * z[..., None] - t[:, None, None]
    return (x.flatten(1, 2) @ R).unflatten(1, z.shape[1:])


def inside(edge: Tensor, R: Tensor, K: Tensor, pixels: Tensor) -> Tensor:
    """bool [N,P]: whether pixels [N,P,2] of views lie on this side of the photograph's edge [N,3]."""
    m = rotate(R, edge)
    x = (pixels[..., 0] - K[:, None, 0, 2]) / K[:, None, 0, 0]
    y = (pixels[..., 1] - K[:, None, 1, 2]) / K[:, None, 1, 1]
    return m[:, None, 0] * x + m[:, None, 1] * y + m[:, None, 2] >= 0.0


def inside_view(edge: Tensor, R: Tensor, K: Tensor, size: int) -> Tensor:
    """``inside`` of all pixels of size x size views, bool [N,size,size]."""
    m = rotate(R, edge)[..., None, None]
    at = torch.arange(size, dtype=torch.float64, device=edge.device)
    x = (at - K[:, 0, 2, None]) / K[:, 0, 0, None]
    y = (at - K[:, 1, 2, None]) / K[:, 1, 1, None]
    return m[:, 0] * x[:, None, :] + m[:, 1] * y[:, :, None] + m[:, 2] >= 0.0


def pixel_grid(size: int, device: torch.device) -> Tensor:
    """All pixels (x, y) of a size x size image, row by row, float64 [size^2,2]."""
    at = torch.arange(size, dtype=torch.float64, device=device)
    x, y = at[None, :].expand(size, size), at[:, None].expand(size, size)
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def draw_scenes(
    draw: Draw, stock: Stock, rasterizer: Rasterizer, hardness: Tensor, pack_share: Tensor
) -> tuple[Scenes, Probe]:
    """N = len(hardness) scenes as ``scenes.draw_scene``. pack_share [N]: of objects that come from the pack.

    hardness [N]: scales the shares of occluders and of cuts, 0 to 1.
    """
    n = len(hardness)
    slots = stock.pick(draw, pack_share[:, None], n, 1 + 2 + TRIES)
    target = _place(draw, stock, slots[:, 0])
    diameter = stock.diameter[slots[:, 0]]
    centre = centres(target, stock)[:, 0]
    behind = _beside(draw, stock, slots[:, 1:3], diameter, centre[:, 2], before=False)
    u = draw.uniform(0.0, 1.0, n)
    behind = behind.only(torch.stack([u < 0.55, u < 0.2], dim=1))
    edge = _edge(draw, diameter, centre[:, 2])
    edge = torch.where(draw.chance(hardness * scenes.CUT_SHARE, n)[:, None], edge, 0.0)
    occluders = _beside(draw, stock, slots[:, 3:], diameter, centre[:, 2], before=True)
    occluders = occluders.only(draw.chance(hardness * scenes.OCCLUDER_SHARE, n)[:, None].expand(n, TRIES))
    return _first_that_suits(rasterizer, stock, target, behind, occluders, edge, diameter, centre)


def _first_that_suits(
    rasterizer: Rasterizer, stock: Stock, target: Items, behind: Items, occluders: Items, edge: Tensor,
    diameter: Tensor, centre: Tensor,
) -> tuple[Scenes, Probe]:  # fmt: skip
    """The first occluder that hides enough and not too much, else none; without one, the target alone where too little
    of it would be seen."""
    n, size = len(edge), scenes._PROBE
    R, K = crop_camera(FOCAL, amodal_box(target, stock), size, 1.02)
    every = _joined(target, behind, occluders)
    _, depth = render_items(rasterizer, every, R, K, size)
    own, back, front = depth[:, :1], depth[:, 1:3], depth[:, 3:]
    covered = torch.isfinite(own[:, 0])
    within = inside_view(edge, R, K, size)
    total = covered.sum(dim=(1, 2)).clamp(min=1)
    seen = (own <= front) & (own <= back[:, :1]) & (covered & within)[:, None]
    share = seen.sum(dim=(2, 3)) / total[:, None]
    suits = (occluders.slot >= 0) & (share > scenes.LEAST_VISIBLE) & (share < 0.97)
    hidden, which = suits.any(dim=1), suits.int().argmax(dim=1)
    row = torch.arange(n, device=edge.device)
    plain = (own[:, 0] <= back.amin(dim=1)) & covered & within
    alone = ~hidden & (plain.sum(dim=(1, 2)) / total < scenes.LEAST_VISIBLE)
    visible = torch.where(hidden[:, None, None], seen[row, which], torch.where(alone[:, None, None], covered, plain))
    first = torch.where(hidden, 3 + which, 1)
    second = torch.where(hidden, 1, 2)
    chosen = torch.stack([torch.zeros_like(first), first, second], dim=1)
    items = Items(every.slot.gather(1, chosen), every.T[row[:, None], chosen], every.scale.gather(1, chosen))
    lone = (torch.arange(ITEMS, device=edge.device) > 0) & alone[:, None]
    edge = torch.where(alone[:, None], 0.0, edge)
    return Scenes(items.only(~lone), edge, diameter, centre), Probe(R, K, visible)


def centres(items: Items, stock: Stock) -> Tensor:
    """Of the meshes in the base camera, metres of the scene, float64 [N,k,3]."""
    c = stock.centre[items.slot.clamp(min=0)]
    return items.scale[..., None] * (rotate(items.T[..., :3, :3], c) + items.T[..., :3, 3])


def amodal_box(target: Items, stock: Stock) -> Tensor:
    """Boxes float64 [N,4] (x, y, width, height) of all vertices of targets [N,1] in the base cameras' pixels."""
    slot = target.slot[:, 0]
    p = transform(target.T[:, 0], stock.vertices[slot][..., :3].double() + stock.centre[slot][:, None])
    uv = FOCAL * p[..., :2] / torch.maximum(p[..., 2:], 1e-3 * stock.diameter[slot][:, None, None])
    low, high = uv.amin(dim=1), uv.amax(dim=1)
    return torch.cat([low + 0.5, high - low], dim=1)


def crops(draw: Draw, scene: Scenes, probe: Probe, stock: Stock, size: int) -> tuple[Tensor, Tensor]:
    """R [N,3,3] and K [N,3,3] of crops round what is visible or round all of the target, as ``scenes.crop_of``."""
    n = len(scene)
    rows, columns = probe.visible.any(dim=2), probe.visible.any(dim=1)
    modal = draw.chance(0.6, n) & rows.any(dim=1)
    box = torch.where(modal[:, None], _modal_box(probe, rows, columns), amodal_box(scene.items, stock))
    corner, extent = box[:, :2], box[:, 2:]
    corner = corner + 0.06 * draw.normal(n, 2) * extent.amax(dim=1, keepdim=True)
    growth = torch.exp(0.1 * draw.normal(n, 2))
    corner = corner - 0.5 * (growth - 1.0) * extent
    return crop_camera(FOCAL, torch.cat([corner, growth * extent], dim=1), size, draw.uniform(1.05, 1.35, n))


def _modal_box(probe: Probe, rows: Tensor, columns: Tensor) -> Tensor:
    """Boxes [N,4] in the base cameras of the visible pixels; means nothing where there are none."""
    size = rows.shape[1]
    at = torch.arange(size, device=rows.device, dtype=torch.float64)
    low = [torch.where(line, at, float(size)).amin(dim=1) - 0.5 for line in (columns, rows)]
    high = [torch.where(line, at, -1.0).amax(dim=1) + 0.5 for line in (columns, rows)]
    corners = torch.stack([torch.stack(low, dim=1), torch.stack(high, dim=1)], dim=1)
    flat = (corners - probe.K[:, None, :2, 2]) / probe.K[:, None, :1, 0]
    seen = torch.cat([flat, torch.ones_like(flat[..., :1])], dim=2) @ probe.R
    ends = FOCAL * seen[..., :2] / seen[..., 2:]
    low_end, high_end = ends.amin(dim=1), ends.amax(dim=1)
    return torch.cat([low_end + 0.5, high_end - low_end], dim=1)


def _place(draw: Draw, stock: Stock, slot: Tensor) -> Items:
    """Targets on the optical axes, turned at random, at random distances."""
    n = len(slot)
    low, high = math.log(scenes.NEAREST), math.log(scenes.FARTHEST)
    distance = stock.diameter[slot] * torch.exp(draw.uniform(low, high, n))
    centre = torch.stack([torch.zeros_like(distance), torch.zeros_like(distance), distance], dim=1)
    T = _at(random_rotation(draw, n), centre, stock.centre[slot])
    return Items(slot[:, None], T[:, None], torch.ones_like(distance)[:, None])


def _at(R: Tensor, centre: Tensor, mesh_centre: Tensor) -> Tensor:
    return from_rt(R, centre - rotate(R, mesh_centre))


def _beside(draw: Draw, stock: Stock, slot: Tensor, diameter: Tensor, distance: Tensor, *, before: bool) -> Items:
    """Other objects [N,k] before or behind the targets, as ``scenes._beside``."""
    shape = tuple(slot.shape)
    own = stock.diameter[slot]
    diameter, distance = diameter[:, None], distance[:, None]
    ratio = draw.uniform(0.0, 1.0, *shape)
    scale = diameter * 0.35 * (1.3 / 0.35) ** ratio / own
    reach = 0.5 * (diameter + scale * own)
    if before:
        z = torch.maximum(distance - reach * draw.uniform(0.5, 1.2, *shape), 0.35 * distance)
        aside = reach * draw.uniform(0.15, 0.95, *shape)
    else:
        z = distance + reach * draw.uniform(0.3, 1.5, *shape)
        aside = reach * draw.uniform(0.3, 1.3, *shape)
    angle = draw.uniform(0.0, 2 * torch.pi, *shape)
    centre = torch.stack([aside * torch.cos(angle), aside * torch.sin(angle), distance.expand(shape)], dim=-1)
    centre = centre * (z / distance)[..., None]
    return Items(slot, _at(random_rotation(draw, *shape), centre / scale[..., None], stock.centre[slot]), scale)


def _edge(draw: Draw, diameter: Tensor, distance: Tensor) -> Tensor:
    """Planes through the cameras' centres that leave the targets' middles inside, float64 [N,3]."""
    n = len(diameter)
    angle = draw.uniform(0.0, 2 * torch.pi, n)
    aside = 0.5 * diameter * draw.uniform(0.1, 0.7, n)
    normal = torch.stack([torch.cos(angle), torch.sin(angle), aside / distance], dim=1)
    return normal / normal.norm(dim=1, keepdim=True)


def _joined(*parts: Items) -> Items:
    return Items(*(torch.cat([getattr(p, name) for p in parts], dim=1) for name in ("slot", "T", "scale")))
