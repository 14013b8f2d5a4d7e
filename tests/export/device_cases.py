"""The same scenes for both ways of drawing pairs: one by one with NumPy, and in batches as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from export.data import objects, textures
from export.data.device_objects import Limits
from export.data.device_scenes import ITEMS, Items, Scenes
from export.data.device_stock import Stock
from export.data.objects import TrainingObject
from export.data.scenes import Scene, centre_of

SMALL = Limits(vertices=3000, faces=5000, texels=4 * 256 * 256, textures=8)
CPU = torch.device("cpu")


def things(count: int) -> list[TrainingObject]:
    return [objects.procedural(np.random.default_rng(i), "train") for i in range(count)]


def stock_of(made: Sequence[TrainingObject], device: torch.device = CPU, plates: int = 2) -> Stock:
    """A stock with object i in slot i."""
    stock = Stock(len(made), device, limits=SMALL, plates=plates)
    for thing in made:
        stock.add(thing)
    for i in range(plates):
        stock.add_plate(textures.background(np.random.default_rng(i), 256, "train"))
    return stock


def as_tensors(scenes: Sequence[Scene], made: Sequence[TrainingObject], device: torch.device = CPU) -> Scenes:
    """Scenes drawn one by one, as a batch; their objects lie in the slots of ``stock_of(made)``."""
    n = len(scenes)
    slot = np.full((n, ITEMS), -1)
    T, scale = np.tile(np.eye(4), (n, ITEMS, 1, 1)), np.ones((n, ITEMS))
    edge = np.zeros((n, 3))
    for i, scene in enumerate(scenes):
        for k, item in enumerate(scene.items):
            slot[i, k] = next(j for j, thing in enumerate(made) if thing is item.object)
            T[i, k], scale[i, k] = item.T, item.scale
        if scene.edge is not None:
            edge[i] = scene.edge
    items = Items(*(torch.from_numpy(a).to(device) for a in (slot, T, scale)))
    diameter = np.array([scene.target.object.diameter for scene in scenes])
    centre = np.array([centre_of(scene.target) for scene in scenes]).reshape(n, 3)
    return Scenes(items, *(torch.from_numpy(a).to(device) for a in (edge, diameter, centre)))


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
