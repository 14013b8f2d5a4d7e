"""Which hypotheses go on after the first iteration, and when there is a choice."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from coop_edge.config import AdvancedSelectConfig, CoarseConfig, EstimatorConfig
from coop_edge.stages.refine import OUT_OF_SIGHT
from coop_edge.stages.scoring import FitJudge, Judged, measure_fit
from coop_edge.stages.select import survivors, trusted
from tests.stages.chain import Chain
from tests.stages.scene import at
from tests.stages.test_refine import starts
from tests.stages.test_select import cells, refined_of


def kept(rows, detection, count, evidence=None):
    evidence = np.ones(len(rows)) if evidence is None else np.array(evidence)
    refined, config = refined_of(rows), AdvancedSelectConfig()
    scores = FitJudge(config).rank(refined, np.zeros(len(rows), np.int64), measure_fit(refined, config), evidence)
    return survivors(scores, refined.ok, np.array(detection, np.int64), count).tolist()


def test_none_of_none():
    assert kept([], [], 1) == []


def test_the_best_of_each_detection_in_their_order():
    good, fair, poor = cells(95, 5), cells(60, 40), cells(20, 80)
    rows, detection = [fair, good, poor, poor, fair, fair], [0, 0, 0, 1, 1, 1]
    assert kept(rows, detection, 1) == [1, 4]  # of the two equal ones the earlier
    assert kept(rows, detection, 2) == [0, 1, 4, 5]
    assert kept(rows, detection, 3) == kept(rows, detection, 42) == list(range(6))


def test_detections_may_come_in_any_order():
    good, poor = cells(95, 5), cells(20, 80)
    assert kept([poor, good, good, poor], [1, 0, 1, 0], 1) == [1, 2]


def test_coarse_evidence_counts():
    assert kept([cells(80, 20), cells(80, 20)], [0, 0], 1, evidence=[0.2, 0.9]) == [1]


@pytest.mark.parametrize("count", [1, 2])
def test_failed_ones_go_on_for_want_of_others_alone(count):
    """So that a detection that has nothing else still says why."""
    nothing = cells(0, 100)
    rows = [OUT_OF_SIGHT, nothing, OUT_OF_SIGHT, OUT_OF_SIGHT]
    assert kept(rows, [0, 0, 1, 1], count) == ([1, 2] if count == 1 else [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("hypotheses", "settings", "rows", "batches"),
    [
        (3, [], [1, 4], [6, 2]),
        (3, ["refine.survivors=2"], [0, 1, 3, 4], [6, 4]),
        (3, ["refine.survivors=3"], list(range(6)), [6, 6]),  # nothing to choose: all go on
        (1, [], [0, 1], [2, 2]),
    ],
)
def test_all_hypotheses_are_refined_once_and_the_survivors_go_on(two, hypotheses, settings, rows, batches):
    """Of three starts the middle one is the truth; the others are too far off for the network."""
    config = EstimatorConfig().updated(["refine.iterations=2", "advanced.refine.stop_px=0", *settings])
    chain = Chain.of(two, config=config)
    away = at(0.0, 0.0, 0.0, (0.0, 0.0, np.pi))
    T = np.array([p.T @ turn for p in two.placed for turn in ([away, np.eye(4), away] if hypotheses == 3 else [away])])
    index, detection = np.repeat([0, 1], hypotheses), np.repeat([0, 1], hypotheses)
    left = chain.turns(T, index, config, detection=detection, evidence=np.ones(len(T)))
    assert left.rows.tolist() == rows
    assert len(left.refined) == len(left.aligned) == len(rows)
    assert chain.oracle.refiner.batches == batches


def test_without_detections_every_hypothesis_is_for_itself(two):
    chain = Chain.of(two)
    T, index = starts(two, range(2))
    left = chain.turns(T, index, chain.config)
    assert left.rows.tolist() == [0, 1, 2, 3]
    refined = chain.refine(T, index)
    np.testing.assert_array_equal(left.refined.T_camera_object, refined.T_camera_object)
    assert not left.aligned.any()


def test_what_failed_in_the_first_iteration_says_why_in_the_end(two):
    config = EstimatorConfig(coarse=CoarseConfig(hypotheses=2))
    T, detection = np.array([at(0, 0, -1.0), at(0, 0, -2.0), two.placed[1].T]), np.array([0, 0, 1])
    left = Chain.of(two).turns(T, np.array([0, 0, 1]), config, detection=detection, evidence=np.ones(3))
    assert left.rows.tolist() == [0, 2]
    assert left.refined.reasons == (OUT_OF_SIGHT, "")


def race(two, wrong_first, **options):
    """Of three starts of each object the first is early; it is far off for the objects named, else the truth."""
    config = EstimatorConfig().updated(
        [
            "refine.iterations=2",
            "refine.survivors=2",
            "advanced.refine.stop_px=0",
            "advanced.select.trusted_presence=0.5",
        ]
    )
    chain = Chain.of(two, config=config)
    away, here = at(0.0, 0.0, 0.0, (0.0, 0.0, np.pi)), np.eye(4)
    turns = [(away, away, here) if i in wrong_first else (here, away, away) for i in (0, 1)]
    T = np.array([p.T @ turn for p, each in zip(two.placed, turns, strict=True) for turn in each])
    rivals, early = np.repeat([0, 1], 3), np.tile([True, False, False], 2)
    left = chain.turns(T, rivals, config, detection=rivals, evidence=np.ones(6), early=early, **options)
    return left, chain.oracle.refiner.batches


def test_the_others_are_not_looked_at_where_an_early_one_is_trusted(two):
    left, batches = race(two, wrong_first=())
    assert left.rows.tolist() == [0, 3]
    assert batches == [2, 2]  # both once, and once more


def test_where_no_early_one_is_trusted_the_others_follow_and_it_stays(two):
    left, batches = race(two, wrong_first=(1,))
    assert left.rows.tolist() == [0, 3, 5]
    assert batches == [2, 2, 2, 1]
    assert left.refined.ok.all()


def test_a_detections_poses_do_not_depend_on_whether_others_are_settled(two):
    both, (one, _) = race(two, wrong_first=(0, 1))[0], (race(two, wrong_first=(1,)))
    assert both.rows.tolist() == [0, 2, 3, 5]
    np.testing.assert_array_equal(both.refined.T_camera_object[2:], one.refined.T_camera_object[1:])
    np.testing.assert_array_equal(both.refined.residual_px[2:], one.refined.residual_px[1:])


class Doubt(FitJudge):
    """Ranks as usual, and trusts nothing."""

    def score(self, refined, object_index, fit, evidence):
        return Judged(np.ones(len(refined)), np.full(len(refined), 0.49))


def test_nothing_is_settled_by_a_presence_that_is_too_low(two):
    left, batches = race(two, wrong_first=(), judge=Doubt(AdvancedSelectConfig()))
    assert left.rows.tolist() == [0, 1, 3, 4]  # of equally bad ones the earlier
    assert batches == [2, 2, 4, 2]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ([], [True, True, False, True, False]),
        (["advanced.select.settled_with_depth=0.5"], [True, True, False, True, True]),
        (["advanced.select.trusted_presence=0.95"], [True, False, False, True, False]),
        (["advanced.select.trusted_presence=0.95", "select.min_score=0.97"], [False] * 5),
    ],
)
def test_with_depth_it_takes_more_presence_to_settle_the_matter(settings, wanted):
    measured = np.array([False, False, False, True, True])

    class Sure(FitJudge):
        def score(self, refined, object_index, fit, evidence):
            return Judged(np.full(len(refined), 0.96), np.array([0.96, 0.7, 0.5, 0.96, 0.7]), None, measured)

    config = EstimatorConfig().updated(settings)
    found = trusted(refined_of([cells(50, 0)] * 5), np.zeros(5, np.int64), config, Sure(config.advanced.select))
    assert found.tolist() == wanted


@pytest.mark.parametrize("empty", ["left", "right"])
def test_refined_hypotheses_are_joined_and_taken_apart(empty):
    """Those of which no cells were compared have none that counts."""
    some, none = refined_of([cells(5, 1), OUT_OF_SIGHT]), refined_of([OUT_OF_SIGHT], iterations=0)
    nothing = {
        name: getattr(none, name)[:, :0] for name in ("weight", "agreement", "visible", "silhouette", "residual_px")
    }
    none = replace(none, **nothing)
    whole = none.joined(some) if empty == "left" else some.joined(none)
    rows = [1, 2] if empty == "left" else [0, 1]
    assert len(whole) == 3
    assert [whole.reasons[i] for i in rows] == ["", OUT_OF_SIGHT]
    for a, b in ((whole.take(np.array(rows)), some), (whole, whole.take(np.arange(3)))):
        for f in fields(a):
            np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name))
    (other,) = set(range(3)) - set(rows)
    assert not whole.weight[other].any()
    assert not whole.silhouette[other].any()
