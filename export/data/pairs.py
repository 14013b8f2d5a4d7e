"""One coarse pair: a photograph-like query crop, a template, and which patch of one shows what of the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from coop_edge.geometry import se3
from coop_edge.render.base import RenderResult
from coop_edge.runtime.bundle import TemplateSettings
from coop_edge.templates.template_set import DEFAULT_FIELD_OF_VIEW, DEFAULT_MARGIN, template_camera
from coop_edge.templates.viewpoints import VIEWPOINTS
from export.data import augment, labels, scenes
from export.data.batch import PATCH, CoarseBatch
from export.data.objects import TrainingObject
from export.data.scenes import Item, Scene
from export.data.scenes_light import draw_lighting, photograph

Array = np.ndarray[Any, Any]
Rng = np.random.Generator

TEMPLATE = TemplateSettings(len(VIEWPOINTS), DEFAULT_MARGIN, DEFAULT_FIELD_OF_VIEW)
"""How templates are rendered here; the manifest of a bundle tells it the runtime."""
NEAR_SHARE = 0.7
"""Of pairs whose template is the one seen from nearest the query's direction; the others take any of the 42."""
VIEW_JITTER = np.radians(4.0)
"""Standard deviation of a template's small random turn, radians per axis."""


@dataclass(frozen=True)
class Stock:
    """What pairs are drawn from: objects, and backgrounds uint8 [n,n,3]."""

    objects: Sequence[TrainingObject]
    backgrounds: Sequence[Array]


def coarse_pair(rng: Rng, stock: Stock, size: int, hardness: float = 1.0) -> CoarseBatch:
    """A batch of one. size: of the images, a multiple of PATCH. hardness: 0 to 1, see ``data.make_stream``."""
    scene = scenes.draw_scene(rng, stock.objects, hardness)
    crop = scenes.crop_of(rng, scene, size)
    R, K = crop.R_crop_camera[0], crop.K[0]
    query = query_image(rng, scene, R, K, size, stock, hardness)
    T_query = se3.from_rt(R, np.zeros(3)) @ scene.target.T
    T_template, K_template = template_view(rng, scene.target, size, hardness)
    template, seen = augment.draw_look(rng, hardness).render(scene.target.object, T_template, K_template, size)
    index, offset, on_target = coarse_labels(scene, R, K, size, T_template, K_template, seen)
    return CoarseBatch(
        query=query[None],
        template=template[None],
        match_index=index[None],
        offset=offset[None],
        on_target=on_target[None],
        template_points=labels.point_map(seen.depth[0], T_template, K_template)[None],
        K_query=K[None],
        T_query=T_query[None],
        diameter=np.array([scene.target.object.diameter]),
    )


def query_image(rng: Rng, scene: Scene, R: Array, K: Array, size: int, stock: Stock, hardness: float = 1.0) -> Array:
    """The crop as a camera takes it, uint8 [size,size,3]; drawn at twice the size."""
    fine = np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5], [0.0, 0.0, 1.0]]) @ K  # two samples per pixel and axis
    view = scenes.look(scene, R, fine, 2 * size)
    light = photograph(scene, view, draw_lighting(rng, scene, hardness), backdrop(rng, stock, 2 * size))
    return augment.camera(rng, cv2.resize(light, (size, size), interpolation=cv2.INTER_AREA), hardness=hardness)


def backdrop(rng: Rng, stock: Stock, size: int) -> Array:
    """A piece of one of the backgrounds, turned, mirrored, enlarged to uint8 [size,size,3]."""
    plate = stock.backgrounds[int(rng.integers(len(stock.backgrounds)))]
    side = int(len(plate) * rng.uniform(0.4, 1.0))
    y, x = rng.integers(len(plate) - side + 1, size=2)
    piece = np.rot90(plate[y : y + side, x : x + side], int(rng.integers(4)))
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    return cv2.resize(np.ascontiguousarray(piece), (size, size), interpolation=cv2.INTER_LINEAR)


def template_view(rng: Rng, target: Item, size: int, hardness: float = 1.0) -> tuple[Array, Array]:
    """T_camera_object [4,4] and K [3,3] of a template: nearest to how the query sees the target, or any."""
    settings = {"margin": TEMPLATE.margin, "field_of_view": TEMPLATE.field_of_view}
    poses, K = template_camera(target.object.mesh, size, **settings)
    R = target.T[:3, :3]
    towards = -R.T @ scenes.centre_of(target)  # from the object's centre to the camera, object's axes
    near = rng.random() < 1.0 - hardness * (1.0 - NEAR_SHARE)
    view = int(np.argmax(VIEWPOINTS @ towards)) if near else int(rng.integers(len(VIEWPOINTS)))
    turn = se3.so3_exp(rng.normal(0.0, VIEW_JITTER, 3))
    centre = target.object.mesh.centre
    T = poses[view] @ se3.from_rt(turn, centre - turn @ centre)
    return T, K


def coarse_labels(
    scene: Scene, R: Array, K: Array, size: int, T_template: Array, K_template: Array, seen: RenderResult
) -> tuple[Array, Array, Array]:
    """match_index int64 [T], offset float32 [T,2], on_target bool [T]; see CoarseBatch."""
    target = scene.target
    K_patch = labels.patch_camera(K)
    centres = scenes.look(scene, R, K_patch, size // PATCH)  # what is seen exactly at the patch centres
    at, points = scenes.points_of(centres, 0, target)
    normals = target.object.face_normals[centres.triangle.ravel()[at]].astype(np.float64)
    tolerance = labels.TOLERANCE * target.object.diameter
    uv, shown = labels.visible_in(points, T_template, K_template, seen.depth[0], tolerance)
    shown &= labels.side_seen(normals, points, target.T) == labels.side_seen(normals, points, T_template)
    inside = scenes.inside_photograph(scene, R, K, labels.patch_centres(size)[at])
    count = (size // PATCH) ** 2
    pixels, matched, on_target = np.zeros((count, 2)), np.zeros(count, bool), np.zeros(count, bool)
    pixels[at], matched[at], on_target[at] = uv, shown & inside, inside
    return *labels.match_labels(pixels, matched, size), on_target
