"""Where things stand: camera, poses of the objects on the table, and the clutter around them. Metres; world z is up."""

from __future__ import annotations

import numpy as np

WIDTH, HEIGHT = 640, 480
K = np.array([[796.0, 0.0, 322.6], [0.0, 796.0, 236.9], [0.0, 0.0, 1.0]])
"""Intrinsics for pixels whose top-left centre is (0, 0)."""
CLOTH = 0.0018  # thickness


def stand(x: float, y: float, degrees: float, z: float = CLOTH) -> np.ndarray:
    """Return T_world_object of something that stands upright on the table, or on the cloth."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, z], [0, 0, 0, 1.0]])


T_WORLD_OBJECT = {
    "carton": stand(0.000, 0.068, -27.0),
    "house": stand(-0.070, -0.042, 24.0),
    "mug": stand(0.064, -0.026, -22.0),
}


def world_camera() -> np.ndarray:
    """Return T_world_camera (x right, y down, z forward): held in the hand, about 0.6 m off, a few degrees of roll."""
    eye, target = np.array([0.045, -0.462, 0.325]), np.array([0.0, 0.0, 0.044])
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    roll = np.radians(-2.5)
    x = np.cos(roll) * right + np.sin(roll) * down
    T = np.eye(4)
    T[:3, :3] = np.stack([x, np.cross(forward, x), forward], axis=1)
    T[:3, 3] = eye
    return T


def camera_object(name: str) -> np.ndarray:
    """Return the truth: T_camera_object of an object."""
    T = world_camera()
    R, t = T[:3, :3].T, -T[:3, :3].T @ T[:3, 3]
    out = np.eye(4)
    out[:3, :3] = R @ T_WORLD_OBJECT[name][:3, :3]
    out[:3, 3] = R @ T_WORLD_OBJECT[name][:3, 3] + t
    return out
