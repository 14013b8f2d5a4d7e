"""The prior in evaluation: the run time's, about the start pose, in whatever camera a pair is seen by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from coop_edge.config import AdvancedConfig, AdvancedRefineConfig, EstimatorConfig, OutlineConfig
from coop_edge.geometry import se3
from coop_edge.stages import comparison, turns
from coop_edge.stages.prior import pose_prior
from export.data.rerender import centres_of, rerender
from export.data.stream import make_stream
from export.train import evaluate_refiner as refiner
from export.train.poses import RerenderedPairs
from export.train.task import EVALUATION_SEED
from tests.export.train.knowing import put_out, small_refiner, walk

CPU = torch.device("cpu")


def with_prior(**options):
    """The estimator's options, with some of ``advanced.refine``."""
    return EstimatorConfig(advanced=AdvancedConfig(refine=AdvancedRefineConfig(**options)))


OFF = with_prior(prior_sideways=0, prior_depth=0, prior_rotation=0)


@pytest.fixture(scope="module")
def pairs():
    options = {"seed": EVALUATION_SEED, "split": "heldout", "keep_scenes": True}
    with make_stream("refiner", 64, batch_size=4, workers=0, **options) as stream:
        return next(stream)


@pytest.fixture
def net():
    return small_refiner()


def test_an_anchor_is_carried_into_the_camera_of_the_next_crop(pairs):
    batch, records = pairs
    moved = batch.T_init.copy()
    moved[:, :3, 3] += (0.02, -0.01, 0.05)
    again = rerender(batch, records, moved)
    assert np.abs(again.T_true - batch.T_true).max() > 1e-3  # it is another camera
    made = RerenderedPairs(batch, records).make(moved, np.arange(len(moved)))
    # What the crop was aimed by is the pose it starts from, in its own camera.
    np.testing.assert_allclose(made.crop.to_crop(moved), again.T_init, atol=1e-9)
    np.testing.assert_array_equal(made.T_crop_object, again.T_init)
    np.testing.assert_allclose(made.crop.to_crop(batch.T_true), again.T_true, atol=1e-9)
    anchor = made.crop.to_crop(batch.T_init)
    apart = [se3.invert(T) @ true for T, true in ((batch.T_init, batch.T_true), (anchor, again.T_true))]
    np.testing.assert_allclose(*apart, atol=1e-9)
    np.testing.assert_allclose(made.crop.to_camera(anchor), batch.T_init, atol=1e-12)


def test_what_is_in_sight_is_what_the_estimator_says(pairs):
    """Up to 79 degrees off the axis; and what is in sight can be rendered."""
    batch, records = pairs
    maker, n = RerenderedPairs(batch, records), len(pairs[0].query)
    index = np.arange(n)
    assert maker.in_sight(batch.T_init, index).all()
    aside = batch.T_init.copy()
    aside[:, 0, 3] += 1.5 * aside[:, 2, 3]
    assert maker.in_sight(aside, index).all()
    assert (maker.make(aside, index).depth > 0).any(axis=(1, 2)).all()
    for T in (-np.ones((n, 4, 4)), np.full((n, 4, 4), np.nan), batch.T_init @ np.diag([2.0, 2.0, 2.0, 1.0])):
        assert not maker.in_sight(np.where(np.arange(n)[:, None, None] == 1, T, batch.T_init), index)[1]
    away = batch.T_init.copy()
    away[:, 0, 3] += 100 * away[:, 2, 3]
    assert not maker.in_sight(away, index).any()
    nothing = maker.make(batch.T_init[:0], index[:0])
    assert len(nothing) == len(nothing.query) == 0


def test_the_prior_stops_a_walk_that_goes_on_without_it(pairs, net, monkeypatch):
    """Weak evidence that says the same at every pose: anchored, five iterations go hardly farther than one."""
    centre = centres_of(pairs[1])
    gone = []

    def from_the_truth(current, T):
        """Where the centre would be at the true pose, object's frame: the same in all cameras."""
        gone.append(se3.transform(se3.invert(current.T_true) @ T, centre[:, None])[:, 0])
        return np.zeros(len(T))

    put_out(monkeypatch, net, walk(0.5))
    monkeypatch.setattr(refiner, "pose_error", from_the_truth)
    for config in (OFF, with_prior(prior_information=1e-4)):
        refiner.evaluate_refiner(net, [pairs], CPU, config)
    # Before, after one iteration and after five, and in turns with the outline.
    free, held = ([np.linalg.norm(T - way[0], axis=1) for T in way] for way in (gone[:4], gone[4:]))
    assert (free[2] > 3 * free[1]).all()
    # With s the share of the evidence in the information: s, s + s^2, ... of a step, where it is 1, 2, ... without.
    assert (held[2] < 1.5 * held[1]).all()
    assert (held[2] < 0.2 * free[2]).all()


def test_a_network_that_sees_nothing_more_leaves_the_pose_it_has_got_to(pairs, net, monkeypatch):
    """The estimator gives such a pose up; the prior alone would take it back to the start."""
    calls = []

    def answer(query, render):
        calls.append(len(query))
        return walk(1.0 if len(calls) <= 2 else 0.0)(query, render)

    put_out(monkeypatch, net, answer)
    figures = refiner.evaluate_refiner(net, [pairs], CPU)
    assert calls == [4] * 4  # the figures of the flow, one iteration, the second one, and the first one of the turns
    assert abs(figures["error_after_1"] - figures["error_before"]) > 1e-3
    for name in ("error_after_5", "error_aligned"):
        assert figures[name] == pytest.approx(figures["error_after_1"], rel=1e-9)
    assert figures["aligned"] == 0


def test_the_outline_stage_is_told_the_covariances_of_its_poses(pairs, net, monkeypatch):
    made, told = [], []
    refined, aligned = turns.refine, turns.align

    def noting(*given, **parts):
        made.append(refined(*given, **parts))
        return made[-1]

    def listening(maker, T, index, *, covariance, **parts):
        told.append((T, covariance))
        return aligned(maker, T, index, covariance=covariance, **parts)

    monkeypatch.setattr(turns, "refine", noting)
    monkeypatch.setattr(turns, "align", listening)
    put_out(monkeypatch, net, walk(1.0))
    refiner.evaluate_refiner(net, [pairs], CPU)
    assert len(told) == len(made) == len(OutlineConfig().turns(refiner.ITERATIONS))
    for turn, ((T, covariance), of) in enumerate(zip(told, made, strict=True)):
        assert of.ok.any()
        np.testing.assert_array_equal(T, of.T_camera_object)
        np.testing.assert_array_equal(covariance, of.covariance / (1.0 if turn == 0 else turns.SURER))
        assert np.isfinite(covariance[of.ok]).all()


def test_defaults_are_those_of_the_estimator(pairs, net, monkeypatch):
    asked = []

    def asking(config, T_anchor, centre, diameter):
        asked.append(config)
        return pose_prior(config, T_anchor, centre, diameter)

    monkeypatch.setattr(comparison, "pose_prior", asking)
    figures = refiner.evaluate_refiner(net, [pairs], CPU)
    assert set(asked) == {replace(EstimatorConfig().advanced.refine, joint_iterations=1)}
    assert figures == refiner.evaluate_refiner(net, [pairs], CPU, EstimatorConfig())
    assert figures["error_after_5"] != refiner.evaluate_refiner(net, [pairs], CPU, OFF)["error_after_5"]
