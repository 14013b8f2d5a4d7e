"""Pass 2 of the CPU renderer: colours of the visible samples, from their triangle ids."""

from __future__ import annotations

from typing import Any

import numpy as np

from coop_edge.render.rasterize import kernel

Array = np.ndarray[Any, Any]


@kernel
def shade(
    triangle_id: Array, first_row: int, samples: int, xyz: Array, faces: Array, corner_colors: Array, corner_uv: Array,
    face_texture: Array, texels: Array, textures: Array, camera: Array, ambient: float, diffuse: float, rgb: Array,
) -> None:  # fmt: skip
    """Write rgb uint8 [rows,W,3] as the rounded mean over the samples x samples ids of each pixel.

    triangle_id int32 [rows*samples, W*samples], whose first row is sample row ``first_row`` of the frame. The other
    arrays are those of the mesh (``Mesh.packed_textures`` for the last two) and of ``transform_vertices``.
    """
    ray = np.empty(3)
    weights = np.empty((4, 3))  # rows: barycentric coordinate of each corner, then n / |n|; columns: u, v, 1
    color = np.empty(3)
    share = 1.0 / (samples * samples)
    last = -1
    for row in range(rgb.shape[0]):
        for column in range(rgb.shape[1]):
            r, g, b = 0.0, 0.0, 0.0
            for v in range(row * samples, (row + 1) * samples):
                for u in range(column * samples, (column + 1) * samples):
                    face = triangle_id[v, u]
                    if face < 0:
                        continue
                    if face != last:  # neighbours often lie on the same triangle
                        _corner_weights(xyz, faces, face, weights)
                        last = face
                    ray[1] = (v + first_row - camera[4]) / camera[3]
                    ray[0] = (u - camera[2] - camera[1] * ray[1]) / camera[0]
                    ray[2] = 1.0
                    light = _shade_sample(
                        ray, weights, face, corner_colors, corner_uv, face_texture, texels, textures, color
                    )
                    light = ambient + diffuse * light
                    r += min(color[0] * light, 255.0)
                    g += min(color[1] * light, 255.0)
                    b += min(color[2] * light, 255.0)
            rgb[row, column, 0] = np.uint8(r * share + 0.5)
            rgb[row, column, 1] = np.uint8(g * share + 0.5)
            rgb[row, column, 2] = np.uint8(b * share + 0.5)


@kernel
def _corner_weights(xyz: Array, faces: Array, face: int, weights: Array) -> None:
    """Rows 0..2: p_j x p_k, whose dot product with a ray is, up to one factor, corner i's barycentric coordinate there.

    (Olano and Greer, Triangle scan conversion using 2D homogeneous coordinates, 1997.) Row 3: the unit normal.
    """
    i, j, k = faces[face, 0], faces[face, 1], faces[face, 2]
    _cross(xyz[j], xyz[k], weights[0])
    _cross(xyz[k], xyz[i], weights[1])
    _cross(xyz[i], xyz[j], weights[2])
    ax, ay, az = xyz[i, 0], xyz[i, 1], xyz[i, 2]
    bx, by, bz = xyz[j, 0] - ax, xyz[j, 1] - ay, xyz[j, 2] - az
    cx, cy, cz = xyz[k, 0] - ax, xyz[k, 1] - ay, xyz[k, 2] - az
    nx, ny, nz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
    length = np.sqrt(nx * nx + ny * ny + nz * nz)
    scale = 1.0 / length if length > 0.0 else 0.0
    weights[3, 0], weights[3, 1], weights[3, 2] = nx * scale, ny * scale, nz * scale


@kernel
def _cross(a: Array, b: Array, out: Array) -> None:
    out[0] = a[1] * b[2] - a[2] * b[1]
    out[1] = a[2] * b[0] - a[0] * b[2]
    out[2] = a[0] * b[1] - a[1] * b[0]


@kernel
def _shade_sample(
    ray: Array, weights: Array, face: int, corner_colors: Array, corner_uv: Array, face_texture: Array, texels: Array,
    textures: Array, color: Array,
) -> float:  # fmt: skip
    """Write the albedo (0..255) where the ray meets the face; return |n . v|."""
    x, y = ray[0], ray[1]
    w0 = weights[0, 0] * x + weights[0, 1] * y + weights[0, 2]
    w1 = weights[1, 0] * x + weights[1, 1] * y + weights[1, 2]
    w2 = weights[2, 0] * x + weights[2, 1] * y + weights[2, 2]
    total = w0 + w1 + w2
    w0, w1, w2 = max(w0 / total, 0.0), max(w1 / total, 0.0), max(w2 / total, 0.0)
    total = w0 + w1 + w2
    if 0.0 < total < 1e30:
        w0, w1, w2 = w0 / total, w1 / total, w2 / total
    else:  # edge-on beyond float64: any corner is as good
        w0, w1, w2 = 1.0, 0.0, 0.0
    texture = face_texture[face]
    if texture >= 0:
        s = w0 * corner_uv[face, 0, 0] + w1 * corner_uv[face, 1, 0] + w2 * corner_uv[face, 2, 0]
        t = w0 * corner_uv[face, 0, 1] + w1 * corner_uv[face, 1, 1] + w2 * corner_uv[face, 2, 1]
        _bilinear(s, t, texels, textures[texture, 0], textures[texture, 1], textures[texture, 2], color)
    else:
        for channel in range(3):
            color[channel] = (
                w0 * corner_colors[face, 0, channel]
                + w1 * corner_colors[face, 1, channel]
                + w2 * corner_colors[face, 2, channel]
            )
    facing = weights[3, 0] * x + weights[3, 1] * y + weights[3, 2]
    return abs(facing) / np.sqrt(x * x + y * y + 1.0)


@kernel
def _bilinear(s: float, t: float, texels: Array, start: int, height: int, width: int, color: Array) -> None:
    """Sample a texture that repeats; (0, 0) is the bottom left corner, texel centres lie at half-integers."""
    x = (s - np.floor(s)) * width - 0.5
    y = (1.0 - (t - np.floor(t))) * height - 0.5
    x0, y0 = np.int64(np.floor(x)), np.int64(np.floor(y))
    fx, fy = x - x0, y - y0
    x1, y1 = x0 + 1, y0 + 1
    # x lies in [-0.5, width - 0.5], so one step of wrapping is enough.
    x0 = x0 + width if x0 < 0 else x0
    y0 = y0 + height if y0 < 0 else y0
    x1 = x1 - width if x1 >= width else x1
    y1 = y1 - height if y1 >= height else y1
    top, bottom = start + y0 * width, start + y1 * width
    w00, w01 = (1.0 - fx) * (1.0 - fy), fx * (1.0 - fy)
    w10, w11 = (1.0 - fx) * fy, fx * fy
    for channel in range(3):
        color[channel] = (
            w00 * texels[top + x0, channel]
            + w01 * texels[top + x1, channel]
            + w10 * texels[bottom + x0, channel]
            + w11 * texels[bottom + x1, channel]
        )
