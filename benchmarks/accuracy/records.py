"""What a data set says, as plain records. Lengths in metres, boxes (x, y, width, height) in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

ImageKey = tuple[int, int]
"""(scene_id, im_id)."""


@dataclass(frozen=True)
class Target:
    """An object to be found in an image, ``inst_count`` times."""

    scene_id: int
    im_id: int
    obj_id: int
    inst_count: int = 1

    @property
    def image(self) -> ImageKey:
        return self.scene_id, self.im_id


@dataclass(frozen=True, eq=False)
class Truth:
    """One annotated instance. Boxes (x, y, width, height) in pixels; they and ``visib_fract`` are None if unknown."""

    index: int
    """Place among the image's annotations (BOP's gt_id)."""
    obj_id: int
    T_camera_object: np.ndarray  # float64 [4,4] metres
    visib_fract: float | None = None
    bbox_visib: tuple[float, float, float, float] | None = None
    bbox_obj: tuple[float, float, float, float] | None = None


class Box(NamedTuple):
    """Where an object is said to be: what a method is given. bbox (x, y, width, height) pixels; mask bool [H,W]."""

    obj_id: int
    bbox: tuple[float, float, float, float]
    mask: np.ndarray | None = None
