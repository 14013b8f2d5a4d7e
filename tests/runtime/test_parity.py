"""The comparison of a plan with ONNX Runtime: what it feeds, what it measures, what it lets pass."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.parity import BOUNDS, DECISION_BOUNDS, compare, failures, sample_feed
from tests.runtime.networks import tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.load(tiny_bundle(tmp_path_factory.mktemp("parity") / "tiny"))


@pytest.mark.parametrize("role", ["coarse_encoder", "coarse_decoder", "refiner", "selector"])
def test_feeds_have_the_shapes_of_the_graph_and_are_the_same_every_time(bundle, role):
    feed, again = sample_feed(bundle, role), sample_feed(bundle, role)
    for spec in bundle.network(role).inputs:
        assert feed[spec.name].shape == (3, *spec.shape[1:])
        assert feed[spec.name].dtype == np.float32
        np.testing.assert_array_equal(feed[spec.name], again[spec.name])
        assert not np.array_equal(feed[spec.name][0], feed[spec.name][1])
    if role == "refiner":
        assert all(array.min() >= 0 and array.max() <= 1 for array in feed.values())
        steps = np.abs(np.diff(feed["query"], axis=3)).max()
        assert 0.01 < steps < 0.5, "smooth, not noise"
        assert not np.array_equal(feed["query"], feed["render"])


def decoder_outputs(rng, n=2000):
    return {
        "probability": rng.uniform(0.2, 1, (1, n)).astype(np.float32),
        "index": rng.integers(0, 99, (1, n), np.int32),
        "offset": rng.uniform(-0.5, 0.5, (1, n, 2)).astype(np.float32),
    }


def test_the_error_is_the_rms_of_the_difference_over_that_of_the_reference():
    wanted = {"flow": np.array([[3.0, -4.0]], np.float32)}
    assert compare({"flow": np.array([[3.3, -4.4]], np.float32)}, wanted)["flow"] == pytest.approx(0.1)
    assert compare(wanted, wanted)["flow"] == 0.0


def test_decisions_that_fall_otherwise_are_counted_apart():
    wanted = decoder_outputs(np.random.default_rng(0))
    wanted["probability"][0, 7] = 0.0  # no match: its index means nothing
    found = {name: array.copy() for name, array in wanted.items()}
    found["index"][0, 7] += 1
    assert compare(found, wanted) == {"index": 0.0, "probability": 0.0, "offset": 0.0}
    found["index"][0, 3] += 1
    found["offset"][0, 3] = 0.4
    found["probability"][0, 4] = 0.0
    errors = compare(found, wanted)
    assert errors == {"index": 2 / 2000, "probability": 0.0, "offset": 0.0}
    assert failures(errors, "fp32") == []
    found["index"][0, 10] += 1
    (message,) = failures(compare(found, wanted), "fp32")
    assert message == "index 0.0015 of the decisions differ, at most 0.001 allowed for fp32"
    assert failures(compare(found, wanted), "fp16") == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["probability", "offset"])
def test_one_value_that_is_not_finite_is_a_failure(name, value):
    wanted = decoder_outputs(np.random.default_rng(1))
    found = {key: array.copy() for key, array in wanted.items()}
    found[name].flat[5] = value
    assert compare(found, wanted)[name] == np.inf
    assert any(name in message for message in failures(compare(found, wanted), "fp16"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_bounds_are_what_decides(precision):
    assert failures({"flow": BOUNDS[precision], "index": DECISION_BOUNDS[precision]}, precision) == []
    assert len(failures({"flow": 1.01 * BOUNDS[precision], "index": 1.01 * DECISION_BOUNDS[precision]}, precision)) == 2
    assert failures({"flow": float("nan")}, precision)
