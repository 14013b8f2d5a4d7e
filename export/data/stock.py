"""The objects and backgrounds that pairs are drawn from, resident on a device and exchanged one by one.

Every object has a slot: a fixed stretch of buffers that all slots share. So an object is exchanged by a few copies into
its slot, ordered on the device's stream like any other work, and a batch may mix any objects in one launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coop_edge.errors import InputError
from export.data.geometry import Random
from export.data.objects import MODEL_POINTS, TrainingObject
from export.data.supply import BACKGROUND, Limits
from export.data.textures import LINEAR

Array = np.ndarray[Any, Any]


class ObjectStock:
    """Tables of up to ``capacity`` objects, and backgrounds. An instance belongs to one device and one stream.

    limits: size of a slot. backgrounds: room for them.
    """

    def __init__(self, capacity: int, device: torch.device, limits: Limits | None = None, backgrounds: int = 1) -> None:
        if capacity < 1 or backgrounds < 1:
            raise InputError(f"ObjectStock: wanted room for at least 1, got {capacity} objects, {backgrounds} pictures")
        self.limits = limits or Limits()
        self.device = device
        self.capacity = capacity
        self.count = 0
        """Slots that may hold an object: the first ones."""
        self.things: list[TrainingObject | None] = [None] * capacity
        """What is in the slots, on the host."""
        n, f, v = capacity, self.limits.faces, self.limits.vertices

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.vertices = zeros(n, v, 4)  # about the mesh's centre, the last is 0; unused ones repeat the first
        self.normal_map = zeros(n, f, 3, 4)
        self.face_normals = zeros(n, f, 3)
        self.face_count = zeros(n, dtype=torch.int64)
        self.model_points = zeros(n, MODEL_POINTS, 3)
        self.centre = zeros(n, 3, dtype=torch.float64)
        self.axis = zeros(n, 3, dtype=torch.float64)
        """Unit vectors, object's frame, of objects that look the same from all around it; 0 for others."""
        self.pivot = zeros(n, 3, dtype=torch.float64)  # a point of the axis; the middle of a ball
        self.ball = zeros(n, dtype=torch.bool)  # which look the same from everywhere
        self.diameter = torch.ones(n, dtype=torch.float64, device=device)
        self.radius = torch.ones(n, dtype=torch.float64, device=device)
        self._backgrounds = zeros(backgrounds, 3, BACKGROUND, BACKGROUND)
        self._background_count = 0
        self._surfaces: SurfaceBuffers | None = None

    def put(self, slot: int, thing: TrainingObject) -> None:
        """Exchange the object of a slot; slots before it that are empty are to be filled before any is picked.

        Raises:
            InputError: the object does not fit into a slot.
        """
        if not self.limits.admit(thing):
            mesh = thing.mesh
            raise InputError(
                f"{mesh.name}: wanted at most {self.limits}, got {len(mesh.vertices)} vertices, {len(mesh.faces)} "
                f"faces, {len(mesh.textures)} textures"
            )
        thing = self.limits.shrink(thing)
        mesh, f = thing.mesh, len(thing.mesh.faces)
        vertices = np.repeat(padded(mesh.vertices[:1]), self.limits.vertices, axis=0)
        vertices[: len(mesh.vertices), :3] = mesh.vertices
        copy_to(self.vertices[slot], vertices)
        copy_to(self.normal_map[slot, :f], thing.normal_map)
        copy_to(self.face_normals[slot, :f], thing.face_normals)
        if len(thing.model_points):
            copy_to(self.model_points[slot, : len(thing.model_points)], thing.model_points)
        copy_to(self.centre[slot], mesh.centre)
        self.face_count[slot].fill_(f)
        self.diameter[slot].fill_(thing.diameter)
        self.radius[slot].fill_(mesh.radius)
        self._put_symmetry(slot, thing)
        self.things[slot] = thing
        self.count = max(self.count, slot + 1)
        if self._surfaces is not None:
            self._surfaces.put(slot, thing)

    def _put_symmetry(self, slot: int, thing: TrainingObject) -> None:
        axes = thing.symmetries.continuous
        ball = len(axes) > 1
        none = np.zeros(3)
        axis, pivot = axes[0] if axes else (none, none)
        copy_to(self.axis[slot], none if ball else axis)
        copy_to(self.pivot[slot], pivot)
        self.ball[slot].fill_(ball)

    @property
    def surfaces(self) -> SurfaceBuffers:
        """Return what the rasteriser's kernels read besides; made at the first call, then kept up to date."""
        if self._surfaces is None:
            self._surfaces = SurfaceBuffers(self.capacity, self.limits, self.device)
            for slot, thing in enumerate(self.things):
                if thing is not None:
                    self._surfaces.put(slot, thing)
        return self._surfaces

    def put_background(self, place: int, picture: Array) -> None:
        """Exchange a background, uint8 [BACKGROUND,BACKGROUND,3]; kept as linear light.

        Raises:
            InputError: its type or shape is another.
        """
        if picture.dtype != np.uint8 or picture.shape != (BACKGROUND, BACKGROUND, 3):
            raise InputError(
                f"background: wanted uint8 [{BACKGROUND},{BACKGROUND},3], got {picture.dtype} {list(picture.shape)}"
            )
        copy_to(self._backgrounds[place], LINEAR[picture].transpose(2, 0, 1))
        self._background_count = max(self._background_count, place + 1)

    @property
    def backgrounds(self) -> Tensor:
        """Return the backgrounds, linear light, float32 [B,3,BACKGROUND,BACKGROUND], B >= 1; black if there is none."""
        return self._backgrounds[: max(1, self._background_count)]

    def pick(self, random: Random, *shape: int) -> Tensor:
        """Draw filled slots, int64 [*shape]; there must be one."""
        if not self.count:
            raise InputError("ObjectStock: wanted at least one object before any are picked")
        return random.integers(self.count, *shape)


class SurfaceBuffers:
    """Faces, colours and textures of all slots in the layout that ``kernels/raster.cu`` reads."""

    def __init__(self, capacity: int, limits: Limits, device: torch.device) -> None:
        self._capacity, self._limits = capacity, limits
        n, f = capacity, limits.faces

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.faces = zeros(2 * n, f, 4, dtype=torch.int32)  # joint vertices, joint texture or -1
        self.colors = zeros(2 * n, f, 3, 4, dtype=torch.uint8)
        """Slot ``capacity + i`` is slot i in plain white."""
        self.colors[n:, ..., :3] = 255
        self.uv = zeros(n, f, 3, 2)
        self.texels = zeros(n, limits.texels, 4, dtype=torch.uint8)
        self.textures = zeros(n, limits.textures, 4, dtype=torch.int32)  # first texel, height, width, 0

    def put(self, slot: int, thing: TrainingObject) -> None:
        """Exchange the object of a slot; it fits."""
        mesh, limits = thing.mesh, self._limits
        f = len(mesh.faces)
        joint = np.where(mesh.face_texture >= 0, mesh.face_texture + slot * limits.textures, -1)
        faces = np.column_stack([mesh.faces + slot * limits.vertices, joint]).astype(np.int32)
        copy_to(self.faces[slot, :f], faces)
        plain = faces.copy()
        plain[:, 3] = -1
        copy_to(self.faces[self._capacity + slot, :f], plain)
        copy_to(self.colors[slot, :f], padded(mesh.corner_colors))
        copy_to(self.uv[slot, :f], mesh.corner_uv)
        texels, table = mesh.packed_textures()
        if len(table):
            copy_to(self.texels[slot, : len(texels)], padded(texels))
            table = padded((table + (slot * limits.texels, 0, 0)).astype(np.int32))
            copy_to(self.textures[slot, : len(table)], table)


def stock_of(things: Sequence[TrainingObject], device: torch.device, backgrounds: Sequence[Array] = ()) -> ObjectStock:
    """Make a stock with object i in slot i, of slots as large as these objects need."""
    meshes = [thing.mesh for thing in things]
    limits = Limits(
        max((len(m.vertices) for m in meshes), default=1),
        max((len(m.faces) for m in meshes), default=1),
        max((sum(t.shape[0] * t.shape[1] for t in m.textures) for m in meshes), default=1),
        max((len(m.textures) for m in meshes), default=1),
    )
    stock = ObjectStock(max(1, len(things)), device, limits, max(1, len(backgrounds)))
    for slot, thing in enumerate(things):
        stock.put(slot, thing)
    for place, picture in enumerate(backgrounds):
        stock.put_background(place, picture)
    return stock


def copy_to(to: Tensor, values: Array) -> None:
    """Copy an array into a tensor of any device, without waiting for a GPU."""
    tensor = torch.from_numpy(np.array(values, order="C"))
    if to.is_cuda:
        tensor = tensor.pin_memory()
    to.copy_(tensor, non_blocking=True)


def padded(array: Array) -> Array:
    """Append a component 0, [...,3] -> [...,4]."""
    return np.concatenate([array, np.zeros((*array.shape[:-1], 1), array.dtype)], axis=-1)
