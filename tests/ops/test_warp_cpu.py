"""How crops sample an image: the number of samples, and OpenCV's crops against plain float64."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.ops.cpu import CpuOperations
from coop_edge.ops.sampling import samples_per_side


@pytest.mark.parametrize(
    ("span", "samples"), [(0.2, 1), (1.0, 1), (1.4, 1), (1.6, 2), (4.0, 4), (15.6, 16), (99.0, 16)]
)
def test_samples_per_side(span, samples):
    assert samples_per_side(np.diag([1 / span, 1 / span, 1.0]), 64) == samples


def test_supersampling_is_the_mean_of_bilinear_samples():
    """Against a plain implementation in float64."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)
    size, m = 16, 4
    H = np.array([[0.25, 0.02, -2.0], [-0.01, 0.25, -1.0], [1e-4, -5e-5, 1.0]])
    assert samples_per_side(H, size) == m
    grid = (np.arange(m * size) - (m - 1) / 2) / m
    x, y = np.meshgrid(grid, grid)
    q = np.linalg.inv(H) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    u, v = q[:2] / q[2]
    padded = np.pad(image.astype(float), ((50, 50), (50, 50), (0, 0)))
    u0, v0 = np.floor(u).astype(int), np.floor(v).astype(int)
    a, b = (u - u0)[:, None], (v - v0)[:, None]
    corner = lambda dv, du: padded[np.clip(v0 + dv + 50, 0, 189), np.clip(u0 + du + 50, 0, 219)]  # noqa: E731
    fine = (1 - b) * ((1 - a) * corner(0, 0) + a * corner(0, 1)) + b * ((1 - a) * corner(1, 0) + a * corner(1, 1))
    want = fine.reshape(size, m, size, m, 3).mean(axis=(1, 3)).transpose(2, 0, 1) / 255
    got = CpuOperations().warp(image, H[None], size)[0]
    assert np.abs(got - want).max() < 3.5 / 255  # two roundings, and OpenCV's interpolation in 1/32 pixel
    assert np.abs(got - want).mean() < 0.5 / 255
