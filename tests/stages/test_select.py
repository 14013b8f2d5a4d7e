"""Scores, rejection, choice."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from coop_edge.config import AdvancedConfig, AdvancedFindConfig, AdvancedSelectConfig, EstimatorConfig, SelectConfig
from coop_edge.geometry import se3
from coop_edge.mesh import Symmetries
from coop_edge.runtime.covariance_map import CovarianceMap
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.refine import OUT_OF_SIGHT, Refined
from coop_edge.stages.rejection import Least
from coop_edge.stages.scoring import Judged, inlier_scores, measure_fit
from coop_edge.stages.select import LOST, one_of_the_same, select
from tests.stages.chain import SIZE, Chain
from tests.stages.oracles import Faults
from tests.stages.scene import Scene, at, reprojection_px

HALF_TURN = se3.so3_exp(np.array([0.0, 0.0, np.pi]))


def thing(symmetries=None, centre=(0.0, 0.0, 0.0)):
    empty = np.zeros((0, 1, 1), np.float32)
    return ObjectModel("thing", np.array(centre), 0.1, symmetries or Symmetries(), empty, empty)


def refined_of(rows, crop_size=SIZE, iterations=1):
    """rows: per hypothesis a dict of residual_px [P], weight [P], agreement [P], or a reason."""
    p = max((len(r["residual_px"]) for r in rows if isinstance(r, dict)), default=4)
    blank = {"residual_px": np.inf, "weight": 0.0, "agreement": 0.0, "visible": 0.0, "silhouette": 0.0}

    def padded(row, name):
        values = row.get(name, np.ones(len(row["residual_px"]))) if isinstance(row, dict) else []
        return np.r_[values, np.full(p - len(values), blank[name])]

    reasons = tuple(r if isinstance(r, str) else "" for r in rows)
    m = len(rows)
    T = np.array([np.full((4, 4), np.nan) if r else at(0, 0, 0.5 + 0.01 * i) for i, r in enumerate(reasons)])
    column = lambda name: np.array([padded(r, name) for r in rows], np.float32).reshape(m, p)  # noqa: E731
    return Refined(
        T.reshape(-1, 4, 4),
        np.where(np.array([r == "" for r in reasons]).reshape(-1, 1, 1), np.eye(6), np.nan),
        reasons,
        np.full(m, iterations),
        np.zeros(m),
        np.full(m, 2.0),
        crop_size,
        column("weight"),
        column("agreement"),
        column("visible").astype(bool),
        column("silhouette").astype(bool),
        column("residual_px"),
    )


def cells(inliers, outliers, weight=0.5, seen=0.9):
    n = inliers + outliers
    return {
        "residual_px": np.r_[np.full(inliers, 1.0), np.full(outliers, 30.0)],
        "weight": np.full(n, weight),
        "agreement": np.full(n, seen),
        "visible": np.full(n, seen > 0),
    }


def choose(refined, detection, count, config=None, **options):
    index = np.zeros(len(refined), int)
    return select(refined, np.array(detection, int), count, [thing()], index, config or EstimatorConfig(), **options)


def test_nothing_to_choose_from():
    assert len(choose(refined_of([]), [], 0)) == 0
    none = choose(refined_of([]), [], 2)
    assert none.reasons == ("no candidate pose", "no candidate pose")
    assert none.hypothesis.tolist() == [-1, -1]
    assert [e.success for e in none.estimates(["a", "b"])] == [False, False]


def test_figures_by_hand():
    row = {
        "residual_px": [0.5, 1.5, 2.5, np.inf],
        "weight": [0.8, 0.4, 0.4, 0.4],
        "agreement": [0.9, 0.4, 0.9, 0.0],
        "visible": [1, 0, 1, 0],
        "silhouette": [1, 1, 1, 0],
    }
    found = measure_fit(refined_of([row, OUT_OF_SIGHT]), AdvancedSelectConfig(inlier_px=2.0))
    np.testing.assert_allclose(found.inlier_ratio, [1.2 / 2.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(found.support, [2.2 / 3, 0.0], rtol=1e-6)
    assert found.n_inliers.tolist() == [1, 0]  # the second cell is hardly seen
    np.testing.assert_allclose(found.rms_px, [0.5 * 2.0, np.nan], rtol=1e-6)  # two image pixels per crop pixel


def test_the_threshold_grows_with_the_crop():
    row = {"residual_px": [3.0, 3.9], "weight": [1.0, 1.0], "agreement": [1.0, 1.0]}
    config = AdvancedSelectConfig(inlier_px=2.0)
    ratios = [measure_fit(refined_of([row], size), config).inlier_ratio[0] for size in (128, 224, 256)]
    assert ratios == [0.0, 0.5, 1.0]


def test_the_score_by_hand():
    rows = [cells(60, 40, seen=0.1), cells(60, 40), cells(60, 40)]
    refined, config = refined_of(rows), AdvancedSelectConfig(full_support=0.25, coarse_weight=0.3)
    found = measure_fit(refined, config)
    got = inlier_scores(refined, found, np.array([1.0, 1.0, 0.2]), config)
    np.testing.assert_allclose(got, [0.24**0.7, 0.6**0.7, 0.6**0.7 * 0.2**0.3], rtol=1e-5)
    np.testing.assert_allclose(inlier_scores(refined, found, None, config), [0.24, 0.6, 0.6], rtol=1e-5)
    np.testing.assert_allclose(
        inlier_scores(refined_of(rows, iterations=0), found, np.array([1.0, 0.5, 0.2]), config), [1.0, 0.5, 0.2]
    )


@pytest.mark.parametrize("field", ["inliers", "seen", "evidence"])
def test_scores_lie_between_0_and_1_and_rise_with_all_evidence(field):
    steps = np.linspace(0, 1, 11)
    values = {"inliers": np.full(11, 0.5), "seen": np.full(11, 0.1), "evidence": np.full(11, 0.5)}
    values[field] = steps
    rows = [
        cells(round(100 * i), round(100 - 100 * i), seen=s)
        for i, s in zip(values["inliers"], values["seen"], strict=True)
    ]
    refined = refined_of(rows)
    options = AdvancedSelectConfig()
    scores = inlier_scores(refined, measure_fit(refined, options), values["evidence"], options)
    assert (scores >= 0).all()
    assert (scores <= 1).all()
    assert (np.diff(scores) >= 0).all()
    assert scores[-1] > scores[1] > scores[0]


def test_the_best_accepted_hypothesis_of_each_detection_wins():
    rows = [cells(50, 50), cells(90, 10), cells(90, 10), "refine: too few inliers", cells(70, 30), cells(10, 90)]
    chosen = choose(refined_of(rows), [0, 0, 0, 1, 1, 2], 3)
    assert chosen.hypothesis.tolist() == [1, 4, 5]  # of equal scores the earlier
    assert chosen.reasons[:2] == ("", "")
    assert chosen.reasons[2].startswith(
        "select: render and image disagree (weighted inlier ratio 0.10, wanted at least 0.15)"
    )
    assert chosen.hypothesis_reasons[3] == "refine: too few inliers"
    np.testing.assert_allclose(chosen.T_camera_object[0, :3, 3], [0, 0, 0.51])
    assert np.isnan(chosen.T_camera_object[2]).all()
    np.testing.assert_allclose(chosen.scores, [0.9, 0.7, 0.1], rtol=1e-5)


@pytest.mark.parametrize(
    ("row", "options", "says"),
    [
        (cells(14, 86), {}, "disagree"),
        (cells(14, 86), {"min_inlier_ratio": 0.1, "min_score": 0.0}, ""),
        (cells(11, 0), {}, "too little of the object matches the image (11 inliers, wanted at least 12)"),
        (cells(11, 0), {"min_inliers": 11}, ""),
        (cells(50, 50), {"min_score": 0.6}, "score 0.500 is below select.min_score = 0.6"),
        (cells(25, 75), {"min_inlier_ratio": 0.1}, "presence 0.250 is below advanced.select.min_presence = 0.27"),
        (cells(25, 75), {"min_inlier_ratio": 0.1, "min_score": 0.0}, ""),
        (cells(50, 50, seen=0.0), {}, "too little of the object matches the image (0 inliers"),
    ],
)
def test_what_disagrees_is_rejected_and_says_why(row, options, says):
    estimate = choose(refined_of([row]), [0], 1, EstimatorConfig(select=SelectConfig(**options))).estimates(["cup"])[0]
    assert estimate.success == (says == "")
    assert says in estimate.reason
    assert (estimate.T_camera_object is None) == (says != "")


@pytest.mark.parametrize(
    ("weight", "least", "says"),
    [
        (
            0.5,
            30.0,
            "lost: select: too little of the object is matched with certainty (inlier weight 25.0, wanted at least 30)",
        ),
        (0.5, 25.0, ""),
        (
            0.2,
            None,
            "lost: select: too little of the object is matched with certainty (inlier weight 10.0, wanted at least 12)",
        ),
        (0.2, 0.0, ""),
    ],
)
def test_tracking_wants_weight_in_absolute_terms_too(weight, least, says):
    """However well the little agrees: in an image of nothing what is left of the weight may agree by chance."""
    options = AdvancedSelectConfig() if least is None else AdvancedSelectConfig(min_weight=least)
    config = EstimatorConfig(advanced=AdvancedConfig(select=options))
    refined = refined_of([cells(50, 0, weight=weight)])
    tracked = choose(refined, [0], 1, config, T_previous=np.eye(4)[None])
    assert tracked.reasons == (says,)
    assert choose(refined, [0], 1, config).reasons == ("",)  # a detection says that something is there


@pytest.mark.parametrize(
    ("min_score", "presence", "weight", "least", "says"),
    [
        (0.1, 0.3, 0.5, 0.6, "select: presence 0.250 is below advanced.find.min_presence = 0.6"),
        (0.1, 0.7, 0.5, 0.6, "select: presence 0.250 is below advanced.select.min_presence = 0.7"),
        (0.0, 0.3, 0.5, 0.6, ""),
        (0.1, 0.3, 0.5, 0.1, "select: presence 0.250 is below advanced.select.min_presence = 0.3"),
        (0.1, 0.2, 0.5, 0.1, ""),
        (0.2, 0.2, 0.5, 0.1, "select: score 0.150 is below select.min_score = 0.2"),
        (0.1, 0.2, 0.2, 0.1, "select: too little of the object is matched with certainty (inlier weight"),
    ],
)
def test_a_pose_found_without_a_box_needs_more(min_score, presence, weight, least, says):
    advanced = AdvancedConfig(
        find=AdvancedFindConfig(min_presence=least), select=AdvancedSelectConfig(min_presence=presence)
    )
    config = EstimatorConfig(select=SelectConfig(min_score=min_score), advanced=advanced)
    refined = refined_of([cells(50, 0, weight=weight)])

    class Quarter:
        def score(self, refined, object_index, fit, evidence):
            return Judged(np.full(len(refined), 0.15), np.full(len(refined), 0.25))

    (reason,) = choose(refined, [0], 1, config, judge=Quarter(), least=Least.found(config)).reasons
    assert reason.startswith(says)
    assert bool(reason) == bool(says)


@pytest.mark.parametrize("tracked", [False, True])
def test_what_is_tiny_in_the_image_is_not_believed(tracked):
    """The crop of side 128 shows the diameter in 128 / 1.2 pixels; 12 of the image's pixels or 6 are stretched so."""
    for share, says in ((12.0, ""), (6.0, "select: the object is too small in the image (6.0 px, wanted at least 8)")):
        refined = dataclasses.replace(refined_of([cells(90, 10)]), image_px=np.array([share * 1.2 / SIZE]))
        chosen = choose(refined, [0], 1, T_previous=np.eye(4)[None] if tracked else None)
        assert chosen.reasons[0].removeprefix("lost: ") == says
    assert choose(refined_of([cells(0, 0)], iterations=0), [0], 1, evidence=np.ones(1)).reasons == ("",)  # unknown


@pytest.mark.parametrize(("size", "wanted"), [(128, 12), (192, 27), (224, 37)])
def test_the_least_number_of_cells_grows_with_the_crops_area(size, wanted):
    """As the number of cells does: the same share of the crop is asked for at any size."""
    chosen = choose(refined_of([cells(wanted - 1, 0), cells(wanted, 0)], size), [0, 1], 2)
    assert chosen.reasons[0] == (
        f"select: too little of the object matches the image ({wanted - 1} inliers, wanted at least {wanted})"
    )
    assert chosen.reasons[1] == ""


def test_an_accepted_hypothesis_wins_against_a_rejected_one_with_a_higher_score():
    chosen = choose(refined_of([cells(11, 0), cells(50, 50)]), [0, 0], 1)
    assert chosen.hypothesis.tolist() == [1]
    assert chosen.hypothesis_presence[0] > chosen.hypothesis_presence[1]


def test_reasons_of_the_coarse_stage_come_first():
    chosen = choose(refined_of(["refine: no pose to start from"]), [0], 1, reasons=["coarse: too few inliers"])
    assert chosen.reasons == ("coarse: too few inliers",)


def test_estimates_carry_everything():
    estimate = choose(refined_of([cells(50, 50)]), [0], 1).estimates(["cup"])[0]
    assert estimate.object == "cup"
    assert estimate.n_inliers == 50
    assert estimate.reprojection_rms_px == pytest.approx(2.0)
    np.testing.assert_array_equal(estimate.covariance, np.eye(6))
    unrefined = choose(refined_of([cells(0, 0)], iterations=0), [0], 1, evidence=np.array([0.7])).estimates(["cup"])[0]
    assert unrefined.success
    assert unrefined.score == pytest.approx(0.7)
    assert unrefined.reprojection_rms_px is None


def test_covariances_have_the_map_of_their_kind():
    """Of two poses the second used depth; without a map for it, it is as solved."""
    refined = dataclasses.replace(refined_of([cells(90, 10), cells(90, 10)]), used_depth=np.array([False, True]))
    chosen = choose(refined, [0, 1], 2)
    one, other = CovarianceMap(2.0), CovarianceMap(3.0)
    for maps, factors in (((one, other), (4.0, 9.0)), ((one, None), (4.0, 1.0)), ((None, None), (1.0, 1.0))):
        found = chosen.with_covariance(*maps).covariance
        np.testing.assert_allclose(found, chosen.covariance * np.array(factors)[:, None, None], rtol=1e-9)


def test_while_tracking_every_failure_is_lost():
    refined = refined_of([cells(10, 90), cells(90, 10), "refine: the object lies outside the image"])
    chosen = choose(refined, [0, 1, 2], 3, T_previous=np.array([np.eye(4)] * 3))
    assert chosen.reasons[0].startswith(f"{LOST}: select: render and image disagree")
    assert chosen.reasons[1:] == ("", f"{LOST}: refine: the object lies outside the image")


def test_a_half_turned_hypothesis_is_rejected(two, cube):
    """Beyond 60 degrees from the truth the network is at a loss, as a real one is; the right hypothesis must win."""
    right, wrong = two.placed[0].T, two.placed[0].T.copy()
    wrong[:3, :3] = right[:3, :3] @ HALF_TURN
    chain = Chain.of(two, faults=Faults(reach=np.radians(60), flow_noise=0.3))
    refined = chain.refine(np.stack([wrong, right]), np.array([0, 0]))
    options = {"evidence": np.array([1.0, 0.5])}  # the flip has the better coarse evidence
    chosen = select(refined, np.array([0, 0]), 1, chain.models, np.array([0, 0]), EstimatorConfig(), **options)
    assert chosen.hypothesis.tolist() == [1]
    assert chosen.hypothesis_reasons[0] != ""
    assert chosen.hypothesis_presence[0] < 0.5 * chosen.hypothesis_presence[1]
    assert reprojection_px(chosen.T_camera_object[0], right, cube, two.camera.K) < 0.5
    alone = chain.refine(wrong[None], np.array([0]))
    chosen = select(alone, np.array([0]), 1, chain.models, np.array([0]), EstimatorConfig())
    assert not chosen.estimates(["cube"])[0].success


def test_of_a_symmetric_object_the_pose_nearest_to_the_previous_one_is_kept():
    quarter = se3.from_rt(se3.so3_exp(np.array([0.0, 0.0, np.pi / 2])), np.zeros(3))
    model = thing(Symmetries((quarter,)))
    previous = at(0.0, 0.0, 0.5, (0.0, 0.0, 2.0))
    for turns in range(4):
        T = at(0.0, 0.01, 0.5, (0.0, 0.0, 2.1 + turns * np.pi / 2))
        got, _ = one_of_the_same(model, T, np.eye(6), previous)
        np.testing.assert_allclose(got, at(0.0, 0.01, 0.5, (0.0, 0.0, 2.1)), atol=1e-9)


def test_without_a_previous_pose_the_choice_is_canonical():
    """All poses that look the same give one and the same answer."""
    turn = se3.from_rt(se3.so3_exp(np.array([np.pi, 0.0, 0.0])), np.zeros(3))
    model = thing(Symmetries((turn,), ((np.array([0.0, 0.0, 1.0]), np.zeros(3)),)))
    T = at(0.1, 0.0, 0.6, (0.4, -0.3, 1.0))
    same = [T @ turn @ at(0, 0, 0, (0, 0, a)) for a in np.linspace(0, 6, 7)] + [T @ at(0, 0, 0, (0, 0, 1.3))]
    got = [one_of_the_same(model, S, np.eye(6), None)[0] for S in [T, *same]]
    for other in got[1:]:
        np.testing.assert_allclose(other, got[0], atol=1e-7)


def test_the_covariance_follows_the_symmetry():
    """The axis passes beside the object's origin, so that the origin moves; checked by finite differences."""
    offset = np.array([0.05, 0.02, 0.0])
    half = se3.from_rt(HALF_TURN, offset - HALF_TURN @ offset)
    T = at(0.1, 0.0, 0.6, (0.4, -0.3, 1.0))
    A = np.random.default_rng(0).normal(size=(6, 6))
    reference = T @ half
    got, covariance = one_of_the_same(thing(Symmetries((half,))), T, A @ A.T, reference)
    np.testing.assert_allclose(got, reference, atol=1e-12)
    step, J = 1e-6, np.zeros((6, 6))
    for k in range(6):
        xi = np.zeros(6)
        xi[k] = step
        moved = se3.from_rt(se3.so3_exp(xi[3:]) @ T[:3, :3], T[:3, 3] + xi[:3]) @ half
        J[:3, k] = (moved[:3, 3] - got[:3, 3]) / step
        J[3:, k] = se3.so3_log(moved[:3, :3] @ got[:3, :3].T) / step
    np.testing.assert_allclose(covariance, J @ A @ A.T @ J.T, atol=1e-6)


def test_an_object_without_symmetries_keeps_its_pose_bit_for_bit():
    T, covariance = at(0.1, 0.0, 0.6, (0.4, -0.3, 1.0)), np.eye(6)
    assert one_of_the_same(thing(), T, covariance, np.eye(4)) == (T, covariance)


def test_a_wrong_object_is_not_found(two, bar):
    """The bar is looked for where only the cube stands."""
    scene = Scene((two.meshes[0], bar), two.placed[:1])
    chain = Chain.of(scene, config=EstimatorConfig())
    refined = chain.refine(np.array([at(-0.08, 0.02, 0.6, (0.1, 0.2, 0.3), bar.centre)]), np.array([1]))
    chosen = select(refined, np.array([0]), 1, chain.models, np.array([1]), EstimatorConfig())
    assert not chosen.estimates(["bar"])[0].success
