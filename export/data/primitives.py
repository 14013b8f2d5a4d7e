"""Surfaces that procedural objects are put together from: sheets of quads over (u, v), and extruded outlines.

Each maker draws its proportions from a Generator and returns a ``Surface`` of about unit size around the origin, with
texture coordinates that run over the sheet. Lengths become metres only when an object is finished.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Rng = np.random.Generator


@dataclass(frozen=True)
class Surface:
    """Triangles with texture coordinates per corner. vertices float64 [V,3]; faces int64 [F,3]; uv float64 [F,3,2]."""

    vertices: Array
    faces: Array
    uv: Array

    def moved(self, linear: Array, shift: Array) -> Surface:
        """Return the surface under x -> linear x + shift; linear [3,3]."""
        return replace(self, vertices=self.vertices @ np.asarray(linear).T + shift)


def join(surfaces: list[Surface]) -> Surface:
    """Join surfaces into one; nothing is merged."""
    starts = np.cumsum([0, *(len(s.vertices) for s in surfaces)])[:-1]
    return Surface(
        np.concatenate([s.vertices for s in surfaces]),
        np.concatenate([s.faces + start for s, start in zip(surfaces, starts, strict=True)]),
        np.concatenate([s.uv for s in surfaces]),
    )


def sheet(points: Array, *, closed_rows: bool = False, closed_columns: bool = False) -> Surface:
    """Make a surface of a grid of points [m,n,3], two triangles per cell.

    u runs over the columns, v over the rows, both over [0, 1]; ``closed_*`` joins the last row or column to the first.
    Cells without area (poles) lose that triangle.
    """
    m, n = points.shape[:2]
    rows, columns = m - (not closed_rows), n - (not closed_columns)
    i, j = (g.ravel() for g in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    a, b = i * n + j, i * n + (j + 1) % n
    c, d = ((i + 1) % m) * n + (j + 1) % n, ((i + 1) % m) * n + j
    corner = np.stack(
        [np.stack([j, i], 1), np.stack([j + 1, i], 1), np.stack([j + 1, i + 1], 1), np.stack([j, i + 1], 1)]
    )
    corner = corner / (columns, rows)
    vertices = points.reshape(-1, 3)
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    uv = np.concatenate([corner[[0, 1, 2]].swapaxes(0, 1), corner[[0, 2, 3]].swapaxes(0, 1)])
    p = vertices[faces]
    area = np.linalg.norm(np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), axis=1)
    keep = area > 1e-9
    return Surface(vertices, faces[keep], uv[keep])


def revolve(profile: Array, sections: int) -> Surface:
    """Turn a profile [m,2] of (radius, height) about z."""
    angle = 2.0 * np.pi * np.arange(sections) / sections
    radius, height = profile[:, 0, None], profile[:, 1, None]
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    return sheet(np.stack([x, y, np.broadcast_to(height, x.shape)], axis=-1), closed_columns=True)


def extrude(outline: Array, height: float, taper: float = 1.0) -> Surface:
    """Make walls and two caps over an outline [n,2], star-shaped about the origin; the top is scaled by ``taper``."""
    n = len(outline)
    low, high = -height / 2.0, height / 2.0
    bottom = np.concatenate([outline, np.full((n, 1), low)], axis=1)
    top = np.concatenate([outline * taper, np.full((n, 1), high)], axis=1)
    wall = sheet(np.stack([bottom, top]), closed_columns=True)
    scale = 2.0 * np.abs(outline).max()
    caps = []
    for ring in (bottom[::-1], top):
        vertices = np.concatenate([ring, [[0.0, 0.0, ring[0, 2]]]])
        j = np.arange(n)
        faces = np.stack([j, (j + 1) % n, np.full(n, n)], axis=1)
        caps.append(Surface(vertices, faces, (vertices[faces][..., :2] / scale + 0.5)))
    return join([wall, *caps])


def box(rng: Rng) -> Surface:
    """Draw a box, each side a quarter to the whole of the longest."""
    half = 0.5 * rng.uniform(0.25, 1.0, 3)
    sides = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            b, c = (axis + 1) % 3, (axis + 2) % 3
            points = np.empty((2, 2, 3))
            points[..., axis] = sign * half[axis]
            points[..., b] = sign * half[b] * np.array([[-1, 1], [-1, 1]])
            points[..., c] = half[c] * np.array([[-1, -1], [1, 1]])
            sides.append(sheet(points))
    return join(sides)


def cylinder(rng: Rng) -> Surface:
    """Draw a cylinder, cone or frustum with flat ends, thin disc to long rod."""
    radius, height = _radius_and_height(rng)
    top = radius * (1.0 if rng.random() < 0.5 else rng.uniform(0.0, 0.9))
    profile = np.array([(0, -height / 2), (radius, -height / 2), (top, height / 2), (0, height / 2)])
    return revolve(_subdivided(profile, 0.25), _sections(rng))


def capsule(rng: Rng) -> Surface:
    """Draw a cylinder with half-spheres at its ends."""
    radius, height = _radius_and_height(rng)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 14)
    shift = np.where(angle < 0, -height / 2, height / 2)
    return revolve(np.stack([radius * np.cos(angle), radius * np.sin(angle) + shift], axis=1), _sections(rng))


def torus(rng: Rng) -> Surface:
    """Draw a ring, or an arc of one."""
    minor = rng.uniform(0.06, 0.22)
    major = 0.5 - minor
    whole = rng.random() < 0.6
    span = 2 * np.pi if whole else rng.uniform(1.5, 5.0)
    m, n = 36, 14
    a = np.linspace(0, span, m, endpoint=not whole)[:, None]
    b = 2 * np.pi * np.arange(n) / n
    r = major + minor * np.cos(b)
    points = np.stack([r * np.cos(a), r * np.sin(a), np.broadcast_to(minor * np.sin(b), (m, n))], axis=-1)
    return sheet(points, closed_rows=whole, closed_columns=True)


def lathe(rng: Rng) -> Surface:
    """Draw a turned shape, as bottles, bowls, lamps and chess pieces are: a smooth or a stepped random profile."""
    m = int(rng.integers(4, 9))
    radius = rng.uniform(0.1, 0.5, m)
    height = np.cumsum(rng.uniform(0.1, 1.0, m))
    height = (height - height[0]) / (height[-1] - height[0]) * rng.uniform(0.5, 1.2)
    if rng.random() < 0.7:  # smooth: cosine steps between the knots
        t = np.linspace(0, m - 1, 26)
        k = np.minimum(t.astype(int), m - 2)
        f = 0.5 - 0.5 * np.cos(np.pi * (t - k))
        radius = radius[k] * (1 - f) + radius[k + 1] * f
        height = np.interp(t, np.arange(m), height)
    profile = np.stack([radius, height - height.mean()], axis=1)
    ends = [profile[:1] * (0, 1), profile]
    if rng.random() < 0.7:
        ends.append(profile[-1:] * (0, 1))
    else:  # open at the top: an inner wall, a little narrower
        inner = profile[::-1] * (0.88, 1.0)
        ends += [inner, inner[-1:] * (0, 1) + (0, 0.03)]
    return revolve(np.concatenate(ends), _sections(rng))


def extrusion(rng: Rng) -> Surface:
    """Draw an extruded outline: regular polygon, star, gear, or an irregular blob."""
    kind = rng.integers(4)
    if kind == 0:
        n = int(rng.integers(3, 9))
        radius = np.full(n, 0.5)
    elif kind == 1:
        n = 2 * int(rng.integers(3, 9))
        radius = np.where(np.arange(n) % 2, rng.uniform(0.2, 0.45), 0.5)
    elif kind == 2:
        n = 4 * int(rng.integers(5, 12))
        radius = np.where(np.arange(n) % 4 < 2, rng.uniform(0.36, 0.46), 0.5)
    else:
        n = 40
        a = 2 * np.pi * np.arange(n) / n
        waves = sum(rng.uniform(0, 0.5 / k) * np.cos(k * a + rng.uniform(0, 2 * np.pi)) for k in range(1, 5))
        radius = 0.36 * np.exp(0.6 * waves)
    angle = 2 * np.pi * (np.arange(n) + 0.5) / n
    outline = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return extrude(
        outline * (1.0, rng.uniform(0.5, 1.0)), rng.uniform(0.08, 1.0), rng.choice([1.0, rng.uniform(0.4, 1.0)])
    )


def blob(rng: Rng) -> Surface:
    """Draw a sphere displaced along its radius by a few smooth random waves."""
    direction = _sphere(26, 36)
    radius = np.zeros(direction.shape[:2])
    for k in range(5):
        wave = rng.normal(size=3) * (1.2 + k)
        radius += np.sin(direction @ wave + rng.uniform(0, 2 * np.pi)) * rng.uniform(0.1, 0.5) / (1 + 0.5 * k)
    points = direction * (0.4 * np.exp(0.45 * radius))[..., None]
    points[[0, -1]] = points[[0, -1], :1]  # at a pole all columns are one point
    return sheet(points, closed_columns=True)


def superquadric(rng: Rng) -> Surface:
    """Draw a superquadric: a solid between a box, a sphere and a double cone (Barr, 1981)."""
    e1, e2 = np.exp(rng.uniform(np.log(0.2), np.log(1.8), 2))
    direction = _sphere(24, 36)
    s = direction[..., 2]
    c = np.sqrt(np.maximum(0.0, 1.0 - s * s))
    with np.errstate(invalid="ignore", divide="ignore"):
        xy = np.where(c[..., None] > 1e-9, direction[..., :2] / np.maximum(c, 1e-9)[..., None], 0.0)
    points = np.concatenate([(c**e1)[..., None] * _signed_power(xy, e2), _signed_power(s, e1)[..., None]], axis=-1)
    return sheet(0.5 * points * rng.uniform(0.3, 1.0, 3), closed_columns=True)


MAKERS: tuple[Callable[[Rng], Surface], ...] = (
    box, box, cylinder, cylinder, capsule, torus, lathe, lathe, extrusion, extrusion, blob, superquadric,
)  # fmt: skip
"""What a part is drawn from; what is listed twice comes twice as often."""
TURNED: tuple[Callable[[Rng], Surface], ...] = (cylinder, capsule, lathe)
"""What is drawn about the z axis."""


def _sphere(rows: int, columns: int) -> Array:
    """Unit vectors [rows,columns,3] on circles of latitude from pole to pole."""
    polar = np.linspace(0, np.pi, rows)[:, None]
    azimuth = 2 * np.pi * np.arange(columns) / columns
    z = np.broadcast_to(-np.cos(polar), (rows, columns))
    points = np.stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), z], axis=-1)
    points[[0, -1], :, :2] = 0.0
    return points


def _signed_power(x: Array, exponent: float) -> Array:
    return np.sign(x) * np.abs(x) ** exponent


def _radius_and_height(rng: Rng) -> tuple[float, float]:
    ratio = np.exp(rng.uniform(np.log(0.12), np.log(6.0)))  # height over diameter
    return (0.5, ratio) if ratio < 1 else (0.5 / ratio, 1.0)


def _sections(rng: Rng) -> int:
    """Mostly round, sometimes a prism."""
    return int(rng.integers(28, 40)) if rng.random() < 0.85 else int(rng.integers(3, 9))


def _subdivided(profile: Array, step: float) -> Array:
    """Points added so that no piece of the profile is longer than ``step``: texture and light vary along it."""
    out = [profile[:1]]
    for a, b in pairwise(profile):
        n = max(1, int(np.ceil(np.linalg.norm(b - a) / step)))
        out.append(a + (b - a) * (np.arange(1, n + 1) / n)[:, None])
    return np.concatenate(out)
