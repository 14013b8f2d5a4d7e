"""The objects and backgrounds that pairs are drawn from, resident on a device and exchanged one by one.

Every object has a slot: a fixed stretch of buffers that all slots share, in the layout that the rasteriser's kernels
read. So an object is exchanged by a few copies into its slot, ordered on the device's stream like any other work, and a
batch may mix any objects in one launch. Slots come in two kinds, procedural objects and those of an asset pack, because
the share of the latter grows with the hardness of the pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from coop_edge.errors import InputError
from export.data.device_geometry import Draw
from export.data.device_objects import KINDS, PLATE, Limits
from export.data.objects import MODEL_POINTS, TrainingObject

Array = np.ndarray[Any, Any]


class Stock:
    """Buffers of ``capacity`` slots; see the attributes. An instance belongs to one device and one stream at a time.

    share: of the slots that are for objects of the pack. plates: room for backgrounds.
    """

    def __init__(
        self, capacity: int, device: torch.device, share: float = 0.0, limits: Limits | None = None, plates: int = 1
    ) -> None:
        self.limits = limits or Limits()
        self.device = device
        self.capacity = capacity
        packed = round(share * capacity)
        if capacity < 1 or not 0 <= packed <= capacity:
            raise InputError(f"Stock: wanted capacity >= 1 and 0 <= share <= 1, got {capacity} and {share}")
        self._first = {"procedural": 0, "pack": capacity - packed}
        self._room = {"procedural": capacity - packed, "pack": packed}
        self._put = {"procedural": 0, "pack": 0}
        self.things: list[TrainingObject | None] = [None] * capacity
        """What is in the slots, on the host."""
        m, n, f, v = self.limits, capacity, self.limits.faces, self.limits.vertices

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.vertices = zeros(n, v, 4)  # about the mesh's centre, the last is 0; unused ones repeat the first
        self.faces = zeros(2 * n, f, 4, dtype=torch.int32)  # joint vertices, joint texture or -1
        self.colors = zeros(2 * n, f, 3, 4, dtype=torch.uint8)
        """Slot ``capacity + i`` is slot i in plain white."""
        self.colors[n:, ..., :3] = 255
        self.uv = zeros(n, f, 3, 2)
        self.texels = zeros(n, m.texels, 4, dtype=torch.uint8)
        self.textures = zeros(n, m.textures, 4, dtype=torch.int32)  # first texel, height, width, 0
        self.normal_map = zeros(n, f, 3, 4)
        self.face_normals = zeros(n, f, 3)
        self.model_points = zeros(n, MODEL_POINTS, 3)
        self.face_count = zeros(n, dtype=torch.int64)
        self.centre = zeros(n, 3, dtype=torch.float64)
        self.diameter = torch.ones(n, dtype=torch.float64, device=device)
        self.radius = torch.ones(n, dtype=torch.float64, device=device)
        self.plates = zeros(plates, PLATE, PLATE, 3, dtype=torch.uint8)
        self._plates_put = 0

    def add(self, thing: TrainingObject, kind: str = "procedural") -> int:
        """Put an object into the next slot of its kind, in place of the oldest where all are taken; its slot.

        Raises InputError if it does not fit, or no slot is for its kind.
        """
        if not self._room[kind]:
            raise InputError(f"Stock: no slot is for objects of kind {kind!r}")
        slot = self._first[kind] + self._put[kind] % self._room[kind]
        self.put(slot, thing)
        self._put[kind] += 1
        return slot

    def put(self, slot: int, thing: TrainingObject) -> None:
        """Exchange the object of a slot. Raises InputError if it does not fit."""
        if not self.limits.admit(thing):
            mesh = thing.mesh
            raise InputError(
                f"{mesh.name}: wanted at most {self.limits}, got {len(mesh.vertices)} vertices, {len(mesh.faces)} "
                f"faces, {len(mesh.textures)} textures"
            )
        thing = self.limits.shrink(thing)
        mesh, m = thing.mesh, self.limits
        f = len(mesh.faces)
        vertices = np.repeat(_fourth(mesh.vertices[:1]), m.vertices, axis=0)
        vertices[: len(mesh.vertices), :3] = mesh.vertices
        joint = np.where(mesh.face_texture >= 0, mesh.face_texture + slot * m.textures, -1)
        faces = np.column_stack([mesh.faces + slot * m.vertices, joint]).astype(np.int32)
        self._copy(self.vertices[slot], vertices)
        self._copy(self.faces[slot, :f], faces)
        plain = faces.copy()
        plain[:, 3] = -1
        self._copy(self.faces[self.capacity + slot, :f], plain)
        self._copy(self.colors[slot, :f], _fourth(mesh.corner_colors))
        self._copy(self.uv[slot, :f], mesh.corner_uv)
        texels, table = mesh.packed_textures()
        if len(table):
            self._copy(self.texels[slot, : len(texels)], _fourth(texels))
            table = _fourth((table + (slot * m.texels, 0, 0)).astype(np.int32))
            self._copy(self.textures[slot, : len(table)], table)
        self._copy(self.normal_map[slot, :f], thing.normal_map)
        self._copy(self.face_normals[slot, :f], thing.face_normals)
        self._copy(self.model_points[slot], thing.model_points)
        self._copy(self.centre[slot], mesh.centre)
        self.face_count[slot].fill_(f)
        self.diameter[slot].fill_(thing.diameter)
        self.radius[slot].fill_(mesh.radius)
        self.things[slot] = thing

    def add_plate(self, plate: Array) -> None:
        """Add a background uint8 [PLATE,PLATE,3], in place of the oldest where there is no more room."""
        if plate.dtype != np.uint8 or plate.shape != (PLATE, PLATE, 3):
            raise InputError(f"plate: wanted uint8 [{PLATE},{PLATE},3], got {plate.dtype} {list(plate.shape)}")
        self._copy(self.plates[self._plates_put % len(self.plates)], plate)
        self._plates_put += 1

    @property
    def backgrounds(self) -> Tensor:
        """Those that are there, uint8 [P,PLATE,PLATE,3], P >= 1; black if none was added."""
        return self.plates[: max(1, self._plates_put)]

    def count(self, kind: str) -> int:
        """Slots of a kind that hold an object."""
        return min(self._put[kind], self._room[kind])

    def pick(self, draw: Draw, pack_share: Tensor, *shape: int) -> Tensor:
        """Random filled slots int64 [*shape]; ``pack_share`` (broadcast) of them hold objects of the pack."""
        counts = {kind: self.count(kind) for kind in KINDS}
        if not sum(counts.values()):
            raise InputError("Stock: wanted at least one object before any are picked")
        which = {kind: self._first[kind] + draw.integers(max(counts[kind], 1), *shape) for kind in KINDS}
        if not counts["pack"]:
            return which["procedural"]
        if not counts["procedural"]:
            return which["pack"]
        return torch.where(draw.chance(pack_share, *shape), which["pack"], which["procedural"])

    def _copy(self, to: Tensor, values: Array) -> None:
        tensor = torch.from_numpy(np.array(values, order="C"))
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        to.copy_(tensor, non_blocking=True)


def _fourth(array: Array) -> Array:
    return np.concatenate([array, np.zeros((*array.shape[:-1], 1), array.dtype)], axis=-1)
