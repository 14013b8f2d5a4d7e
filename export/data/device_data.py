"""The stream of training pairs that are drawn on the device they are trained on, whole batches at a time.

A stock of objects and backgrounds is resident there; worker processes make new ones, which take the place of the oldest
as they come. All else (poses, cameras, occluders, light, photographs, labels) is worked out on the device, from random
numbers drawn there: no value goes to the host and back, so the host is free to launch ahead of the device.

Without workers, the pairs are a function of seed, split, position, batch size and kind of device. With them, which
objects are in stock at a position depends on the workers' pace too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import torch

from coop_edge.errors import BackendUnavailable, InputError
from export.data import data
from export.data.data import Recipe
from export.data.data_workers import Blocks, InProcess, Workers
from export.data.device_objects import Delivery, Limits, ObjectRecipe
from export.data.device_pairs import Drawer
from export.data.device_render import rasterizer
from export.data.device_stock import Stock

CAPACITY = {"cuda": 512, "cpu": 48}
"""Objects in stock: some 2 MB each. The other stream holds 384, a dozen in each of its lanes."""
PLATES_PER_OBJECT = 0.5
FIRST = 24
"""Objects that must be there before the first pair."""
PAIRS_PER_OBJECT = data.BLOCK * data.RENEWAL
"""Pairs between new objects, without workers; with them objects are exchanged as fast as they are made."""
AT_ONCE = {"cuda": 256, "cpu": 16}
"""Most pairs that are drawn together: more launches in less time, but more memory."""
BYTES_PER_PIXEL = 2000
"""Of memory while pairs are drawn, per pixel of one image of each, roughly: a pair has views of twice its size."""
MEMORY_SHARE = 0.15
"""Of a GPU's memory that drawing may take."""


class DeviceStream:
    """Iterator over batches of tensors on ``device``; also a context manager. ``close`` ends the workers.

    Parameters
    ----------
    recipe: role, size, seed, split, pack, photos, hardness and ramp of the pairs.
    workers: processes that make objects; 0 makes them here, in between batches.
    capacity: objects in stock; by default ``CAPACITY`` of the device.

    Raises InputError and, without CuPy on a GPU, BackendUnavailable.
    """

    def __init__(
        self, recipe: Recipe, batch_size: int, workers: int, start: int, device: str | torch.device,
        *, capacity: int | None = None, limits: Limits | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.batch_size = recipe, batch_size
        self.position = start
        """Number of the next sample."""
        self.device = torch.device(device)
        kind = self.device.type
        if kind not in CAPACITY:
            raise InputError(f"device: wanted 'cuda' or 'cpu', got {device!r}")
        if kind == "cuda" and not torch.cuda.is_available():
            raise BackendUnavailable(
                f"device {device!r}: PyTorch {torch.__version__} finds no CUDA device to draw pairs on; with "
                "data='cpu' worker processes draw them"
            )
        if kind == "cuda" and self.device.index is None:
            self.device = torch.device(kind, torch.cuda.current_device())
        slots = CAPACITY[kind] if capacity is None else capacity
        self._at_once = _at_once(self.device, recipe.size)
        share = data.PACK_SHARE if recipe.pack is not None else 0.0
        order = ObjectRecipe(recipe, share, limits or Limits())
        self._share = share
        plates = max(1, round(PLATES_PER_OBJECT * slots))
        self.stock = Stock(slots, self.device, share, order.limits, plates)
        self._drawer = Drawer(self.stock, rasterizer(self.stock), recipe.size)
        self._start, self._made = start, 0
        first = start // PAIRS_PER_OBJECT
        self._waits = workers == 0
        self._blocks: Blocks = (
            Workers(order, workers, first, 4 * workers, workers) if workers else InProcess(order, first)
        )

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next batch: a CoarseBatch or RefinerBatch of tensors."""
        self._renew()
        self._drawer.done("objects")
        self._drawer.seed(self.recipe.seed, data.SPLITS.index(self.recipe.split), 5, self.position)
        parts = []
        for low in range(0, self.batch_size, self._at_once):
            parts.append(self._part(self.position + low, min(self._at_once, self.batch_size - low)))
        self.position += self.batch_size
        return parts[0] if len(parts) == 1 else _joined(parts)

    def watch(self, done: Callable[[str], None]) -> None:
        """Call ``done`` with the name of each stage (``device_pairs.STAGES``) when it has been launched."""
        self._drawer.done = done

    def close(self) -> None:
        self._blocks.close()

    def __enter__(self) -> DeviceStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _part(self, first: int, count: int) -> Any:
        """Samples first .. first + count - 1."""
        recipe = self.recipe
        number = torch.arange(first, first + count, dtype=torch.float64, device=self.device)
        hardness = torch.full_like(number, recipe.hardness)
        if recipe.ramp:
            hardness = hardness * (number / recipe.ramp).clamp(max=1.0)
        if recipe.role == "coarse":
            return self._drawer.coarse(hardness, self._share * hardness)
        halfway = data.HALFWAY_SHARE if recipe.split == "train" else 0.0
        return self._drawer.refiner(hardness, self._share * hardness, halfway)

    def _renew(self) -> None:
        """Take in the objects that are due (without workers) or there (with them)."""
        due = FIRST + (self.position - self._start) // PAIRS_PER_OBJECT
        while self._made < FIRST or (self._made < due if self._waits else self._blocks.ready()):
            delivery: Delivery = self._blocks.next()
            self.stock.add(delivery.thing, delivery.kind)
            if delivery.plate is not None:
                self.stock.add_plate(delivery.plate)
            self._made += 1


def _at_once(device: torch.device, size: int) -> int:
    """Pairs of images of ``size`` pixels a side to draw together."""
    most = AT_ONCE[device.type]
    if device.type != "cuda":
        return most
    memory = MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory
    return max(1, min(most, int(memory / (BYTES_PER_PIXEL * size**2))))


def _joined(parts: list[Any]) -> Any:
    kind = type(parts[0])
    return kind(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(kind)})
