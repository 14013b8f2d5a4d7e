"""Overlap of boxes, and which of them are distinct: by counting pixels, and by a loop over pairs."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.stages.boxes import distinct, filled, overlaps, within


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


def test_filled_is_the_share_of_the_first_box_s_pixels():
    rng = np.random.default_rng(3)
    a, b = whole(rng, 40), whole(rng, 40)
    wanted = [(pixels(p) & pixels(q)).sum() / pixels(p).sum() for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(filled(a, b), wanted, atol=1e-12)
    assert 0 < np.mean(wanted) < 1
    assert np.isnan(filled(a[:1], np.full((1, 4), np.nan))).all()


def test_within_is_what_the_image_shows():
    boxes = np.array([[-3.0, 2.0, 10.0, 5.0], [15.0, 8.0, 30.0, 4.0], [4.0, 4.0, 2.0, 2.0], [50.0, 0.0, 3.0, 3.0]])
    wanted = [[0.0, 2.0, 7.0, 5.0], [15.0, 8.0, 5.0, 2.0], [4.0, 4.0, 2.0, 2.0], [20.0, 0.0, 0.0, 3.0]]
    np.testing.assert_array_equal(within(boxes, (20, 10)), wanted)


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
