"""The judge by features: similarity of crop and render, and the scores made of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from coop_edge.config import EstimatorConfig
from coop_edge.geometry import se3
from coop_edge.runtime.score_map import EVIDENCE, TYPICAL, ScoreMap, nearness
from coop_edge.stages.judge import FeatureJudge
from coop_edge.stages.scoring import Fit, FitJudge, Judged, inlier_scores, measure_fit
from coop_edge.stages.select import select
from tests.stages.chain import Chain

CELL, SIDE = 8, 16
INDEX = np.array([0, 0, 1, 1])


class Means:
    """Features that are plain: the mean colour of each cell. It writes down how many images it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def maps(self, images, *names):
        assert names == ("s8",)
        self.asked.append(len(images))
        n = len(images)
        return [images.reshape(n, 3, SIDE, CELL, SIDE, CELL).mean(axis=(3, 5), dtype=np.float32)]


@pytest.fixture(scope="module")
def case(two):
    """Two hypotheses per object: the truth, and one that is turned; the last one has failed."""
    chain = Chain.of(two)
    truth = np.array([p.T for p in two.placed])[INDEX]
    turn = se3.from_rt(se3.so3_exp(np.array([0.0, 0.6, 0.0])), np.zeros(3))
    T = truth.copy()
    T[1] = truth[1] @ turn
    T[3, 0, 3] = np.nan
    refined = chain.refine(T, INDEX)
    T = np.where(refined.ok[:, None, None], T, np.nan)
    refined = replace(refined, T_camera_object=T, iterations=np.ones(len(T), np.int64))
    assert refined.ok.tolist() == [True, True, True, False]
    return chain, refined


def judge_of(chain, score_map=None):
    return FeatureJudge(chain.maker(), Means(), score_map)


def by_hand(chain, refined):
    """Mean cosine of the best 70 % of the cells that the render covers by a quarter, the means taken off; by loops."""
    out = []
    pairs = chain.maker().make(refined.T_camera_object[:3], INDEX[:3])
    for query, render, depth in zip(pairs.query, pairs.render, pairs.depth, strict=True):
        cells, weights = [[], []], []
        for y in range(0, 128, CELL):
            for x in range(0, 128, CELL):
                weights.append((depth[y : y + CELL, x : x + CELL] > 0).mean())
                for list_, image in zip(cells, (query, render), strict=True):
                    list_.append(image[:, y : y + CELL, x : x + CELL].astype(float).mean(axis=(1, 2)))
        a, b = (np.array(c) - np.average(c, axis=0, weights=weights) for c in cells)
        cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        best = sorted(cosine[np.array(weights) > 0.25])[::-1]
        out.append(float(np.mean(best[: len(best) * 7 // 10])))
    return np.array([*out, 0.0])


FIT = Fit(
    inlier_ratio=np.array([0.9, 0.2, 0.5, 0.7]),
    support=np.array([0.8, 0.6, 0.1, 0.9]),
    n_inliers=np.arange(4),
    rms_px=np.ones(4),
    weight=np.array([30.0, 4.0, 0.0, 9.0]),
)


def test_similarity_is_that_of_crop_and_render(case):
    chain, refined = case
    judge = judge_of(chain)
    found = judge.similarity(refined, INDEX)
    np.testing.assert_allclose(found, by_hand(chain, refined), atol=1e-5)
    assert found[0] > 0.9  # the image at the true pose is a render, but for what is in front
    assert found[0] > found[1] + 0.1
    assert judge.features.asked == [6]  # crops and renders of three poses, in one go
    ranked = judge.rank(refined, INDEX, FIT, None)
    weight = np.log(1 + FIT.weight) / np.log(1 + 32 * 32)
    wanted = np.where(refined.ok, 0.6 * np.clip(found, 0, 1) + 0.4 * weight, 0.0)
    np.testing.assert_allclose(ranked, wanted, rtol=1e-12)


def test_the_score_without_a_map_is_the_documented_product(case):
    chain, refined = case
    alike = np.clip(by_hand(chain, refined), 0, 1)
    wanted = alike * (1 + FIT.inlier_ratio * FIT.support) / 2
    judged = judge_of(chain).score(refined, INDEX, FIT, None)
    np.testing.assert_array_equal(judged.presence, judged.score)
    assert judged.with_depth is None
    found = judged.score
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert found[3] == 0.0
    np.testing.assert_array_equal(judge_of(chain).score(refined, INDEX, FIT, np.full(4, 0.3)).score, found)


def test_the_score_with_a_map_is_its_probability(case):
    chain, refined = case
    weights = {"similarity": 5.0, "inlier_ratio": 2.0, "inlier_weight": 1.0, "outline": 3.0, "nearness": 4.0}
    outline = judge_of(chain).evidence(refined, INDEX, FIT)["outline"]
    logit = -6 + 5 * by_hand(chain, refined) + 2 * FIT.inlier_ratio + np.log(1 + FIT.weight) + 3 * outline
    found = judge_of(chain, ScoreMap(-6.0, weights)).score(refined, INDEX, FIT, None)
    for i, T in enumerate(refined.T_camera_object):
        model = chain.models[INDEX[i]]
        distance = np.linalg.norm(T[:3, :3] @ model.centre + T[:3, 3]) / model.diameter
        for got, near in ((found.score[i], math.log(20 / distance) / math.log(10)), (found.presence[i], 0.5229)):
            wanted = 1 / (1 + np.exp(-logit[i] - 4 * near)) if refined.ok[i] else 0.0
            assert got == pytest.approx(wanted, rel=2e-4)


def test_evidence_has_the_names_of_the_map(case):
    chain, refined = case
    fit = measure_fit(refined, EstimatorConfig().advanced.select)
    found = judge_of(chain).evidence(refined, INDEX, fit)
    assert found["inlier_ratio"] is fit.inlier_ratio
    np.testing.assert_allclose(found["inlier_weight"], np.log(1 + fit.weight))
    larger = judge_of(chain).evidence(replace(refined, crop_size=256), INDEX, replace(fit, weight=4 * fit.weight))
    np.testing.assert_allclose(larger["inlier_weight"], found["inlier_weight"])  # of four times as many cells
    assert found["outline"][0] > 0.7  # at the true pose edges are at the outline, but where something hides it
    assert found["outline"][0] > found["outline"][1] + 0.2
    assert all(values[3] == 0 for values in found.values())
    assert ScoreMap(0.0, dict.fromkeys(found, 1.0)).probability(found).shape == (4,)


def test_measured_depth_ranks_and_scores_what_uses_it(case):
    """The scene's own depth: at the truth the surface agrees; turned, or nearer than what was measured, it does not."""
    chain, refined = case
    width, height = chain.scene.camera.size
    seen, who, _ = chain.scene.depths(np.eye(3), chain.scene.camera.K, (height, width))
    depth = np.where(who >= 0, seen, 2.0).astype(np.float32)
    nearer = refined.T_camera_object.copy()
    nearer[1] = nearer[0]
    nearer[1, :3, 3] *= 0.8
    refined = replace(refined, T_camera_object=nearer)
    weights = dict.fromkeys(EVIDENCE, 2.0) | {"similarity": 5.0, "agreement": 3.0, "clear": 4.0}

    def judge(measured, depth_map=None):
        maker = replace(chain.maker(), measured=measured)
        return FeatureJudge(maker, Means(), ScoreMap(-4.0, dict.fromkeys(EVIDENCE, 1.0)), depth_score_map=depth_map)

    found = judge(depth).evidence(refined, INDEX, FIT)
    assert found["agreement"][0] > 0.7
    assert found["clear"][0] > 0.95
    assert found["agreement"][1] < 0.1
    assert found["clear"][1] < 0.3
    assert found["agreement"][3] == found["clear"][3] == 0
    assert judge(depth).rank(refined, INDEX, FIT, None).argmax() in (0, 2)
    plain = judge(None).score(refined, INDEX, FIT, None).score
    product = plain * found["clear"] * (1 + found["agreement"]) / 2
    np.testing.assert_allclose(judge(depth).score(refined, INDEX, FIT, None).score, product, atol=1e-12)
    logit = -4 + sum(weight * found[name] for name, weight in weights.items())
    wanted = np.where(refined.ok, 1 / (1 + np.exp(-logit)), 0.0)
    scored = judge(depth, ScoreMap(-4.0, weights)).score(refined, INDEX, FIT, None)
    np.testing.assert_allclose(scored.score, wanted, atol=1e-12)
    level = logit + weights["nearness"] * (nearness(TYPICAL) - found["nearness"])
    np.testing.assert_allclose(scored.presence, np.where(refined.ok, 1 / (1 + np.exp(-level)), 0.0), atol=1e-12)
    assert scored.with_depth.tolist() == [True, True, True, False]
    unknown = judge(depth * 0, ScoreMap(-4.0, weights)).score(refined, INDEX, FIT, None)
    np.testing.assert_array_equal(unknown.score, plain)
    assert not unknown.with_depth.any()
    older = {name: weight for name, weight in weights.items() if name != "outline"}
    scored = judge(depth, ScoreMap(-4.0, older)).score(refined, INDEX, FIT, None).score
    wanted = np.where(refined.ok, 1 / (1 + np.exp(weights["outline"] * found["outline"] - logit)), 0.0)
    np.testing.assert_allclose(scored, wanted, atol=1e-12)


@pytest.mark.parametrize("counts", [True, False])
def test_the_outline_is_looked_at_where_a_map_counts_it(case, counts, monkeypatch):
    """Any of the three maps may; to look takes a while."""
    chain, refined = case
    looked = []
    ops = type(chain.maker().ops)
    outlines = ops.outlines
    monkeypatch.setattr(ops, "outlines", lambda *arguments: looked.append(1) or outlines(*arguments))
    weights = dict.fromkeys(EVIDENCE, 1.0) | {"outline": float(counts)}
    older = ScoreMap(0.0, {name: 1.0 for name in EVIDENCE if name != "outline"})
    for maps in ((ScoreMap(0.0, weights), None), (older, ScoreMap(0.0, weights))):
        looked.clear()
        judge = FeatureJudge(chain.maker(), Means(), maps[0], grey_score_map=maps[1])
        judge.score(refined, INDEX, FIT, None)
        judge.rank(refined, INDEX, FIT, None)
        assert len(looked) == counts


def test_a_hypothesis_is_judged_alike_in_any_batch(case):
    chain, refined = case
    whole = judge_of(chain).evidence(refined, INDEX, FIT)
    for i in range(4):
        rows = np.array([i])
        alone = judge_of(chain).evidence(take(refined, rows), INDEX[rows], FIT)
        for name in ("similarity", "outline"):
            assert alone[name] == pytest.approx(whole[name][rows], abs=1e-6)


@pytest.mark.parametrize("rows", [[], [3]])
def test_nothing_to_judge(case, rows):
    chain, refined = case
    rows = np.array(rows, int)
    some, fit = take(refined, rows), Fit(*(getattr(FIT, name)[rows] for name in Fit.__annotations__))
    for map_ in (None, ScoreMap(5.0, dict.fromkeys(EVIDENCE, 1.0))):
        judge = judge_of(chain, map_)
        np.testing.assert_array_equal(judge.score(some, INDEX[rows], fit, None).score, np.zeros(len(rows)))
        np.testing.assert_array_equal(judge.rank(some, INDEX[rows], fit, None), np.zeros(len(rows)))


def test_selection_asks_the_judge(case):
    """Of two poses the one with more presence is chosen, and its score is the estimate's."""
    chain, refined = case

    class Backwards(FitJudge):
        def score(self, refined, object_index, fit, evidence):
            return Judged(np.array([0.4, 0.1, 0.3, 0.0]), np.array([0.4, 0.6, 0.5, 0.0]))

    config = EstimatorConfig.from_dict({"select": {"min_score": 0.0, "min_inlier_ratio": 0.0, "min_inliers": 0}})
    options = config.advanced.select
    chosen = select(refined, INDEX, 2, chain.models, INDEX, config, judge=Backwards(options))
    assert chosen.hypothesis.tolist() == [1, 2]
    assert chosen.scores.tolist() == [0.1, 0.3]
    assert chosen.presence.tolist() == [0.6, 0.5]
    own = select(refined, INDEX, 2, chain.models, INDEX, config)
    fit = measure_fit(refined, options)
    np.testing.assert_array_equal(own.hypothesis_presence, inlier_scores(refined, fit, None, options))
    np.testing.assert_array_equal(own.hypothesis_presence, FitJudge(options).rank(refined, INDEX, fit, None))


def test_what_does_not_look_alike_is_refused(case):
    """Beside a least score; without one nothing is."""
    chain, refined = case

    class Alike(FitJudge):
        def score(self, refined, object_index, fit, evidence):
            score = np.array([0.4, 0.6, 0.5, 0.0])
            return Judged(score, score, np.array([0.49, 0.3, np.nan, 0.0]))

    def reasons(refined, min_score, least):
        advanced = {"select": {"min_appearance": least}}
        options = {"min_score": min_score, "min_inlier_ratio": 0.0, "min_inliers": 0}
        config = EstimatorConfig.from_dict({"select": options, "advanced": advanced})
        judge = Alike(config.advanced.select)
        return select(refined, INDEX, 2, chain.models, INDEX, config, judge=judge).hypothesis_reasons[:3]

    said = "select: render and image do not look alike (similarity 0.30, wanted at least 0.49)"
    assert reasons(refined, 0.1, 0.49) == ("", said, "")
    assert reasons(refined, 0.1, -1.0) == ("", "", "")
    assert reasons(refined, 0.0, 0.49) == ("", "", "")
    assert reasons(replace(refined, iterations=np.zeros(len(refined), np.int64)), 0.1, 0.49) == ("", "", "")


def test_what_fits_in_depth_may_have_other_colours(case):
    """From ``trusted_presence`` on, where depth is part of the judgement."""
    chain, refined = case

    class Alike(FitJudge):
        def score(self, refined, object_index, fit, evidence):
            score = np.array([0.65, 0.65, 0.55, 0.0])
            return Judged(score, score, np.full(4, 0.3), np.array([True, False, True, False]))

    options = {"select": {"min_score": 0.1, "min_inlier_ratio": 0.0, "min_inliers": 0}}
    config = EstimatorConfig.from_dict(options)
    found = select(refined, INDEX, 2, chain.models, INDEX, config, judge=Alike(config.advanced.select))
    assert found.hypothesis_reasons[0] == ""
    assert all("do not look alike" in reason for reason in found.hypothesis_reasons[1:3])


def test_a_model_in_plain_grey_has_a_map_of_its_own_and_no_looks(case):
    chain, refined = case
    maps = (ScoreMap(-2.0, dict.fromkeys(EVIDENCE, 1.0)), ScoreMap(-1.0, dict.fromkeys(EVIDENCE, 0.5)))
    colored = judge_of(chain, maps[0]).score(refined, INDEX, FIT, None)
    other = judge_of(chain, maps[1]).score(refined, INDEX, FIT, None)
    grey = np.array([True, False])  # of the two objects
    found = FeatureJudge(chain.maker(), Means(), maps[0], grey, maps[1]).score(refined, INDEX, FIT, None)
    of = grey[INDEX]
    np.testing.assert_array_equal(found.score, np.where(of, other.score, colored.score))
    np.testing.assert_array_equal(found.presence, np.where(of, other.presence, colored.presence))
    np.testing.assert_array_equal(found.appearance, np.where(of, np.nan, colored.appearance))
    without = FeatureJudge(chain.maker(), Means(), maps[0], grey).score(refined, INDEX, FIT, None)
    np.testing.assert_array_equal(without.score, colored.score)  # no map of their own: the one there is
    np.testing.assert_array_equal(np.isnan(without.appearance), of)


def test_appearance_is_that_of_the_same_cells(case):
    """What differs everywhere alike counts: a render in another light is as similar, and looks less alike."""
    chain, refined = case
    judge = judge_of(chain)
    found = judge.score(refined, INDEX, FIT, None).appearance
    assert found.shape == (4,)
    assert found[3] == 0
    assert found[0] > found[1]
    assert judge.features.asked == [6]  # both from the same maps

    class Tinted(Means):
        def maps(self, images, *names):
            (maps,) = super().maps(images, *names)
            maps = maps.copy()
            maps[len(maps) // 2 :, 0] += 2.0  # the renders
            return [maps]

    tinted = FeatureJudge(chain.maker(), Tinted(), None)
    np.testing.assert_allclose(tinted.similarity(refined, INDEX), judge.similarity(refined, INDEX), atol=1e-5)
    assert (tinted.score(refined, INDEX, FIT, None).appearance[:3] < found[:3] - 0.1).all()


def take(refined, rows):
    """Some of the hypotheses."""
    count = len(refined)
    values = {
        name: value[rows]
        for name, value in vars(refined).items()
        if isinstance(value, np.ndarray) and len(value) == count
    }
    return replace(refined, **values, reasons=tuple(refined.reasons[i] for i in rows))


def test_without_refinement_the_score_is_the_similarity(case):
    chain, refined = case
    coarse = replace(refined, iterations=np.zeros(len(refined), np.int64))
    judge = judge_of(chain, ScoreMap(-9.0, dict.fromkeys(EVIDENCE, 1.0)))
    wanted = np.clip(judge.similarity(coarse, INDEX), 0, 1)
    np.testing.assert_array_equal(judge.score(coarse, INDEX, FIT, None).score, np.where(refined.ok, wanted, 0.0))
