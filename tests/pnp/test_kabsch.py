"""Kabsch's motion of three points, on the CPU and in the CUDA sources, against the decomposition in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.pnp.kabsch import kabsch
from tests.kernels.devices import device  # noqa: F401
from tests.oracles.pnp_ransac import absolute_orientation
from tests.pnp.cuda_support import MathKernels


def on_cpu(X, Y):
    R, t = np.zeros((len(X), 3, 3)), np.zeros((len(X), 3))
    return np.array([kabsch(*each) for each in zip(X, Y, R, t, strict=True)], bool), R, t


def on_device(device, X, Y, dtype):  # noqa: F811
    poses, found = np.zeros((len(X), 12), dtype), np.zeros(len(X), np.int32)
    name = f"kabsch_f{np.dtype(dtype).itemsize * 8}"
    MathKernels(device)(name, -(-len(X) // 64), 64, X.astype(dtype), Y.astype(dtype), np.int32(len(X)), poses, found)
    return found.astype(bool), poses[:, :9].reshape(-1, 3, 3), poses[:, 9:]


@pytest.fixture(params=["cpu", "cuda f64", "cuda f32"])
def solve(request, device):  # noqa: F811
    if request.param == "cpu":
        return on_cpu, 1e-9
    dtype = np.float64 if request.param.endswith("64") else np.float32
    return lambda X, Y: on_device(device, X, Y, dtype), 1e-9 if dtype == np.float64 else 2e-3


def triangles(count, seed, noise):
    """Triangles of about 0.1 m, moved anywhere 0.5 m to 1 m in front, with noise of a share of their size."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-0.05, 0.05, (count, 3, 3)) + rng.uniform(-0.2, 0.2, (count, 1, 3))
    turns = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0]
    turns *= np.linalg.det(turns)[:, None, None]
    places = np.einsum("bij,bnj->bni", turns, X) + rng.uniform([-0.3, -0.3, 0.5], [0.3, 0.3, 1.0], (count, 1, 3))
    return X, places + noise * rng.normal(size=(count, 3, 3)), turns


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.03])
def test_is_the_least_squares_motion(solve, noise):
    """Noise of a third of the triangle's size bends it beyond recognition; the best motion is still the best."""
    run, tolerance = solve
    X, Y, turns = triangles(500, 3, noise)
    found, R, t = run(X, Y)
    assert found.all()
    off = []
    for i in range(len(X)):
        R_best, t_best = absolute_orientation(X[i], Y[i])
        off.append(max(np.abs(R[i] - R_best).max(), np.abs(t[i] - t_best).max()))
        assert np.linalg.det(R[i].astype(float)) > 0
    # A triangle that is nearly flat turns about its long side by rounding.
    assert np.quantile(off, 0.97) < tolerance
    assert np.median(off) < 0.05 * tolerance
    if noise == 0.0:
        assert np.quantile(np.abs(R - turns).max(axis=(1, 2)), 0.97) < tolerance


def test_flat_triangles_have_none(solve):
    run, _ = solve
    line = np.array([[0, 0, 0], [0.1, 0.05, 0], [0.2, 0.1, 0]], float)
    good = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]], float)
    point = np.zeros((3, 3))
    found, _, _ = run(np.stack([line, good, point, good]), np.stack([good, line, good, good]) + [0, 0, 1])
    assert found.tolist() == [False, False, False, True]
