"""From unlit views to photographs' light: directional lights, highlights, soft shadows, backgrounds; as tensors.

Colours are linear here (see ``textures.GAMMA``). Light is worked out on every second pixel of each axis, because
normals and shadows vary slowly, and spread from there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export.data.geometry import Pixels, Random, inverse_camera, on_gpu, per_pixel, rotate, selected_pixels
from export.data.light_cpu import compose
from export.data.resample import blur_matrix
from export.data.scenes import Scenes, SceneViews, inside_view
from export.data.stock import ObjectStock
from export.data.textures import LINEAR

LIGHTS = 3
"""Most lights of a scene."""
SHADOW_STEPS = np.geomspace(0.04, 1.2, 9)
"""How far along the ray to the light other surfaces are looked for, in diameters of the target."""
_SHADOW_SIDE = 48
_SHADOW_SIGMA = 0.9
_DARKEST = 0.75  # of the background's light that a shadow on it takes away
_REACH = 2  # pixels that light is carried beyond where it is known


@dataclass(frozen=True, eq=False)
class Lighting:
    """All that determines the light in N scenes of k items, float64; base cameras' axes.

    Lights that a scene has not are black; the brightest is the first, and alone throws shadows.
    """

    ambient: Tensor  # [N,3]
    sky: Tensor  # [N,3]: from above, added in proportion to (1 + n . up) / 2
    up: Tensor  # [N,3], unit vectors
    direction: Tensor  # [N,LIGHTS,3], unit vectors towards the lights
    color: Tensor  # [N,LIGHTS,3]
    gloss: Tensor  # [N,k]: strength of the highlight
    shininess: Tensor  # [N,k]: exponent
    shadow: Tensor  # [N] in 0..1: share of the first light that its shadow takes away
    ground: Tensor  # [N,4]: plane (n, d), n . x = d, that shadows fall on behind the objects


def draw_lighting(random: Random, scene: Scenes, appearance: Tensor) -> Lighting:
    """Draw one to three lights over an ambient term; together about 1 on a surface that faces them.

    appearance [N]: share of the scenes that are lit so, 0 to 1; in the others the light is where the camera is, as in
    templates, and nothing is glossy.
    """
    n, k = scene.items.slot.shape
    free, head = _free_light(random, scene), _head_light(n, k, scene.edge)
    lit = random.chance(appearance, n)
    pairs = {f.name: (getattr(free, f.name), getattr(head, f.name)) for f in fields(Lighting)}
    return Lighting(**{name: torch.where(_like(lit, a), a, b) for name, (a, b) in pairs.items()})


def _free_light(random: Random, scene: Scenes) -> Lighting:
    n, k = scene.items.slot.shape
    e = torch.eye(3, dtype=torch.float64, device=random.device)
    above = _unit(0.5 * random.normal(n, 3) - e[1])
    up = torch.where(random.chance(0.7, n)[:, None], above, _unit(random.normal(n, 3)))
    total = torch.exp(0.05 + 0.25 * random.normal(n))
    share = random.uniform(0.15, 0.7, n)
    present = torch.arange(LIGHTS, device=random.device) <= random.integers(LIGHTS, n)[:, None]
    parts = torch.where(present, -torch.log1p(-random.uniform(0.0, 1.0, n, LIGHTS)), 0.0)  # Dirichlet(1, ..., 1)
    strength = parts / parts.sum(dim=1, keepdim=True).clamp(min=1e-12) * (1.4 * total * (1 - share))[:, None]
    color = strength[..., None] * _tint(random, n, LIGHTS)
    direction = _unit(random.normal(n, LIGHTS, 3) + 0.6 * up[:, None] - 0.7 * e[2])
    order = color.sum(dim=2).argsort(dim=1, descending=True)[..., None].expand(-1, -1, 3)
    sky = random.uniform(0.0, 0.6, n) * share * total
    normal = _unit(0.5 * random.normal(n, 3) - e[2] + 0.6 * up)
    support = scene.centre - normal * (scene.diameter * random.uniform(0.2, 0.6, n))[:, None]
    return Lighting(
        ambient=(share * total - 0.5 * sky)[:, None] * _tint(random, n),
        sky=sky[:, None] * _tint(random, n),
        up=up,
        direction=direction.gather(1, order),
        color=color.gather(1, order),
        gloss=torch.where(random.chance(0.5, n, k), random.uniform(0.05, 0.8, n, k), 0.0),
        shininess=torch.exp(random.uniform(math.log(4), math.log(120), n, k)),
        shadow=torch.where(random.chance(0.65, n), random.uniform(0.4, 1.0, n), 0.0),
        ground=torch.cat([normal, (normal * support).sum(dim=1, keepdim=True)], dim=1),
    )


def _head_light(n: int, k: int, like: Tensor) -> Lighting:
    """Nearly what a renderer's default shading (0.4 + 0.6 cos, on sRGB values) is in linear light."""
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


def photograph(stock: ObjectStock, scene: Scenes, views: SceneViews, lighting: Lighting, background: Tensor) -> Tensor:
    """Return linear light float32 [N,3,n,n] of views over linear backgrounds [N,3,n,n], 0 off the edge; n is even."""
    n = views.seen.item.shape[-1]
    light, dark = _light(stock, scene, views, lighting)
    solid = (views.seen.item >= 0)[:, None]
    light, dim = _grown(light, solid[:, :, ::2, ::2]), 1.0 - _DARKEST * dark
    within = inside_view(scene.edge, views.R, views.K, n)
    if not on_gpu(light):
        image = torch.empty_like(background)
        given = (views.seen.albedo, views.seen.item, light, dim[:, 0], background, within, image)
        compose(LINEAR, *(tensor.numpy() for tensor in given))
        return image
    on, off = _resized(light, n), _resized(dim, n)
    levels = views.seen.albedo.permute(0, 3, 1, 2).int()
    albedo = _linear(levels.device).index_select(0, levels.flatten()).view(levels.shape)
    lit = torch.addcmul(on[:, 3:], albedo, on[:, :3])
    image = torch.where(solid, lit, background * off)
    return image * within[:, None]


def _light(stock: ObjectStock, scene: Scenes, views: SceneViews, lighting: Lighting) -> tuple[Tensor, Tensor]:
    """On every second pixel, float32: diffuse light and highlight [N,4,h,h], shadow of the first light [N,1,h,h]."""
    item, depth = (t[:, ::2, ::2].contiguous() for t in (views.seen.item, views.seen.depth))
    triangle = views.seen.triangle[:, ::2, ::2].contiguous()
    K = views.K.clone()
    K[:, :2] *= 0.5  # pixel 2 u of the view is pixel u here
    dark = _shadow(depth, views.R, K, lighting, scene.diameter)
    at = selected_pixels(item >= 0)
    place = at.of(item).clamp(min=0)
    each = at.row * scene.items.slot.shape[1] + place  # which item of which scene
    normals, to_camera = _normals(stock, scene, views.R, K, at, each, at.of(triangle).clamp(min=0), at.of(depth))
    R = scene.items.T[..., :3, :3].flatten(0, 1)
    up = per_pixel((R.mT @ _per_item(lighting.up, scene)[..., None])[..., 0].float(), each)
    direction = per_pixel((_per_item(lighting.direction, scene) @ R).float(), each)  # object's axes
    color = per_pixel(lighting.color.float(), at.row)
    hidden = lighting.shadow.float().index_select(0, at.row) * at.of(dark)
    above = 0.5 + 0.5 * (normals * up).sum(dim=0)
    diffuse = per_pixel(lighting.ambient.float(), at.row) + above * per_pixel(lighting.sky.float(), at.row)
    facing = (normals * to_camera).sum(dim=0)
    gleam = torch.zeros_like(facing)
    shininess = lighting.shininess.float().flatten().index_select(0, each)
    for i in range(LIGHTS):
        cosine = (normals * direction[i]).sum(dim=0)
        reach = 1.0 - hidden if i == 0 else torch.ones_like(hidden)
        diffuse = torch.addcmul(diffuse, cosine.clamp(min=0) * reach, color[i])
        # n . h of Blinn (1977), h = (v + l) / |v + l| and |v + l|^2 = 2 + 2 v . l
        half_way = (2.0 + 2.0 * (to_camera * direction[i]).sum(dim=0)).clamp_(min=1e-6).rsqrt_()
        peak = ((facing + cosine) * half_way).clamp_(0, 1).pow_(shininess)
        gleam = torch.addcmul(gleam, peak * (cosine > 0), reach * color[i].mean(dim=0))
    gleam = gleam * lighting.gloss.float().flatten().index_select(0, each)
    values = torch.where(at.of(item) >= 0, torch.cat([diffuse, gleam[None]]), 0.0)
    return at.spread(values).transpose(0, 1), dark


def _normals(
    stock: ObjectStock, scene: Scenes, R: Tensor, K: Tensor, at: Pixels, each: Tensor, triangle: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor]:
    """Smooth unit normals towards the camera, and unit vectors to it, float32 [3,P] in the axes of the items ``each``
    [P], whose triangles [P] are seen at scene depths [P]."""
    items = scene.items
    slot = items.slot.clamp(min=0).flatten()
    turn, scale = items.T[..., :3, :3].flatten(0, 1), items.scale.flatten()
    middle = rotate(turn, stock.centre[slot]) + items.T[..., :3, 3].flatten(0, 1)
    # Rays of pixels, in the items' axes: turn^T R^T K^-1 (u, v, 1).
    rays = turn.mT @ _per_item(R.mT @ inverse_camera(K), scene)
    table = per_pixel(torch.cat([rays, (turn.mT @ middle[..., None])], dim=2).float(), each)
    ray = table[:, 0] * at.u.float() + table[:, 1] * at.v.float() + table[:, 2]
    x = ray * (depth / scale.float().index_select(0, each)) - table[:, 3]  # about the mesh's centre
    which = slot.index_select(0, each) * stock.limits.faces + triangle
    smooth = stock.normal_map.view(-1, 12).index_select(0, which).T.contiguous().view(3, 4, -1)
    smooth = smooth[:, 0] * x[0] + smooth[:, 1] * x[1] + smooth[:, 2] * x[2] + smooth[:, 3]
    flat = stock.face_normals.view(-1, 3).index_select(0, which).T
    to_camera = -ray * (ray * ray).sum(dim=0).rsqrt()
    side = torch.where((flat * to_camera).sum(dim=0) < 0, -1.0, 1.0)
    return smooth * (side / (smooth * smooth).sum(dim=0).sqrt_().clamp_(min=1e-6)), to_camera


def _shadow(depth: Tensor, R: Tensor, K: Tensor, lighting: Lighting, diameter: Tensor) -> Tensor:
    """Where the first light is hidden, float32 [N,1,h,h] in 0..1, softened: by marching through the depth image.

    A pixel is dark if, on the way to the light, a point lies a little behind what the camera sees there. Pixels without
    an object lie on the ground plane. 0 in scenes without shadows.
    """
    n, h = depth.shape[:2]
    side = _SHADOW_SIDE
    # float32 throughout: lengths in diameters of the target, of which the camera is a few away
    seen_depth = depth / diameter.float()[:, None, None]
    grid = ((torch.arange(side, device=K.device) + 0.5) * (h / side)).long()
    K32 = K.float()
    fx, fy, cx, cy = (K32[:, i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    x, y = (grid[None, None, :] - cx) / fx, (grid[None, :, None] - cy) / fy
    normal = rotate(R, lighting.ground[:, :3]).float()[..., None, None]
    slope = normal[:, 0] * x + normal[:, 1] * y + normal[:, 2]
    support = (lighting.ground[:, 3] / diameter).float()[:, None, None]
    plane = torch.where(slope < -1e-3, support / slope.clamp(max=-1e-3), 0.0)
    seen = seen_depth[:, grid[:, None], grid]
    z = torch.where(seen > 0, seen, plane.clamp(0, 1e3))
    start_x, start_y, towards = x * z, y * z, rotate(R, lighting.direction[:, 0]).float()[..., None, None]
    dark = torch.zeros_like(z, dtype=torch.bool)
    flat = seen_depth.flatten(1)
    for reach in SHADOW_STEPS.tolist():
        ahead = z + reach * towards[:, 2]
        inverse = 1.0 / torch.where(ahead > 1e-6, ahead, 1.0)
        u = ((start_x + reach * towards[:, 0]) * fx * inverse + cx).round_().clamp_(0, h - 1)
        v = ((start_y + reach * towards[:, 1]) * fy * inverse + cy).round_().clamp_(0, h - 1)
        there = flat.gather(1, (v * h + u).long().flatten(1)).view(n, side, side)
        gap = ahead - there
        dark |= (ahead > 1e-6) & (there > 0) & (gap > 0.03) & (gap < 0.6) & (z > 0)
    dark &= (lighting.shadow > 0)[:, None, None]
    soften = blur_matrix(side, torch.full((1,), _SHADOW_SIGMA, device=K.device), _SHADOW_SIGMA)
    return _resized((soften @ dark.float() @ soften.mT)[:, None], h)


def _grown(values: Tensor, known: Tensor) -> Tensor:
    """Values [N,c,h,h], 0 where they are not known (bool [N,1,h,h]), carried a few pixels beyond where they are: as the
    mean of those that are near; 0.7 where none is."""
    here = known.float()
    near = torch.cat([values, here], dim=1)
    for dim in (2, 3):
        near = _line_sums(near, dim)
    weight = near[:, -1:]
    spread = torch.where(weight > 0, near[:, :-1] / weight.clamp(min=1.0), 0.7)
    return torch.where(known, values, spread)


def _line_sums(image: Tensor, dim: int) -> Tensor:
    """Sums over ``_REACH`` pixels to both sides along a dimension; there is nothing beyond the borders."""
    out = image.clone()
    size = image.shape[dim]
    for step in range(1, _REACH + 1):
        out.narrow(dim, step, size - step).add_(image.narrow(dim, 0, size - step))
        out.narrow(dim, 0, size - step).add_(image.narrow(dim, step, size - step))
    return out


def _resized(image: Tensor, size: int) -> Tensor:
    return functional.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)


@lru_cache(maxsize=8)
def _linear(device: torch.device) -> Tensor:
    """Linear light of the 256 levels."""
    return torch.from_numpy(LINEAR).to(device)


def _per_item(values: Tensor, scene: Scenes) -> Tensor:
    """Values [N,...] of scenes for each of their items, [N k,...]."""
    return values.repeat_interleave(scene.items.slot.shape[1], dim=0)


def _tint(random: Random, *shape: int) -> Tensor:
    """Lights' colours, warm to cool, of mean 1; float64 [*shape,3]."""
    warm = 1.0 - torch.arange(3, dtype=torch.float64, device=random.device)
    color = torch.exp(0.1 * random.normal(*shape, 3) + 0.12 * random.normal(*shape, 1) * warm)
    return color / color.mean(dim=-1, keepdim=True)


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True)


def _like(which: Tensor, values: Tensor) -> Tensor:
    return which.view(-1, *[1] * (values.dim() - 1))
