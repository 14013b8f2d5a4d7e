"""Draw triangles into a z-buffer of depth and triangle ids: pass 1 of the CPU renderer, by the rules of ``cpu.py``.

"Sample" means a pixel of the grid that is finer than the image by the supersampling factor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from coop_edge.base.jit import jit, stamp_of
from coop_edge.render.base import NEAR

Array = np.ndarray[Any, Any]
Corner = tuple[int, int]
F = TypeVar("F", bound=Callable[..., Any])

SUBPIXEL_BITS = 8
SUBPIXELS = 1 << SUBPIXEL_BITS
GUARD = float(1 << 20)
"""Guard band, pixels: what projects further away is clipped, so that products of edge functions stay below 2^60."""

_LEFT, _RIGHT, _ABOVE, _BELOW, _NEAR, _CLIP = 1, 2, 4, 8, 16, 32
_OUTSIDE = _LEFT | _RIGHT | _ABOVE | _BELOW | _NEAR
_MAX_POLYGON = 3 << 5  # 8 in exact arithmetic; whatever rounding does, each of five planes at most doubles it


_HERE = Path(__file__).parent
_STAMP = stamp_of(_HERE / name for name in ("base.py", "rasterize.py", "shade.py"))


def kernel(function: F) -> F:
    """Compile. Not parallel=True (its OpenMP layer breaks forked workers), not fastmath (the rules are exact)."""
    return jit(function, _STAMP)


def inlined(function: F) -> F:
    """Compile a helper in an inner loop as ``kernel`` does, always inlined: a call copies every array's descriptor."""
    return jit(function, _STAMP, forceinline=True)


class Pinhole(NamedTuple):
    """Intrinsics in samples, and the inverse focal lengths."""

    fx: float
    skew: float
    cx: float
    fy: float
    cy: float
    inverse_fx: float
    inverse_fy: float


class Vertices(NamedTuple):
    """V vertices as a camera sees them."""

    xyz: Array  # float64 [V,3] metres, camera axes
    fixed: Array  # int32 [V,2] projection in 1/256 sample; 0 where it has no meaning
    code: Array  # uint8 [V] outcodes


class Surface(NamedTuple):
    """Triangles of a mesh and their colours (``Mesh``)."""

    faces: Array  # int32 [F,3]
    corner_colors: Array  # uint8 [F,3,3]
    corner_uv: Array  # float32 [F,3,2]
    face_texture: Array  # int32 [F], -1 for none
    texels: Array  # ``Mesh.packed_textures``
    textures: Array


class Buffer(NamedTuple):
    """The z-buffer of some rows of the frame, in samples."""

    first_row: int
    depth: Array  # float32 [rows,W] metres; infinity where nothing is drawn
    triangle_id: Array  # int32 [rows,W]; -1 where nothing is drawn


@kernel
def transform_vertices(vertices: Array, T: Array, camera: Pinhole, height: int, width: int, out: Vertices) -> None:
    """Write vertices float32 [V,3], moved by T [4,4], to ``out``; the frame has height x width samples."""
    fx, skew, cx, fy, cy = camera.fx, camera.skew, camera.cx, camera.fy, camera.cy
    xyz, fixed, code = out
    for i in range(len(vertices)):
        a, b, c = np.float64(vertices[i, 0]), np.float64(vertices[i, 1]), np.float64(vertices[i, 2])
        x = T[0, 0] * a + T[0, 1] * b + T[0, 2] * c + T[0, 3]
        y = T[1, 0] * a + T[1, 1] * b + T[1, 2] * c + T[1, 3]
        z = T[2, 0] * a + T[2, 1] * b + T[2, 2] * c + T[2, 3]
        xyz[i, 0], xyz[i, 1], xyz[i, 2] = x, y, z
        # Half-space tests on homogeneous coordinates hold in front of the camera and behind it alike; one sample of
        # slack, because snapping can move a vertex towards the frame.
        uh = fx * x + skew * y + cx * z
        vh = fy * y + cy * z
        bits = 0
        if uh < -z:
            bits |= _LEFT
        if uh > width * z:
            bits |= _RIGHT
        if vh < -z:
            bits |= _ABOVE
        if vh > height * z:
            bits |= _BELOW
        u, v = 0.0, 0.0
        if z < NEAR:
            bits |= _NEAR | _CLIP
        else:
            u, v = uh / z, vh / z
            if not (abs(u) <= GUARD and abs(v) <= GUARD):  # also where NaN came of an overflow
                bits |= _CLIP
                u, v = 0.0, 0.0
        fixed[i, 0] = np.int32(np.floor(u * SUBPIXELS + 0.5))
        fixed[i, 1] = np.int32(np.floor(v * SUBPIXELS + 0.5))
        code[i] = bits


@kernel
def rasterize(faces: Array, vertices: Vertices, camera: Pinhole, buffer: Buffer) -> None:
    """Draw triangles int32 [F,3] of vertices from ``transform_vertices`` into the rows that ``buffer`` holds."""
    xyz, fixed, code = vertices
    polygon = np.empty((2, _MAX_POLYGON, 3))
    corners = np.empty((_MAX_POLYGON, 2), np.int64)
    plane = np.empty(5)
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        if code[i] & code[j] & code[k] & _OUTSIDE:
            continue
        if (code[i] | code[j] | code[k]) & _CLIP:
            n = _clip(i, j, k, xyz, camera, polygon, corners)
            if n >= 3 and _plane(i, j, k, xyz, camera, plane):
                for c in range(1, n - 1):
                    p, q, r = corners[0], corners[c], corners[c + 1]
                    _fill((p[0], p[1]), (q[0], q[1]), (r[0], r[1]), f, plane, buffer)
            continue
        ax, ay = np.int64(fixed[i, 0]), np.int64(fixed[i, 1])
        bx, by = np.int64(fixed[j, 0]), np.int64(fixed[j, 1])
        cx, cy = np.int64(fixed[k, 0]), np.int64(fixed[k, 1])
        # Many small triangles hold no sample centre at all: leave before the plane is worked out.
        if (min(ax, bx, cx) + SUBPIXELS - 1) >> SUBPIXEL_BITS > max(ax, bx, cx) >> SUBPIXEL_BITS:
            continue
        if (min(ay, by, cy) + SUBPIXELS - 1) >> SUBPIXEL_BITS > max(ay, by, cy) >> SUBPIXEL_BITS:
            continue
        if _plane(i, j, k, xyz, camera, plane):
            _fill((ax, ay), (bx, by), (cx, cy), f, plane, buffer)


@inlined
def _plane(i: int, j: int, k: int, xyz: Array, camera: Pinhole, plane: Array) -> bool:
    """Compute 1 / z = plane[0] u + plane[1] v + plane[2] of the triangle, and its range; False if edge-on.

    With the normal n and n . p = d on the plane, the ray z K^-1 (u, v, 1) meets it at z = d / (n . K^-1 (u, v, 1)).
    plane[3], plane[4] are the nearest and the farthest z.
    """
    ax, ay, az = xyz[i, 0], xyz[i, 1], xyz[i, 2]
    bx, by, bz = xyz[j, 0] - ax, xyz[j, 1] - ay, xyz[j, 2] - az
    cx, cy, cz = xyz[k, 0] - ax, xyz[k, 1] - ay, xyz[k, 2] - az
    nx, ny, nz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
    d = nx * ax + ny * ay + nz * az
    if d == 0.0 or not np.isfinite(d):
        return False
    inverse = 1.0 / d
    gu = nx * camera.inverse_fx
    gv = (ny - gu * camera.skew) * camera.inverse_fy
    plane[0] = gu * inverse
    plane[1] = gv * inverse
    plane[2] = (nz - gu * camera.cx - gv * camera.cy) * inverse
    plane[3] = max(NEAR, min(az, xyz[j, 2], xyz[k, 2]))
    plane[4] = max(az, xyz[j, 2], xyz[k, 2])
    return True


@inlined
def _fill(a: Corner, b: Corner, c: Corner, face: int, plane: Array, buffer: Buffer) -> None:
    """Draw one snapped triangle (corners in 1/256 sample) by exact integer edge functions and the top-left rule."""
    (ax, ay), (bx, by), (cx, cy) = a, b, c
    first_row, depth, triangle_id = buffer
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if area == 0:
        return
    if area < 0:
        bx, by, cx, cy = cx, cy, bx, by
    rows, width = depth.shape
    u0 = max((min(ax, bx, cx) + SUBPIXELS - 1) >> SUBPIXEL_BITS, 0)
    u1 = min(max(ax, bx, cx) >> SUBPIXEL_BITS, width - 1)
    v0 = max((min(ay, by, cy) + SUBPIXELS - 1) >> SUBPIXEL_BITS, first_row)
    v1 = min(max(ay, by, cy) >> SUBPIXEL_BITS, first_row + rows - 1)
    if u0 > u1 or v0 > v1:
        return
    # Edge functions at the first sample; a sample is inside where all three are >= 0 after the rule's bias.
    px, py = u0 << SUBPIXEL_BITS, v0 << SUBPIXEL_BITS
    ea = _edge(bx, by, cx, cy, px, py)
    eb = _edge(cx, cy, ax, ay, px, py)
    ec = _edge(ax, ay, bx, by, px, py)
    right_a, right_b, right_c = (by - cy) << SUBPIXEL_BITS, (cy - ay) << SUBPIXEL_BITS, (ay - by) << SUBPIXEL_BITS
    down_a, down_b, down_c = (cx - bx) << SUBPIXEL_BITS, (ax - cx) << SUBPIXEL_BITS, (bx - ax) << SUBPIXEL_BITS
    nearest, farthest = plane[3], plane[4]
    for v in range(v0, v1 + 1):
        wa, wb, wc = ea, eb, ec
        row = v - first_row
        inverse_row = plane[1] * v + plane[2]
        entered = False
        for u in range(u0, u1 + 1):
            if (wa | wb | wc) >= 0:
                entered = True
                inverse = plane[0] * u + inverse_row
                # Snapping moves an edge by up to 1/512 sample, so a sample may lie just off the true triangle.
                z = np.float32(min(max(1.0 / inverse, nearest), farthest) if inverse > 0.0 else farthest)
                if z < depth[row, u]:  # faces come in rising order: at equal depth the lower id stays
                    depth[row, u] = z
                    triangle_id[row, u] = face
            elif entered:
                break  # convex: nothing more in this row
            wa += right_a
            wb += right_b
            wc += right_c
        ea += down_a
        eb += down_b
        ec += down_c


@inlined
def _edge(ax: int, ay: int, bx: int, by: int, px: int, py: int) -> int:
    """Compute (b - a) x (p - a), lowered by one for edges that are neither top nor left, so that inside means >= 0."""
    dx, dy = bx - ax, by - ay
    bias = 0 if dy < 0 or (dy == 0 and dx > 0) else 1
    return dx * (py - ay) - dy * (px - ax) - bias


@kernel
def _distance(plane: int, x: float, y: float, z: float, camera: Pinhole) -> float:
    """Compute the signed distance (any positive scale) to the near plane (0) or a guard plane (1..4); inside >= 0."""
    if plane == 0:
        return z - NEAR
    if plane <= 2:
        u = camera.fx * x + camera.skew * y + camera.cx * z
        return GUARD * z - u if plane == 1 else GUARD * z + u
    v = camera.fy * y + camera.cy * z
    return GUARD * z - v if plane == 3 else GUARD * z + v


@kernel
def _clip(i: int, j: int, k: int, xyz: Array, camera: Pinhole, polygon: Array, corners: Array) -> int:
    """Clip triangle (i, j, k) by the near and guard planes (Sutherland and Hodgman, 1974); returns its corner count.

    Writes the projected corners int64 [n,2] in 1/256 sample. A cut is always computed from the inner end of an edge
    to the outer one, so the two triangles that share the edge get the same point.
    """
    for axis in range(3):
        polygon[0, 0, axis], polygon[0, 1, axis], polygon[0, 2, axis] = xyz[i, axis], xyz[j, axis], xyz[k, axis]
    n, source = 3, 0
    for plane in range(5):
        old, new = polygon[source], polygon[1 - source]
        m = 0
        for a in range(n):
            b = a + 1 if a + 1 < n else 0
            da = _distance(plane, old[a, 0], old[a, 1], old[a, 2], camera)
            db = _distance(plane, old[b, 0], old[b, 1], old[b, 2], camera)
            if da >= 0.0:
                new[m, 0], new[m, 1], new[m, 2] = old[a, 0], old[a, 1], old[a, 2]
                m += 1
            if (da >= 0.0) != (db >= 0.0):
                p, q, t = (a, b, da / (da - db)) if da >= 0.0 else (b, a, db / (db - da))
                for axis in range(3):
                    new[m, axis] = old[p, axis] + t * (old[q, axis] - old[p, axis])
                m += 1
        n, source = m, 1 - source
        if n < 3:
            return 0
    for a in range(n):
        x, y, z = polygon[source, a, 0], polygon[source, a, 1], polygon[source, a, 2]
        u = (camera.fx * x + camera.skew * y + camera.cx * z) / z
        v = (camera.fy * y + camera.cy * z) / z
        if not (abs(u) <= GUARD + 1.0 and abs(v) <= GUARD + 1.0):  # rounding aside, only NaN comes here
            return 0
        corners[a, 0] = np.int64(np.floor(u * SUBPIXELS + 0.5))
        corners[a, 1] = np.int64(np.floor(v * SUBPIXELS + 0.5))
    return n
