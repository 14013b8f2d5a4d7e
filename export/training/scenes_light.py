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
from export.training.scenes import Item, Scene, View, centre_of, inside_photograph, points_of

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


def draw_lighting(rng: Rng, scene: Scene) -> Lighting:
    """One to three lights over an ambient term; together about 1 on a surface that faces them."""
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


def photograph(scene: Scene, view: View, lighting: Lighting, background: Array) -> Array:
    """Linear image float32 [n,n,3] of a view of even size n, over a background uint8 [n,n,3]; 0 outside its edge."""
    n = len(view.item)
    light, gleam, dark = _light(scene, view, lighting)
    solid = (view.item >= 0).astype(np.uint8)
    image = cv2.LUT(np.where(solid[..., None] > 0, view.albedo, background), _TO_LINEAR)
    behind = 1.0 - 0.75 * dark[..., None] * (lighting.shadow > 0)
    half = (view.item[::2, ::2] >= 0).astype(np.float32)
    known = np.dstack([light * half[..., None], gleam * half, half])
    spread = cv2.resize(known, (n, n), interpolation=cv2.INTER_LINEAR)
    weight = np.maximum(spread[..., 4:], 1e-3)
    on = np.where(spread[..., 4:] > 1e-3, spread[..., :4] / weight, (*np.full(3, 0.7), 0.0)).astype(np.float32)
    off = cv2.resize(behind.astype(np.float32), (n, n), interpolation=cv2.INTER_LINEAR)[..., None]
    image *= np.where(solid[..., None] > 0, on[..., :3], off)
    image += on[..., 3:] * solid[..., None]
    if scene.edge is not None:
        columns, rows = np.meshgrid(np.arange(n), np.arange(n))
        image *= inside_photograph(scene, view.R, view.K, np.stack([columns, rows], axis=-1))[..., None]
    return image


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
        value = lighting.ambient + lighting.sky * (0.5 + 0.5 * (normals @ lighting.up))[:, None]
        shade = 1.0 - lighting.shadow * dark.ravel()[at]
        shine = np.zeros(len(at))
        for j, light in enumerate(lighting.lights):
            facing = np.maximum(normals @ light.direction, 0.0)
            if j == 0:
                facing = facing * shade
            value = value + facing[:, None] * light.color
            if lighting.gloss[k] > 0:
                middle = to_camera + light.direction
                middle /= np.maximum(np.linalg.norm(middle, axis=1, keepdims=True), 1e-6)
                peak = np.maximum(np.einsum("nk,nk->n", normals, middle), 0.0) ** lighting.shininess[k]
                shine += peak * (facing > 0) * light.color.mean() * (shade if j == 0 else 1.0)
        diffuse[at] = value
        gleam[at] = lighting.gloss[k] * shine
    return diffuse.reshape(h, h, 3), gleam.reshape(h, h), dark


def _normals(item: Item, triangle: Array, points: Array) -> tuple[Array, Array]:
    """Smooth unit normals towards the camera, and unit vectors to the camera, both [P,3] in the base camera's axes."""
    thing = item.object
    x = (points - thing.mesh.centre).astype(np.float32)
    table = thing.normal_map[triangle]
    smooth = np.einsum("nij,nj->ni", table[..., :3], x) + table[..., 3]
    flat = thing.face_normals[triangle]
    R = item.T[:3, :3]
    to_camera = -(se3.transform(item.T, points))
    to_camera /= np.linalg.norm(to_camera, axis=1, keepdims=True)
    side = np.where(np.einsum("nk,nk->n", flat @ R.T, to_camera) < 0, -1.0, 1.0)
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
