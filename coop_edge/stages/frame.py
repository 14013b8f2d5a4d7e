"""An image and the objects that may be in it, as all stages take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coop_edge.ops.base import Array
from coop_edge.render.base import Renderer
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.silhouettes import pose_boxes
from coop_edge.types import Camera

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Frame:
    """One image, checked, and the objects that may be in it."""

    image: Array  # uint8 [height,width,3], contiguous, where the stages compute
    camera: Camera
    models: Sequence[ObjectModel]
    renderer: Renderer  # of the models' meshes, in their order
    depth: Array | None = None  # float32 [height,width] metres there, 0 = unknown; None: there is none

    def diameters(self, index: Indices) -> Floats:
        """Return the diameters of the objects at ``index`` [N], metres."""
        return np.array([self.models[i].diameter for i in index], np.float64)

    def boxes(self, T_camera_object: Floats, index: Indices) -> Floats:
        """Return the boxes (x, y, width, height) [M,4], pixels, of the objects at ``index`` [M] and poses [M,4,4].

        As far as they are in the image; NaN where they are not, or a pose is NaN (``pose_boxes``).
        """
        out = np.full((len(index), 4), np.nan)
        for i in np.unique(index).tolist():
            rows = index == i
            vertices, centre = self.renderer.meshes[i].vertices, self.models[i].centre
            out[rows] = pose_boxes(T_camera_object[rows], vertices, centre, self.camera)
        return out
