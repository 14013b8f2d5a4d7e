"""Objects to train on: a Mesh with what shading and labels need besides, and procedural ones made from primitives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from coop_edge.geometry import se3
from coop_edge.mesh.mesh import Mesh
from coop_edge.mesh.symmetry import Symmetries
from export.data import primitives, textures
from export.data.primitives import Surface
from export.data.revolution import symmetries_of

Array = np.ndarray[Any, Any]
Rng = np.random.Generator

MAX_FACES = 5000
SMALLEST, LARGEST = 0.03, 1.0
"""Diameters, metres; drawn log-uniformly."""
MODEL_POINTS = 256
CREASE_DEGREES = 40.0
"""Faces that meet at a larger angle than this are shaded as an edge, others as a smooth surface."""
THIN = (2.0, 6.0)
"""Range of the factor by which thin objects are drawn out along one axis."""


@dataclass(frozen=True, eq=False)
class TrainingObject:
    """A mesh and what is worked out once for it."""

    mesh: Mesh
    model_points: Array  # float32 [MODEL_POINTS,3] on the surface, metres, object's frame
    diameter: float  # metres
    symmetries: Symmetries = field(default_factory=Symmetries)
    """Continuous symmetry, colours included, in the object's frame: an axis, two of a ball, or none."""

    @cached_property
    def grey(self) -> Mesh:
        """Return the mesh without its colours and textures: white, for a renderer to light."""
        white = np.full_like(self.mesh.corner_colors, 255)
        none = np.full_like(self.mesh.face_texture, -1)
        return replace(self.mesh, corner_colors=white, face_texture=none, textures=())

    @cached_property
    def face_normals(self) -> Array:
        """Return unit normals float32 [F,3], by the order of a face's corners."""
        return _face_normals(self.mesh.vertices, self.mesh.faces)[0].astype(np.float32)

    @cached_property
    def normal_map(self) -> Array:
        """Return maps float32 [F,3,4]: normal_map[f] @ (x, 1) is the smooth normal (not unit) at a point x of face f.

        x is about the mesh's centre; the corners' normals are interpolated linearly.
        """
        return _normal_map(self.mesh.vertices.astype(np.float64), self.mesh.faces)


def finish(
    surface: Surface,
    corner_colors: Array,
    face_texture: Array,
    images: tuple[Array, ...],
    rng: Rng,
    *,
    name: str,
    stretch: Array | float = 1.0,
) -> TrainingObject:
    """Make a TrainingObject of random diameter and origin from a surface of any size.

    stretch: factors along the axes, before the diameter is set.
    """
    diameter = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST))))
    vertices = surface.vertices * stretch
    middle = 0.5 * (vertices.min(axis=0) + vertices.max(axis=0))
    vertices = vertices - middle
    mesh = Mesh(
        vertices=vertices.astype(np.float32),
        faces=surface.faces.astype(np.int32),
        # Files put their origin anywhere: on the table under the object, at a corner, far off.
        centre=np.zeros(3),
        corner_colors=corner_colors,
        corner_uv=surface.uv.astype(np.float32),
        face_texture=face_texture.astype(np.int32),
        textures=images,
        name=name,
    )
    scale = diameter / mesh.diameter
    centre = rng.normal(0.0, 0.25, 3) * diameter * (rng.random() < 0.7)
    mesh = replace(mesh, vertices=(vertices * scale).astype(np.float32), centre=centre)
    points = sample_surface(mesh, MODEL_POINTS, rng)
    return TrainingObject(mesh, points, diameter, symmetries_of(mesh))


def procedural(
    rng: Rng, split: str, photos: str | None = None, *, name: str = "procedural", thin: bool = False
) -> TrainingObject:
    """Put one to six primitives together and paint them. thin: draw them out along one axis, as pens and tools are."""
    parts = _compose(rng)
    surface = primitives.join(parts)
    colors, index, images = _paint(rng, parts, split, photos)
    stretch = np.exp(rng.normal(0, 0.2, 3))
    if thin:
        low, high = THIN
        stretch[int(rng.integers(3))] *= low * (high / low) ** rng.random()
    return finish(surface, colors, index, images, rng, name=name, stretch=stretch)


def turned(rng: Rng, *, name: str = "turned") -> TrainingObject:
    """Put one to four parts of round cross-section on one axis, each of one colour: a surface of revolution."""
    parts: list[Surface] = []
    for _ in range(int(rng.integers(1, 5))):
        make = primitives.TURNED[int(rng.integers(len(primitives.TURNED)))]
        part = make(rng).moved(np.diag(rng.uniform(0.3, 1.0, 2)[[0, 0, 1]]), np.zeros(3))
        top = max((p.vertices[:, 2].max() for p in parts), default=0.0)
        parts.append(part.moved(np.eye(3), np.array([0.0, 0.0, top - part.vertices[:, 2].min() - 0.02])))
    linear = _turn(rng) @ np.diag([1.0, 1.0, np.exp(rng.normal(0.0, 0.5))])
    colors = [np.broadcast_to(textures.random_color(rng).astype(np.uint8), (len(p.faces), 3, 3)) for p in parts]
    surface = primitives.join(parts).moved(linear, np.zeros(3))
    none = np.full(len(surface.faces), -1)
    return finish(surface, np.concatenate(colors), none, (), rng, name=name)


def sample_surface(mesh: Mesh, count: int, rng: Rng) -> Array:
    """Draw points float32 [count,3], uniform over the area, in the object's frame."""
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    face = np.searchsorted(np.cumsum(area), rng.random(count) * area.sum()).clip(max=len(area) - 1)
    r = np.sqrt(rng.random(count))[:, None]
    s = rng.random(count)[:, None]
    a, b, c = corners[face].swapaxes(0, 1)
    return ((1 - r) * a + r * (1 - s) * b + r * s * c + mesh.centre).astype(np.float32)


def _compose(rng: Rng) -> list[Surface]:
    """Primitives about one another: stacked on an axis, or each stuck on to what is there; some repeated in a ring."""
    first = _maker(rng)(rng)
    parts = [first.moved(_turn(rng), np.zeros(3))]
    stacked = rng.random() < 0.3
    faces = len(first.faces)
    for _ in range(int(rng.choice(6, p=[0.25, 0.25, 0.2, 0.15, 0.1, 0.05]))):
        part = _maker(rng)(rng)
        size = rng.uniform(0.25, 0.9)
        if stacked:
            top, low = max(p.vertices[:, 2].max() for p in parts), part.vertices[:, 2].min()
            part = part.moved(size * np.eye(3), np.array([0, 0, top - size * low - 0.02]))
        else:
            on = parts[int(rng.integers(len(parts)))].vertices
            anchor = on[int(rng.integers(len(on)))]
            part = part.moved(size * _turn(rng), anchor * rng.uniform(0.7, 1.15))
        copies = int(rng.integers(2, 5)) if not stacked and rng.random() < 0.3 else 1
        if faces + copies * len(part.faces) > MAX_FACES:
            break
        for k in range(copies):
            angle = 2 * np.pi * k / copies
            spin = se3.so3_exp([0.0, 0.0, angle])
            parts.append(part.moved(spin, np.zeros(3)))
        faces += copies * len(part.faces)
    return parts


def _maker(rng: Rng) -> Any:
    return primitives.MAKERS[int(rng.integers(len(primitives.MAKERS)))]


def _turn(rng: Rng) -> Array:
    """A rotation: along the axes in half of the cases, as things are built."""
    if rng.random() < 0.5:
        return se3.random_rotation(rng)
    matrix = np.eye(3)[rng.permutation(3)]
    matrix[0] *= np.linalg.det(matrix)
    return matrix


def _paint(rng: Rng, parts: list[Surface], split: str, photos: str | None) -> tuple[Array, Array, tuple[Array, ...]]:
    """Corner colours uint8 [F,3,3], texture index [F], textures: one way of colouring per part."""
    images: list[Array] = []
    colors, index = [], []
    style = rng.random()  # all plain, all textured, or as it comes
    plain_share = 1.0 if style < 0.25 else 0.0 if style < 0.55 else 0.5
    base = textures.random_color(rng)
    for part in parts:
        f = len(part.faces)
        color = base if rng.random() < 0.4 else textures.random_color(rng)
        corner = np.broadcast_to(color, (f, 3, 3))
        texture = -1
        if rng.random() >= plain_share:
            if len(images) < 2 or rng.random() < 0.3:
                images.append(textures.texture(rng, 256 if rng.random() < 0.5 else 128, split, photos))
            texture = int(rng.integers(len(images)))
            part.uv[...] = part.uv * rng.choice([1.0, 1.0, 2.0, 3.0], 2)
        elif rng.random() < 0.3:  # colours that run over the part
            wave = np.sin(part.vertices[part.faces] @ rng.normal(0, 4, (3, 3)) + rng.uniform(0, 6, 3))
            corner = np.clip(corner + 70.0 * wave, 0, 255)
        colors.append(corner.astype(np.uint8))
        index.append(np.full(f, texture))
    return np.concatenate(colors), np.concatenate(index), tuple(images)


def _face_normals(vertices: Array, faces: Array) -> tuple[Array, Array]:
    """Unit normals [F,3] and twice the areas [F]; without an area, which no renderer draws, (0, 0, 1)."""
    p = vertices.astype(np.float64)[faces]
    cross = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    twice = np.linalg.norm(cross, axis=1)
    return np.where(twice[:, None] > 0, cross / np.maximum(twice, 1e-300)[:, None], (0.0, 0.0, 1.0)), twice


def _corner_normals(vertices: Array, faces: Array) -> Array:
    """Normals [F,3,3] at the corners: over the faces around the vertex that lie within the crease angle, by area."""
    normals, twice = _face_normals(vertices, faces)
    order = np.argsort(faces.ravel(), kind="stable")
    face_of = order // 3
    vertex_of = faces.ravel()[order]
    first = np.searchsorted(vertex_of, np.arange(len(vertices)))
    degree = np.bincount(vertex_of, minlength=len(vertices))
    reach = np.minimum(
        degree[vertex_of], 32
    )  # neighbours looked at per corner: fans of hundreds of faces are cut short
    corner = np.repeat(np.arange(len(order)), reach)
    step = np.arange(len(corner)) - np.repeat(np.cumsum(reach) - reach, reach)
    other = face_of[first[vertex_of[corner]] + step]
    mine = face_of[corner]
    cosine = np.einsum("nk,nk->n", normals[mine], normals[other])
    weight = np.where(cosine > np.cos(np.radians(CREASE_DEGREES)), twice[other], 0.0)
    summed: Array = np.stack([np.bincount(corner, weight * normals[other, k], len(order)) for k in range(3)], axis=1)
    summed = summed + 1e-12 * normals[face_of]  # its own, should a long fan have been cut short before it
    out = np.empty((len(order), 3))
    out[order] = summed / np.linalg.norm(summed, axis=1, keepdims=True)
    return out.reshape(-1, 3, 3)


def _normal_map(vertices: Array, faces: Array) -> Array:
    p = vertices[faces]
    e1, e2 = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    normals, twice = _face_normals(vertices, faces)
    corner = _corner_normals(vertices, faces)
    # Barycentric coordinates are linear in the point: w1 = g1 . (x - p0), w2 = g2 . (x - p0).
    safe = np.maximum(twice, 1e-300)[:, None]
    g1, g2 = np.cross(e2, normals) / safe, np.cross(normals, e1) / safe
    longest = np.maximum((e1**2).sum(1), (e2**2).sum(1))
    sliver = twice < 1e-4 * longest
    linear = (corner[:, 1] - corner[:, 0])[:, :, None] * g1[:, None] + (corner[:, 2] - corner[:, 0])[:, :, None] * g2[
        :, None
    ]
    linear[sliver] = 0.0
    offset = np.where(sliver[:, None], normals, corner[:, 0]) - np.einsum("fij,fj->fi", linear, p[:, 0])
    return np.concatenate([linear, offset[..., None]], axis=-1).astype(np.float32)
