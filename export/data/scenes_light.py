"""From an unlit view to a photograph's light: directional lights, highlights, soft shadows, a background.

Colours are linear here (sRGB value / 255 to the power 2.2). Light is worked out on every second pixel of each axis,
because normals and shadows vary slowly, and spread from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from coop_edge.geometry import se3
from export.data.scenes import Item, Scene, View, centre_of, inside_photograph, points_of

Array = np.ndarray[Any, Any]
Rng = np.random.Generator

GAMMA = 2.2
_TO_LINEAR = ((np.arange(256) / 255.0) ** GAMMA).astype(np.float32)
_SHADOW_STEPS = np.geomspace(0.04, 1.2, 9)
"""How far along the ray to the light other surfaces are looked for, in diameters of the target."""


@dataclass(frozen=True)
class Light:
    """Directional light, base camera's axes. direction: unit vector [3] towards the light; color [3] linear."""

    direction: Array
    color: Array


@dataclass(frozen=True)
class Lighting:
    """All that determines the light in a scene."""

    ambient: Array  # [3]
    sky: Array  # [3]: from above, added in proportion to (1 + n . up) / 2
    up: Array  # unit vector [3]
    lights: tuple[Light, ...]
    gloss: Array  # [items]: strength of the highlight
    shininess: Array  # [items]: exponent
    shadow: float  # 0..1: share of a light that a shadow takes away
    ground: Array  # [4]: plane (n, d), n . x = d, that shadows fall on behind the objects


def draw_lighting(rng: Rng, scene: Scene, hardness: float = 1.0) -> Lighting:
    """One to three lights over an ambient term; together about 1 on a surface that faces them.

    hardness: share of the scenes that are lit so, 0 to 1; in the others the light is where the camera is, as in
    templates, and nothing is glossy.
    """
    if rng.random() >= hardness:
        return _head_light(len(scene.items))
    up = _unit(rng.normal(0, 0.5, 3) + (0.0, -1.0, 0.0)) if rng.random() < 0.7 else _unit(rng.normal(size=3))
    total = np.exp(rng.normal(0.05, 0.25))
    share = rng.uniform(0.15, 0.7)
    lights = []
    strengths = rng.dirichlet(np.full(int(rng.integers(1, 4)), 1.0)) * total * (1 - share) * 1.4
    for strength in strengths:
        direction = _unit(rng.normal(size=3) + 0.6 * up + (0.0, 0.0, -0.7))
        lights.append(Light(direction, strength * _tint(rng)))
    lights.sort(key=lambda light: -float(light.color.sum()))
    n = len(scene.items)
    glossy = rng.random(n) < 0.5
    sky = rng.uniform(0, 0.6) * share * total
    target = scene.target
    normal = _unit(rng.normal(0, 0.5, 3) + (0.0, 0.0, -1.0) + 0.6 * up)
    support = centre_of(target) - normal * target.object.diameter * rng.uniform(0.2, 0.6)
    return Lighting(
        ambient=(share * total - 0.5 * sky) * _tint(rng),
        sky=sky * _tint(rng),
        up=up,
        lights=tuple(lights),
        gloss=np.where(glossy, rng.uniform(0.05, 0.8, n), 0.0),
        shininess=np.exp(rng.uniform(np.log(4), np.log(120), n)),
        shadow=float(rng.uniform(0.4, 1.0)) if rng.random() < 0.65 else 0.0,
        ground=np.concatenate([normal, [normal @ support]]),
    )


def _head_light(items: int) -> Lighting:
    """Nearly what a renderer's default shading (0.4 + 0.6 cos, on sRGB values) is in linear light."""
    towards = np.array([0.0, 0.0, -1.0])
    return Lighting(
        ambient=np.full(3, 0.12), sky=np.zeros(3), up=towards, lights=(Light(towards, np.full(3, 0.88)),),
        gloss=np.zeros(items), shininess=np.ones(items), shadow=0.0, ground=np.array([0.0, 0.0, -1.0, 0.0]),
    )  # fmt: skip


def photograph(scene: Scene, view: View, lighting: Lighting, background: Array) -> Array:
    """Linear image float32 [n,n,3] of a view of even size n, over a background uint8 [n,n,3]; 0 outside its edge."""
    n = len(view.item)
    light, gleam, dark = _light(scene, view, lighting)
    solid = (view.item >= 0).view(np.uint8)
    on = cv2.resize(_grown(np.dstack([light, gleam]), view.item[::2, ::2] >= 0), (n, n))
    off = cv2.resize(1.0 - np.float32(0.75) * dark, (n, n))
    factor = cv2.copyTo(on[..., :3], solid, cv2.merge([off, off, off]))
    image = cv2.LUT(cv2.copyTo(view.albedo, solid, background.copy()), _TO_LINEAR)
    image = cv2.multiply(image, factor) + (on[..., 3] * solid)[..., None]
    if scene.edge is not None:
        columns, rows = np.meshgrid(np.arange(n), np.arange(n))
        image *= inside_photograph(scene, view.R, view.K, np.stack([columns, rows], axis=-1))[..., None]
    return image


def _grown(values: Array, known: Array) -> Array:
    """Values [h,w,c] carried a few pixels beyond where they are known (bool [h,w]); 0.7 where nothing is near."""
    weight = cv2.blur(known.astype(np.float32), (5, 5))[..., None]
    near = cv2.blur(values * known[..., None], (5, 5)) / np.maximum(weight, 1e-6)
    return np.where(known[..., None], values, np.where(weight > 1e-6, near, np.float32(0.7))).astype(np.float32)


def _light(scene: Scene, view: View, lighting: Lighting) -> tuple[Array, Array, Array]:
    """On every second pixel: diffuse light [h,h,3], highlight [h,h] and shadow of the first light [h,h] in 0..1."""
    half = View(
        view.albedo, view.depth[::2, ::2], view.item[::2, ::2], view.triangle[::2, ::2], 0, view.R,
        np.diag([0.5, 0.5, 1.0]) @ view.K,  # pixel 2 u of the view is pixel u here
    )  # fmt: skip
    h = len(half.item)
    dark = np.zeros((h, h), np.float32)
    if lighting.shadow > 0:
        dark = _shadow(half, lighting, scene.target.object.diameter)
    diffuse = np.ones((h * h, 3), np.float32)
    gleam = np.zeros(h * h, np.float32)
    for k, item in enumerate(scene.items):
        at, points = points_of(half, k, item)
        if len(at) == 0:
            continue
        normals, to_camera = _normals(item, half.triangle.ravel()[at], points)
        # All lights at once: columns are lights, the first of them reduced where it is hidden.
        directions = np.stack([light.direction for light in lighting.lights]).astype(np.float32)
        colors = np.stack([light.color for light in lighting.lights]).astype(np.float32)
        reach = np.ones((len(at), len(directions)), np.float32)
        reach[:, 0] -= np.float32(lighting.shadow) * dark.ravel()[at]
        cosine = normals @ directions.T
        above = 0.5 + 0.5 * (normals @ lighting.up.astype(np.float32))
        diffuse[at] = (np.maximum(cosine, 0) * reach) @ colors + above[:, None] * lighting.sky + lighting.ambient
        if lighting.gloss[k] > 0:  # n . h of Blinn (1977), h = (v + l) / |v + l| and |v + l|^2 = 2 + 2 v . l
            half_way = np.sqrt(np.maximum(2.0 + 2.0 * (to_camera @ directions.T), 1e-6))
            peak = (np.einsum("nk,nk->n", normals, to_camera)[:, None] + cosine) / half_way
            strength = np.clip(peak, 0, 1) ** np.float32(lighting.shininess[k]) * (cosine > 0) * reach
            gleam[at] = np.float32(lighting.gloss[k]) * (strength @ colors.mean(axis=1))
    return diffuse.reshape(h, h, 3), gleam.reshape(h, h), dark


def _normals(item: Item, triangle: Array, points: Array) -> tuple[Array, Array]:
    """Smooth unit normals towards the camera, and unit vectors to it, both float32 [P,3] in the base camera's axes."""
    thing = item.object
    x = (points - thing.mesh.centre).astype(np.float32)
    table = thing.normal_map[triangle]
    smooth = np.einsum("nij,nj->ni", table[..., :3], x) + table[..., 3]
    flat = thing.face_normals[triangle]
    R = item.T[:3, :3].astype(np.float32)
    to_camera = -se3.transform(item.T, points).astype(np.float32)
    to_camera /= np.linalg.norm(to_camera, axis=1, keepdims=True)
    side = np.where(np.einsum("nk,nk->n", flat @ R.T, to_camera) < 0, -1, 1).astype(np.float32)
    normals = (smooth @ R.T) * side[:, None]
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    return normals, to_camera


def _shadow(view: View, lighting: Lighting, diameter: float) -> Array:
    """Where the first light is hidden, float32 [h,h] in 0..1, softened: by marching through the depth image.

    A pixel is dark if, on the way to the light, a point lies a little behind what the camera sees there. Pixels without
    an object lie on the ground plane.
    """
    h = len(view.item)
    side = 48
    step = h / side
    grid = ((np.arange(side) + 0.5) * step).astype(np.int64)
    K, ground = view.K, lighting.ground
    rays = np.empty((side, side, 3))
    rays[..., 0] = (grid - K[0, 2]) / K[0, 0]
    rays[..., 1] = ((grid - K[1, 2]) / K[1, 1])[:, None]
    rays[..., 2] = 1.0
    slope = rays @ (view.R @ ground[:3])
    plane = np.where(slope < -1e-3, ground[3] / np.minimum(slope, -1e-3), 0.0)
    seen = view.depth[grid[:, None], grid]
    z = np.where(seen > 0, seen, np.clip(plane, 0, 1e3 * diameter))
    start, towards = rays * z[..., None], view.R @ lighting.lights[0].direction
    dark = np.zeros((side, side), np.float32)
    for reach in _SHADOW_STEPS * diameter:
        x, y, depth = np.moveaxis(start + reach * towards, -1, 0)
        ahead = depth > 1e-6
        safe = np.where(ahead, depth, 1.0)
        u = np.clip(np.rint(K[0, 0] * x / safe + K[0, 2]), 0, h - 1).astype(np.int64)
        v = np.clip(np.rint(K[1, 1] * y / safe + K[1, 2]), 0, h - 1).astype(np.int64)
        there = view.depth[v, u]
        gap = depth - there
        dark[ahead & (there > 0) & (gap > 0.03 * diameter) & (gap < 0.6 * diameter) & (z > 0)] = 1.0
    soft = cv2.GaussianBlur(dark, (0, 0), 0.9)
    return cv2.resize(soft, (h, h), interpolation=cv2.INTER_LINEAR)


def _tint(rng: Rng) -> Array:
    """A light's colour, warm to cool, of mean 1."""
    color = np.exp(rng.normal(0, 0.1, 3) + rng.normal(0, 0.12) * np.array([1.0, 0.0, -1.0]))
    return color / color.mean()


def _unit(v: Array) -> Array:
    return v / np.linalg.norm(v)
