"""Makes procedural meshes of known shape and colours, in metres, for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import trimesh
from numpy.typing import ArrayLike

from coop_edge.mesh.mesh import DEFAULT_ALBEDO, Mesh


def _mesh(
    vertices: ArrayLike,
    faces: Any,
    *,
    corner_colors: ArrayLike | None = None,
    corner_uv: ArrayLike | None = None,
    textures: Sequence[np.ndarray] = (),
    name: str = "",
    centre: ArrayLike = (0.0, 0.0, 0.0),
) -> Mesh:
    f = len(faces)
    textured = corner_uv is not None
    return Mesh(
        vertices=np.asarray(vertices, np.float32),
        faces=np.asarray(faces, np.int32),
        centre=np.asarray(centre, np.float64),
        corner_colors=np.broadcast_to(
            np.asarray(DEFAULT_ALBEDO if corner_colors is None else corner_colors, np.uint8), (f, 3, 3)
        ).copy(),
        corner_uv=np.asarray(corner_uv, np.float32) if textured else np.zeros((f, 3, 2), np.float32),
        face_texture=np.full(f, 0 if textured else -1, np.int32),
        textures=tuple(textures),
        name=name,
    )


def smooth_texture(size: int = 1024, seed: int = 0) -> np.ndarray:
    """Make a colourful, band-limited texture uint8 [size,size,3] that repeats seamlessly."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    image = np.zeros((size, size, 3))
    for channel in range(3):
        for _ in range(6):
            fx, fy = rng.integers(-6, 7, 2)
            image[..., channel] += np.sin(2 * np.pi * (fx * x + fy * y) + rng.uniform(0, 2 * np.pi))
        image[..., channel] = np.interp(image[..., channel], (-4, 4), (20, 250))
    return image.round().astype(np.uint8)


def textured_sphere(subdivisions: int = 5, radius: float = 0.05, texture_size: int = 1024) -> Mesh:
    """Make an icosphere (20 * 4^subdivisions faces; 5 gives 20,480) under a latitude-longitude texture."""
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    v, faces = np.asarray(sphere.vertices), np.asarray(sphere.faces)
    n = v / np.linalg.norm(v, axis=1, keepdims=True)
    u = np.arctan2(n[:, 1], n[:, 0]) / (2 * np.pi) + 0.5
    uv = np.stack([u, np.arccos(np.clip(-n[:, 2], -1, 1)) / np.pi], axis=1)[faces]
    wrap = uv[..., 0].max(1) - uv[..., 0].min(1) > 0.5
    uv[wrap, :, 0] += uv[wrap, :, 0] < 0.5  # the seam: texture coordinates above 1 repeat
    return _mesh(v, faces, corner_uv=uv, textures=[smooth_texture(texture_size)], name="textured_sphere")


def colored_torus(major: float = 0.06, minor: float = 0.025, sections: int = 64) -> Mesh:
    """Make a torus with smooth vertex colours, off-centre in its own frame."""
    torus = trimesh.creation.torus(major, minor, major_sections=sections, minor_sections=sections // 2)
    v, faces = np.asarray(torus.vertices), np.asarray(torus.faces)
    colors = 127.5 + 100 * np.sin(v * (60.0, 90.0, 120.0) + (0.0, 1.0, 2.0))
    return _mesh(
        v, faces, corner_colors=colors.round().astype(np.uint8)[faces], name="colored_torus", centre=(0.02, -0.01, 0.03)
    )


def grey_box(extents: tuple[float, float, float] = (0.1, 0.06, 0.04)) -> Mesh:
    """Make a box of 12 triangles in the default albedo."""
    box = trimesh.creation.box(extents=extents)
    return _mesh(box.vertices, box.faces, name="grey_box")


def look_at_views(n: int, distance: float, seed: int = 0) -> np.ndarray:
    """Draw T_camera_object [n,4,4]: rotations at random, the object's origin ``distance`` metres ahead."""
    from coop_edge.geometry import se3

    R = se3.random_rotation(np.random.default_rng(seed), (n,))
    return se3.from_rt(R, np.array([0.0, 0.0, distance]))
