"""Defines a detection: where an object may be in an image."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.base.plain import floats
from coop_edge.errors import InputError
from coop_edge.types.camera import Camera
from coop_edge.types.checks import frozen, unit
from coop_edge.types.detectors import corners_to_box, from_coco, from_supervision, from_ultralytics

LEAST_INSIDE, CORNER_INSIDE = 0.25, 0.75
"""Share of a box inside the image below which it is doubted; the second, where it would be a good one as corners."""


@dataclass(frozen=True, eq=False, repr=False)
class Detection:
    """Where an object may be: a box, a mask, or both (the box is then cropped, and the mask says what of it counts).

    Attributes:
        object: name given to ``add_object``.
        bbox: (x, y, width, height) pixels as in BOP: column and row of the top-left pixel, then how many columns and
            rows; fractions allowed.
        mask: bool [H,W], any True.
        score: of the detector, in [0, 1].

    Raises:
        InputError: box and mask are both missing, the box is not four finite numbers with a positive size, or the mask
            is not bool, is empty, or has no pixel in the box.
    """

    object: str
    bbox: tuple[float, float, float, float] | None = None
    mask: NDArray[np.bool_] | None = None
    score: float = 1.0

    if TYPE_CHECKING:  # what is taken is more than what is kept

        def __init__(
            self,
            object: str,
            bbox: ArrayLike | None = None,
            mask: NDArray[np.bool_] | None = None,
            score: float = 1.0,
        ) -> None: ...

    def __post_init__(self) -> None:
        if not isinstance(self.object, str) or not self.object:
            raise InputError(f"Detection.object: wanted a non-empty name, got {self.object!r}")
        if self.bbox is None and self.mask is None:
            raise InputError(f"Detection {self.object!r}: wanted bbox=(x, y, width, height) or a bool mask [H,W]")
        mask_box = self._check_mask() if self.mask is not None else None
        object.__setattr__(self, "bbox", mask_box if self.bbox is None else self._checked_box())
        object.__setattr__(self, "score", unit(self.score, "Detection.score"))

    def __repr__(self) -> str:
        """Return one line: object, box, size of the mask, score."""
        x, y, w, h = self.bbox or (0.0,) * 4
        mask = "" if self.mask is None else f", mask {self.mask.shape[1]}x{self.mask.shape[0]}"
        return f"Detection({self.object!r}, bbox=({x:g}, {y:g}, {w:g}, {h:g}){mask}, score={self.score:g})"

    def _checked_box(self) -> tuple[float, float, float, float]:
        box = floats(self.bbox, "bbox")
        if box.shape != (4,):
            raise InputError(f"bbox: wanted (x, y, width, height), got shape {list(box.shape)}")
        if not np.isfinite(box).all():
            raise InputError(f"bbox: holds NaN or infinity: {box.tolist()}")
        if box[2] <= 0 or box[3] <= 0:
            raise InputError(f"bbox: width and height must be positive, got {box.tolist()}; is it (x0, y0, x1, y1)?")
        x, y, w, h = box.tolist()
        if self.mask is not None:
            height, width = self.mask.shape
            _check_overlap((x, y, w, h), width, height)
            rows, columns = (slice(max(0, math.floor(a)), math.ceil(a + b)) for a, b in ((y, h), (x, w)))
            if not self.mask[rows, columns].any():
                raise InputError(
                    f"Detection {self.object!r}: the mask has no pixel in its bbox {box.tolist()} (x, y, width, height)"
                    "; leave out one of the two, or are they of different objects or image sizes?"
                )
        return x, y, w, h

    def _check_mask(self) -> tuple[float, float, float, float]:
        mask = self.mask
        if not isinstance(mask, np.ndarray) or mask.ndim != 2:
            given = f"shape {list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise InputError(f"mask: wanted a bool array [H,W], got {given}")
        if mask.dtype != np.bool_:
            raise InputError(f"mask: wanted dtype bool, got {mask.dtype}; convert with mask > 0")
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size == 0:
            raise InputError(f"mask: no pixel is True in {list(mask.shape)}; drop the detection instead")
        object.__setattr__(self, "mask", frozen(mask))
        x, y = float(columns[0]), float(rows[0])
        return x, y, float(columns[-1]) - x + 1.0, float(rows[-1]) - y + 1.0

    @classmethod
    def from_xyxy(cls, object: str, xyxy: ArrayLike, score: float = 1.0) -> Detection:
        """Make a detection from two corners.

        Args:
            object: name of a registered object.
            xyxy: (x0, y0, x1, y1) pixels, the second corner just outside.
            score: of the detector, in [0, 1].

        Raises:
            InputError: ``xyxy`` is not four numbers, or the second corner is not below and right of the first.
        """
        return cls(object, corners_to_box(xyxy), None, score)

    @classmethod
    def from_ultralytics(cls, results: Any, objects: Mapping[Any, str] | None = None) -> list[Detection]:
        """Make detections of what ``model(image)`` of Ultralytics found in one image, masks included.

        Args:
            results: the Results of one image, or a list of one.
            objects: class (its name or number) -> object; other classes are left out. None: classes are called as
                objects.

        Raises:
            InputError: ``results`` are of something else or of several images, or a class has no name.
        """
        return [cls(*found) for found in from_ultralytics(results, objects)]

    @classmethod
    def from_supervision(cls, detections: Any, objects: Mapping[Any, str] | None = None) -> list[Detection]:
        """Make detections of supervision's ``Detections``, masks included; objects as for ``from_ultralytics``."""
        return [cls(*found) for found in from_supervision(detections, objects)]

    @classmethod
    def from_coco(
        cls, content: Any, image_id: int | None = None, objects: Mapping[Any, str] | None = None
    ) -> list[Detection]:
        """Make detections of one image of a COCO file's content, or of a list of COCO annotations or results.

        Args:
            image_id: which image, where there are several.
            objects: as for ``from_ultralytics``, by the category's name or id. Polygons and run lengths become masks
                where the image's size is known.

        Raises:
            InputError: ``coco`` is something else, is of several images without ``image_id``, or a mask is damaged.
        """
        return [cls(*found) for found in from_coco(content, image_id, objects)]

    def check_camera(self, camera: Camera) -> None:
        """Raise InputError unless the box overlaps the camera's image and the mask has its size."""
        if self.mask is not None and self.mask.shape != (camera.height, camera.width):
            raise InputError(
                f"mask: wanted [{camera.height},{camera.width}] (the image's), got {list(self.mask.shape)}"
            )
        assert self.bbox is not None
        _check_overlap(self.bbox, camera.width, camera.height)

    def doubt(self, camera: Camera) -> None:
        """Warn (UserWarning) where the box leaves the camera's image by far: its last two numbers may be a corner."""
        assert self.bbox is not None
        _doubt_box(self.bbox, camera.width, camera.height)


def _check_overlap(bbox: tuple[float, float, float, float], width: int, height: int) -> None:
    x, y, w, h = bbox
    if x + w <= 0 or y + h <= 0 or x >= width or y >= height:
        raise InputError(f"bbox: {list(bbox)} (x, y, width, height) lies outside the {width}x{height} image")


def _doubt_box(bbox: tuple[float, float, float, float], width: int, height: int) -> None:
    """Warn about a box that leaves the image by far: its last two numbers may be a corner."""
    x, y, w, h = bbox
    across, down = min(x + w, width) - max(x, 0.0), min(y + h, height) - max(y, 0.0)
    if min(across, down) <= 0:
        return  # outside altogether: an error, which ``check_camera`` raises
    inside = across * down / (w * h)
    corner = w > x >= 0 and h > y >= 0 and w <= width and h <= height
    if inside < (CORNER_INSIDE if corner else LEAST_INSIDE):
        asked = f"is it (x0, y0, x1, y1)? Then it is ({x:g}, {y:g}, {w - x:g}, {h - y:g})" if corner else "is it right?"
        warnings.warn(
            f"bbox: {list(bbox)} (x, y, width, height) leaves the {width}x{height} image by far, {1 - inside:.0%} "
            f"of it lie outside; {asked}",
            UserWarning,
            stacklevel=2,
        )
