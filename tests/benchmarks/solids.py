"""Meshes of plain solids for the tests of the synthetic set. Metres."""

from __future__ import annotations

import numpy as np
import trimesh

from coop_edge.mesh import Mesh

SIDES = (0.08, 0.05, 0.03)


def colored(shape: trimesh.Trimesh, face_colors: np.ndarray | None = None, **changes) -> Mesh:
    """A Mesh of one grey, or with a colour [F,3] to each face. The vertices are taken about the origin."""
    faces = np.asarray(shape.faces, np.int32)
    if face_colors is None:
        face_colors = np.full((len(faces), 3), 150)
    parts = {
        "vertices": np.asarray(shape.vertices, np.float32),
        "faces": faces,
        "centre": np.zeros(3),
        "corner_colors": np.repeat(np.asarray(face_colors, np.uint8)[:, None], 3, axis=1),
        "corner_uv": np.zeros((len(faces), 3, 2), np.float32),
        "face_texture": np.full(len(faces), -1, np.int32),
    }
    return Mesh(**{**parts, **changes})


def box(sides=SIDES, **changes) -> Mesh:
    return colored(trimesh.creation.box(sides), **changes)


def textured_box(repeats: float = 2.0) -> Mesh:
    """Two textures of different sizes, one of them repeated, two colours that are plain, one that runs over a face."""
    rng = np.random.default_rng(5)
    shape = trimesh.creation.box(SIDES)
    images = tuple(
        np.ascontiguousarray(np.kron(rng.integers(0, 255, (4, 6, 3)), np.ones((k, k, 1))).astype(np.uint8))
        for k in (5, 9)
    )
    uv = np.zeros((12, 3, 2), np.float32)
    uv[:4] = rng.uniform(0.0, 1.0, (4, 3, 2))
    uv[4:8] = rng.uniform(-7.0, -7.0 + repeats, (4, 3, 2))
    texture = np.array([0] * 4 + [1] * 4 + [-1] * 4, np.int32)
    palette = np.full((12, 3), (200, 30, 90))
    palette[10:] = (20, 160, 40)
    return colored(shape, palette, corner_uv=uv, face_texture=texture, textures=images)
