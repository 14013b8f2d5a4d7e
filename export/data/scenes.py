"""Scenes of one to three objects, and views of them: who is seen at each pixel, how far away, in what colour.

A scene lives in the frame of its *base camera*, whose centre all views of it share: a view is a rotation and a K, as in
``coop_edge.geometry.crop``. Lengths are those of the target. The other objects are brought to a size that suits it: an
object scaled by s about the camera's centre looks the same from there, only its depths are s times as large. So objects
are drawn as they are, with poses in their own metres, and their depths multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from coop_edge.geometry import se3
from coop_edge.geometry.crop import CropCamera, crop_camera
from coop_edge.render.base import Shading
from coop_edge.render.cpu import CpuRenderer
from export.data.objects import TrainingObject

Array = np.ndarray[Any, Any]
Rng = np.random.Generator

NEAREST, FARTHEST = 2.0, 12.0
"""Distance of the target from the camera over its diameter; drawn log-uniformly."""
OCCLUDER_SHARE = 0.55
"""Of scenes in which an occluder is tried; placements that hide nothing or too much are drawn again."""
LEAST_VISIBLE = 0.25
"""Share of the target's silhouette that no occluder may leave uncovered."""
CUT_SHARE = 0.07
"""Of scenes where the edge of the photograph cuts through the target."""
_UNLIT = Shading(ambient=1.0, diffuse=0.0)
_PROBE = 64  # side of the views in which placements are judged, pixels
BASE_K = np.diag([1000.0, 1000.0, 1.0])
"""Of the base camera: any pixel unit does, boxes only pass through it."""


@dataclass(frozen=True, eq=False)
class Item:
    """An object in a scene. T float64 [4,4]: object -> base camera, in the object's own metres; its depths in the
    scene are ``scale`` times those of that pose."""

    object: TrainingObject
    T: Array
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Scene:
    """items[0] is the target. edge [3]: what lies at x with edge . x < 0 (base camera) is outside the photograph."""

    items: tuple[Item, ...]
    edge: Array | None = None

    @property
    def target(self) -> Item:
        return self.items[0]

    @cached_property
    def probe(self) -> tuple[View, Array]:
        """A small view of the whole target, and where it is visible in it, bool [n,n]."""
        camera = crop_camera(BASE_K, amodal_box(self.target), _PROBE, margin=1.02)
        view = look(self, camera.R_crop_camera[0], camera.K[0], _PROBE)
        columns, rows = np.meshgrid(np.arange(_PROBE), np.arange(_PROBE))
        inside = inside_photograph(self, view.R, view.K, np.stack([columns, rows], axis=-1))
        return view, (view.item == 0) & inside


@dataclass(frozen=True, eq=False)
class View:
    """What a camera at the base camera's centre sees; n x n pixels."""

    albedo: Array  # uint8 [n,n,3], 0 where there is nothing
    depth: Array  # float32 [n,n] metres of the target, 0 = nothing
    item: Array  # int8 [n,n], index into the scene's items, -1 = nothing
    triangle: Array  # int32 [n,n], of that item's mesh
    covered: int  # pixels the target would cover if nothing stood before it
    R: Array  # float64 [3,3]: base camera -> this camera
    K: Array  # float64 [3,3]


def look(scene: Scene, R: Array, K: Array, n: int) -> View:
    """Render all items without light and keep the nearest at each pixel."""
    turn = se3.from_rt(R, np.zeros(3))
    albedo = np.zeros((n, n, 3), np.uint8)
    depth = np.full((n, n), np.inf, np.float32)
    who = np.full((n, n), -1, np.int8)
    triangle = np.full((n, n), -1, np.int32)
    covered = 0
    for k, item in enumerate(scene.items):
        seen = CpuRenderer(item.object.mesh, shading=_UNLIT, threads=1).render((turn @ item.T)[None], K, n)
        hit = seen.triangle_id[0] >= 0
        if k == 0:
            covered = int(np.count_nonzero(hit))
        z = seen.depth[0] * np.float32(item.scale)
        nearer = hit & (z < depth)
        np.copyto(depth, z, where=nearer)
        np.copyto(triangle, seen.triangle_id[0], where=nearer)
        who[nearer] = k
        cv2.copyTo(seen.rgb[0], nearer.view(np.uint8), albedo)
    depth[who < 0] = 0.0
    return View(albedo, depth, who, triangle, covered, R, K)


def points_of(view: View, k: int, item: Item) -> tuple[Array, Array]:
    """Pixels (flat indices [P]) that show item k, and their surface points float64 [P,3] in that object's frame."""
    at = np.flatnonzero(view.item == k)
    rows, columns = np.divmod(at, view.item.shape[1])
    K = view.K
    z = view.depth.ravel()[at] / item.scale
    ray = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones(len(at))], axis=1)
    T = se3.from_rt(view.R, np.zeros(3)) @ item.T
    return at, (ray * z[:, None] - T[:3, 3]) @ T[:3, :3]


def inside_photograph(scene: Scene, R: Array, K: Array, pixels: Array) -> Array:
    """bool [...]: whether pixels [...,2] of a view lie on this side of the photograph's edge."""
    if scene.edge is None:
        return np.ones(pixels.shape[:-1], bool)
    m = R @ scene.edge  # the edge's plane in the view's axes
    side = m[0] * (pixels[..., 0] - K[0, 2]) / K[0, 0] + m[1] * (pixels[..., 1] - K[1, 2]) / K[1, 1] + m[2]
    return side >= 0.0


def draw_scene(rng: Rng, objects: Sequence[TrainingObject], hardness: float = 1.0) -> Scene:
    """A target at a uniform rotation, with or without an object before it and objects behind.

    hardness: scales the shares of occluders and of cuts, 0 to 1.
    """
    target = place(objects[int(rng.integers(len(objects)))], rng)
    behind = [_beside(rng, target, objects, before=False) for _ in range(int(rng.choice(3, p=[0.45, 0.35, 0.2])))]
    edge = _edge(rng, target) if rng.random() < hardness * CUT_SHARE else None
    if rng.random() < hardness * OCCLUDER_SHARE:
        for _ in range(4):
            scene = Scene((target, _beside(rng, target, objects, before=True), *behind[:1]), edge)
            if LEAST_VISIBLE < visible_share(scene) < 0.97:
                return scene
    scene = Scene((target, *behind), edge)
    return scene if visible_share(scene) >= LEAST_VISIBLE else Scene((target,))


def place(chosen: TrainingObject, rng: Rng) -> Item:
    """The object on the optical axis of the base camera, turned at random, at a random distance."""
    distance = chosen.diameter * np.exp(rng.uniform(np.log(NEAREST), np.log(FARTHEST)))
    return Item(chosen, _at(chosen, se3.random_rotation(rng), np.array([0.0, 0.0, distance])))


def centre_of(item: Item) -> Array:
    """The mesh's centre in the base camera, metres of the scene, [3]."""
    return item.scale * (item.T[:3, :3] @ item.object.mesh.centre + item.T[:3, 3])


def visible_share(scene: Scene) -> float:
    """Share of the target's silhouette that is seen: not hidden, and inside the photograph."""
    view, visible = scene.probe
    return float(np.count_nonzero(visible)) / max(view.covered, 1)


def crop_of(rng: Rng, scene: Scene, size: int) -> CropCamera:
    """A crop as a detector's box gives it: round what is visible or round all of the target, not quite right."""
    view, visible = scene.probe
    if rng.random() < 0.6 and visible.any():
        rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
        corners = np.array([[columns[0] - 0.5, rows[0] - 0.5], [columns[-1] + 0.5, rows[-1] + 0.5]])
        rays = np.concatenate([(corners - view.K[:2, 2]) / view.K[0, 0], np.ones((2, 1))], axis=1) @ view.R
        low, high = np.sort(1000.0 * rays[:, :2] / rays[:, 2:], axis=0)
        box = np.concatenate([low + 0.5, high - low])[None]
    else:
        box = amodal_box(scene.target)
    side = box[:, 2:].max()
    box[:, :2] += rng.normal(0.0, 0.06, 2) * side
    growth = np.exp(rng.normal(0.0, 0.1, 2))
    box[:, :2] -= 0.5 * (growth - 1.0) * box[:, 2:]
    box[:, 2:] *= growth
    return crop_camera(BASE_K, box, size, margin=float(rng.uniform(1.05, 1.35)))


def amodal_box(item: Item) -> Array:
    """Box [1,4] (x, y, width, height) of all vertices in the base camera's pixels."""
    mesh = item.object.mesh
    p = se3.transform(item.T, mesh.vertices + mesh.centre)
    uv = 1000.0 * p[:, :2] / np.maximum(p[:, 2:], 1e-3 * item.object.diameter)
    low, high = uv.min(axis=0), uv.max(axis=0)
    return np.concatenate([low + 0.5, high - low])[None]


def _at(chosen: TrainingObject, R: Array, centre: Array) -> Array:
    """Pose with the mesh's centre at ``centre`` (camera, metres)."""
    return se3.from_rt(R, centre - R @ chosen.mesh.centre)


def _beside(rng: Rng, target: Item, objects: Sequence[TrainingObject], *, before: bool) -> Item:
    """Another object before or behind the target, close enough to overlap with it in the image."""
    chosen = objects[int(rng.integers(len(objects)))]
    diameter = target.object.diameter
    scale = diameter * np.exp(rng.uniform(np.log(0.35), np.log(1.3))) / chosen.diameter
    reach = 0.5 * (diameter + scale * chosen.diameter)
    distance = centre_of(target)[2]
    if before:
        z = max(distance - reach * rng.uniform(0.5, 1.2), 0.35 * distance)
        aside = reach * rng.uniform(0.15, 0.95)
    else:
        z = distance + reach * rng.uniform(0.3, 1.5)
        aside = reach * rng.uniform(0.3, 1.3)
    angle = rng.uniform(0, 2 * np.pi)
    centre = np.array([aside * np.cos(angle), aside * np.sin(angle), distance]) * (z / distance)
    return Item(chosen, _at(chosen, se3.random_rotation(rng), centre / scale), float(scale))


def _edge(rng: Rng, target: Item) -> Array:
    """A plane through the camera's centre that leaves the target's middle inside the photograph."""
    distance, angle = centre_of(target)[2], rng.uniform(0, 2 * np.pi)
    aside = 0.5 * target.object.diameter * rng.uniform(0.1, 0.7)
    normal = np.array([np.cos(angle), np.sin(angle), aside / distance])
    return normal / np.linalg.norm(normal)
