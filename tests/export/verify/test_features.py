"""Verification of frozen features: damage is found, and the report outlives a verification of the other roles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coop_edge.runtime.bundle import Bundle
from export.networks import FeaturesNet, FeaturesNetConfig, load_efficientnet_lite0
from export.onnx.features import add_features
from export.verify import features
from export.verify.bundle import VerificationError, verify_bundle, write_report
from export.verify.features import cosine, verify_features
from tests.export.lite0 import random_state
from tests.export.small_bundles import spoil
from tests.runtime.networks import tiny_bundle

REPORT = {"verdict": "passed", "of": "features"}


@pytest.fixture
def bundle(tmp_path):
    folder = tiny_bundle(tmp_path / "tiny", features=False)
    return add_features(folder, random_state(), "fp32", lambda *_: REPORT)


def network(size, seed=0):
    net = FeaturesNet(FeaturesNetConfig(size))
    load_efficientnet_lite0(net, random_state(seed))
    return net


def test_a_sound_graph_passes_and_a_changed_weight_does_not(bundle):
    report = verify_features(bundle, network(32), samples=2, threads=1)
    assert report["verdict"] == "passed"
    assert [row["bound"] for row in report["outputs"]] == [1e-4] * 3
    spoil(bundle, "features")
    with pytest.raises(
        VerificationError, match=r"features of bundle tiny fail: .*features/s\d+.*relative diff"
    ) as error:
        verify_features(Bundle.load(bundle.folder), network(32), samples=2, threads=1)
    assert error.value.report["verdict"] == "failed"


def test_weights_of_another_network_are_found(bundle):
    with pytest.raises(VerificationError, match="features/s4"):
        verify_features(bundle, network(32, seed=1), samples=2, threads=1)


@pytest.mark.parametrize(
    ("bound", "value", "message"),
    [("MIN_COSINE", 2.0, "least cosine of a cell 1, wanted at least 2"), ("MAX_CHANGE", -1.0, "similarity changed by")],
)
def test_the_angles_have_bounds_of_their_own(bundle, monkeypatch, bound, value, message):
    monkeypatch.setattr(features, bound, value)
    with pytest.raises(VerificationError, match=message):
        verify_features(bundle, network(32), samples=2, threads=1)


def test_cosines_by_hand():
    a = np.array([[3.0, 0.0, 1.0], [4.0, 1.0, 0.0]], np.float32).reshape(1, 2, 1, 3)
    b = np.array([[4.0, 0.0, -2.0], [3.0, 0.0, 0.0]], np.float32).reshape(1, 2, 1, 3)
    np.testing.assert_allclose(cosine(a, b), [[[0.96, 0.0, -1.0]]])


def test_a_verification_of_the_other_roles_keeps_the_report_of_the_features(bundle_of, files, quick):
    plain = bundle_of("fp32")
    bundle = add_features(plain.folder, random_state(), "fp32", lambda *_: REPORT)
    report = verify_bundle(bundle.folder, files, threads=1)
    assert report["graphs"] == {role: network.sha256 for role, network in plain.networks.items()}
    write_report(bundle.folder, report)
    write_report(bundle.folder, report)
    assert Bundle.load(bundle.folder) == replace(bundle, verification={**report, "features": REPORT})
    write_report(plain.folder, {})
    assert Bundle.load(bundle.folder).verification == {"features": REPORT}
