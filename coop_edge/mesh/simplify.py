"""Reduces the triangles of a mesh: a library collapses edges by quadrics, and colours are carried over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from coop_edge.errors import MeshError
from coop_edge.mesh.sample import surface_colors
from coop_edge.mesh.soup import Soup

_AGGRESSION = (5.0, 7.0, 9.0, 12.0)  # gentlest first: it keeps the shape best, but may not reach the target
_INSET = 0.02  # colours are looked up this share of the way from a corner to its triangle's middle
_CANDIDATES = 8

Points = NDArray[np.float64]


def simplify(soup: Soup, max_faces: int) -> Soup:
    """Reduce a soup to at most ``max_faces`` triangles, where the surface allows it.

    Colours and texture coordinates are those of the nearest points of the given surface, looked up slightly inside the
    new triangles so that edges between colours stay sharp. A triangle keeps its texture if the coordinates at its
    corners predict those in between (``_transfer_texture``); the others, which bridge a seam of the texture or another
    kind of colour, take colours at their corners.

    Raises:
        MeshError: if fast-simplification is missing.
    """
    vertices, faces = _collapse(soup, max_faces)
    corners = vertices[faces]
    middle = corners.mean(axis=1, keepdims=True)
    face, barycentric = nearest_on_surface(soup.vertices, soup.faces, (corners + _INSET * (middle - corners)))
    source = (soup.corner_colors, soup.corner_uv, soup.face_texture, soup.textures)
    colors = surface_colors(*source, face.ravel(), barycentric.reshape(-1, 3)).reshape(-1, 3, 3)
    texture, uv = _transfer_texture(soup, corners, face, barycentric)
    return Soup(
        vertices=vertices,
        faces=faces,
        corner_colors=np.rint(np.clip(colors, 0, 255)).astype(np.uint8),
        corner_uv=uv.astype(np.float32),
        face_texture=texture,
        textures=soup.textures,
    )


def _collapse(soup: Soup, max_faces: int) -> tuple[Points, NDArray[np.int64]]:
    """Collapse edges; return the vertices and faces that are left."""
    try:
        import fast_simplification
    except ImportError as error:
        raise MeshError(
            f"{len(soup.faces)} triangles, more than max_faces={max_faces}, and the library that simplifies is missing:"
            " pip install fast-simplification, or raise max_faces"
        ) from error
    size = float(np.ptp(soup.vertices, axis=0).max())  # the library's thresholds are absolute: give it a unit size
    points, triangles = soup.vertices / size, soup.faces.astype(np.int32)
    for aggression in _AGGRESSION:
        points, triangles = fast_simplification.simplify(points, triangles, target_count=max_faces, agg=aggression)
        if len(triangles) <= max_faces:
            break
    if len(triangles) == 0:
        raise MeshError(f"nothing is left of {len(soup.faces)} triangles at max_faces={max_faces}; raise it")
    return np.asarray(points, np.float64) * size, np.asarray(triangles, np.int64)


def _transfer_texture(
    soup: Soup, corners: Points, face: NDArray[np.int64], barycentric: Points
) -> tuple[NDArray[np.int32], Points]:
    """Return face_texture [F] and corner_uv [F,3,2] of new triangles, given their inset corners on the old surface.

    A triangle keeps its texture if, at its middle and the middles of its edges, the coordinates interpolated from its
    corners are those of the old surface there, to 2 texels or 0.5 % of the texture.
    """
    texture = np.where(
        (soup.face_texture[face] == soup.face_texture[face[:, :1]]).all(1), soup.face_texture[face[:, 0]], -1
    )
    uv = np.zeros((len(face), 3, 2))
    textured = np.flatnonzero(texture >= 0)
    if len(textured) == 0:
        return texture.astype(np.int32), uv
    at_inset = np.einsum("fcb,fcbk->fck", barycentric[textured], soup.corner_uv[face[textured]].astype(np.float64))
    mean = at_inset.mean(axis=1, keepdims=True)
    at_corners = mean + (at_inset - mean) / (1.0 - _INSET)
    weights = np.array([[1, 1, 1], [0, 1.5, 1.5], [1.5, 0, 1.5], [1.5, 1.5, 0]]) / 3.0
    weights = (1.0 - _INSET) * weights + _INSET / 3.0
    found, where = nearest_on_surface(soup.vertices, soup.faces, weights @ corners[textured])
    truth = np.einsum("fpb,fpbk->fpk", where, soup.corner_uv[found].astype(np.float64))
    sides = np.array([t.shape[1::-1] for t in soup.textures], np.float64)[texture[textured]]
    tolerance = np.maximum(2.0 / sides, 0.005)[:, None]
    good = (np.abs(weights @ at_corners - truth) <= tolerance).all(axis=(1, 2))
    good &= (soup.face_texture[found] == texture[textured, None]).all(axis=1)
    texture[textured[~good]] = -1
    uv[textured[good]] = at_corners[good]
    return texture.astype(np.int32), uv


def nearest_on_surface(
    vertices: Points, faces: NDArray[np.int64], queries: Points, chunk: int = 1 << 15
) -> tuple[NDArray[np.int64], Points]:
    """Find the nearest surface points to queries [...,3]: face index [...] and barycentric coordinates [...,3].

    The search covers the faces of the nearest inset corners. It finds the true answer unless triangles much larger
    than their neighbours lie near.
    """
    shape, queries = queries.shape[:-1], queries.reshape(-1, 3)
    corners = vertices[faces]
    anchors = (corners * 2.0 + corners.mean(axis=1, keepdims=True)) / 3.0
    tree = cKDTree(anchors.reshape(-1, 3))
    k = min(_CANDIDATES, 3 * len(faces))
    best_face = np.empty(len(queries), np.int64)
    best_barycentric = np.empty((len(queries), 3))
    for s in range(0, len(queries), chunk):
        part = queries[s : s + chunk]
        _, index = tree.query(part, k=k)
        candidates = np.asarray(index).reshape(len(part), k) // 3
        triangles = corners[candidates]  # [n,k,3,3]
        barycentric = closest_barycentric(triangles, part[:, None])
        gap = np.einsum("nkc,nkcd->nkd", barycentric, triangles) - part[:, None]
        pick = (gap**2).sum(-1).argmin(axis=1)
        rows = np.arange(len(part))
        best_face[s : s + chunk] = candidates[rows, pick]
        best_barycentric[s : s + chunk] = barycentric[rows, pick]
    return best_face.reshape(shape), best_barycentric.reshape(*shape, 3)


def closest_barycentric(triangles: Points, points: Points) -> Points:
    """Return barycentric coordinates [...,3] of the point of each triangle [...,3,3] that is nearest to points [...,3].

    It is the foot of the perpendicular where it falls inside, else the nearest of the feet on the three edges.
    """
    a, b, c = (triangles[..., i, :] for i in range(3))
    points = np.broadcast_to(points, a.shape)
    u, v, w = b - a, c - a, points - a
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    wu, wv = (w * u).sum(-1), (w * v).sum(-1)
    determinant = np.maximum(uu * vv - uv * uv, 1e-300)
    beta, gamma = (vv * wu - uv * wv) / determinant, (uu * wv - uv * wu) / determinant
    out = np.stack([1.0 - beta - gamma, beta, gamma], axis=-1)
    outside = (out < 0).any(axis=-1)
    best = np.full(a.shape[:-1], np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        start, edge = triangles[..., i, :], triangles[..., j, :] - triangles[..., i, :]
        share = ((points - start) * edge).sum(-1) / np.maximum((edge * edge).sum(-1), 1e-300)
        share = np.clip(share, 0.0, 1.0)
        squared = ((start + share[..., None] * edge - points) ** 2).sum(-1)
        nearer = outside & (squared < best)
        best = np.where(nearer, squared, best)
        foot = np.zeros_like(out)
        foot[..., i], foot[..., j] = 1.0 - share, share
        out = np.where(nearer[..., None], foot, out)
    return out
