"""Renderer oracles in float64: every ray against every triangle, and closed forms for a sphere and a box.

Short and slow on purpose. Nothing is shared with the renderers but the constants of the contract; textures are read by
SciPy.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

from coop_edge.mesh.mesh import Mesh
from coop_edge.render.base import NEAR, Shading

DEFAULT = Shading()


def pixel_rays(K: np.ndarray, height: int, width: int, samples: int = 1) -> np.ndarray:
    """Directions with z = 1 through every sample, [height*samples, width*samples, 3]."""
    fx, skew, cx, fy, cy = K[0, 0], K[0, 1], K[0, 2], K[1, 1], K[1, 2]
    offsets = (np.arange(samples) - samples // 2) / samples
    u = (np.arange(width)[:, None] + offsets).ravel()
    v = (np.arange(height)[:, None] + offsets).ravel()
    y = np.broadcast_to(((v - cy) / fy)[:, None], (len(v), len(u)))
    x = (u[None, :] - cx - skew * y) / fx
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def intersect(corners: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First hit at z >= NEAR of rays [...,3] from the origin among triangles [F,3,3]: depth, id, weights [...,3].

    Both sides count, edges included; the lower id wins at equal depth. Depth 0 and id -1 where nothing is hit.
    Moeller and Trumbore, Fast, minimum storage ray/triangle intersection, 1997.
    """
    depth = np.full(rays.shape[:-1], np.inf)
    face = np.full(rays.shape[:-1], -1)
    weights = np.zeros(rays.shape)
    for f, (a, b, c) in enumerate(corners):
        p = np.cross(rays, c - a)
        determinant = p @ (b - a)
        with np.errstate(divide="ignore", invalid="ignore"):
            second = (p @ -a) / determinant
            q = np.cross(-a, b - a)
            third = (rays @ q) / determinant
            t = ((c - a) @ q) / determinant
            hit = (second >= 0) & (third >= 0) & (second + third <= 1) & (t >= NEAR) & (t < depth)
        depth[hit], face[hit] = t[hit], f
        b1, b2 = second[hit], third[hit]
        weights[hit] = np.stack([1 - b1 - b2, b1, b2], axis=-1)
    return np.where(face >= 0, depth, 0.0), face, weights


def render(
    mesh: Mesh, T: np.ndarray, K: np.ndarray, height: int, width: int, *, samples: int = 1, shading: Shading = DEFAULT
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One view by brute force: rgb uint8 [H,W,3], depth float64 [H,W], triangle id int [H,W]."""
    points = (mesh.vertices.astype(np.float64) + mesh.centre) @ T[:3, :3].T + T[:3, 3]
    corners = points[mesh.faces]
    rays = pixel_rays(K, height, width, samples)
    depth, face, weights = intersect(corners, rays)
    hit = face >= 0
    f, w = face[hit], weights[hit]
    albedo = (w[:, :, None] * mesh.corner_colors[f]).sum(axis=1)
    uv = (w[:, :, None] * mesh.corner_uv[f].astype(np.float64)).sum(axis=1)
    for index, texture in enumerate(mesh.textures):
        here = mesh.face_texture[f] == index
        # Row 0 of the image is its top, v = 0 its bottom; texel centres at half-integers.
        where = [(1.0 - uv[here, 1]) * texture.shape[0] - 0.5, uv[here, 0] * texture.shape[1] - 0.5]
        for channel in range(3):
            albedo[here, channel] = map_coordinates(
                texture[..., channel].astype(np.float64), where, order=1, mode="grid-wrap"
            )
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[f]
    color = np.zeros((*face.shape, 3))
    color[hit] = np.minimum(albedo * lighting(normals, rays[hit], shading)[:, None], 255.0)
    rgb = color.reshape(height, samples, width, samples, 3).mean(axis=(1, 3))
    middle = slice(samples // 2, None, samples)
    return np.floor(rgb + 0.5).astype(np.uint8), depth[middle, middle], face[middle, middle]


def lighting(normals: np.ndarray, rays: np.ndarray, shading: Shading) -> np.ndarray:
    """ambient + diffuse |n . v| for normals and rays of any length, [...,3] -> [...]."""
    unit_n = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
    unit_v = -rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    return shading.ambient + shading.diffuse * np.abs((unit_n * unit_v).sum(axis=-1))


def sphere_depth(centre: np.ndarray, radius: float, rays: np.ndarray) -> np.ndarray:
    """Depth of the nearest point of a sphere along rays with z = 1; 0 where they miss."""
    a, b, c = (rays**2).sum(axis=-1), rays @ centre, centre @ centre - radius**2
    discriminant = b**2 - a * c
    return np.where(discriminant >= 0, (b - np.sqrt(np.maximum(discriminant, 0.0))) / a, 0.0)


def box_depth(extents: np.ndarray, T: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slab method for a box about its frame's origin: depth (0 = miss) and the axis 0..2 of the face that is hit."""
    origin, direction = -T[:3, :3].T @ T[:3, 3], rays @ T[:3, :3]
    with np.errstate(divide="ignore"):
        ends = (np.stack([-extents / 2, extents / 2])[:, None, None] - origin) / direction
    entry, leave = ends.min(axis=0), ends.max(axis=0)
    depth = entry.max(axis=-1)
    return np.where((depth <= leave.min(axis=-1)) & (depth > 0), depth, 0.0), entry.argmax(axis=-1)
