"""One refiner pair: a photograph-like crop, and a render at a wrong pose by the same virtual camera.

A photograph is drawn once, somewhat larger than the crops taken from it; each crop is a homography of it, as at run
time. So the same photograph serves any pose (see ``rerender``), and labels come from geometry drawn anew through each
crop's own camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.geometry.crop import CropCamera, crop_camera
from coop_edge.render.base import RenderResult
from export.data import augment, labels, scenes
from export.data.batch import RefinerBatch
from export.data.pairs import Stock, backdrop
from export.data.scenes import BASE_K, Item, Scene
from export.data.scenes_light import draw_lighting, photograph

Array = np.ndarray[Any, Any]
Rng = np.random.Generator

ROTATION_NOISE = np.radians(15.0)
"""Standard deviation per Euler axis of start poses, about the mesh's centre."""
SIDEWAYS_NOISE, DEPTH_NOISE = 0.05, 0.25
"""Standard deviations along x, y and along z, in diameters: (1, 1, 5) cm for an object of 20 cm."""
NEARER = (2.0, 2.0, 1.0)
"""Exponents of the uniform shares of that noise, of rotation, sideways and depth, between iterations."""
DEPTH_LIMIT = 0.05
"""Upper bound of the depth noise's standard deviation, as a share of the distance: an object of 20 cm that is 1 m away
takes the full 5 cm; from nearer by, a start pose that far off would be known to be wrong from its size alone."""
FIELD, DENSITY = 1.6, 1.25
"""Side of the photograph over that of the first crop, and its pixels per pixel of that crop."""


@dataclass(frozen=True, eq=False)
class RefinerScene:
    """What a pair was made from, enough to make it again at another start pose."""

    scene: Scene
    picture: Array  # uint8 [n,n,3], the photograph
    R: Array  # [3,3]: base camera -> photograph's camera
    K: Array  # [3,3] of the photograph
    look: augment.Look
    margin: float  # of crops: their side over the projected diameter
    size: int  # of crops, pixels


def centres_of(records: Sequence[RefinerScene]) -> Array:
    """Centres of the targets, float64 [N,3], metres, object's frame: what crops look at and the prior is about."""
    return np.array([record.scene.target.object.mesh.centre for record in records], np.float64).reshape(-1, 3)


def refiner_pair(
    rng: Rng, stock: Stock, size: int, hardness: float = 1.0, halfway: float = 0.0
) -> tuple[RefinerBatch, RefinerScene]:
    """A batch of one, and what ``view_at`` needs to make it at another pose. size: of the crop, a multiple of PATCH.

    hardness: 0 to 1, see ``data.make_stream``. halfway: share of the start poses that are nearer to the truth than
    the start noise, as poses are between iterations.
    """
    scene = scenes.draw_scene(rng, stock.objects, hardness)
    spread = nearer(rng) if rng.random() < halfway else 1.0
    T_init = start_pose(rng, scene.target, spread)
    margin = float(rng.uniform(1.05, 1.4))
    n = 2 * round(size * FIELD * DENSITY / 2)
    wide = object_crop(T_init, scene.target, n, margin * FIELD)
    R, K = wide.R_crop_camera[0], wide.K[0]
    view = scenes.look(scene, R, K, n)
    light = photograph(scene, view, draw_lighting(rng, scene, hardness), backdrop(rng, stock, n))
    picture = augment.camera(rng, light, size * DENSITY / 128, hardness)
    others = tuple(replace(item, object=item.object.bare()) for item in scene.items[1:])  # their colours are done with
    record = RefinerScene(
        replace(scene, items=(scene.target, *others)), picture, R, K, augment.draw_look(rng, hardness), margin, size
    )
    return view_at(record, T_init), record


def again(rng: Rng, record: RefinerScene) -> RefinerBatch:
    """Another pair of the same photograph, from a start pose as poses are between iterations."""
    return view_at(record, start_pose(rng, record.scene.target, nearer(rng)))


def nearer(rng: Rng) -> Array:
    """Shares of the start noise (rotation, sideways, depth) that are left between iterations: drawn apart, because
    sideways is right first and depth last, and most of them small."""
    shares: Array = rng.random(3) ** NEARER
    return shares


def start_pose(rng: Rng, item: Item, spread: Array | float = 1.0) -> Array:
    """The item's pose, off by ``spread`` times the start noise: T_camera_object [4,4] in the base camera.

    spread: one number, or three, of rotation, sideways, and depth.
    """
    turned, aside, deep = np.broadcast_to(spread, 3)
    diameter, centre = item.object.diameter, scenes.centre_of(item)
    turn = np.eye(3)
    for axis in np.eye(3):
        turn = turn @ se3.so3_exp(axis * rng.normal(0.0, turned * ROTATION_NOISE))
    sigma_z = min(DEPTH_NOISE * diameter, DEPTH_LIMIT * centre[2])
    shift = rng.normal(0.0, 1.0, 3) * (
        aside * SIDEWAYS_NOISE * diameter,
        aside * SIDEWAYS_NOISE * diameter,
        deep * sigma_z,
    )
    shift[2] = max(shift[2], -0.3 * centre[2])
    R = turn @ item.T[:3, :3]
    return se3.from_rt(R, centre + shift - R @ item.object.mesh.centre)


def object_crop(T: Array, item: Item, size: int, margin: float) -> CropCamera:
    """The virtual camera that looks at the mesh's centre at pose T [4,4]; its side there is margin * diameter."""
    x, y, z = T[:3, :3] @ item.object.mesh.centre + T[:3, 3]
    side = 1000.0 * item.object.diameter / z
    box = np.array([[1000.0 * x / z - side / 2 + 0.5, 1000.0 * y / z - side / 2 + 0.5, side, side]])
    return crop_camera(BASE_K, box, size, margin=margin)


def view_at(record: RefinerScene, T_init: Array) -> RefinerBatch:
    """The pair, a batch of one, at the start pose T_init [4,4] (base camera)."""
    scene, size = record.scene, record.size
    target = scene.target
    crop = object_crop(T_init, target, size, record.margin)
    R, K = crop.R_crop_camera[0], crop.K[0]
    H = K @ R @ record.R.T @ np.linalg.inv(record.K)
    query = cv2.warpPerspective(record.picture, H, (size, size), flags=cv2.INTER_LINEAR)
    T_crop_init, T_crop_true = crop.to_crop(T_init[None])[0], crop.to_crop(target.T[None])[0]
    render, seen = record.look.render(target.object, T_crop_init, K, size)
    points = labels.point_map(seen.depth[0], T_crop_init, K)
    flow, visible = _labels(record, R, K, seen, points, T_crop_true)
    return RefinerBatch(
        query=query[None],
        render=render[None],
        object_points=points[None],
        flow=flow[None],
        visible=visible[None],
        K=K[None],
        T_init=T_crop_init[None],
        T_true=T_crop_true[None],
        model_points=target.object.model_points[None],
        diameter=np.array([target.object.diameter]),
    )


def _labels(
    record: RefinerScene, R: Array, K: Array, seen: RenderResult, points: Array, T_true: Array
) -> tuple[Array, Array]:
    """Flow float32 [2,size,size] and visibility bool [size,size]; see RefinerBatch."""
    scene, size = record.scene, record.size
    thing = scene.target.object
    rows, columns = np.nonzero(seen.mask[0])
    surface = points[rows, columns].astype(np.float64)
    normals = thing.face_normals[seen.triangle_id[0][rows, columns]].astype(np.float64)
    now = scenes.look(scene, R, K, size)
    depth = np.where(now.item == 0, now.depth, np.float32(0.0))
    tolerance = labels.TOLERANCE * thing.diameter
    uv, shown = labels.flow_labels(surface, normals, seen.T_camera_object[0], T_true, K, depth, tolerance)
    shown &= scenes.inside_photograph(scene, R, K, uv)
    there = project(record.K, se3.transform(se3.from_rt(record.R, np.zeros(3)) @ scene.target.T, surface))
    shown &= ((there >= -0.5) & (there < len(record.picture) - 0.5)).all(axis=1)
    flow, visible = np.zeros((2, size, size), np.float32), np.zeros((size, size), bool)
    flow[:, rows, columns] = (uv - np.stack([columns, rows], axis=1)).T
    visible[rows, columns] = shown
    return flow, visible
