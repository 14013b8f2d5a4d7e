"""The comparison of poses, against answers known by hand."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest

from coop_edge.config import EstimatorConfig
from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.pnp.base import PnpStatus
from coop_edge.stages.comparison import refine_step
from export.data.stream import make_stream
from export.networks.refiner import cell_pixels
from export.train.poses import SOLVER, pairs_of
from export.verify.poses import (
    CentredBatch,
    Poses,
    compare_poses,
    matched_poses,
    model_points,
    pose_shift,
    refined_poses,
)
from tests.export.small_bundles import SIZE
from tests.export.small_nets import refiner_batch


def test_the_shift_of_a_pose_is_the_mean_over_the_points():
    rng = np.random.default_rng(0)
    K = np.array([[400.0, 3.0, 31.5], [0.0, 390.0, 32.0], [0.0, 0.0, 1.0]])
    points = rng.uniform(-0.1, 0.1, (2, 50, 3))
    T_a = np.stack([se3.from_rt(se3.so3_exp(rng.normal(size=3)), [0.01, 0.02, 0.9]) for _ in range(2)])
    T_b = T_a.copy()
    T_b[:, :3, :3] = se3.so3_exp(np.array([0.0, 0.02, 0.01])) @ T_a[:, :3, :3]
    T_b[:, :3, 3] += 0.003
    pixels, metres = pose_shift(T_a, T_b, np.stack([K, K]), points)
    for i in range(2):
        a, b = se3.transform(T_a[i], points[i]), se3.transform(T_b[i], points[i])
        assert metres[i] == pytest.approx(np.linalg.norm(a - b, axis=1).mean())
        assert pixels[i] == pytest.approx(np.linalg.norm(project(K, a) - project(K, b), axis=1).mean())


def test_a_shift_is_infinite_behind_the_camera_and_without_a_pose():
    points, K = np.zeros((3, 5, 3)), np.broadcast_to(np.eye(3), (3, 3, 3))
    T_a = np.stack([se3.from_rt(np.eye(3), [0, 0, 1.0])] * 3)
    T_b = T_a.copy()
    T_b[1, 2, 3], T_b[2] = -1.0, np.nan
    pixels, metres = pose_shift(T_a, T_b, K, points)
    np.testing.assert_array_equal(pixels, [0, np.inf, np.inf])
    np.testing.assert_array_equal(metres, [0, 2, np.inf])
    assert pose_shift(T_a[:0], T_b[:0], K[:0], points[:0])[0].shape == (0,)


def sheets(n):
    """Pairs of a sheet that fills the image, and what a refiner would put out that is sure of their true flow."""
    batch = refiner_batch(np.random.default_rng(0), n, SIZE)
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    cells = cell_pixels(4)
    flow = batch.flow[:, :, cells, cells].copy()
    ones = np.ones_like(flow[:, :1])
    outputs = {"flow": flow, "scale": 1e-3 * ones, "certainty": ones.copy(), "sensitivity": ones}
    return CentredBatch(**values, centre=np.zeros((n, 3))), outputs


def step(batch, outputs, config):
    """One step of the refinement from the pairs' start."""
    pairs = pairs_of(batch, batch.centre)
    return refine_step(pairs, *pairs.cells(4), outputs, batch.T_init, solver=SOLVER, config=config, radius_px=2.0)


@pytest.mark.parametrize("n", [0, 3])
def test_true_flow_gives_the_true_pose(n):
    batch, outputs = sheets(n)
    poses = refined_poses(batch, outputs, stride=4, radius_px=2.0)
    assert poses.solved.shape == (n,)
    assert poses.solved.all()
    np.testing.assert_allclose(poses.T, batch.T_true, atol=1e-4)


def test_cells_without_confidence_take_no_part():
    batch, outputs = sheets(2)
    outputs["flow"][:, :, :5], outputs["certainty"][:, :, :5] = 50.0, 0.0
    np.testing.assert_allclose(refined_poses(batch, outputs, stride=4, radius_px=2.0).T, batch.T_true, atol=1e-4)


def test_weak_evidence_is_held_at_the_start_as_the_estimator_holds_it():
    """What an untrained network says does not carry a pose away, nor do the engines' last digits."""
    batch, outputs = sheets(3)
    outputs["certainty"] *= 1e-9
    poses = refined_poses(batch, outputs, stride=4, radius_px=2.0)
    assert poses.solved.all()
    np.testing.assert_allclose(poses.T, batch.T_init, atol=1e-4)
    free = EstimatorConfig().updated(f"advanced.refine.prior_{axis}=0" for axis in ("sideways", "depth", "rotation"))
    found = step(batch, outputs, free)
    assert (found.status == PnpStatus.SOLVED).all()
    np.testing.assert_allclose(found.T_crop_object, batch.T_true, atol=1e-4)


@pytest.mark.parametrize(("cells", "solved"), [(0, False), (2, False), (3, True)])
def test_a_pair_without_weighted_cells_has_no_pose_as_at_run_time(cells, solved):
    """The prior alone would solve it, at the start."""
    batch, outputs = sheets(2)
    outputs["certainty"][0] = 0.0
    outputs["certainty"][0, 0, 3, [1, 5, 9][:cells]] = 1.0
    poses = refined_poses(batch, outputs, stride=4, radius_px=2.0)
    assert poses.solved.tolist() == [solved, True]
    assert np.isnan(poses.T[0]).all() == (not solved)
    found = step(batch, outputs, EstimatorConfig())
    assert found.status.tolist() == [PnpStatus.SOLVED if solved else PnpStatus.TOO_FEW_POINTS, PnpStatus.SOLVED]
    assert np.isfinite(found.covariance[found.status == PnpStatus.SOLVED]).all()
    assert np.isnan(found.T_camera_object).all(axis=(1, 2)).tolist() == [not solved, False]
    np.testing.assert_allclose(poses.T[1], batch.T_true[1], atol=1e-4)


@pytest.fixture(scope="module")
def coarse_batch():
    with make_stream("coarse", 128, batch_size=4, workers=0, seed=5, split="heldout", hardness=0.0) as stream:
        return next(stream)


def test_true_matches_give_the_true_pose_and_too_few_none(coarse_batch):
    patches = coarse_batch.match_index.shape[1]
    matched = coarse_batch.match_index < patches
    assert (matched.sum(axis=1) >= 12).any()
    outputs = {
        "probability": matched.astype(np.float32),
        "index": np.where(matched, coarse_batch.match_index, 0).astype(np.int32),
        "offset": coarse_batch.offset,
    }
    poses = matched_poses(coarse_batch, outputs)
    enough = matched.sum(axis=1) >= 12
    assert poses.solved[enough].all()
    reference = Poses(coarse_batch.T_query, enough)
    found = compare_poses("engine", "coarse", coarse_batch, reference, poses)
    assert (found.solved, found.right, found.lost) == (enough.sum(), enough.sum(), 0)
    assert found.median_diameters < 0.05, "points are looked up at whole pixels"
    few = {**outputs, "probability": outputs["probability"] * (np.cumsum(matched, axis=1) <= 5)}
    assert not matched_poses(coarse_batch, few).solved.any()


def test_a_lost_pose_is_infinitely_far_and_a_found_one_is_no_gain(coarse_batch):
    truth = coarse_batch.T_query
    reference = Poses(truth, np.array([True, True, True, False]))
    T = np.where(np.array([0, 1, 0, 0], bool)[:, None, None], np.nan, truth)
    given = Poses(T, np.array([True, False, True, True]))
    found = compare_poses("engine", "coarse", coarse_batch, reference, given, minimum=3)
    assert (found.solved, found.changed, found.lost, found.right) == (3, 1, 1, 3)
    assert (found.median_px, found.p90_px) == (0.0, math.inf)
    assert found.passed()
    assert not compare_poses("engine", "coarse", coarse_batch, reference, given, minimum=4).passed()
    none = compare_poses("engine", "coarse", coarse_batch, Poses(truth, np.zeros(4, bool)), given)
    assert math.isnan(none.median_px)
    assert none.passed(allow_few_poses=True)
    assert not none.passed()


@pytest.mark.parametrize(("shift_px", "passes"), [(0.05, True), (0.2, False)])
def test_both_medians_have_to_keep_their_bounds(coarse_batch, shift_px, passes):
    """A sideways shift, small against the diameter, seen through each pair's own camera."""
    batch = coarse_batch
    T = batch.T_query.copy()
    T[:, 0, 3] += shift_px * T[:, 2, 3] / batch.K_query[:, 0, 0]
    solved = np.ones(4, bool)
    found = compare_poses("engine", "coarse", batch, Poses(batch.T_query, solved), Poses(T, solved), minimum=1)
    assert found.median_px == pytest.approx(shift_px, rel=0.1)
    assert (found.median_px < 0.1) is passes
    T = batch.T_query.copy()
    T[:, 2, 3] += 2e-3 * batch.diameter  # along the line of sight hardly a pixel moves
    found = compare_poses("engine", "coarse", batch, Poses(batch.T_query, solved), Poses(T, solved), minimum=1)
    assert found.median_diameters == pytest.approx(2e-3)
    assert not found.passed()


def test_model_points_lie_on_the_template(coarse_batch):
    points = model_points(coarse_batch)
    assert points.shape == (4, 256, 3)
    assert np.isfinite(points).all()
    shown = coarse_batch.template_points[0].reshape(-1, 3)
    gaps = np.abs(points[0][:, None] - shown[np.isfinite(shown[:, 0])]).max(axis=-1).min(axis=1)
    assert gaps.max() == 0
