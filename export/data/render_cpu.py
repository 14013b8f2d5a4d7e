"""Draws views of a stock on a CPU, by the compiled code of ``CpuRenderer``: one view after the other, on one thread.

Where several objects meet in a view, only what is in front gets colours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from coop_edge.base.jit import jit, stamp_of
from coop_edge.render.rasterize import Buffer, Pinhole, Surface, Vertices, rasterize, transform_vertices
from coop_edge.render.shade import Image, Light, shade
from export.data.objects import TrainingObject
from export.data.render import Composite, Layers, Lights, StockRenderer, camera_floats
from export.data.stock import ObjectStock

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])

_STAMP = stamp_of([Path(__file__)])


def _compiled(function: F) -> F:
    return jit(function, _STAMP)


class HostRenderer(StockRenderer):
    """Draws by the kernels of ``CpuRenderer``, one view after the other, on one thread."""

    def __init__(self, stock: ObjectStock) -> None:
        self._stock = stock
        self._textures: dict[int, tuple[TrainingObject, Array, Array]] = {}

    def unlit(self, slots: Tensor, T: Tensor, K: Tensor, size: int) -> Layers:
        one, none = torch.ones(len(slots)), torch.zeros(len(slots))
        return self.lit(slots, T, K, size, Lights(one, none, none.bool()))

    def lit(self, slots: Tensor, T: Tensor, K: Tensor, size: int, lights: Lights, samples: int = 1) -> Layers:
        count = len(slots)
        rgb = np.zeros((count, size, size, 3), np.uint8)
        depth = np.zeros((count, size, size), np.float32)
        triangle = np.full((count, size, size), -1, np.int32)
        poses, cameras = self._centred(slots, T), _sample_cameras(K, samples)
        ambient, diffuse, plain = (t.tolist() for t in (lights.ambient, lights.diffuse, lights.plain))
        for i, slot in enumerate(slots.tolist()):
            if slot < 0:
                continue
            view = self._rasterized(slot, poses[i], cameras[i], size * samples)
            self._shade(slot, view, 0, samples, (ambient[i], diffuse[i]), plain[i], (rgb[i], depth[i], triangle[i]))
        return Layers(torch.from_numpy(rgb), torch.from_numpy(depth), torch.from_numpy(triangle))

    def depths(self, slots: Tensor, T: Tensor, K: Tensor, size: int) -> Tensor:
        depth = np.full((len(slots), size, size), np.inf, np.float32)
        poses, cameras = self._centred(slots, T), _sample_cameras(K, 1)
        for i, slot in enumerate(slots.tolist()):
            if slot >= 0:
                depth[i] = self._rasterized(slot, poses[i], cameras[i], size).depth
        return torch.from_numpy(depth)

    def nearest(self, slots: Tensor, T: Tensor, scale: Tensor, K: Tensor, size: int, colors: bool = True) -> Composite:
        n, k = slots.shape
        albedo = np.zeros((n, size, size, 3), np.uint8)
        depth = np.full((n, size, size), np.inf, np.float32)
        who = np.full((n, size, size), -1, np.int64)
        triangle = np.full((n, size, size), -1, np.int32)
        poses, cameras = self._centred(slots.flatten(), T.flatten(0, 1)), _sample_cameras(K, 1)
        factor = scale.float().numpy()
        for i, places in enumerate(slots.tolist()):
            views = []
            for place, slot in enumerate(places):
                if slot >= 0:
                    view = self._rasterized(slot, poses[i * k + place], cameras[i], size)
                    _keep_nearest(view.depth, view.triangle, factor[i, place], place, depth[i], who[i], triangle[i])
                    views.append((place, slot, view))
            for place, slot, view in views if colors else ():
                self._color(place, slot, view, who[i], triangle[i], albedo[i])
            depth[i][who[i] < 0] = 0.0
        return Composite(*(torch.from_numpy(a) for a in (albedo, depth, who, triangle)))

    def _centred(self, slots: Tensor, T: Tensor) -> Array:
        """Poses [V,4,4] of the meshes' own coordinates, which are about their centres."""
        R, centre = T[:, :3, :3], self._stock.centre[slots.clamp(min=0)]
        poses = T.clone()
        poses[:, :3, 3] += (R @ centre[..., None])[..., 0]
        return poses.numpy()

    def _rasterized(self, slot: int, T: Array, camera: Pinhole, side: int) -> _View:
        thing = self._stock.things[slot]
        assert thing is not None
        mesh = thing.mesh
        count = len(mesh.vertices)
        vertices = Vertices(np.empty((count, 3)), np.empty((count, 2), np.int32), np.empty(count, np.uint8))
        transform_vertices(mesh.vertices, T, camera, side, side, vertices)
        buffer = Buffer(0, np.full((side, side), np.inf, np.float32), np.full((side, side), -1, np.int32))
        rasterize(mesh.faces, vertices, camera, buffer)
        return _View(vertices.xyz, camera, buffer.depth, buffer.triangle_id)

    def _shade(
        self, slot: int, view: _View, first: int, samples: int, light: tuple[float, float], plain: bool,
        out: tuple[Array, Array, Array],
    ) -> None:  # fmt: skip
        """Shade the samples of rows first, first + 1, ... into out: rgb, depth and triangle of those rows' pixels."""
        thing = self._stock.things[slot]
        assert thing is not None
        mesh = thing.mesh
        if slot not in self._textures or self._textures[slot][0] is not thing:
            self._textures[slot] = (thing, *mesh.packed_textures())
        _, texels, table = self._textures[slot]
        shown = thing.grey if plain else mesh
        surface = Surface(mesh.faces, shown.corner_colors, mesh.corner_uv, shown.face_texture, texels, table)
        buffer = Buffer(first, view.depth, view.triangle)
        shade(buffer, samples, view.xyz, view.camera, surface, Light(*light), Image(*out))

    def _color(self, place: int, slot: int, view: _View, who: Array, triangle: Array, albedo: Array) -> None:
        """Write the albedo of the pixels that an item is nearest at."""
        ids = np.empty_like(triangle)
        first, last = _own_triangles(who, place, triangle, ids)
        if first > last:
            return
        part = slice(first, last + 1)
        ids = ids[part]
        rgb, depth = np.empty((*ids.shape, 3), np.uint8), np.empty(ids.shape, np.float32)
        seen = _View(view.xyz, view.camera, view.depth[part], ids)
        self._shade(slot, seen, first, 1, (1.0, 0.0), False, (rgb, depth, ids))
        _put_colors(ids, rgb, albedo[part])


@dataclass(frozen=True, eq=False)
class _View:
    """A rasterised view: the mesh's vertices in the camera, the camera, depth (infinite: nothing) and triangles."""

    xyz: Array
    camera: Pinhole
    depth: Array
    triangle: Array


def _sample_cameras(K: Tensor, samples: int) -> list[Pinhole]:
    """Return the V cameras of samples that the CPU kernels take. K [V,3,3]."""
    return [Pinhole(*camera) for camera in camera_floats(K, samples).tolist()]


@_compiled
def _keep_nearest(
    depth: Array, triangle: Array, scale: float, place: int, nearest: Array, who: Array, winner: Array
) -> None:
    """Where an item's depth [n,n] times scale is nearer than ``nearest``, put it and its triangle in their place."""
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            if triangle[v, u] >= 0:
                z = depth[v, u] * scale
                if z < nearest[v, u]:
                    nearest[v, u] = z
                    who[v, u] = place
                    winner[v, u] = triangle[v, u]


@_compiled
def _own_triangles(who: Array, place: int, triangle: Array, own: Array) -> tuple[int, int]:
    """Write the triangles of the pixels that belong to a place into ``own`` [n,n], -1 elsewhere; the first and the last
    row that has any."""
    first, last = len(who), -1
    for v in range(who.shape[0]):
        for u in range(who.shape[1]):
            if who[v, u] == place:
                own[v, u] = triangle[v, u]
                first, last = min(first, v), v
            else:
                own[v, u] = -1
    return first, last


@_compiled
def _put_colors(triangle: Array, rgb: Array, albedo: Array) -> None:
    """Copy the colours of pixels that have a triangle."""
    for v in range(triangle.shape[0]):
        for u in range(triangle.shape[1]):
            if triangle[v, u] >= 0:
                for channel in range(3):
                    albedo[v, u, channel] = rgb[v, u, channel]
