"""Texture lookup, one texel at a time: short, slow, obviously right."""

from __future__ import annotations

import math

import numpy as np


def lookup(texture: np.ndarray, u: float, v: float) -> np.ndarray:
    """Colour [3] of texture [h,w,3] at (u, v): origin bottom left, centres at half-integers, repeated, bilinear."""
    height, width = texture.shape[:2]
    x, y = u * width - 0.5, (1.0 - v) * height - 0.5
    total = np.zeros(3)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            weight = (1.0 - abs(x - column)) * (1.0 - abs(y - row))
            total += weight * texture[row % height, column % width].astype(float)
    return total


def color_at(mesh, point, *, tolerance: float = 1e-6) -> np.ndarray:
    """Albedo [3] of a Mesh at a point [3] of its surface, object's frame: by trying every triangle."""
    p = np.asarray(point, float) - mesh.centre
    for face, corners in enumerate(mesh.vertices[mesh.faces].astype(float)):
        a, b, c = corners
        system = np.stack([b - a, c - a], axis=1)
        (beta, gamma), *_ = np.linalg.lstsq(system, p - a, rcond=None)
        weights = np.array([1.0 - beta - gamma, beta, gamma])
        if weights.min() > -1e-4 and np.linalg.norm(weights @ corners - p) < tolerance:
            if mesh.face_texture[face] < 0:
                return weights @ mesh.corner_colors[face].astype(float)
            u, v = weights @ mesh.corner_uv[face].astype(float)
            return lookup(mesh.textures[mesh.face_texture[face]], u, v)
    raise AssertionError(f"no triangle holds {point}")
