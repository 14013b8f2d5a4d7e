"""Describes views of an object by frozen features: 42 viewpoints, each turned in the image plane in 16 steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from coop_edge.geometry import se3
from coop_edge.geometry.crop import crop_camera
from coop_edge.mesh.mesh import Mesh
from coop_edge.ops.base import Array, Operations
from coop_edge.runtime.network import FEATURES
from coop_edge.stages.features import MAPS, FeatureExtractor, coverage, unit_cells
from coop_edge.templates.viewpoints import VIEWPOINTS

Floats = NDArray[np.float64]

TURNS = 16
"""Steps of a full turn in the image plane."""
MAP = "s16"
"""The map by which views are compared: alone it finds as many right views as together with the finer ones."""
MARGIN = 1.2
"""Side of a view's crop over the longer side of the object's tight box: as boxes of detections are cropped."""
CHANCE = 0.3
"""Cosine of cells that have nothing to do with each other: what is below says nothing of how unlike they are. With it,
12 views hold a right one (within 30 degrees) for 90 % of the synthetic set's targets, without it for 85 %; where an
object is mostly hidden for 56 % in place of 43 %."""
_RENDERED = 84
"""Views rendered at a time, which bounds the memory."""


@dataclass(frozen=True, eq=False)
class Views:
    """V A views of one object as virtual cameras see them that look at its tight box; view v A + a is turn a of v."""

    descriptors: Array  # float32 [V A,h,w,C] on the device: unit cells times the share of the render's surface in each
    T_crop_object: Floats  # [V A,4,4] metres
    focal: Floats  # [V A] pixels of the crop
    sides: Floats  # [V A,2] width and height of the tight box, which is in the middle of the crop, pixels of the crop
    centre: Floats  # [3] of the object, metres, object's frame

    @classmethod
    def describe(
        cls,
        mesh: Mesh,
        T_camera_object: Floats,
        size: int,
        *,
        renderer: Callable[[Mesh], Any],
        features: FeatureExtractor,
    ) -> Views:
        """Render and describe the views of ``mesh``.

        Args:
            mesh: of the object.
            T_camera_object: float64 [V,4,4] of the templates.
            size: S, side of the crops, pixels.
            renderer: makes the renderer of a mesh on the device of ``features``.
            features: describes the crops.
        """
        ops, xp = features.ops, features.ops.xp
        T_crop, K, sides = _cameras(mesh, T_camera_object, size)
        drawer, parts = renderer(mesh), []
        for first in range(0, len(T_crop), _RENDERED):
            some = slice(first, first + _RENDERED)
            seen = drawer.render(T_crop[some], K[some], size)
            (maps,) = features.maps(ops.as_network_image(seen.rgb), MAP)
            covered = coverage(seen.depth, MAPS[MAP], xp)
            share = covered / xp.maximum(covered.sum(axis=(1, 2), keepdims=True), np.float32(1e-6))
            parts.append(xp.ascontiguousarray(xp.moveaxis(unit_cells(maps, xp) * share[:, None], 1, -1)))
        return cls(xp.concatenate(parts), T_crop, K[:, 0, 0], sides, mesh.centre)

    @classmethod
    def described(cls, descriptors: Array, mesh: Mesh, T_camera_object: Floats, size: int) -> Views:
        """Make views from descriptors that ``describe`` made before, of the same mesh, poses [V,4,4] and size."""
        T_crop, K, sides = _cameras(mesh, T_camera_object, size)
        return cls(descriptors, T_crop, K[:, 0, 0], sides, mesh.centre)

    @classmethod
    def blank(cls, T_crop_object: Floats, size: int, focal: float, ops: Operations) -> Views:
        """Make views of which nothing is known, for warming up: as many as an object has, all of one pose [1,4,4].

        The object's centre is the origin of its frame.
        """
        count = len(VIEWPOINTS) * TURNS
        shape = count, size // MAPS[MAP], size // MAPS[MAP], FEATURES[MAP][0]
        nothing = ops.upload(np.zeros(shape, np.float32))
        sides = np.full((count, 2), size / MARGIN)
        return cls(nothing, np.repeat(T_crop_object, count, axis=0), np.full(count, focal), sides, np.zeros(3))

    def depths(self) -> Floats:
        """Return the depth of the object's centre over the focal length that shows it as each view does, [V A]."""
        seen = self.T_crop_object[:, :3, :3] @ self.centre + self.T_crop_object[:, :3, 3]
        return np.asarray(seen[:, 2] / self.focal)

    def similarities(self, maps: Array, ops: Operations) -> Array:
        """Return how much of every view's surface maps [N,C,h,w] of unit cells look like, float32 [N,V A] in [0, 1].

        It is the mean over the surface of how far a cell's cosine exceeds ``CHANCE``, as a share of the most it can. A
        cell that shows something else, as where the object is hidden, counts as nothing and not against the view.
        """
        xp, cells = ops.xp, self.descriptors.reshape(len(self.descriptors), -1, self.descriptors.shape[-1])
        seen = xp.ascontiguousarray(xp.moveaxis(maps.reshape(len(maps), *cells.shape[:0:-1]), 1, -1))
        more = ops.inner_products(seen, cells)  # [h w,N,V A], times the cells' shares
        more -= self._chance[:, None]
        return xp.maximum(more, np.float32(0.0), out=more).sum(axis=0) / np.float32(1.0 - CHANCE)

    @cached_property
    def _chance(self) -> Array:
        """Return ``CHANCE`` times the share of each cell, float32 [h w,V A]."""
        share = (self.descriptors**2).sum(axis=-1) ** np.float32(0.5)
        return share.reshape(len(share), -1).T * np.float32(CHANCE)

    def poses(self, view: NDArray[np.integer], focal: Floats, shift_px: Floats) -> Floats:
        """Return poses T_crop_object [M,4,4] that make the object look like the views in other crops.

        The rotation is the view's. The distance of the object's centre scales with the focal lengths, so that the
        object is as large; the centre lies where it lies in the view, moved by ``shift_px``.

        Args:
            view: integers [M].
            focal: [M] of the crops, pixels.
            shift_px: [M,2] (x, y), pixels of the crops.
        """
        T = self.T_crop_object[view]
        to_origin = -T[:, :3, :3] @ self.centre
        seen = T[:, :3, 3] - to_origin
        seen[:, 2] *= focal / self.focal[view]
        seen[:, :2] += shift_px * (seen[:, 2] / focal)[:, None]
        T[:, :3, 3] = seen + to_origin
        return T


def _cameras(mesh: Mesh, T_camera_object: Floats, size: int) -> tuple[Floats, Floats, Floats]:
    """Return T_crop_object [V A,4,4], K [V A,3,3] and ``sides`` [V A,2] of the views of a mesh in crops of ``size``."""
    boxes = tight_boxes(mesh, T_camera_object)
    crop = crop_camera(np.eye(3), boxes, size, MARGIN)
    sides = boxes[:, 2:] / boxes[:, 2:].max(axis=1, keepdims=True) * (size / MARGIN)
    return crop.to_crop(turned(T_camera_object)), crop.K, sides


def turned(T_camera_object: Floats) -> Floats:
    """Turn poses [V,4,4] about the optical axis in ``TURNS`` steps, clockwise in the image: [V A,4,4]."""
    T = se3.compose(se3.from_rt(_turns(), np.zeros(3)), T_camera_object[:, None])
    return np.asarray(T.reshape(-1, 4, 4))


def tight_boxes(mesh: Mesh, T_camera_object: Floats) -> Floats:
    """Return the boxes (x, y, width, height) [V A,4] of a mesh at the poses [V,4,4] as ``turned`` turns them.

    They are those in the image of a camera with K = I; the mesh lies in front of it.
    """
    points = mesh.vertices[np.unique(mesh.faces)].astype(np.float64) + mesh.centre
    low, high = np.empty((2, len(T_camera_object), TURNS, 2))
    for i, T in enumerate(T_camera_object):
        seen = points @ T[:3, :3].T + T[:3, 3]
        pixels = (seen[:, :2] / seen[:, 2:]).astype(np.float32)
        outline = cv2.convexHull(pixels).reshape(-1, 2)  # a turn in the image plane turns it
        each = outline @ np.swapaxes(_turns()[:, :2, :2], 1, 2)
        low[i], high[i] = each.min(axis=1), each.max(axis=1)
    return np.concatenate([low + 0.5, high - low], axis=-1).reshape(-1, 4)  # a box from column x begins at x - 0.5


def _turns() -> Floats:
    """Return the rotations [TURNS,3,3] about the optical axis."""
    angle = 2.0 * np.pi * np.arange(TURNS) / TURNS
    return se3.so3_exp(np.stack([np.zeros(TURNS), np.zeros(TURNS), angle], axis=1))
