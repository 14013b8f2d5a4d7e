"""Covariances are mapped in the axes of the line of sight, and come through a manifest."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from coop_edge.errors import BundleError
from coop_edge.geometry import se3
from coop_edge.runtime.bundle import Bundle, write_manifest
from coop_edge.runtime.covariance_map import CovarianceMap, line_of_sight_axes
from tests.runtime.networks import tiny_bundle

RNG = np.random.default_rng(0)


def poses(n):
    t = RNG.normal(0, 0.3, (n, 3)) + [0, 0, 1.5]
    return se3.from_rt(se3.random_rotation(RNG, (n,)), t)


def spreads(n):
    A = RNG.normal(size=(n, 6, 6)) * [1e-3, 1e-3, 1e-2, 0.02, 0.02, 0.02]
    return np.swapaxes(A, 1, 2) @ A


def test_axes_point_along_the_line_of_sight():
    t = poses(20)[:, :3, 3]
    R = line_of_sight_axes(t)
    np.testing.assert_allclose(R @ np.swapaxes(R, 1, 2), np.broadcast_to(np.eye(3), R.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(R), 1.0)
    np.testing.assert_allclose(np.einsum("nij,nj->ni", R, t)[:, :2], 0.0, atol=1e-12)
    for odd in ([0, 0, 0], [0, 0, -1], [np.nan, 0, 1]):
        np.testing.assert_array_equal(line_of_sight_axes(np.array([odd], float))[0], np.eye(3))


def test_every_axis_has_its_factor_and_its_floor():
    """Against the definition, pose by pose: in axes made otherwise."""
    T, C, d, s = poses(8), spreads(8), RNG.uniform(0.05, 0.3, 8), RNG.uniform(0.1, 1.0, 8)
    found = CovarianceMap((2.0, 3.0, 0.5), (0.01, 0.05, 0.1), 0.7).apply(C, T, d, s)
    for i in range(8):
        ray = T[i, :3, 3] / np.linalg.norm(T[i, :3, 3])
        across = np.linalg.svd(ray[None])[2][1:]  # any two axes: sideways ones are alike
        B = np.zeros((6, 6))
        B[:3, :3] = B[3:, 3:] = np.vstack([across, ray])
        S = np.diag([2.0, 2.0, 3.0, 0.5, 0.5, 0.5])
        F = np.diag([0.01 * d[i], 0.01 * d[i], 0.05 * d[i], 0.1, 0.1, 0.1])
        wanted = B.T @ (S @ B @ C[i] @ B.T @ S + F @ F) @ B / s[i] ** 1.4
        np.testing.assert_allclose(found[i], wanted, rtol=1e-9, atol=1e-15)


def test_a_score_of_nothing_gives_a_covariance_still():
    C, T = spreads(2), poses(2)
    found = CovarianceMap((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), 1.0).apply(C, T, np.ones(2), np.array([0.0, 0.05]))
    np.testing.assert_allclose(found, 400.0 * C, rtol=1e-9)


def test_no_poses_and_unknown_covariances():
    same = CovarianceMap((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), 0.0)
    assert same.apply(np.zeros((0, 6, 6)), np.zeros((0, 4, 4)), np.zeros(0), np.zeros(0)).shape == (0, 6, 6)
    C = spreads(2)
    C[1] = np.nan
    T = poses(2)
    T[1] = np.nan
    found = same.apply(C, T, np.ones(2), np.ones(2))
    np.testing.assert_allclose(found[0], C[0], rtol=1e-9, atol=1e-18)
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize(
    ("factor", "power"),
    [((1.0, 1.0), 0.0), ((1.0, -1.0, 1.0), 0.0), ((1.0, float("nan"), 1.0), 0.0), ((1.0, 1.0, 1.0), -0.5)],
)
def test_what_is_no_map_is_refused(factor, power):
    with pytest.raises(BundleError, match="covariance: wanted three factors, three floors and a power"):
        CovarianceMap(factor, (0.0, 0.0, 0.0), power)


def test_a_manifest_carries_it(tmp_path):
    bundle = Bundle.load(tiny_bundle(tmp_path))
    assert bundle.covariance_map is None
    wanted = CovarianceMap((1.5, 2.0, 3.0), (0.01, 0.02, 0.03), 0.5), CovarianceMap((1.0, 1.0, 1.0), (0, 0, 0), 0.0)
    write_manifest(replace(bundle, covariance_map=wanted[0], depth_covariance_map=wanted[1]))
    assert Bundle.load(bundle.folder).covariance_maps == wanted
    content = json.loads(bundle.manifest.read_text())
    right = {"factor": [1, 1, 1], "floor": [0, 0, 0], "score_power": 0.5}
    for name in ("covariance", "covariance_depth"):
        for wrong in ([1.0, 2.0], [1.0, 2.0, True], [1.0, 2.0, -1.0], "none"):
            bundle.manifest.write_text(json.dumps(content | {name: right | {"factor": wrong}}))
            with pytest.raises(BundleError, match="covariance"):
                Bundle.load(bundle.folder)
        for power in (None, "much", True, -1.0):
            entry = right | {"score_power": power} if power is not None else dict(list(right.items())[:2])
            bundle.manifest.write_text(json.dumps(content | {name: entry}))
            with pytest.raises(BundleError, match=r"score_power|power of the score"):
                Bundle.load(bundle.folder)
