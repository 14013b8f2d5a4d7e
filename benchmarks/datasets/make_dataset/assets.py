"""Which objects the set is made of: held-out assets that can be told apart and stand for what comes up, of a size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.mesh import Mesh
from coop_edge.render import CpuRenderer
from export.data import objects, textures
from export.data.packs import Pack

SPLIT = "heldout"
SMALLEST, LARGEST = 0.09, 0.19
"""Diameters, metres; drawn log-uniformly."""
THINNEST = 0.14
"""Smallest side of the bounding box over the diameter: sheets of paper are left out."""
LEAST_SILHOUETTE = 0.16
"""Mean area of the silhouette over that of the circle about the object: wires are left out."""
MOST_TILES = 3
"""Repeats of a texture along a side that a model's one image may hold."""


@dataclass(frozen=True, eq=False)
class Asset:
    """An object of the set. mesh: metres; roughness: of its coat in the scenes."""

    mesh: Mesh
    source: str
    licence: str
    roughness: float


def choose(pack: Path | None, count: int, seed: int) -> list[Asset]:
    """Choose ``count`` objects of the held-out split from the pack's sources in turn, or procedural ones.

    Raises:
        InputError: the pack has fewer that will do.
    """
    rng = np.random.default_rng([seed, 0])
    found: list[Asset] = []
    for mesh, source, licence in _procedural(rng) if pack is None else _in_turn(Pack(pack, SPLIT), rng):
        if len(found) == count:
            break
        if fits(mesh):
            found.append(Asset(_finished(mesh, rng), source, licence, float(rng.uniform(0.25, 0.75))))
    if len(found) < count:
        raise InputError(f"{pack}: {len(found)} held-out objects will do, wanted {count}; ask for fewer (--objects)")
    return found


def fits(mesh: Mesh) -> bool:
    """Tell whether an object is thick enough to be seen from all around, and fits into one PLY with one texture."""
    extent = np.ptp(mesh.vertices, axis=0) / mesh.diameter
    if extent.min() < THINNEST or max(tiles(mesh), default=1) > MOST_TILES:
        return False
    T = np.tile(np.eye(4), (6, 1, 1))
    T[:, :3, :3] = se3.random_rotation(np.random.default_rng(0), (6,))
    T[:, :3, 3] = (0.0, 0.0, 4.0 * mesh.diameter)
    T[:, :3, 3] -= T[:, :3, :3] @ mesh.centre
    n = 64
    K = np.array([[3.5 * n, 0, n / 2 - 0.5], [0, 3.5 * n, n / 2 - 0.5], [0, 0, 1.0]])
    share = CpuRenderer(mesh, threads=1).render(T, K, n).mask.sum(axis=(1, 2)) / (np.pi * (3.5 * n / 8.0) ** 2)
    return bool(share.mean() > LEAST_SILHOUETTE and share.min() > 0.3 * LEAST_SILHOUETTE)


def tiles(mesh: Mesh) -> list[int]:
    """Count how often each texture repeats along a side, at most, within one triangle (shifted to begin in [0, 1))."""
    out = []
    for k in range(len(mesh.textures)):
        uv = mesh.corner_uv[mesh.face_texture == k].astype(np.float64)
        if not len(uv):
            out.append(1)
            continue
        high = (uv - np.floor(uv.min(axis=1, keepdims=True))).max()
        out.append(int(np.ceil(min(high, 1e6) - 1e-6)))
    return [max(1, n) for n in out]


def _finished(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    """Of a drawn diameter, about the origin; what is grey all over in a colour of its own."""
    # Triangles without an area, which some files have, are no part of a model.
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    solid = np.linalg.norm(cross, axis=1) > 1e-9 * mesh.diameter**2
    mesh = replace(
        mesh, faces=mesh.faces[solid], corner_colors=mesh.corner_colors[solid], corner_uv=mesh.corner_uv[solid],
        face_texture=mesh.face_texture[solid],
    )  # fmt: skip
    scale = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))) / mesh.diameter
    colors = mesh.corner_colors
    if not mesh.textures and len(np.unique(colors.reshape(-1, 3), axis=0)) == 1:
        color = np.clip(textures.random_color(rng), 40, 230)  # neither black nor white: edges must show
        colors = np.broadcast_to(color.astype(np.uint8), colors.shape).copy()
    vertices = (mesh.vertices.astype(np.float64) * scale).astype(np.float32)
    return replace(mesh, vertices=vertices, centre=np.zeros(3), corner_colors=colors)


def _in_turn(pack: Pack, rng: np.random.Generator) -> Iterator[tuple[Mesh, str, str]]:
    """The pack's objects in a random order: of each source one in turn, and after each a textured one."""
    plain: dict[str, list[int]] = {}
    textured: list[int] = []
    for i in rng.permutation(len(pack)).tolist():
        asset = pack.assets[i]
        (textured if asset.textures else plain.setdefault(asset.source.split("/")[0], [])).append(i)
    for k, i in enumerate(_round_robin([plain[key] for key in sorted(plain)])):
        for j in (i, *textured[k : k + 1]):
            yield pack.read(j), pack.assets[j].source, pack.assets[j].licence


def _round_robin(lists: Sequence[list[int]]) -> Iterator[int]:
    for k in range(max(map(len, lists), default=0)):
        for entries in lists:
            if k < len(entries):
                yield entries[k]


def _procedural(rng: np.random.Generator) -> Iterator[tuple[Mesh, str, str]]:
    for k in range(1000):
        made = objects.procedural(rng, SPLIT, name=f"procedural {k}")
        yield made.mesh, "export.data.objects.procedural", "Apache-2.0"
