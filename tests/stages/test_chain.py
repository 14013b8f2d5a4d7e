"""The whole chain, crop to selection, on real renders with networks that know the truth."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.meshes import colored_torus, textured_sphere
from coop_edge.config import CoarseConfig, EstimatorConfig, RefineConfig
from coop_edge.geometry import se3
from coop_edge.stages.select import LOST
from coop_edge.types import Detection
from tests.stages.chain import Chain
from tests.stages.oracles import Faults
from tests.stages.scene import HALF_TURNS, Placed, Scene, at, reprojection_px, symmetric_box

NOISE = Faults(match_noise=0.1, match_outliers=0.2, flow_noise=0.3, flow_outliers=0.02, reach=np.radians(75))


def assert_found(scene, chosen, pixels, which=None):
    for i, placed in enumerate(scene.placed) if which is None else which:
        assert chosen.reasons[i] == "", chosen.reasons[i]
        error = reprojection_px(chosen.T_camera_object[i], placed.T, scene.meshes[placed.mesh], scene.camera.K)
        assert error < pixels, f"object {i}: {error:.3f} px"


@pytest.fixture(scope="module")
def table(cube, bar):
    """Five things of three kinds, near and far, at the image's border and at its middle."""
    torus = colored_torus(sections=24)
    return Scene(
        (cube, bar, torus),
        (
            Placed(0, at(-0.2, 0.1, 0.8, (0.5, 0.7, -0.3))),
            Placed(1, at(0.15, -0.15, 0.9, (2.0, -0.4, 0.9), bar.centre)),
            Placed(2, at(0.25, 0.15, 0.9, (1.0, 0.3, 0.2), torus.centre)),
            Placed(0, at(-0.4, -0.3, 1.5, (1.5, 0.2, 2.3))),
            Placed(2, at(0.0, 0.0, 2.0, (-1.0, 0.5, 0.0), torus.centre)),
        ),
    )


def test_nothing_to_find(two):
    coarse, refined, chosen = Chain.of(two).estimate([], [])
    assert len(coarse) == len(refined) == len(chosen) == 0
    assert chosen.estimates([]) == []


def test_several_objects_in_one_batch(table):
    """To a hundredth of a millimetre: without the prior, which pulls towards the coarse pose by as much at 2 m."""
    free = RefineConfig(prior_sideways=0, prior_depth=0, prior_rotation=0)
    _, _, held = Chain.of(table).estimate()
    assert_found(table, held, 0.1)
    chain = Chain.of(table, config=EstimatorConfig(refine=free))
    _, _, chosen = chain.estimate()
    assert_found(table, chosen, 0.1)
    assert (chosen.scores > 0.9).all()
    assert chain.oracle.refiner.batches[0] == 5  # one batch over all hypotheses of all objects
    for estimate, placed in zip(chosen.estimates(["?"] * 5), table.placed, strict=True):
        assert estimate.success
        assert np.linalg.norm(estimate.T_camera_object[:3, 3] - placed.T[:3, 3]) < 1e-5
        assert estimate.reprojection_rms_px < 0.1


def test_several_objects_with_noisy_networks(table):
    _, _, chosen = Chain.of(table, faults=NOISE, config=EstimatorConfig(coarse=CoarseConfig(hypotheses=3))).estimate()
    assert_found(table, chosen, 1.5)


def test_results_do_not_depend_on_what_else_is_in_the_batch(table):
    chain = Chain.of(table, faults=NOISE, config=EstimatorConfig(coarse=CoarseConfig(hypotheses=2)))
    detections, index = table.detections(), [p.mesh for p in table.placed]
    _, _, whole = chain.estimate()
    order = [3, 1, 4, 0, 2]
    _, _, shuffled = chain.estimate([detections[i] for i in order], [index[i] for i in order])
    for at_, i in enumerate(order):
        _, _, alone = chain.estimate([detections[i]], [index[i]])
        for name in ("T_camera_object", "covariance", "scores", "n_inliers", "rms_px"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(whole, name)[i], err_msg=name)
            np.testing.assert_array_equal(getattr(shuffled, name)[at_], getattr(whole, name)[i], err_msg=name)


def test_the_same_input_gives_the_same_pose(two):
    first, second = (Chain.of(two, faults=NOISE).estimate()[2] for _ in range(2))
    np.testing.assert_array_equal(first.T_camera_object, second.T_camera_object)


def test_an_object_half_hidden_by_another(cube, bar):
    hidden = Placed(0, at(0.0, 0.0, 0.7, (0.5, 0.7, -0.3)))
    before = Placed(1, at(0.03, 0.03, 0.5, (0.0, 0.0, 0.7), bar.centre))
    scene = Scene((cube, bar), (hidden, before))
    _, refined, chosen = Chain.of(scene).estimate()
    shown = (refined.agreement[0] > 0.5).sum() / refined.silhouette[0].sum()
    assert 0.35 < shown < 0.8
    assert_found(scene, chosen, 0.1)


def test_a_sphere_with_a_texture():
    """Seen from far and with a box that is off."""
    ball = textured_sphere(3, radius=0.05, texture_size=128)
    scene = Scene((ball,), (Placed(0, at(0.2, -0.1, 1.1, (0.3, 1.2, -0.8))),))
    x, y, w, h = scene.box(0)
    _, _, chosen = Chain.of(scene).estimate([Detection("ball", bbox=(x - 4, y + 3, 1.1 * w, 0.95 * h))], [0])
    assert_found(scene, chosen, 0.1)


def test_an_object_whose_box_is_cut_by_the_image(cube):
    scene = Scene((cube,), (Placed(0, at(0.31, 0.0, 0.6, (0.5, 0.7, -0.3))),))
    assert scene.box(0)[0] + scene.box(0)[2] == pytest.approx(640)
    _, _, chosen = Chain.of(scene).estimate()
    assert_found(scene, chosen, 0.1)


def test_a_detection_where_nothing_stands(two):
    config = EstimatorConfig(coarse=CoarseConfig(hypotheses=3))
    detections = [*two.detections(), Detection("cube", bbox=(20, 380, 80, 80))]
    _, _, chosen = Chain.of(two, config=config).estimate(detections, [0, 1, 0])
    assert_found(two, chosen, 0.1)
    assert chosen.reasons[2].startswith("coarse: too few valid correspondences")
    assert not chosen.estimates(["a", "b", "c"])[2].success


def test_matches_that_are_all_wrong_end_in_no_pose(two):
    faults = Faults(match_outliers=1.0, match_noise=0.3, reach=np.radians(40))
    config = EstimatorConfig(coarse=CoarseConfig(hypotheses=5, min_inliers=4))
    coarse, _, chosen = Chain.of(two, faults=faults, config=config).estimate()
    assert coarse.solved.any()  # some chance poses get as far as the refinement
    for i, placed in enumerate(two.placed):
        angle = (
            se3.rotation_angle(chosen.T_camera_object[i, :3, :3], placed.T[:3, :3]) if not chosen.reasons[i] else 0.0
        )
        assert angle < 0.1  # what is not rejected must be right


@pytest.fixture(scope="module")
def symmetric():
    return Scene((symmetric_box(),), (Placed(0, at(0.05, 0.02, 0.6, (0.4, -0.6, 0.5))),))


def test_every_symmetric_truth_gives_the_canonical_pose(symmetric):
    poses = []
    for S in HALF_TURNS.group:
        turned = Scene(symmetric.meshes, (Placed(0, symmetric.placed[0].T @ S),))
        np.testing.assert_allclose(turned.image, symmetric.image, atol=1)  # it is symmetric
        poses.append(Chain.of(turned, symmetries={0: HALF_TURNS}).estimate()[2].T_camera_object[0])
    assert len(poses) == 4
    for T in poses[1:]:
        np.testing.assert_allclose(T, poses[0], atol=1e-5)


def test_tracking_a_symmetric_object_stays_with_the_previous_pose(symmetric):
    chain = Chain.of(symmetric, symmetries={0: HALF_TURNS})
    for S in HALF_TURNS.group:
        truth = symmetric.placed[0].T @ S
        _, chosen = chain.track((truth @ at(0.002, 0, 0.003, (0.02, -0.03, 0.01)))[None], [0])
        np.testing.assert_allclose(chosen.T_camera_object[0], truth, atol=1e-5)


class TestTracking:
    def test_follows_small_motions(self, two):
        T = np.array([p.T for p in two.placed])
        for step in range(1, 4):
            move = at(0.004 * step, -0.002 * step, 0.005 * step)
            moved = Scene(
                two.meshes,
                tuple(
                    Placed(p.mesh, move @ p.T @ at(0, 0, 0, (0.02 * step, 0.03 * step, -0.02 * step)))
                    for p in two.placed
                ),
            )
            _, chosen = Chain.of(moved).track(T, [0, 1])
            assert_found(moved, chosen, 0.1)
            T = chosen.T_camera_object

    def test_an_object_taken_away_is_lost_and_the_other_is_not(self, two):
        gone = Scene(two.meshes, two.placed[1:])
        _, chosen = Chain.of(gone).track(np.array([p.T for p in two.placed]), [0, 1])
        assert chosen.reasons[0].startswith(f"{LOST}: select: render and image disagree")
        assert chosen.reasons[1] == ""
        estimates = chosen.estimates(["cube", "bar"])
        assert not estimates[0].success
        assert estimates[0].T_camera_object is None

    def test_an_object_that_jumped_is_lost_and_not_registered_anew(self, two):
        """It stands where the last pose is, but turned by more than a tracker can see."""
        turned = two.placed[0].T @ at(0, 0, 0, (0.0, 0.0, np.radians(100)))
        scene = Scene(two.meshes, (Placed(0, turned), two.placed[1]))
        _, chosen = Chain.of(scene, faults=Faults(reach=np.radians(45))).track(
            np.array([p.T for p in two.placed]), [0, 1]
        )
        assert chosen.reasons[0].startswith(f"{LOST}: select: render and image disagree")
        assert chosen.reasons[1] == ""

    def test_an_object_that_left_the_image_is_lost(self, two):
        _, chosen = Chain.of(two).track(np.array([at(0.6, 0, 0.6), two.placed[1].T]), [0, 1])
        assert chosen.reasons[0].startswith(f"{LOST}: refine:")
        assert chosen.reasons[1] == ""

    def test_nothing_to_track(self, two):
        refined, chosen = Chain.of(two).track(np.zeros((0, 4, 4)), [])
        assert len(refined) == len(chosen) == 0
