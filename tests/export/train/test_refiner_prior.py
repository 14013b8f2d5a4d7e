"""The prior in evaluation: the run time's, about the start pose, in whatever camera a pair is seen by."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coop_edge.config import OutlineConfig, RefineConfig
from coop_edge.geometry import se3
from coop_edge.stages.prior import pose_prior
from export.data.rerender import centres_of, rerender
from export.data.stream import make_stream
from export.networks import CONFIGS, build
from export.train import evaluate_refiner as refiner
from export.train import poses
from export.train.task import EVALUATION_SEED
from tests.export.small_nets import NET

CPU = torch.device("cpu")
OFF = {"prior_sideways": 0, "prior_depth": 0, "prior_rotation": 0}


LATER = sum(OutlineConfig().turns(refiner.ITERATIONS)[1:])
"""Iterations after the first turn of alignment: they are done twice, without it and with it."""


@pytest.fixture(scope="module")
def pairs():
    options = {"seed": EVALUATION_SEED, "split": "heldout", "keep_scenes": True}
    with make_stream("refiner", 64, batch_size=4, workers=0, **options) as stream:
        return next(stream)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return build(CONFIGS["refiner"].from_dict({**NET["refiner"], "radius_px": 2.0})).eval()


def walking(net, certainty):
    """A network that sees every pair a few pixels off to the right, however often it is moved there."""

    def predict(_, batch, device):
        n, s = len(batch.query), batch.query.shape[1] // net.config.stride
        flow = np.zeros((n, 2, s, s))
        flow[:, 0] = 3.0
        even = np.full((n, 1, s, s), certainty)
        return {
            "flow": flow,
            "scale": np.ones_like(even),
            "certainty": even,
            "sensitivity": np.ones_like(even),
            "confidence": even,
        }

    return predict


def test_an_anchor_is_carried_into_the_camera_of_the_next_crop(pairs):
    batch, scenes = pairs
    moved = batch.T_init.copy()
    moved[:, :3, 3] += (0.02, -0.01, 0.05)
    again = rerender(batch, scenes, moved)
    assert np.abs(again.T_true - batch.T_true).max() > 1e-3  # it is another camera
    anchor = refiner.in_camera_of(again, batch, batch.T_init)
    # What the crop was aimed by is the pose it starts from, in its own camera.
    np.testing.assert_allclose(refiner.in_camera_of(again, batch, moved), again.T_init, atol=1e-9)
    apart = [se3.invert(T) @ true for T, true in ((batch.T_init, batch.T_true), (anchor, again.T_true))]
    np.testing.assert_allclose(*apart, atol=1e-12)
    np.testing.assert_allclose(refiner.in_camera_of(batch, again, anchor), batch.T_init, atol=1e-12)


def test_the_prior_stops_a_walk_that_goes_on_without_it(pairs, net, monkeypatch):
    """Weak evidence that says the same at every pose: anchored, five iterations go hardly farther than one."""
    centre = centres_of(pairs[1])
    gone = []

    def from_the_truth(current, T):
        """Where the centre would be at the true pose, object's frame: the same in all cameras."""
        gone.append(se3.transform(se3.invert(current.T_true) @ T, centre[:, None])[:, 0])
        return np.zeros(len(T))

    monkeypatch.setattr(refiner, "_predict", walking(net, 0.5))
    monkeypatch.setattr(refiner, "pose_error", from_the_truth)
    for config in (RefineConfig(**OFF), RefineConfig(prior_information=1e-4)):
        refiner.evaluate_refiner(net, [pairs], CPU, config)
    steps = refiner.ITERATIONS + 2  # before, after each, and aligned with the outline
    free, held = ([np.linalg.norm(T - way[0], axis=1) for T in way] for way in (gone[:steps], gone[steps:]))
    assert (free[5] > 3 * free[1]).all()
    # With s the share of the evidence in the information: s, s + s^2, ... of a step, where it is 1, 2, ... without.
    assert (held[5] < 1.5 * held[1]).all()
    assert (held[5] < 0.2 * free[5]).all()


def test_a_network_that_sees_nothing_more_leaves_the_pose_it_has_got_to(pairs, net, monkeypatch):
    """The estimator gives such a pose up; the prior alone would take it back to the start."""
    calls = []

    def predict(net, batch, device):
        calls.append(batch)
        return walking(net, 1.0 if len(calls) == 1 else 0.0)(net, batch, device)

    monkeypatch.setattr(refiner, "_predict", predict)
    figures = refiner.evaluate_refiner(net, [pairs], CPU)
    assert len(calls) == refiner.ITERATIONS + LATER
    assert abs(figures["error_after_1"] - figures["error_before"]) > 1e-3
    assert figures["error_after_5"] == pytest.approx(figures["error_after_1"], rel=1e-9)


def test_the_outline_stage_is_told_the_covariances_of_its_poses(pairs, net, monkeypatch):
    made, told = [], []
    refined, aligned = refiner.refined_step, refiner.aligned_poses

    def noting(*given):
        made.append(refined(*given))
        return made[-1]

    def listening(batch, scenes, T, **named):
        told.append((T, named["covariance"]))
        return aligned(batch, scenes, T, **named)

    monkeypatch.setattr(refiner, "refined_step", noting)
    monkeypatch.setattr(refiner, "aligned_poses", listening)
    monkeypatch.setattr(refiner, "_predict", walking(net, 1.0))
    refiner.evaluate_refiner(net, [pairs], CPU)
    assert len(told) == len(OutlineConfig().turns(refiner.ITERATIONS))
    for T, covariance in told:
        (of,) = [step for step in made if step[2] is covariance]
        assert of[1].any()
        np.testing.assert_array_equal(T[of[1]], of[0][of[1]])
        assert np.isfinite(covariance[of[1]]).all()


def test_defaults_are_those_of_the_estimator(pairs, net, monkeypatch):
    asked = []

    def asking(config, T_anchor, centre, diameter):
        asked.append(config)
        return pose_prior(config, T_anchor, centre, diameter)

    monkeypatch.setattr(poses, "pose_prior", asking)
    figures = refiner.evaluate_refiner(net, [pairs], CPU)
    assert asked == [RefineConfig()] * (refiner.ITERATIONS + LATER)
    assert figures == refiner.evaluate_refiner(net, [pairs], CPU, RefineConfig())
    assert figures["error_after_5"] != refiner.evaluate_refiner(net, [pairs], CPU, RefineConfig(**OFF))["error_after_5"]
