"""Light of a whole batch of scenes, as tensors: ``scenes_light``, with the same distributions and the same formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from export.data.device_geometry import Draw, rays, rotate
from export.data.device_photo import blur_matrix
from export.data.device_scenes import Scenes, Views, inside_view
from export.data.device_stock import Stock
from export.data.scenes_light import _SHADOW_STEPS, GAMMA

LIGHTS = 3
_SHADOW_SIDE = 48
_SHADOW_SIGMA = 0.9


@dataclass(frozen=True, eq=False)
class Lighting:
    """``scenes_light.Lighting`` of N scenes with k items, float64; lights that a scene has not are black."""

    ambient: Tensor  # [N,3]
    sky: Tensor  # [N,3]
    up: Tensor  # [N,3]
    direction: Tensor  # [N,LIGHTS,3]
    color: Tensor  # [N,LIGHTS,3], the brightest first
    gloss: Tensor  # [N,k]
    shininess: Tensor  # [N,k]
    shadow: Tensor  # [N]
    ground: Tensor  # [N,4]


def draw_lighting(draw: Draw, scene: Scenes, hardness: Tensor) -> Lighting:
    """``scenes_light.draw_lighting``; hardness [N]: share of the scenes that are lit so."""
    n, k = scene.items.slot.shape
    free, head = _free_light(draw, scene), _head_light(n, k, scene.edge)
    lit = draw.chance(hardness, n)
    return Lighting(
        **{
            f.name: torch.where(_like(lit, getattr(free, f.name)), getattr(free, f.name), getattr(head, f.name))
            for f in fields(Lighting)
        }
    )


def _free_light(draw: Draw, scene: Scenes) -> Lighting:
    n, k = scene.items.slot.shape
    e = torch.eye(3, dtype=torch.float64, device=draw.device)
    above = _unit(0.5 * draw.normal(n, 3) - e[1])
    up = torch.where(draw.chance(0.7, n)[:, None], above, _unit(draw.normal(n, 3)))
    total = torch.exp(0.05 + 0.25 * draw.normal(n))
    share = draw.uniform(0.15, 0.7, n)
    present = torch.arange(LIGHTS, device=draw.device) <= draw.integers(LIGHTS, n)[:, None]
    parts = torch.where(present, -torch.log1p(-draw.uniform(0.0, 1.0, n, LIGHTS)), 0.0)  # Dirichlet(1, ..., 1)
    strength = parts / parts.sum(dim=1, keepdim=True).clamp(min=1e-12) * (1.4 * total * (1 - share))[:, None]
    color = strength[..., None] * _tint(draw, n, LIGHTS)
    direction = _unit(draw.normal(n, LIGHTS, 3) + 0.6 * up[:, None] - 0.7 * e[2])
    order = color.sum(dim=2).argsort(dim=1, descending=True)[..., None].expand(-1, -1, 3)
    sky = draw.uniform(0.0, 0.6, n) * share * total
    normal = _unit(0.5 * draw.normal(n, 3) - e[2] + 0.6 * up)
    support = scene.centre - normal * (scene.diameter * draw.uniform(0.2, 0.6, n))[:, None]
    return Lighting(
        ambient=(share * total - 0.5 * sky)[:, None] * _tint(draw, n),
        sky=sky[:, None] * _tint(draw, n),
        up=up,
        direction=direction.gather(1, order),
        color=color.gather(1, order),
        gloss=torch.where(draw.chance(0.5, n, k), draw.uniform(0.05, 0.8, n, k), 0.0),
        shininess=torch.exp(draw.uniform(math.log(4), math.log(120), n, k)),
        shadow=torch.where(draw.chance(0.65, n), draw.uniform(0.4, 1.0, n), 0.0),
        ground=torch.cat([normal, (normal * support).sum(dim=1, keepdim=True)], dim=1),
    )


def _head_light(n: int, k: int, like: Tensor) -> Lighting:
    """One light where the camera is, over little ambient light."""
    towards = torch.zeros_like(like)
    towards[:, 2].fill_(-1.0)
    color = torch.zeros((n, LIGHTS, 3), dtype=like.dtype, device=like.device)
    color[:, 0].fill_(0.88)
    none = torch.zeros((n, k), dtype=like.dtype, device=like.device)
    return Lighting(
        ambient=torch.full_like(towards, 0.12), sky=torch.zeros_like(towards), up=towards,
        direction=towards[:, None].expand(n, LIGHTS, 3), color=color, gloss=none, shininess=none + 1.0,
        shadow=none[:, 0], ground=torch.cat([towards, none[:, :1]], dim=1),
    )  # fmt: skip


def photograph(stock: Stock, scene: Scenes, views: Views, lighting: Lighting, background: Tensor) -> Tensor:
    """Linear images float32 [N,3,n,n] of views of even size n, over backgrounds float32 [N,3,n,n] in 0..255."""
    n = views.item.shape[-1]
    diffuse, gleam, dark = _light(stock, scene, views, lighting)
    solid = (views.item >= 0)[:, None]
    on = _resized(_grown(torch.cat([diffuse, gleam], dim=1), solid[:, :, ::2, ::2]), n)
    off = _resized(1.0 - 0.75 * dark, n)
    albedo = torch.where(solid, views.albedo.permute(0, 3, 1, 2).float(), background)
    image = (albedo / 255.0) ** GAMMA
    image = image * torch.where(solid, on[:, :3], off) + on[:, 3:] * solid
    return image * inside_view(scene.edge, views.R, views.K, n)[:, None]


def _light(stock: Stock, scene: Scenes, views: Views, lighting: Lighting) -> tuple[Tensor, Tensor, Tensor]:
    """On every second pixel, float32: diffuse light [N,3,h,h], highlight and shadow of the first light [N,1,h,h]."""
    item, depth = views.item[:, ::2, ::2], views.depth[:, ::2, ::2]
    K = views.K.clone()
    K[:, :2] *= 0.5  # pixel 2 u of the view is pixel u here
    dark = _shadow(depth, views.R, K, lighting, scene.diameter) * (lighting.shadow > 0).float()[:, None, None, None]
    normals, to_camera = _normals(stock, scene, views, K)
    direction, color = lighting.direction.float(), lighting.color.float()
    cosine = normals @ direction.mT[:, None]  # [N,h,h,LIGHTS]
    reach = torch.ones_like(cosine)
    reach[..., 0] -= lighting.shadow.float()[:, None, None] * dark[:, 0]
    above = 0.5 + 0.5 * (normals * lighting.up.float()[:, None, None]).sum(dim=-1, keepdim=True)
    ambient, sky = lighting.ambient.float()[:, None, None], lighting.sky.float()[:, None, None]
    diffuse = (cosine.clamp(min=0) * reach) @ color[:, None] + above * sky + ambient
    # n . h of Blinn (1977), h = (v + l) / |v + l| and |v + l|^2 = 2 + 2 v . l
    half_way = (2.0 + 2.0 * (to_camera @ direction.mT[:, None])).clamp(min=1e-6).sqrt()
    peak = ((normals * to_camera).sum(dim=-1, keepdim=True) + cosine) / half_way
    row = torch.arange(len(K), device=K.device)[:, None, None]
    gloss = lighting.gloss.float()[row, item.clamp(min=0)]
    shininess = lighting.shininess.float()[row, item.clamp(min=0)]
    strength = peak.clamp(0, 1) ** shininess[..., None] * (cosine > 0) * reach
    gleam = gloss * (strength * color.mean(dim=2)[:, None, None]).sum(dim=-1)
    there = item >= 0
    diffuse = torch.where(there[..., None], diffuse, 1.0)
    return diffuse.permute(0, 3, 1, 2), torch.where(there, gleam, 0.0)[:, None], dark


def _normals(stock: Stock, scene: Scenes, views: Views, K: Tensor) -> tuple[Tensor, Tensor]:
    """On every second pixel: smooth unit normals towards the camera, and unit vectors to it, float32 [N,h,h,3] in the
    base cameras' axes; mean nothing where there is no item."""
    item = views.item[:, ::2, ::2].clamp(min=0)
    triangle, depth = views.triangle[:, ::2, ::2].clamp(min=0), views.depth[:, ::2, ::2]
    n, h = item.shape[:2]
    row = torch.arange(n, device=K.device)[:, None, None]
    items = scene.items
    slot = items.slot.clamp(min=0)
    R = items.T[..., :3, :3].float()[row, item]  # [N,h,h,3,3]
    middle = rotate(items.T[..., :3, :3], stock.centre[slot]) + items.T[..., :3, 3]
    ray = (rays(K, h).flatten(1, 2) @ views.R).unflatten(1, (h, h)).float()
    z = depth / items.scale.float()[row, item]
    base = ray * z[..., None] - middle.float()[row, item]
    x = (base[..., None, :] @ R)[..., 0, :]  # about the mesh's centre, its axes
    table = stock.normal_map[slot[row, item], triangle]
    smooth = rotate(R, rotate(table[..., :3], x) + table[..., 3])
    flat = rotate(R, stock.face_normals[slot[row, item], triangle])
    to_camera = -ray / ray.norm(dim=-1, keepdim=True)
    side = torch.where((flat * to_camera).sum(dim=-1, keepdim=True) < 0, -1.0, 1.0)
    return side * smooth / smooth.norm(dim=-1, keepdim=True).clamp(min=1e-6), to_camera


def _shadow(depth: Tensor, R: Tensor, K: Tensor, lighting: Lighting, diameter: Tensor) -> Tensor:
    """Where the first light is hidden, float32 [N,1,h,h] in 0..1, softened: ``scenes_light._shadow``."""
    n, h = depth.shape[:2]
    side = _SHADOW_SIDE
    # float32 throughout: lengths in diameters of the target, of which the camera is a few away
    seen_depth = depth / diameter.float()[:, None, None]
    grid = ((torch.arange(side, device=K.device) + 0.5) * (h / side)).long()
    K32 = K.float()
    fx, fy, cx, cy = (K32[:, i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    x, y = (grid[None, None, :] - cx) / fx, (grid[None, :, None] - cy) / fy
    ray = torch.stack(torch.broadcast_tensors(x, y, torch.ones_like(x)), dim=-1)
    slope = (ray * rotate(R, lighting.ground[:, :3]).float()[:, None, None]).sum(dim=-1)
    support = (lighting.ground[:, 3] / diameter).float()[:, None, None]
    plane = torch.where(slope < -1e-3, support / slope.clamp(max=-1e-3), 0.0)
    seen = seen_depth[:, grid[:, None], grid]
    z = torch.where(seen > 0, seen, plane.clamp(0, 1e3))
    start, towards = ray * z[..., None], rotate(R, lighting.direction[:, 0]).float()[:, None, None]
    dark = torch.zeros_like(z, dtype=torch.bool)
    flat = seen_depth.flatten(1)
    for reach in _SHADOW_STEPS.tolist():
        px, py, ahead = (start + reach * towards).unbind(-1)
        safe = torch.where(ahead > 1e-6, ahead, 1.0)
        u = (fx * px / safe + cx).round().clamp(0, h - 1).long()
        v = (fy * py / safe + cy).round().clamp(0, h - 1).long()
        there = flat.gather(1, (v * h + u).flatten(1)).view(n, side, side)
        gap = ahead - there
        dark |= (ahead > 1e-6) & (there > 0) & (gap > 0.03) & (gap < 0.6) & (z > 0)
    soften = blur_matrix(side, torch.full((1,), _SHADOW_SIGMA, device=K.device), _SHADOW_SIGMA)
    return _resized((soften @ dark.float() @ soften.mT)[:, None], h)


def _grown(values: Tensor, known: Tensor) -> Tensor:
    """Values [N,c,h,h] carried a few pixels beyond where they are known (bool [N,1,h,h]); 0.7 where nothing is near."""
    here = known.float()
    near = [
        functional.avg_pool2d(functional.pad(t, (2, 2, 2, 2), "reflect"), 5, stride=1) for t in (values * here, here)
    ]
    spread = torch.where(near[1] > 1e-6, near[0] / near[1].clamp(min=1e-6), 0.7)
    return torch.where(known, values, spread)


def _resized(image: Tensor, size: int) -> Tensor:
    return functional.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)


def _tint(draw: Draw, *shape: int) -> Tensor:
    """Lights' colours, warm to cool, of mean 1; float64 [*shape,3]."""
    warm = 1.0 - torch.arange(3, dtype=torch.float64, device=draw.device)
    color = torch.exp(0.1 * draw.normal(*shape, 3) + 0.12 * draw.normal(*shape, 1) * warm)
    return color / color.mean(dim=-1, keepdim=True)


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True)


def _like(which: Tensor, values: Tensor) -> Tensor:
    return which.view(-1, *[1] * (values.dim() - 1))
