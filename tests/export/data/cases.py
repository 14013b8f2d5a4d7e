"""Stocks, scenes and cameras that several tests of training pairs use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from benchmarks.meshes import grey_box
from coop_edge.geometry import se3
from export.data import objects, textures
from export.data.geometry import Random, crop_camera
from export.data.objects import TrainingObject
from export.data.pairs import PairGenerator, Photographs
from export.data.photo import Looks
from export.data.render import Lights
from export.data.render_cpu import HostRenderer
from export.data.scenes import FOCAL, ITEMS, Items, Probe, Scenes, amodal_box, draw_scenes, object_crops
from export.data.stock import ObjectStock
from export.data.stock import stock_of as plain_stock

CPU = torch.device("cpu")
Placed = tuple[int, np.ndarray, float]
"""Slot, T_camera_object [4,4] in the base camera, scale."""


@lru_cache(maxsize=32)
def thing(seed: int) -> TrainingObject:
    return objects.procedural(np.random.default_rng(seed), "train")


def things(count: int) -> list[TrainingObject]:
    return [thing(i) for i in range(count)]


def stock_of(made: Sequence[TrainingObject], device: torch.device = CPU, backgrounds: int = 2) -> ObjectStock:
    """A stock with object i in slot i."""
    pictures = [textures.background(np.random.default_rng(i), 256, "train") for i in range(backgrounds)]
    return plain_stock(made, device, pictures)


def box(extents: tuple[float, float, float]) -> TrainingObject:
    """A grey box whose origin is not its centre."""
    mesh = replace(grey_box(extents), centre=np.array([0.01, -0.02, 0.03]))
    return TrainingObject(mesh, objects.sample_surface(mesh, 64, np.random.default_rng(0)), mesh.diameter)


def facing(
    chosen: TrainingObject, R: np.ndarray, distance: float, aside: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """T_camera_object that puts the object's centre at (aside, distance)."""
    return se3.from_rt(R, np.array([*aside, distance]) - R @ chosen.mesh.centre)


def scene_of(stock: ObjectStock, placed: Sequence[Placed], edge: Sequence[float] = (0.0, 0.0, 0.0)) -> Scenes:
    """A batch of one scene; its first object is the target."""
    slot, T, scale = np.full((1, ITEMS), -1), np.tile(np.eye(4), (1, ITEMS, 1, 1)), np.ones((1, ITEMS))
    for k, (which, pose, factor) in enumerate(placed):
        slot[0, k], T[0, k], scale[0, k] = which, pose, factor
    target = stock.things[placed[0][0]]
    items = Items(*tensors(slot, T, scale))
    centre = T[0, 0, :3, :3] @ target.mesh.centre + T[0, 0, :3, 3]
    return Scenes(items, *tensors(np.array([edge], float), np.array([target.diameter]), centre[None]))


def draw(stock: ObjectStock, seed: int, count: int, hardness: float = 1.0) -> tuple[Scenes, Probe]:
    """Scenes with everything in them."""
    return draw_scenes(Random(CPU, seed), stock, HostRenderer(stock), torch.full((count,), hardness).double())


def generator_of(stock: ObjectStock, size: int, seed: int = 0) -> PairGenerator:
    generator = PairGenerator(stock, HostRenderer(stock), size)
    generator.seed(seed)
    return generator


def box_crops(stock: ObjectStock, scene: Scenes, size: int, margin: float = 1.25) -> tuple[Tensor, Tensor]:
    """Cameras round all of the targets."""
    return crop_camera(FOCAL, amodal_box(scene.items, stock), size, margin)


def photographs_of(stock: ObjectStock, scene: Scenes, size: int, wide: float = 2.0, plain: bool = True) -> Photographs:
    """Grey pictures of scenes, ``wide`` times as wide as their targets, and renders without light."""
    n = len(scene)
    margin = torch.full((n,), 1.2, dtype=torch.float64)
    R, K = object_crops(stock, scene, scene.items.T[:, 0], size, torch.full_like(margin, wide))
    lights = Lights(torch.full((n,), 0.4), torch.full((n,), 0.6), torch.full((n,), plain))
    looks = Looks(lights, torch.eye(3).double().expand(n, 3, 3))
    return Photographs(scene, torch.full((n, size, size, 3), 90, dtype=torch.uint8), R, K, looks, margin)


def one(n: int) -> Tensor:
    return torch.ones(n, dtype=torch.float64)


def tensors(*arrays: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
