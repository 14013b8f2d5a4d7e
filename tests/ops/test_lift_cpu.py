"""From the decoder's matches to object points, on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.ops.base import Decoded
from coop_edge.ops.cpu import CpuOperations

VIEWS, T, SIZE = 5, 16, 64


def test_lift_reads_the_nearest_pixel_and_drops_what_lies_off_the_silhouette():
    v, u = np.mgrid[:SIZE, :SIZE]
    maps = np.stack([np.stack([u, v, np.full(u.shape, j)], -1) for j in range(VIEWS)]).astype(np.float32)
    maps[:, :, 40:] = np.nan
    index = np.zeros((1, VIEWS, T), np.int32)
    offset = np.zeros((1, VIEWS, T, 2), np.float32)
    probability = np.full((1, VIEWS, T), 0.5, np.float32)
    index[0, 3, :4] = [5, 5, 2, 0]  # patch 5 spans pixels 16..31, patch 2 columns 32..47
    offset[0, 3, 1] = (-0.5, 0.5)
    offset[0, 3, 2] = (0.2, 0.0)
    offset[0, 3, 3] = (-0.5, -0.5)  # pixel -0.5: the border of the first one
    probability[0, 3, 5] = 0.1
    points, valid, share = CpuOperations().lift(
        Decoded(probability, index, offset), np.array([[3, 1]]), [maps], 16, 0.2
    )
    assert points[0, 0, 0].tolist() in ([24, 24, 3], [23, 23, 3])  # the centre, 23.5
    assert points[0, 0, 1, 0] in (15, 16)
    assert points[0, 0, 1, 1] in (31, 32)
    assert not valid[0, 0, 2]  # column 42.7: off the silhouette
    assert points[0, 0, 3].tolist() == [0, 0, 3]
    assert not valid[0, 0, 5]  # improbable
    assert share[0, 0, 2] == share[0, 0, 5] == 0
    assert (points[0, 1, :, 2] == 1).all()
    assert valid[0, 1].all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_offset_that_is_not_finite_is_no_match(wrong):
    """What a network of half precision says where it overflows."""
    maps = np.ones((VIEWS, SIZE, SIZE, 3), np.float32)
    offset = np.zeros((1, VIEWS, T, 2), np.float32)
    offset[0, 0, 3, 1] = wrong
    decoded = Decoded(np.full((1, VIEWS, T), 0.5, np.float32), np.zeros((1, VIEWS, T), np.int32), offset)
    _, valid, _ = CpuOperations().lift(decoded, np.array([[0]]), [maps], 16, 0.2)
    assert np.flatnonzero(~valid[0, 0]).tolist() == [3]
