"""Similarity of feature maps against plain loops, and what it must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coop_edge.stages.features import (
    BEST,
    COVERED,
    MAPS,
    FeatureExtractor,
    appearance,
    coverage,
    similarity,
    unit_cells,
)
from tests.runtime.networks import tiny_bundle
from tests.stages.chain import OPS

N, CHANNELS, SIDE = 3, 5, 4


@pytest.fixture
def maps():
    """Two maps and their cells' weights; of the last one nothing is covered."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(N, CHANNELS, SIDE, SIDE)).astype(np.float32) for _ in range(2))
    covered = rng.random((N, SIDE, SIDE)).astype(np.float32)
    covered[:, 0] = 0.0
    covered[-1] = 0.0
    return a, b, covered


def by_loops(a, b, covered) -> float:
    """Mean cosine of the best cells of one pair, after each channel's weighted mean has been taken off."""
    cells = [(y, x) for y in range(SIDE) for x in range(SIDE)]
    total = sum(float(covered[y, x]) for y, x in cells)
    if not total:
        return 0.0
    mean = [[sum(float(m[c, y, x] * covered[y, x]) for y, x in cells) / total for c in range(CHANNELS)] for m in (a, b)]
    cosines = []
    for y, x in cells:
        if covered[y, x] > COVERED:
            u, v = ([float(m[c, y, x]) - mean[i][c] for c in range(CHANNELS)] for i, m in enumerate((a, b)))
            cosines.append(sum(p * q for p, q in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v))
    best = sorted(cosines, reverse=True)[: max(1, len(cosines) * BEST // 100)]
    return sum(best) / len(best)


def test_similarity_is_that_of_plain_loops(maps):
    found = similarity(*maps)
    assert (found.shape, found.dtype) == ((N,), np.float32)
    np.testing.assert_allclose(found, [by_loops(*one) for one in zip(*maps, strict=True)], atol=1e-5)


def test_appearance_is_the_mean_cosine_of_the_best_cells(maps):
    """Of the maps as they are, in float64."""
    a, b, covered = maps
    wanted = []
    for one, other, part in zip(a.astype(float), b.astype(float), covered, strict=True):
        length = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
        falling = np.sort(((one * other).sum(axis=0) / length)[part > COVERED])[::-1]
        wanted.append(falling[: max(1, len(falling) * BEST // 100)].mean() if len(falling) else 0.0)
    found = appearance(a, b, covered)
    assert (found.shape, found.dtype) == ((N,), np.float32)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert appearance(a[:0], b[:0], covered[:0]).shape == (0,)
    for i in range(N):
        np.testing.assert_array_equal(appearance(*(m[i : i + 1] for m in maps)), found[i : i + 1])


def test_what_differs_everywhere_alike_does_not_count(maps):
    a, b, covered = maps
    more = np.random.default_rng(1).normal(size=(N, CHANNELS, 1, 1)).astype(np.float32)
    np.testing.assert_allclose(similarity(a + more, b, covered), similarity(a, b, covered), atol=1e-5)
    np.testing.assert_allclose(similarity(a, b - 3 * more, covered), similarity(a, b, covered), atol=1e-5)


def test_equal_maps_are_wholly_alike_and_opposite_ones_the_contrary(maps):
    a, _, covered = maps
    np.testing.assert_allclose(similarity(a, a, covered), [1, 1, 0], atol=1e-5)
    np.testing.assert_allclose(similarity(a, 2 - 7 * a, covered), [-1, -1, 0], atol=1e-5)


def test_what_is_not_covered_has_no_part(maps):
    a, b, covered = maps
    other = np.where(covered[:, None] > 0, b, b + 9)
    np.testing.assert_allclose(similarity(a, other, covered), similarity(a, b, covered), atol=1e-5)


def test_a_hidden_third_does_not_count(maps):
    a, _, covered = maps
    covered = np.ones_like(covered)
    hidden = a - a.mean(axis=(2, 3), keepdims=True)
    hidden[:, :, 0] *= -1  # a quarter of the cells; the mean moves a little
    assert (similarity(a, hidden, covered) > 0.9).all()


def test_a_render_of_a_corner_of_a_cell_is_compared_nowhere(maps):
    a, _, covered = maps
    assert not similarity(a, a, np.full_like(covered, COVERED / 2)).any()


def test_similarity_does_not_depend_on_the_batch(maps):
    whole = similarity(*maps)
    for i in range(N):
        np.testing.assert_array_equal(similarity(*(m[i : i + 1] for m in maps)), whole[i : i + 1])
    assert similarity(*(m[:0] for m in maps)).shape == (0,)


def test_cells_of_length_one(maps):
    a = maps[0].copy()
    a[0, :, 1, 2] = 0
    found = unit_cells(a)
    length = np.linalg.norm(found, axis=1)
    wanted = np.ones((N, SIDE, SIDE))
    wanted[0, 1, 2] = 0
    np.testing.assert_allclose(length, wanted, atol=1e-6)
    np.testing.assert_allclose(found * np.linalg.norm(a, axis=1)[:, None], a, atol=1e-5)


def test_coverage_counts_pixels():
    depth = np.where(np.random.default_rng(0).random((2, 16, 16)) < 0.4, 0.7, 0.0).astype(np.float32)
    wanted = np.zeros((2, 4, 4))
    for i, y, x in np.argwhere(depth > 0):
        wanted[i, y // 4, x // 4] += 1 / 16
    found = coverage(depth, 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert coverage(depth[:0], 4).shape == (0, 4, 4)


def test_maps_come_as_asked_for_whatever_the_micro_batch(tmp_path):
    from coop_edge.runtime.bundle import Bundle
    from coop_edge.runtime.onnx import OnnxRunner

    bundle = Bundle.load(tiny_bundle(tmp_path, input_size=32))
    images = np.random.default_rng(0).random((5, 3, 32, 32), np.float32)
    with OnnxRunner(bundle.network("features"), threads=1) as runner:
        s16, s4 = FeatureExtractor(OPS, runner, 2).maps(images, "s16", "s4")
        (whole,) = FeatureExtractor(OPS, runner, 8).maps(images, "s16")
        (none,) = FeatureExtractor(OPS, runner, 8).maps(images[:0], "s16")
    assert s4.shape == (5, 24, 32 // MAPS["s4"], 32 // MAPS["s4"])
    np.testing.assert_allclose(s16, whole, rtol=1e-5, atol=1e-5)
    assert none.shape == (0, 112, 2, 2)
