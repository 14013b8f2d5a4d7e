"""Tracking that predicts motion, tries places around, and looks for what is lost."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from coop_edge import Estimator, EstimatorConfig, PoseEstimate
from coop_edge.errors import BundleError, InputError
from coop_edge.following import AROUND, FASTEST, RING, Follower, predicted
from coop_edge.geometry import se3
from coop_edge.types import Motion
from tests.estimators import TINY
from tests.runtime.networks import tiny_bundle
from tests.stages.scene import at, colored_box
from tests.test_estimator_features import ENGINES, SCENE, templates  # noqa: F401

CENTRE = np.array([0.02, -0.01, 0.03])


def centre(T):
    return se3.transform(T, CENTRE[None])[0]


def test_motion_goes_on_in_a_straight_line_and_turns_about_the_centre():
    turn = se3.so3_exp(np.array([0.1, -0.15, 0.05]))
    last = at(0.05, 0.02, 0.7, (0.3, 0.5, -0.2), CENTRE)
    step = np.array([0.03, -0.01, 0.02])
    R = turn.T @ last[:3, :3]
    before = se3.from_rt(R, centre(last) - step - R @ CENTRE)
    found = predicted(before, last, CENTRE, 0.1)
    np.testing.assert_allclose(centre(found), centre(last) + step, atol=1e-12)
    np.testing.assert_allclose(found[:3, :3], turn @ last[:3, :3], atol=1e-12)


def test_what_hardly_moves_stays_and_what_jumps_goes_on_slowly():
    last = at(0.05, 0.02, 0.7, (0.3, 0.5, -0.2), CENTRE)
    near = last.copy()
    near[:3, 3] += (0.002, 0.0, -0.003)
    near[:3, :3] = se3.so3_exp(np.array([0.0, 0.03, 0.0])) @ near[:3, :3]
    near[:3, 3] += centre(last) + (0.002, 0, -0.003) - centre(near)
    np.testing.assert_allclose(predicted(near, last, CENTRE, 0.1), last, atol=1e-12)
    far = last.copy()
    far[:3, 3] += (0.4, 0.0, 0.0)
    found = predicted(far, last, CENTRE, 0.1)
    np.testing.assert_allclose(centre(found), centre(last) - (FASTEST * 0.1, 0, 0), atol=1e-12)


class Recorder:
    """Stands in for a pipeline: remembers the poses it is to start from, and says what the test wants."""

    def __init__(self, *answers, config=None):
        self.config, self.answers, self.starts = config or EstimatorConfig(), list(answers), []

    def track(self, frame, names, index, T):
        self.starts.append(np.array(T))
        return [self.answers.pop(0) for _ in names]


def found_at(T, **values):
    return PoseEstimate(True, T_camera_object=T, score=0.9, object="cup", **values)


LOST = PoseEstimate(False, "lost: gone", object="cup")
T0, T1 = at(0.0, 0.0, 0.7, (0.3, 0.5, -0.2), CENTRE), at(0.03, 0.0, 0.7, (0.3, 0.5, -0.2), CENTRE)
FRAME = SimpleNamespace(models=[SimpleNamespace(centre=CENTRE, diameter=0.1)])


def follow(pipeline, previous):
    return Follower(pipeline).follow(FRAME, [previous], np.array([0]))[0]


def test_the_second_image_starts_from_the_pose_and_the_third_from_the_prediction():
    pipeline = Recorder(found_at(T1), found_at(T1))
    second = follow(pipeline, found_at(T0))
    np.testing.assert_array_equal(pipeline.starts[0], T0[None])
    np.testing.assert_array_equal(second.motion.T_before, T0)
    follow(pipeline, second)
    np.testing.assert_allclose(pipeline.starts[1][0], predicted(T0, T1, CENTRE, 0.1))
    assert pipeline.starts[1][0, 0, 3] == pytest.approx(T1[0, 3] + 0.03)


def test_prediction_and_search_can_be_switched_off():
    config = EstimatorConfig().updated(["advanced.track.predict=false", "advanced.track.search=false"])
    pipeline = Recorder(LOST, config=config)
    result = follow(pipeline, found_at(T1, motion=Motion(T1, T0, 0)))
    np.testing.assert_array_equal(pipeline.starts[0], T1[None])
    assert len(pipeline.starts) == 1
    assert not result.success


def test_what_is_lost_is_tried_around_the_prediction():
    pipeline = Recorder(LOST, found_at(T0))
    result = follow(pipeline, found_at(T1, motion=Motion(T1, T0, 0)))
    assert result.success
    (tries,) = pipeline.starts[1]
    assert tries.shape == (10, 4, 4)
    np.testing.assert_array_equal(tries[0], T1)
    np.testing.assert_array_equal(tries[1], pipeline.starts[0][0])
    away = np.array([centre(T) for T in tries[2:]]) - centre(tries[1])
    np.testing.assert_allclose(np.linalg.norm(away, axis=1), RING * 0.1, rtol=0.1)
    assert np.abs(away @ centre(tries[1])).max() < 1e-3  # across the line of sight
    assert np.linalg.matrix_rank(away, tol=1e-3) == 2


def test_a_lost_object_remembers_where_it_was_and_for_how_long():
    pipeline = Recorder(LOST, LOST)
    lost = follow(pipeline, found_at(T1, motion=Motion(T1, T0, 0)))
    np.testing.assert_array_equal(lost.motion.T_last, T1)
    assert lost.motion.images_lost == 1
    again = follow(pipeline, lost)
    assert (again.motion.images_lost, again.reason) == (2, "lost: gone")
    assert len(pipeline.starts) == 2  # not tracked: there is nothing to start from
    assert follow(pipeline, PoseEstimate(False, "coarse: no", object="cup")).motion is None
    assert "motion" not in lost.to_dict()


def test_lost_objects_are_looked_for_every_few_images_and_farther_each_time(templates, monkeypatch):  # noqa: F811
    from coop_edge import following

    regions = []

    def find(self, frame, wanted, progress=None):
        regions.append(wanted.region)
        return [PoseEstimate(False, "find: no", object="carton")], []

    monkeypatch.setattr(following.Finder, "find", find)
    mesh, views = templates["carton"]
    black = np.zeros_like(SCENE.image)
    with Estimator.from_engines(
        ENGINES, device="cpu", threads=1, config={"advanced": {"track": {"relocate_every": 2}}}
    ) as e:
        e.add_object("carton", mesh, templates=views)
        results = [PoseEstimate(True, T_camera_object=SCENE.truth["carton"], score=0.9, object="carton")]
        counts = []
        for budget in (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0):
            results = e.track(black, SCENE.camera, results, relocate=True, budget_s=budget)
            assert not results[0].success
            counts.append(len(regions))
        assert counts == [1, 1, 2, 2, 3, 3, 3]  # the last one's time was up
        (x, y, w, h) = next(d.bbox for d in SCENE.detections if d.object == "carton")
        for region, factor in zip(regions[: len(AROUND)], AROUND, strict=True):
            middle = np.array(region[:2]) + np.array(region[2:]) / 2
            np.testing.assert_allclose(middle, (x + w / 2, y + h / 2), atol=4)
            assert region[2] == region[3] == pytest.approx(factor * max(w, h), rel=0.05)
        assert regions[2] == (0, 0, *SCENE.camera.size)
        with pytest.raises(InputError, match="budget_s: wanted seconds >= 0, got -1"):
            e.track(black, SCENE.camera, results, relocate=True, budget_s=-1)


@pytest.mark.parametrize(("score", "presence", "taken"), [(0.2, 0.7, True), (0.9, 0.5, False)])
def test_what_is_found_again_has_to_be_trusted_by_its_presence(templates, monkeypatch, score, presence, taken):  # noqa: F811
    from coop_edge import following

    T = SCENE.truth["carton"]
    there = PoseEstimate(True, T_camera_object=T, score=score, presence=presence, object="carton")
    monkeypatch.setattr(following.Finder, "find", lambda *args, **options: ([there], []))
    mesh, views = templates["carton"]
    with Estimator.from_engines(ENGINES, device="cpu", threads=1) as e:
        e.add_object("carton", mesh, templates=views)
        before = [PoseEstimate(True, T_camera_object=T, score=0.9, object="carton")]
        (result,) = e.track(np.zeros_like(SCENE.image), SCENE.camera, before, relocate=True, budget_s=10.0)
    assert (result.success, result.recovered) == (taken, taken)


def test_an_object_that_jumped_is_found_again(templates):  # noqa: F811
    """By a third of the image at once: lost by tracking, recovered if it is to be looked for."""
    mesh, views = templates["house"]
    jump = 60
    moved = np.roll(SCENE.image, (jump, -jump), axis=(0, 1))
    with Estimator.from_engines(ENGINES, device="cpu", threads=1) as e:
        e.add_object("house", mesh, templates=views)
        before = [PoseEstimate(True, T_camera_object=SCENE.truth["house"], score=0.9, object="house")]
        (result,) = e.track(moved, SCENE.camera, before, relocate=True, budget_s=10.0)
    assert result.success
    K = SCENE.camera.K
    T, truth = result.T_camera_object, SCENE.truth["house"]
    here, there = (K @ se3.transform(pose, mesh.centre[None])[0] for pose in (T, truth))
    shift = here[:2] / here[2] - there[:2] / there[2]
    np.testing.assert_allclose(shift, (-jump, jump), atol=10)


def test_engines_without_features_cannot_relocate(tmp_path):
    with Estimator.from_engines(tiny_bundle(tmp_path, features=False), device="cpu", threads=1) as e:
        e.add_object("cube", colored_box((0.1, 0.1, 0.1)))
        image = np.zeros((TINY.height, TINY.width, 3), np.uint8)
        lost = PoseEstimate(False, "coarse: no", object="cube")
        with pytest.raises(BundleError, match="have no network 'features'"):
            e.track(image, TINY, [lost], relocate=True)
        assert e.track(image, TINY, [], relocate=True) == []
