"""Covariances are mapped in the axes of the line of sight, and come through a manifest."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from coop_edge.errors import BundleError
from coop_edge.runtime.bundle import Bundle, write_manifest
from coop_edge.runtime.covariance_map import CovarianceMap
from tests.runtime.networks import tiny_bundle

RNG = np.random.default_rng(0)


def spreads(n):
    A = RNG.normal(size=(n, 6, 6)) * [1e-3, 1e-3, 1e-2, 0.02, 0.02, 0.02]
    return np.swapaxes(A, 1, 2) @ A


def test_standard_deviations_are_scaled():
    C = spreads(8)
    for one, before in zip(CovarianceMap(2.0).apply(C), C, strict=True):
        np.testing.assert_allclose(np.sqrt(np.diag(one)), 2.0 * np.sqrt(np.diag(before)), rtol=1e-12)
        np.testing.assert_allclose(one / one[0, 0], before / before[0, 0], rtol=1e-12)


def test_no_poses_and_unknown_covariances():
    assert CovarianceMap(1.0).apply(np.zeros((0, 6, 6))).shape == (0, 6, 6)
    C = spreads(2)
    C[1] = np.nan
    np.testing.assert_array_equal(CovarianceMap(1.0).apply(C), C)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_map_is_refused(scale):
    with pytest.raises(BundleError, match="covariance: wanted a finite scale above 0"):
        CovarianceMap(scale)


def test_a_manifest_carries_it(tmp_path):
    bundle = Bundle.load(tiny_bundle(tmp_path))
    assert bundle.covariance_maps == (None, None)
    wanted = CovarianceMap(1.5), CovarianceMap(0.7)
    write_manifest(replace(bundle, covariance_map=wanted[0], depth_covariance_map=wanted[1]))
    assert Bundle.load(bundle.folder).covariance_maps == wanted
    content = json.loads(bundle.manifest.read_text())
    for name in ("covariance", "covariance_depth"):
        for wrong in ({"scale": True}, {"scale": "much"}, {"scale": -1.0}, {}, {"scale": 1.0, "floor": [0, 0, 0]}):
            bundle.manifest.write_text(json.dumps(content | {name: wrong}))
            with pytest.raises(BundleError, match="covariance"):
                Bundle.load(bundle.folder)
