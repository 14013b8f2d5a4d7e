"""Crops by the definition in ``coop_edge.ops.sampling``, in float64 and one sample after the other; slow."""

from __future__ import annotations

import cv2
import numpy as np


def through(camera, u: float, v: float) -> np.ndarray:
    """Image pixel of an ideal pixel, by OpenCV; (inf, inf) where the ray's radius would shrink again."""
    ray = np.array([[[(u - camera.K[0, 2]) / camera.K[0, 0], (v - camera.K[1, 2]) / camera.K[1, 1], 1.0]]])
    if np.hypot(*ray[0, 0, :2]) > camera.lens.limit:
        return np.array([np.inf, np.inf])
    project = cv2.fisheye.projectPoints if camera.fisheye else cv2.projectPoints
    return project(ray, np.zeros(3), np.zeros(3), camera.K, np.array(camera.distortion))[0].reshape(2)


def samples_per_side(H: np.ndarray, size: int, camera=None) -> int:
    """How many image pixels the crop's middle pixel spans along its longer side, rounded, within 1..16."""
    inverse, middle = np.linalg.inv(H), (size - 1) / 2
    places = (middle, middle), (middle + 1, middle), (middle, middle + 1)
    ideal = [(q[0] / q[2], q[1] / q[2]) for q in (inverse @ np.array([x, y, 1.0]) for x, y in places)]
    # Behind the camera it does not matter, as nothing is seen there; through the lens all the same.
    here, right, below = (np.array(place if camera is None else through(camera, *place)) for place in ideal)
    span = max(np.hypot(*(right - here)), np.hypot(*(below - here)))
    return int(np.clip(np.rint(span), 1, 16)) if np.isfinite([here, right, below]).all() or camera is None else 1


def to_image(inverse: np.ndarray, x: float, y: float, camera=None) -> np.ndarray:
    """Image pixel (u, v) seen at crop pixel (x, y), and its depth w: positive in front of the camera."""
    q = inverse @ np.array([x, y, 1.0])
    ideal = q[:2] / q[2] if q[2] != 0 else (np.inf, np.inf)
    return np.array([*(ideal if camera is None or q[2] <= 0 else through(camera, *ideal)), q[2]])


def bilinear(image: np.ndarray, u: float, v: float) -> np.ndarray:
    """RGB at (u, v); what lies outside the image is black."""
    height, width, _ = image.shape
    rgb = np.zeros(3)
    if not (-1 < u < width and -1 < v < height):
        return rgb
    for row in (int(np.floor(v)), int(np.floor(v)) + 1):
        for column in (int(np.floor(u)), int(np.floor(u)) + 1):
            if 0 <= row < height and 0 <= column < width:
                rgb += (1 - abs(u - column)) * (1 - abs(v - row)) * image[row, column]
    return rgb


def warp(image: np.ndarray, H: np.ndarray, size: int, camera=None) -> np.ndarray:
    """float64 [N,3,S,S] in 0..255, not rounded. camera: one whose lens distorts."""
    out = np.zeros((len(H), 3, size, size))
    for i, matrix in enumerate(H):
        m, inverse = samples_per_side(matrix, size, camera), np.linalg.inv(matrix)
        for y in range(size):
            for x in range(size):
                if to_image(inverse, x, y)[2] <= 0:
                    continue
                places = [(j + 0.5) / m - 0.5 for j in range(m)]
                seen = [to_image(inverse, x + dx, y + dy, camera) for dy in places for dx in places]
                out[i, :, y, x] = np.mean([bilinear(image, u, v) if w > 0 else np.zeros(3) for u, v, w in seen], axis=0)
    return out
