"""Moves and resizes boxes, to measure what boxes as detectors give them cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.records import Box, ImageKey
from coop_edge.errors import InputError

Bbox = tuple[float, float, float, float]
MOST_SHIFT = 0.5
SIZES = 0.1, 10.0
"""Bounds within which some of a box in the image stays in the image."""


class BoxNoise(NamedTuple):
    """How boxes are changed."""

    shift: float = 0.0
    """Length of the shift, as a share of the box's sides: a full turn of directions draws an ellipse."""
    size: float = 1.0
    """Factor on both sides, about the centre."""

    def __str__(self) -> str:
        parts = [f"shift={self.shift:g}"] if self.shift else []
        return ",".join([*parts, f"size={self.size:g}"] if self.size != 1.0 else parts)

    @classmethod
    def parse(cls, text: str) -> BoxNoise:
        """Read ``shift=SHARE``, ``size=FACTOR`` or both with a comma between.

        Raises:
            InputError: the text says something else, or a value is out of its range.
        """
        values: dict[str, float] = {}
        for part in text.split(","):
            name, _, number = part.partition("=")
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if name not in cls._fields or name in values or not math.isfinite(value):
                raise InputError(f"--box-noise {text}: wanted shift=SHARE, size=FACTOR, both with a comma, or all")
            values[name] = value
        noise = cls(**values)
        if not (0.0 <= noise.shift <= MOST_SHIFT and SIZES[0] <= noise.size <= SIZES[1]) or noise == cls():
            raise InputError(
                f"--box-noise {text}: wanted a shift in [0, {MOST_SHIFT}] and a size in [{SIZES[0]}, {SIZES[1]:g}] "
                "that change the box"
            )
        return noise


ALL = *(BoxNoise(shift=share) for share in (0.1, 0.2, 0.3)), *(BoxNoise(size=by) for by in (0.7, 0.85, 1.2, 1.4))
"""What ``--box-noise all`` stands for."""


def parse_noises(texts: Sequence[str]) -> list[BoxNoise]:
    """Read the values of ``--box-noise``, each kept once; raises as ``BoxNoise.parse`` does."""
    noises = [each for text in texts for each in (ALL if text == "all" else (BoxNoise.parse(text),))]
    return list(dict.fromkeys(noises))


def noisy_boxes(
    dataset: BopDataset, boxes: Mapping[ImageKey, Sequence[Box]], noise: BoxNoise
) -> dict[ImageKey, list[Box]]:
    """Return the boxes of each image with ``noise``.

    The direction of a shift depends on the scene, the image, the object and the box's place among those of this object,
    and on nothing else: it is the same in every run and for every length.

    Raises:
        InputError: a box has a mask, which would stay where it is.
    """
    found: dict[ImageKey, list[Box]] = {}
    for image, each in boxes.items():
        size, places, found[image] = dataset.camera(*image).size, Counter[int](), []
        for box in each:
            if box.mask is not None:
                raise InputError("--box-noise: wanted boxes without masks, which would not move with them")
            rng = np.random.default_rng([*image, box.obj_id, places[box.obj_id]])
            places[box.obj_id] += 1
            bbox = noisy_bbox(box.bbox, noise, float(rng.uniform(0.0, 2.0 * math.pi)), size)
            found[image].append(Box(box.obj_id, bbox))
    return found


def noisy_bbox(bbox: Bbox, noise: BoxNoise, direction: float, size: tuple[int, int]) -> Bbox:
    """Shift and resize a box, and cut it off at the image's border, before and after, as detectors' boxes are.

    Args:
        bbox: x, y, width and height, pixels; some of it lies in the image.
        noise: what is done.
        direction: of the shift, radians.
        size: width and height of the image, pixels.
    """
    x, y, width, height = _cut(bbox, size)
    x += noise.shift * width * math.cos(direction) + width * (1.0 - noise.size) / 2
    y += noise.shift * height * math.sin(direction) + height * (1.0 - noise.size) / 2
    return _cut((x, y, width * noise.size, height * noise.size), size)


def _cut(bbox: Bbox, size: tuple[int, int]) -> Bbox:
    x, y, width, height = bbox
    left, top = max(x, 0.0), max(y, 0.0)
    return left, top, min(x + width, float(size[0])) - left, min(y + height, float(size[1])) - top
