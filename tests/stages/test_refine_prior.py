"""Refinement's prior: about the pose it started from, in each crop's camera, however often it looks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from coop_edge import ConfigError, PoseEstimate
from coop_edge.config import (
    AdvancedConfig,
    AdvancedRefineConfig,
    CoarseConfig,
    EstimatorConfig,
    OutlineConfig,
    RefineConfig,
)
from coop_edge.geometry import se3
from coop_edge.pnp.base import PnpStatus
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.stages import turns
from coop_edge.stages.flow import correspondences
from coop_edge.stages.prior import lm_weights, pose_prior
from tests.estimators import knowing
from tests.stages.chain import Chain
from tests.stages.oracles import Faults
from tests.stages.test_refine import errors_px, starts

OFF = {"prior_sideways": 0, "prior_depth": 0, "prior_rotation": 0}


class Listening(CpuPnpSolver):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self.asked = []

    def weighted_lm(self, *arguments, prior=None, depths=None):
        self.asked.append((arguments, prior))
        return super().weighted_lm(*arguments, prior=prior, depths=depths)


def listening(scene, faults=None, iterations=5, **options):
    """options: of ``advanced.refine``."""
    advanced = AdvancedConfig(refine=AdvancedRefineConfig(stop_px=0.0, **options))
    config = EstimatorConfig(refine=RefineConfig(iterations=iterations), advanced=advanced)
    chain = Chain.of(scene, faults=faults, config=config)
    chain.solver = Listening()
    return chain


def sigmas(prior):
    """Standard deviations [M,6] of a prior whose components are independent."""
    diagonal = np.diagonal(prior.information, axis1=1, axis2=2)
    np.testing.assert_array_equal(prior.information, diagonal[:, :, None] * np.eye(6))
    with np.errstate(divide="ignore"):
        return diagonal**-0.5


@pytest.mark.parametrize("n", [0, 3])
def test_widths_are_shares_of_the_diameter_along_the_cameras_axes(n):
    config = AdvancedRefineConfig(prior_sideways=0.1, prior_depth=0.3, prior_rotation=0.4)
    T, centre, diameter = np.tile(np.eye(4), (n, 1, 1)), np.ones((n, 3)), np.arange(1.0, n + 1)
    prior = pose_prior(config, T, centre, diameter)
    sigma = sigmas(prior)
    assert sigma.shape == (n, 6)
    np.testing.assert_allclose(sigma[:, :3], diameter[:, None] * [[0.1, 0.1, 0.3]])
    np.testing.assert_allclose(sigma[:, 3:], 0.4)
    np.testing.assert_array_equal(prior.centre, centre)


@pytest.mark.parametrize("name", OFF)
def test_zero_leaves_an_axis_free_and_all_zeros_the_pose(name):
    one = np.eye(4)[None], np.zeros((1, 3)), np.ones(1)
    sigma = sigmas(pose_prior(AdvancedRefineConfig(**{name: 0}), *one))[0]
    free = {"prior_sideways": [0, 1], "prior_depth": [2], "prior_rotation": [3, 4, 5]}[name]
    assert np.flatnonzero(np.isinf(sigma)).tolist() == free
    assert pose_prior(AdvancedRefineConfig(**OFF), *one) is None


def test_weights_are_the_confidence_without_a_prior_and_inverse_deviations_with_one(two):
    chain = Chain.of(two)
    pairs = chain.maker().make(two.placed[0].T[None], np.array([0]))
    points, cells = pairs.cells(4)
    rng = np.random.default_rng(0)
    outputs = {
        n: rng.uniform(0.3, 1.0, (1, 1, 32, 32)).astype(np.float32) for n in ("scale", "certainty", "sensitivity")
    }
    outputs["flow"] = np.zeros((1, 2, 32, 32), np.float32)
    found = correspondences(pairs, outputs, points, cells, 2.0)
    on = found.silhouette[0]
    wanted = (outputs["certainty"] * outputs["sensitivity"] / outputs["scale"]).reshape(-1)
    np.testing.assert_allclose(found.precision[0, on], wanted[on], rtol=1e-6)
    assert (found.precision[0, ~on] == 0).all()
    weighed = lm_weights(AdvancedRefineConfig(prior_information=0.25), found.weight, found.precision)
    assert weighed.dtype == np.float32
    np.testing.assert_allclose(weighed, 0.5 * found.precision, rtol=1e-6)
    assert lm_weights(AdvancedRefineConfig(**OFF), found.weight, found.precision) is found.weight


def test_every_iteration_is_anchored_at_the_first_start(two):
    """Crops turn and poses move; the anchor, seen by each crop's camera, is the start all the same."""
    chain = listening(two, iterations=3)
    T, index = starts(two, [0])
    chain.refine(T, index)
    assert len(chain.solver.asked) == 3
    centre = np.array([two.meshes[i].centre for i in index])
    diameter = np.array([two.meshes[i].diameter for i in index])
    for (_, _, _, _, T_crop, _), prior in chain.solver.asked:
        np.testing.assert_allclose(prior.centre, centre)
        np.testing.assert_allclose(sigmas(prior)[:, 2], chain.config.advanced.refine.prior_depth * diameter)
        # A crop's camera turns about the real one's centre: what it turns by is the same for start and pose.
        at_anchor, at_pose = (
            np.linalg.norm((P[:, :3, :3] @ centre[..., None])[..., 0] + P[:, :3, 3], axis=1)
            for P in (prior.T_anchor, T_crop)
        )
        np.testing.assert_allclose(
            at_anchor, np.linalg.norm((T[:, :3, :3] @ centre[..., None])[..., 0] + T[:, :3, 3], axis=1), rtol=1e-12
        )
        assert np.abs(at_pose - at_anchor).max() < 1.0
    first, last = chain.solver.asked[0], chain.solver.asked[-1]
    np.testing.assert_array_equal(first[1].T_anchor, first[0][4])  # the first one starts from the anchor
    assert np.abs(last[1].T_anchor - last[0][4]).max() > 1e-3  # the last one does not
    # Between two crops the anchor changes by the cameras' rotation alone.
    turn = last[1].T_anchor @ se3.invert(first[1].T_anchor)
    np.testing.assert_allclose(turn[:, :3, 3], 0, atol=1e-12)


def test_an_anchor_of_ones_own_holds_instead_of_the_start(two):
    """A prior too narrow to leave: the result is the anchor, whatever the start."""
    narrow = {"prior_sideways": 1e-6, "prior_depth": 1e-6, "prior_rotation": 1e-6}
    chain = listening(two, iterations=2, **narrow)
    T, index = starts(two, [0])
    anchor, _ = starts(two, [1])
    for given, wanted in ((None, T), (anchor, anchor)):
        refined = chain.refine(T, index, given)
        np.testing.assert_allclose(refined.T_camera_object, wanted, atol=1e-4)


def test_off_is_as_it_was(two):
    chain = listening(two, iterations=1, **OFF)
    T, index = starts(two, [0])
    refined = chain.refine(T, index)
    (arguments, prior), *_ = chain.solver.asked
    assert prior is None
    np.testing.assert_array_equal(arguments[2], refined.weight)


def test_weak_evidence_does_not_carry_a_pose_away_and_strong_evidence_is_not_held_back(two):
    seeds = range(4)
    T, index = starts(two, seeds)
    noise = Faults(flow_noise=6.0, certainty=0.51)
    shaken = {
        name: errors_px(two, listening(two, noise, **options).refine(T, index).T_camera_object, seeds)
        for name, options in (("off", OFF), ("on", {"prior_information": 1e-5}))
    }
    start = errors_px(two, T, seeds)
    assert (shaken["on"] < 1.2 * start).all()
    exact = listening(two).refine(T, index)
    assert errors_px(two, exact.T_camera_object, seeds).max() < 0.1


def test_a_prior_alone_is_no_refinement(two):
    """Nothing visible: the solver would return the start as solved; the stage does not take that for a pose."""
    chain = listening(two, Faults(certainty=0.0))
    T = two.placed[0].T[None]
    assert chain.refine(T, np.array([0])).reasons == (f"refine: {PnpStatus.TOO_FEW_POINTS.reason}",)
    (arguments, prior), *_ = chain.solver.asked
    solved = CpuPnpSolver(1).weighted_lm(*arguments, prior=prior)
    assert solved.statistics.status.tolist() == [PnpStatus.SOLVED]


def test_a_blind_hypothesis_leaves_no_residuals(two):
    chain = listening(two, Faults(certainty=0.0), iterations=1)
    refined = chain.refine(two.placed[0].T[None], np.array([0]))
    assert np.isnan(refined.T_camera_object).all()
    assert np.isnan(refined.covariance).all()
    assert np.isinf(refined.residual_px).all()


@pytest.fixture
def anchors(monkeypatch):
    """Calls of ``refine`` by the estimator: starts and anchors."""
    seen = []
    real = turns.refine

    def refine(maker, T, index, **options):
        seen.append((np.array(T), options["T_anchor"]))
        return real(maker, T, index, **options)

    monkeypatch.setattr(turns, "refine", refine)
    return seen


@pytest.mark.parametrize("survivors", [1, 4])
def test_the_estimator_anchors_at_the_coarse_pose_also_after_the_choice_of_survivors(two, tmp_path, anchors, survivors):
    config = EstimatorConfig(
        coarse=CoarseConfig(hypotheses=3), refine=RefineConfig(survivors=survivors), outline=OutlineConfig(rounds=1)
    )
    with knowing(tmp_path, two, config=config) as (estimator, _):
        anchors.clear()
        results = estimator.estimate(two.image, two.camera, two.detections())
        assert all(result.success for result in results)
    coarse = anchors[0][0]
    start, anchor = anchors[-1]
    assert len(anchors) == (2 if survivors == 1 else 1)
    for T in anchor:
        assert (np.abs(coarse - T).max(axis=(1, 2)) == 0).any()  # one of the coarse poses, to the bit
    if survivors == 1:
        assert np.abs(start - anchor).max() > 1e-6


def test_tracking_anchors_at_the_pose_before(two, tmp_path, anchors):
    with knowing(tmp_path, two) as (estimator, _):
        anchors.clear()
        before = [
            PoseEstimate(True, T_camera_object=p.T @ se3.exp([0.002, 0, 0, 0, 0, 0.02]), object=two.meshes[p.mesh].name)
            for p in two.placed
        ]
        estimator.track(two.image, two.camera, before)
    ((start, anchor),) = anchors
    np.testing.assert_array_equal(anchor, start)
    np.testing.assert_array_equal(start, [estimate.T_camera_object for estimate in before])


def test_depth_is_held_while_tracking_and_hardly_from_a_box():
    config = EstimatorConfig().updated(["advanced.track.prior_depth=0.3", "advanced.refine.prior_sideways=0.2"])
    held = turns.tracking(config).advanced.refine
    assert (held.prior_depth, held.prior_sideways) == (0.3, 0.2)
    assert config.advanced.refine.prior_depth > 1.0  # a box may be that of half an object


def test_the_options_are_checked():
    for name in OFF:
        for wrong in (-0.1, float("nan"), float("inf"), 1e-9, True, "wide"):
            with pytest.raises(ConfigError, match=rf"AdvancedRefineConfig.{name} = .*: wanted 0 \(off\) or a number"):
                AdvancedRefineConfig(**{name: wrong})
    with pytest.raises(ConfigError, match="prior_information = 0"):
        AdvancedRefineConfig(prior_information=0)
    assert dataclasses.replace(AdvancedRefineConfig(), **OFF).to_dict()["prior_depth"] == 0
