"""Overlap of boxes, and which of them are distinct: by counting pixels, and by a loop over pairs."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.stages.boxes import distinct, overlaps


def whole(rng, count):
    return np.concatenate([rng.integers(0, 20, (count, 2)), rng.integers(1, 15, (count, 2))], axis=1).astype(float)


def pixels(box):
    out = np.zeros((40, 40), bool)
    x, y, w, h = box.astype(int)
    out[y : y + h, x : x + w] = True
    return out


def test_overlaps_are_those_of_counted_pixels():
    rng = np.random.default_rng(0)
    a, b = whole(rng, 12), whole(rng, 9)
    wanted = [[(pixels(p) & pixels(q)).sum() / (pixels(p) | pixels(q)).sum() for q in b] for p in a]
    np.testing.assert_allclose(overlaps(a, b), wanted, atol=1e-12)
    assert overlaps(a[:0], b).shape == (0, 9)
    assert overlaps(a, b[:0]).shape == (12, 0)


def test_boxes_without_an_area_overlap_nothing():
    empty = np.array([[3.0, 4.0, 0.0, 5.0]])
    assert overlaps(empty, empty) == 0


@pytest.mark.parametrize("overlap", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_distinct_are_the_first_that_overlap_no_kept_one(overlap, count):
    boxes, kept = whole(np.random.default_rng(1), 40), []
    for i, box in enumerate(boxes):
        if len(kept) < count and all(overlaps(box[None], boxes[k][None])[0, 0] < overlap for k in kept):
            kept.append(i)
    assert distinct(boxes, overlap, count).tolist() == kept
    assert distinct(boxes[:0], overlap, count).shape == (0,)
