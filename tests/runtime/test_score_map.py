"""The map from evidence to a probability: its formula, what it refuses, and its place in the manifest."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from coop_edge.errors import BundleError
from coop_edge.runtime.bundle import MANIFEST, Bundle, write_manifest
from coop_edge.runtime.score_map import EVIDENCE, FARTHEST, NEAREST, TYPICAL, ScoreMap, nearness
from tests.runtime.networks import tiny_bundle

WEIGHTS = {"similarity": 7.0, "inlier_ratio": 4.5, "inlier_weight": 0.0, "outline": 2.0, "nearness": 1.5}
MAP = ScoreMap(-8.0, WEIGHTS)


def evidence(*rows):
    return dict(zip(EVIDENCE, np.array(rows, np.float64).reshape(-1, len(EVIDENCE)).T, strict=True))


def test_probability_is_the_logistic_function():
    rows = np.random.default_rng(0).uniform(-1, 1, (20, 5))
    wanted = [1 / (1 + math.exp(8.0 - sum(WEIGHTS[n] * x for n, x in zip(EVIDENCE, row, strict=True)))) for row in rows]
    np.testing.assert_allclose(MAP.probability(evidence(*rows)), wanted, rtol=1e-9)
    assert MAP.probability(evidence()).shape == (0,)


@pytest.mark.filterwarnings("error")
def test_extreme_evidence_does_not_overflow():
    far = ScoreMap(0.0, dict.fromkeys(EVIDENCE, 1e6))
    np.testing.assert_array_equal(far.probability(evidence([1] * 5, [0] * 5, [-1] * 5)), [1.0, 0.5, 0.0])


@pytest.mark.parametrize("name", EVIDENCE)
def test_more_evidence_is_never_less_probable(name):
    base = evidence(*np.full((50, 5), 0.3))
    found = MAP.probability(base | {name: np.linspace(0, 1, 50)})
    assert (np.diff(found) >= 0).all()
    assert (found[-1] > found[0]) == (WEIGHTS[name] > 0)


@pytest.mark.parametrize(
    ("intercept", "weights", "says"),
    [
        (0.0, {}, r"similarity, inlier_ratio, inlier_weight, outline \(optional\), nearness \(optional\), found none"),
        (0.0, {"similarity": 1.0, "inlier_weight": 1.0}, "found similarity, inlier_weight"),
        (0.0, {**WEIGHTS, "luck": 1.0}, "found similarity, inlier_ratio, inlier_weight, outline, nearness, luck"),
        (0.0, {**WEIGHTS, "inlier_weight": -0.1}, r"weights of at least 0, found \[0.0, 7.0, 4.5, -0.1, 2.0, 1.5\]"),
        (math.nan, WEIGHTS, "wanted finite numbers"),
        (0.0, {**WEIGHTS, "similarity": math.inf}, "wanted finite numbers"),
    ],
)
def test_what_is_no_such_map_is_refused(intercept, weights, says):
    with pytest.raises(BundleError, match=f"score: .*{says}"):
        ScoreMap(intercept, weights)


@pytest.fixture
def folder(tmp_path):
    return tiny_bundle(tmp_path / "tiny")


def write_score(folder, score) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(content | {"score": score}))


def test_a_bundle_keeps_its_map(folder):
    without = Bundle.load(folder)
    assert without.score_map is None
    assert "score" not in json.loads(without.manifest.read_text())
    write_manifest(dataclasses.replace(without, score_map=MAP))
    assert json.loads(without.manifest.read_text())["score"] == {"intercept": -8.0, "weights": WEIGHTS}
    again = Bundle.load(folder)
    assert again.score_map == MAP
    assert dataclasses.replace(again, score_map=None) == without


def test_a_bundle_keeps_a_second_map_for_poses_that_use_depth(folder):
    second = ScoreMap(-9.0, {**WEIGHTS, "agreement": 2.0, "clear": 3.0})
    without = Bundle.load(folder)
    assert without.depth_score_map is None
    write_manifest(dataclasses.replace(without, score_map=MAP, depth_score_map=second))
    again = Bundle.load(folder)
    assert (again.score_map, again.depth_score_map) == (MAP, second)
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(content | {"score_depth": content["score"]}))
    with pytest.raises(BundleError, match=r"score_depth\.weights: wanted .*, found no agreement, no clear"):
        Bundle.load(folder)


def test_a_bundle_keeps_a_map_for_models_in_plain_grey(folder):
    grey = ScoreMap(-7.0, WEIGHTS)
    write_manifest(dataclasses.replace(Bundle.load(folder), score_map=MAP, grey_score_map=grey))
    again = Bundle.load(folder)
    assert (again.score_map, again.grey_score_map, again.depth_score_map) == (MAP, grey, None)
    assert json.loads((folder / MANIFEST).read_text())["score_grey"]["intercept"] == -7.0


def test_whole_numbers_pass_for_numbers(folder):
    weights = {"similarity": 7, "inlier_ratio": 4.5, "inlier_weight": 0, "outline": 2, "nearness": 1.5}
    write_score(folder, {"intercept": -8, "weights": weights})
    assert Bundle.load(folder).score_map == MAP


@pytest.mark.parametrize("missing", [("outline",), ("nearness",), ("outline", "nearness")])
def test_a_map_fitted_before_some_evidence_counted_does_without(folder, missing):
    older = {name: weight for name, weight in WEIGHTS.items() if name not in missing}
    write_score(folder, {"intercept": -8.0, "weights": older})
    found = Bundle.load(folder).score_map
    assert found.weights == older
    rows = evidence(*np.random.default_rng(0).uniform(-1, 1, (5, 5)))
    whole = ScoreMap(-8.0, older | dict.fromkeys(missing, 0.0))
    np.testing.assert_array_equal(found.probability(rows), whole.probability(rows))
    if "nearness" in missing:
        np.testing.assert_array_equal(found.presence(rows), found.probability(rows))


def test_nearness_falls_with_the_logarithm_of_the_distance():
    middle = math.sqrt(NEAREST * FARTHEST)
    np.testing.assert_allclose(nearness([0.1, NEAREST, middle, FARTHEST, 1e6]), [1, 1, 0.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(np.diff(nearness([4, 8, 16])), -math.log(2) / math.log(FARTHEST / NEAREST))


def test_presence_is_the_probability_at_one_distance_for_all():
    rows = evidence(*np.random.default_rng(0).uniform(0, 1, (20, 5)))
    found = MAP.presence(rows)
    np.testing.assert_array_equal(found, MAP.probability(rows | {"nearness": np.full(20, nearness(TYPICAL))}))
    nearer = rows["nearness"] > nearness(TYPICAL)
    assert 0 < nearer.sum() < 20
    np.testing.assert_array_equal(MAP.probability(rows) > found, nearer)


@pytest.mark.parametrize(
    ("score", "says"),
    [
        (None, "score: wanted an object, found None"),
        ([1], r"score: wanted an object, found \[1\]"),
        ({"weights": WEIGHTS}, "score: wanted the keys intercept, weights, found no intercept"),
        ({"intercept": 0.0}, "score: wanted .*, found no weights"),
        ({"intercept": 0.0, "weights": WEIGHTS, "bias": 1}, "score: wanted only the keys .*, found also bias"),
        ({"intercept": True, "weights": WEIGHTS}, "score.intercept: wanted a number, found True"),
        ({"intercept": "-8", "weights": WEIGHTS}, "score.intercept: wanted a number, found '-8'"),
        ({"intercept": 0.0, "weights": [1, 2, 3]}, "score.weights: wanted an object"),
        (
            {"intercept": 0.0, "weights": {"similarity": 1.0}},
            "score.weights: wanted .*, found no inlier_ratio, no",
        ),
        ({"intercept": 0.0, "weights": {**WEIGHTS, "luck": 1.0}}, "score.weights: wanted only .*, found also luck"),
        (
            {"intercept": 0.0, "weights": {**WEIGHTS, "inlier_weight": None}},
            "score.weights.inlier_weight: wanted a number",
        ),
        ({"intercept": 10**400, "weights": WEIGHTS}, "score.intercept: wanted a number that fits a double"),
        ({"intercept": math.inf, "weights": WEIGHTS}, "wanted finite numbers, found Infinity"),
        ({"intercept": 0.0, "weights": {**WEIGHTS, "inlier_weight": -1}}, "weights of at least 0, found"),
    ],
)
def test_what_the_manifest_may_not_say(folder, score, says):
    write_score(folder, score)
    with pytest.raises(BundleError, match=says) as caught:
        Bundle.load(folder)
    assert str(folder / MANIFEST) in str(caught.value)
    assert "export it again" in str(caught.value)
