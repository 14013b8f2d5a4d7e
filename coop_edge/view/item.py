"""One object in an image of a session."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coop_edge.geometry import se3
from coop_edge.types import Detection, PoseEstimate

Pose = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Item:
    """One object in the image: a result, or what a person made of it.

    Attributes:
        result: the pose, or why there is none.
        detection: where it was looked for, None where it was not in a box.
        accepted: whether it is among the labels.
        moved: whether a person has moved it since it was found.
    """

    result: PoseEstimate
    detection: Detection | None = None
    accepted: bool = False
    moved: bool = False

    @property
    def name(self) -> str:
        """Return the object's name."""
        return self.result.object

    @property
    def T(self) -> Pose | None:
        """Return T_camera_object [4,4], metres; None where there is no pose."""
        return self.result.T_camera_object


def nudged(T_camera_object: Pose, centre: Pose, axis: int, amount: float) -> Pose:
    """Return a pose [4,4] moved by metres along x, y, z of the camera (axis 0..2), or turned by radians (3..5).

    Args:
        centre: the camera point [3] about which it turns.
    """
    T, step = T_camera_object.copy(), np.zeros(3)
    step[axis % 3] = amount
    if axis < 3:
        T[:3, 3] += step
    else:
        turn = se3.so3_exp(step)
        T[:3, 3] = turn @ (T[:3, 3] - centre) + centre
        T[:3, :3] = turn @ T[:3, :3]
    return T


def same_place(result: PoseEstimate, item: Item) -> bool:
    """Tell whether a result is an item that is known: the same object, less than a centimetre away."""
    if result.T_camera_object is None or item.T is None or result.object != item.name:
        return False
    return bool(np.linalg.norm(result.T_camera_object[:3, 3] - item.T[:3, 3]) < 0.01)
