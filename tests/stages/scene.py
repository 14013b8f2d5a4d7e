"""Scenes with known truth: coloured objects rendered one in front of the other on a busy background."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
import trimesh

from benchmarks.meshes import smooth_texture
from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.mesh import Mesh, Symmetries
from coop_edge.render import CpuRenderer
from coop_edge.types import Camera, Detection

CAMERA = Camera(np.array([[600.0, 0.0, 319.5], [0.0, 600.0, 239.5], [0.0, 0.0, 1.0]]), 640, 480)


def colored_box(extents=(0.1, 0.1, 0.1), *, name="cube", centre=(0.0, 0.0, 0.0), seed=0) -> Mesh:
    """A box whose faces are cut into triangles of random colours."""
    box = trimesh.creation.box(extents=extents)
    for _ in range(2):
        box = box.subdivide()
    faces = np.asarray(box.faces)
    colors = np.random.default_rng(seed).integers(30, 255, (len(faces), 1, 3), dtype=np.uint8).repeat(3, axis=1)
    return Mesh(
        vertices=np.asarray(box.vertices, np.float32),
        faces=faces.astype(np.int32),
        centre=np.asarray(centre, np.float64),
        corner_colors=colors,
        corner_uv=np.zeros((len(faces), 3, 2), np.float32),
        face_texture=np.full(len(faces), -1, np.int32),
        name=name,
    )


HALF_TURNS = Symmetries(tuple(se3.from_rt(se3.so3_exp(np.pi * axis), np.zeros(3)) for axis in np.eye(3)))


def symmetric_box() -> Mesh:
    """A box whose opposite faces look alike: its symmetries are ``HALF_TURNS``."""
    box = colored_box((0.12, 0.06, 0.04))
    colors = 60 + np.abs(box.vertices[box.faces]) * (0.0, 2000.0, 3000.0)
    return replace(box, corner_colors=colors.astype(np.uint8), name="box")


@dataclass(frozen=True, eq=False)
class Placed:
    """Mesh ``mesh`` of the scene's meshes at T_camera_object [4,4]."""

    mesh: int
    T: np.ndarray


@dataclass(frozen=True, eq=False)
class Scene:
    meshes: tuple[Mesh, ...]
    placed: tuple[Placed, ...]
    camera: Camera = CAMERA

    @cached_property
    def renderer(self) -> CpuRenderer:
        return CpuRenderer(self.meshes, threads=1)

    def depths(self, R: np.ndarray, K: np.ndarray, size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a camera turned by R [3,3] sees: depth [h,w] (0 = nothing), which object [h,w] (-1), rgb uint8."""
        T = se3.from_rt(R, np.zeros(3)) @ np.array([p.T for p in self.placed]).reshape(-1, 4, 4)
        seen = self.renderer.render(T, K, size, mesh_index=np.array([p.mesh for p in self.placed], int))
        depth = np.where(seen.depth > 0, seen.depth, np.inf)
        who = depth.argmin(axis=0)
        rows, columns = np.indices(who.shape)
        nearest = depth[who, rows, columns]
        hit = np.isfinite(nearest)
        return np.where(hit, nearest, 0.0), np.where(hit, who, -1), seen.rgb[who, rows, columns]

    @cached_property
    def image(self) -> np.ndarray:
        """uint8 [H,W,3]."""
        width, height = self.camera.size
        _, who, rgb = self.depths(np.eye(3), self.camera.K, (height, width))
        texture = smooth_texture(max(width, height), seed=5)[:height, :width]
        ideal = np.ascontiguousarray(np.where(who[..., None] >= 0, rgb, texture // 2))
        if self.camera.lens is None:
            return ideal
        grid = np.stack(np.meshgrid(np.arange(float(width)), np.arange(float(height))), axis=-1)
        place = self.camera.lens.undistort(grid).astype(np.float32)
        return cv2.remap(ideal, place[..., 0], place[..., 1], cv2.INTER_LINEAR)

    def box(self, i: int) -> tuple[float, float, float, float]:
        """Box of the whole of object i, as far as it lies in the image."""
        placed = self.placed[i]
        mesh = self.meshes[placed.mesh]
        uv = self.camera.project(se3.transform(placed.T, mesh.vertices + mesh.centre))
        low = np.clip(uv.min(axis=0), -0.5, np.array(self.camera.size) - 0.5)
        high = np.clip(uv.max(axis=0), -0.5, np.array(self.camera.size) - 0.5)
        x, y = low + 0.5
        w, h = high - low
        return float(x), float(y), float(w), float(h)

    def detections(self) -> list[Detection]:
        """One per object placed, named by its mesh."""
        return [Detection(self.meshes[p.mesh].name, bbox=self.box(i)) for i, p in enumerate(self.placed)]


def at(x: float, y: float, z: float, rotation_vector=(0.0, 0.0, 0.0), centre=(0.0, 0.0, 0.0)) -> np.ndarray:
    """T_camera_object [4,4] with the mesh's centre at (x, y, z)."""
    R = se3.so3_exp(np.asarray(rotation_vector, float))
    return se3.from_rt(R, np.array([x, y, z]) - R @ np.asarray(centre))


def reprojection_px(T: np.ndarray, truth: np.ndarray, mesh: Mesh, K: np.ndarray) -> float:
    """Largest distance in the image between the vertices at two poses, pixels."""
    points = mesh.vertices + mesh.centre
    gap = project(K, se3.transform(T, points)) - project(K, se3.transform(truth, points))
    return float(np.linalg.norm(gap, axis=1).max())
