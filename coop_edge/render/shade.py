"""Colours the visible samples from their triangle ids: pass 2 of the CPU renderer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from coop_edge.render.rasterize import Buffer, Pinhole, Surface, inlined, kernel

Array = np.ndarray[Any, Any]
Color = tuple[float, float, float]


class Light(NamedTuple):
    """``Shading`` for compiled code."""

    ambient: float
    diffuse: float


class Image(NamedTuple):
    """Some rows of the outputs."""

    rgb: Array  # uint8 [rows,W,3]
    depth: Array  # float32 [rows,W] metres; 0 where nothing is seen
    triangle_id: Array  # int32 [rows,W]; -1 where nothing is seen


@kernel
def shade(
    buffer: Buffer, samples: int, xyz: Array, camera: Pinhole, surface: Surface, light: Light, image: Image
) -> None:
    """Write pixels: rgb is the rounded mean of samples x samples, depth and id are the middle sample's.

    Args:
        buffer: what ``rasterize`` drew of ``surface`` with vertices xyz [V,3]. With one sample per pixel its arrays may
            be those of ``image``.
    """
    first_row, sample_depth, sample_id = buffer
    rgb, depth, triangle_id = image
    faces = surface.faces
    middle = samples // 2
    weights = np.empty(12)
    share = 1.0 / (samples * samples)
    last = -1
    for row in range(rgb.shape[0]):
        for column in range(rgb.shape[1]):
            r, g, b = 0.0, 0.0, 0.0
            for v in range(row * samples, (row + 1) * samples):
                y = (v + first_row - camera.cy) * camera.inverse_fy
                for u in range(column * samples, (column + 1) * samples):
                    face = sample_id[v, u]
                    if face < 0:
                        continue
                    if face != last:  # neighbours often lie on the same triangle
                        _corner_weights(xyz, faces[face, 0], faces[face, 1], faces[face, 2], weights)
                        last = face
                    x = (u - camera.cx - camera.skew * y) * camera.inverse_fx
                    sr, sg, sb = _albedo(_barycentric(weights, x, y), face, surface)
                    facing = abs(weights[9] * x + weights[10] * y + weights[11]) / np.sqrt(x * x + y * y + 1.0)
                    share_lit = light.ambient + light.diffuse * facing
                    r += min(sr * share_lit, 255.0)
                    g += min(sg * share_lit, 255.0)
                    b += min(sb * share_lit, 255.0)
            rgb[row, column, 0] = np.uint8(r * share + 0.5)
            rgb[row, column, 1] = np.uint8(g * share + 0.5)
            rgb[row, column, 2] = np.uint8(b * share + 0.5)
            face = sample_id[row * samples + middle, column * samples + middle]
            z = sample_depth[row * samples + middle, column * samples + middle]
            triangle_id[row, column] = face
            depth[row, column] = z if face >= 0 else np.float32(0.0)


@inlined
def _corner_weights(xyz: Array, i: int, j: int, k: int, weights: Array) -> None:
    """Compute three corners' weights and the unit normal, each as three factors of a ray (x, y, 1).

    A corner's barycentric coordinate where the ray meets the triangle is its weight over the sum of the three, where
    the weight of p_i is (p_j x p_k) . ray (Olano and Greer, Triangle scan conversion using 2D homogeneous coordinates,
    1997). Signed so that the sum is positive.
    """
    ax, ay, az = xyz[i, 0], xyz[i, 1], xyz[i, 2]
    bx, by, bz = xyz[j, 0], xyz[j, 1], xyz[j, 2]
    cx, cy, cz = xyz[k, 0], xyz[k, 1], xyz[k, 2]
    ex, ey, ez = bx - ax, by - ay, bz - az
    fx, fy, fz = cx - ax, cy - ay, cz - az
    nx, ny, nz = ey * fz - ez * fy, ez * fx - ex * fz, ex * fy - ey * fx
    sign = 1.0 if nx * ax + ny * ay + nz * az > 0.0 else -1.0
    weights[0], weights[1], weights[2] = (
        sign * (by * cz - bz * cy), sign * (bz * cx - bx * cz), sign * (bx * cy - by * cx)
    )  # fmt: skip
    weights[3], weights[4], weights[5] = (
        sign * (cy * az - cz * ay), sign * (cz * ax - cx * az), sign * (cx * ay - cy * ax)
    )  # fmt: skip
    weights[6], weights[7], weights[8] = (
        sign * (ay * bz - az * by), sign * (az * bx - ax * bz), sign * (ax * by - ay * bx)
    )  # fmt: skip
    # Not zero: rasterize draws no triangle without an area.
    scale = 1.0 / np.sqrt(nx * nx + ny * ny + nz * nz)
    weights[9], weights[10], weights[11] = nx * scale, ny * scale, nz * scale


@inlined
def _barycentric(weights: Array, x: float, y: float) -> Color:
    """Compute barycentric coordinates where the ray (x, y, 1) meets the triangle, limited to the triangle."""
    w0 = max(weights[0] * x + weights[1] * y + weights[2], 0.0)
    w1 = max(weights[3] * x + weights[4] * y + weights[5], 0.0)
    w2 = max(weights[6] * x + weights[7] * y + weights[8], 0.0)
    total = w0 + w1 + w2
    if not 0.0 < total < np.inf:  # the ray misses an edge-on triangle altogether: any corner is as good
        return 1.0, 0.0, 0.0
    scale = 1.0 / total
    return w0 * scale, w1 * scale, w2 * scale


@inlined
def _albedo(w: Color, face: int, surface: Surface) -> Color:
    """Return the face's own colour (0..255) at barycentric coordinates w: from its texture, or from its corners."""
    texture = surface.face_texture[face]
    if texture >= 0:
        uv = surface.corner_uv[face]
        s = w[0] * uv[0, 0] + w[1] * uv[1, 0] + w[2] * uv[2, 0]
        t = w[0] * uv[0, 1] + w[1] * uv[1, 1] + w[2] * uv[2, 1]
        return _bilinear(s, t, surface.texels, surface.textures[texture])
    c = surface.corner_colors[face]
    return (
        w[0] * c[0, 0] + w[1] * c[1, 0] + w[2] * c[2, 0],
        w[0] * c[0, 1] + w[1] * c[1, 1] + w[2] * c[2, 1],
        w[0] * c[0, 2] + w[1] * c[1, 2] + w[2] * c[2, 2],
    )


@inlined
def _bilinear(s: float, t: float, texels: Array, where: Array) -> Color:
    """Sample a texture that repeats; (0, 0) is the bottom left corner, texel centres lie at half-integers.

    where [3]: the texture's first texel, height, width.
    """
    start, height, width = where[0], where[1], where[2]
    x = (s - np.floor(s)) * width - 0.5
    y = (1.0 - (t - np.floor(t))) * height - 0.5
    x0, y0 = np.int64(np.floor(x)), np.int64(np.floor(y))
    fx, fy = x - x0, y - y0
    # x lies in [-0.5, width - 0.5], so one step of wrapping is enough.
    x1 = x0 + 1 if x0 + 1 < width else 0
    y1 = y0 + 1 if y0 + 1 < height else 0
    x0 = x0 if x0 >= 0 else width - 1
    y0 = y0 if y0 >= 0 else height - 1
    a, b = texels[start + y0 * width + x0], texels[start + y0 * width + x1]
    c, d = texels[start + y1 * width + x0], texels[start + y1 * width + x1]
    wa, wb = (1.0 - fx) * (1.0 - fy), fx * (1.0 - fy)
    wc, wd = (1.0 - fx) * fy, fx * fy
    return (
        wa * a[0] + wb * b[0] + wc * c[0] + wd * d[0],
        wa * a[1] + wb * b[1] + wc * c[1] + wd * d[1],
        wa * a[2] + wb * b[2] + wc * c[2] + wd * d[2],
    )
