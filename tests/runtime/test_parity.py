"""The one definition of the same numbers, and the comparison of a plan with ONNX Runtime that is made with it.

The comparison of an export with PyTorch is in ``tests/export/test_verify_parts.py``.
"""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.runtime.bundle import ROLES, Bundle
from coop_edge.runtime.parity import AnyDecision, Difference, Tolerance, compare
from coop_edge.runtime.plan_check import TOLERANCE, judge, sample_feed
from tests.runtime.networks import tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.load(tiny_bundle(tmp_path_factory.mktemp("parity") / "tiny"))


@pytest.mark.parametrize("role", ROLES)
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


def test_the_l2_difference_is_the_rms_of_the_difference_over_that_of_the_reference():
    wanted = {"flow": np.array([[3.0, -4.0]], np.float32)}
    (found,) = compare(wanted, {"flow": np.array([[3.3, -4.4]], np.float32)})
    assert (found.relative_l2, found.difference, found.scale) == pytest.approx((0.1, 0.4, 4.0))
    (same,) = compare(wanted, wanted)
    assert (same.relative, same.relative_l2) == (0.0, 0.0)


def test_decisions_that_fall_otherwise_are_counted_apart():
    wanted = decoder_outputs(np.random.default_rng(0))
    wanted["probability"][0, 7] = 0.0  # no match: its index means nothing
    found = {name: array.copy() for name, array in wanted.items()}
    found["index"][0, 7] += 1
    assert judge(wanted, found, "fp32") == ({"index": 0.0, "probability": 0.0, "offset": 0.0}, [])
    found["index"][0, 3] += 1
    found["offset"][0, 3] = 0.4
    found["probability"][0, 4] = 0.0
    assert judge(wanted, found, "fp32") == ({"index": 2 / 2000, "probability": 0.0, "offset": 0.0}, [])
    found["index"][0, 10] += 1
    (message,) = judge(wanted, found, "fp32")[1]
    assert message == "index: 3 of 2000 elements are ties, wanted at most 0.1% for fp32"
    assert judge(wanted, found, "fp16")[1] == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["probability", "offset"])
def test_one_value_that_is_not_finite_is_a_failure(name, value):
    """Also where a tie would leave it out: NaN is no match, so the decision differs."""
    wanted = decoder_outputs(np.random.default_rng(1))
    found = {key: array.copy() for key, array in wanted.items()}
    found[name].flat[5] = value
    figures, complaints = judge(wanted, found, "fp16")
    assert figures[name] == np.inf
    assert any(message.startswith(f"{name}: ") for message in complaints)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_bounds_are_what_decides(precision):
    tolerance, n = TOLERANCE[precision], 10_000
    assert tolerance.relative_l2 == tolerance.ties == {"fp32": 1e-3, "fp16": 2e-2}[precision]

    def complaint(l2=0.0, ties=0.0):
        return tolerance.complaint(Difference("flow", 1.0, 1.0, 1.0, l2, round(ties * n), n))

    assert complaint(l2=tolerance.relative_l2, ties=tolerance.ties) == "", "the largest difference is reported alone"
    assert "wanted at most" in complaint(l2=1.01 * tolerance.relative_l2)
    assert "are ties" in complaint(ties=1.1 * tolerance.ties)
    assert complaint(l2=float("nan"))


@pytest.mark.parametrize("bound", [None, 1e-3])
def test_an_integer_output_may_not_flip_where_there_is_a_bound(bound):
    wanted = {"index": np.zeros((1, 2000), np.int32)}
    given = {"index": wanted["index"].copy()}
    given["index"][0, 3] = 7
    (found,) = compare(wanted, given)
    assert (found.difference, found.relative, found.ties) == (1.0, 1 / 2000, 0)
    assert (Tolerance(bound, bound, None).complaint(found) == "") is (bound is None)


def test_no_outputs_and_no_rows_differ_by_nothing():
    assert compare({}, {}) == []
    empty = {name: array[:0] for name, array in decoder_outputs(np.random.default_rng(2)).items()}
    for found in compare(empty, empty, AnyDecision()):
        assert (found.relative, found.relative_l2, found.ties, found.elements) == (0.0, 0.0, 0, 0)
