"""Looks up the colours of surface points, by the rule that all renderers follow (before shading)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def surface_colors(
    corner_colors: NDArray[np.uint8],
    corner_uv: NDArray[np.float32],
    face_texture: NDArray[np.int32],
    textures: Sequence[NDArray[np.uint8]],
    faces: NDArray[np.int64],
    barycentric: Floats,
) -> Floats:
    """Return the albedo [N,3] in 0..255 at points given by face index [N] and barycentric coordinates [N,3]."""
    colors = np.einsum("nc,nck->nk", barycentric, corner_colors[faces].astype(np.float64))
    uv = np.einsum("nc,nck->nk", barycentric, corner_uv[faces].astype(np.float64))
    which = face_texture[faces]
    for index in np.unique(which[which >= 0]):
        here = which == index
        colors[here] = bilinear(textures[index], uv[here])
    return np.asarray(colors)


def bilinear(texture: NDArray[np.uint8], uv: Floats) -> Floats:
    """Sample a texture [h,w,3] at OpenGL coordinates uv [N,2] -> [N,3]; v is up, texel centres lie at half-integers.

    Outside [0, 1] the texture repeats.
    """
    height, width = texture.shape[:2]
    x = (uv[:, 0] - np.floor(uv[:, 0])) * width - 0.5
    y = (np.ceil(uv[:, 1]) - uv[:, 1]) * height - 0.5  # 1 - fraction(v): rows run downwards
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    a, b = (x - column)[:, None], (y - row)[:, None]
    left, right = column % width, (column + 1) % width
    top, bottom = row % height, (row + 1) % height
    upper = texture[top, left] * (1 - a) + texture[top, right] * a
    lower = texture[bottom, left] * (1 - a) + texture[bottom, right] * a
    return np.asarray(upper * (1 - b) + lower * b)
