"""Ray casting by brute force: what labels are held against. Slow, and obviously right."""

from __future__ import annotations

import numpy as np


def first_hit(origin: np.ndarray, direction: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Parameter s >= 0 of the first triangle met by each ray origin + s direction [P,3]; infinity if there is none.

    Both sides of a triangle count. Moeller and Trumbore, Fast, minimum storage ray/triangle intersection, 1997.
    """
    a, b, c = vertices[faces].astype(np.float64).swapaxes(0, 1)
    e1, e2 = b - a, c - a
    nearest = np.full(len(direction), np.inf)
    for i, d in enumerate(direction):
        p = np.cross(d, e2)
        determinant = (e1 * p).sum(1)
        ok = np.abs(determinant) > 1e-15 * np.abs(determinant).max()
        inverse = 1.0 / np.where(ok, determinant, 1.0)
        t = origin - a
        u = (t * p).sum(1) * inverse
        q = np.cross(t, e1)
        v = (q * d).sum(1) * inverse
        s = (e2 * q).sum(1) * inverse
        hit = ok & (u >= -1e-9) & (v >= -1e-9) & (u + v <= 1 + 1e-9) & (s > 1e-9)
        if hit.any():
            nearest[i] = s[hit].min()
    return nearest


def seen_by_camera(points: np.ndarray, T: np.ndarray, mesh, tolerance: float) -> np.ndarray:
    """Whether nothing of the mesh lies between the camera of T_camera_object and points [P,3] of the object's frame."""
    eye = -T[:3, :3].T @ T[:3, 3]
    s = first_hit(eye, points - eye, mesh.vertices.astype(np.float64) + mesh.centre, mesh.faces)
    return (1.0 - s) * np.linalg.norm(points - eye, axis=1) < tolerance
