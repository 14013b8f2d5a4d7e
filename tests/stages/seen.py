"""What an oracle has seen, and by which fingerprint it knows it again."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from coop_edge.geometry import se3
from coop_edge.templates import TemplateSet


@dataclass(frozen=True, eq=False)
class SeenCrop:
    """A crop of the image; R: real camera -> crop."""

    seed: int
    R: np.ndarray
    K: np.ndarray


@dataclass(frozen=True, eq=False)
class SeenObject:
    """A template or a render: T_camera_object, and depth [S,S] with 0 for nothing."""

    seed: int
    mesh: int
    T: np.ndarray
    K: np.ndarray
    depth: np.ndarray


def fingerprint(rgb: np.ndarray) -> bytes:
    return np.ascontiguousarray(rgb).tobytes()


@lru_cache(maxsize=32)
def seen_templates(templates: TemplateSet) -> list[tuple[bytes, int, np.ndarray, np.ndarray]]:
    """Fingerprint, seed, T_camera_object and depth of each template."""
    out = []
    for rgb, points, T in zip(templates.rgb, templates.object_points, templates.T_camera_object, strict=True):
        depth = np.where(np.isfinite(points[..., 0]), se3.transform(T, np.nan_to_num(points))[..., 2], 0.0)
        out.append((fingerprint(rgb), zlib.crc32(fingerprint(rgb)), T, depth))
    return out


def intrinsics_and_rotation(M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """K upper triangular with K[2,2] = 1 and positive diagonal, and a rotation R, with K R = M."""
    flip = np.eye(3)[::-1]
    Q, U = np.linalg.qr((flip @ M).T)
    K, R = flip @ U.T @ flip, flip @ Q.T
    signs = np.sign(np.diag(K))
    K, R = K * signs, signs[:, None] * R
    return K / K[2, 2], R * np.sign(np.linalg.det(R))
