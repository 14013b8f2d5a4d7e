"""Pictures of pairs: marks stand where the labels say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from coop_edge.errors import InputError
from export.data.batch import PATCH, CoarseBatch, RefinerBatch
from export.data.pictures import ZOOM, write_pairs

SIZE = 64
T = (SIZE // PATCH) ** 2


def coarse(n: int) -> CoarseBatch:
    """Grey images; query patch 5 is matched with the middle of template patch 10, all others with nothing."""
    index = np.full((n, T), T)
    index[:, 5] = 10
    grey = np.full((n, SIZE, SIZE, 3), 60, np.uint8)
    return CoarseBatch(
        grey, grey, index, np.zeros((n, T, 2), np.float32), index < T, np.zeros((n, SIZE, SIZE, 3), np.float32),
        np.zeros((n, 3, 3)), np.zeros((n, 4, 4)), np.ones(n), np.arange(n),
    )  # fmt: skip


def refiner(n: int) -> RefinerBatch:
    """A white square, rendered 8 pixels left of where it is in the query; its lower half hidden."""
    query, render = np.zeros((2, n, SIZE, SIZE, 3), np.uint8)
    query[:, 20:40, 28:48] = 250
    render[:, 20:40, 20:40] = 250
    points = np.full((n, SIZE, SIZE, 3), np.nan, np.float32)
    points[:, 20:40, 20:40] = 0.0
    flow = np.zeros((n, 2, SIZE, SIZE), np.float32)
    flow[:, 0, 20:40, 20:40] = 8.0
    visible = np.zeros((n, SIZE, SIZE), bool)
    visible[:, 20:30, 20:40] = True
    return RefinerBatch(
        query, render, points, flow, visible, np.zeros((n, 3, 3)), np.zeros((n, 4, 4)), np.zeros((n, 4, 4)),
        np.zeros((n, 3, 3)),
        np.zeros((n, 4, 3), np.float32), np.ones(n), np.arange(n),
    )  # fmt: skip


def written(path, batch, n: int) -> np.ndarray:
    write_pairs(path, batch, n)
    return cv2.imread(str(path))[..., ::-1].astype(int)


def test_coarse_marks(tmp_path):
    image = written(tmp_path / "c.png", coarse(3), 2)
    assert image.shape == (2 * (SIZE * ZOOM + 6), 2 * SIZE * ZOOM, 3)

    def colour(patch: int, column: int) -> np.ndarray:
        x, y = (PATCH * (patch % 4 + 0.5)) * ZOOM + column, (PATCH * (patch // 4 + 0.5)) * ZOOM
        return image[int(y), int(x)]

    query, template = colour(5, 0), colour(10, SIZE * ZOOM)
    np.testing.assert_array_equal(query, template)
    assert np.ptp(query) > 100, "a match is coloured"
    assert np.ptp(colour(0, 0)) == 0, "a patch without one is marked in grey"
    assert colour(0, 0)[0] == 150
    assert colour(3, SIZE * ZOOM)[0] == 60, "no mark in the template"


def test_refiner_panels(tmp_path):
    image = written(tmp_path / "r.png", refiner(1), 8)[: SIZE * ZOOM]
    query, render, warped, shown, _ = np.split(image, 5, axis=1)
    np.testing.assert_array_equal(render, warped)
    assert (query != render).any()
    upper, lower = shown[25 * ZOOM, 30 * ZOOM], shown[35 * ZOOM, 30 * ZOOM]
    assert upper[1] > upper[0] + 50
    assert lower[0] > lower[1] + 50


def test_errors(tmp_path):
    with pytest.raises(InputError, match="at least one pair"):
        write_pairs(tmp_path / "a.png", coarse(0))
    with pytest.raises(InputError, match=r"cannot be written|\.png or \.jpg"):
        write_pairs(tmp_path / "missing" / "a.png", coarse(1))
    with pytest.raises(InputError, match=r"\.png or \.jpg"):
        write_pairs(tmp_path / "a.txt", coarse(1))
