"""Average precision of scored answers, as COCO computes it (101 recall levels); BOP uses it for boxes and poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVELS = np.linspace(0.0, 1.0, 101)
"""Recalls at which the precision is read."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What was said of one object in one image: E answers, best first, against its G instances there."""

    scores: np.ndarray  # [E]
    errors: np.ndarray  # [E,G], lower is better


def average_precision(images: Sequence[Answers], threshold: float) -> float | None:
    """Return the average precision over all images in [0, 1]; None if no instance is in any of them.

    In each image an answer, best score first, takes the free instance of least error, if that is below ``threshold``;
    otherwise it is wrong.
    """
    instances = sum(each.errors.shape[1] for each in images)
    if not instances:
        return None
    hits = [_hits(each.errors, threshold) for each in images]
    scores = np.concatenate([np.zeros(0), *(each.scores for each in images)])
    right = np.concatenate([np.zeros(0, bool), *hits])[np.argsort(-scores, kind="stable")]
    if not len(right):
        return 0.0
    found = np.cumsum(right)
    recall, precision = found / instances, found / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # the best there is at that recall or a higher one
    place = np.searchsorted(recall, LEVELS, side="left")
    return float(np.append(precision, 0.0)[place].mean())


def mean_average_precision(objects: Sequence[Sequence[Answers]], thresholds: Sequence[np.ndarray]) -> float:
    """Return the mean over objects with instances, and over each one's thresholds; 0 if there are none."""
    each = [
        [average_precision(images, float(threshold)) for threshold in own]
        for images, own in zip(objects, thresholds, strict=True)
    ]
    known = [value for values in each for value in values if value is not None]
    return float(np.mean(known)) if known else 0.0


def _hits(errors: np.ndarray, threshold: float) -> np.ndarray:
    """Tell which of E answers are right, bool [E]."""
    out, taken = np.zeros(len(errors), bool), np.zeros(errors.shape[1], bool)
    for e in range(len(errors)):
        free = np.where(taken, np.inf, errors[e])
        if len(free) and free.min() < threshold:
            out[e] = taken[int(free.argmin())] = True
    return out
