"""Pixels of patches, against the definitions that the networks are trained on."""

from __future__ import annotations

import numpy as np

from coop_edge.geometry.patches import patch_centres, template_pixels
from export.data import labels

T, SIZE = 16, 64


def test_patch_centres_and_matches_are_those_of_the_training_labels():
    np.testing.assert_array_equal(patch_centres(SIZE, 16), labels.patch_centres(SIZE))
    pixels = np.random.default_rng(0).uniform(-0.5, SIZE - 0.5, (T, 2))
    index, offset = labels.match_labels(pixels, np.ones(T, bool), SIZE)
    np.testing.assert_allclose(template_pixels(index, offset, SIZE // 16, 16), pixels, atol=1e-5)
