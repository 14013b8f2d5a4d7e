"""Finding objects without boxes, with the engines that ship, in the demo's picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coop_edge import Detection, Estimator
from coop_edge.cli.demo import WRONG
from coop_edge.errors import BundleError, InputError
from coop_edge.finding import Finder
from coop_edge.pipeline import Pipeline
from coop_edge.stages.boxes import overlaps
from coop_edge.stages.judge import FeatureJudge
from tests.estimators import TINY
from tests.runtime.networks import tiny_bundle
from tests.stages.scene import colored_box
from tests.test_estimator_features import ENGINES, SCENE, off, templates  # noqa: F401

NAMES = [detection.object for detection in SCENE.detections]


@pytest.fixture(scope="module")
def estimator(templates):  # noqa: F811
    with Estimator.from_engines(ENGINES, device="cpu", threads=1) as opened:
        for name in NAMES[:2]:
            mesh, views = templates[name]
            opened.add_object(name, mesh, templates=views)
        yield opened


@pytest.fixture(scope="module")
def found(estimator):
    calls = []
    results = estimator.find(SCENE.image, SCENE.camera, progress=lambda done, count: calls.append((done, count)))
    return results, calls


def box_of(name):
    return np.array([next(d.bbox for d in SCENE.detections if d.object == name)])


def test_objects_are_found_where_they_are(estimator, found):
    results, calls = found
    assert [result.object for result in results] == NAMES[:2]
    assert [result.reason for result in results] == ["", ""]
    assert max(off(estimator, result) for result in results) <= 2 * WRONG
    assert all(result.times is not None and result.times.coarse_ms > 0 for result in results)
    assert calls == [(0, 2), (1, 2), (2, 2)]


def test_boxes_of_detect_are_those_of_the_objects_best_first(estimator):
    boxes = estimator.detect(SCENE.image, SCENE.camera, NAMES[1:2], max_instances=3)
    assert 1 <= len(boxes) <= 3
    assert {box.object for box in boxes} == {NAMES[1]}
    scores = [box.score for box in boxes]
    assert scores == sorted(scores, reverse=True)
    assert overlaps(np.array([boxes[0].bbox]), box_of(NAMES[1])) > 0.6


@pytest.mark.parametrize(("trusted", "hopeless", "again"), [(0.0, 0.0, 0), (1.0, 0.0, 1), (1.0, 1.0, 0)])
def test_only_poses_in_doubt_are_estimated_once_more(estimator, monkeypatch, trusted, hopeless, again):
    asked, estimated = [], Pipeline.estimated

    def spy(self, frame, detections, *args, **options):
        asked.append(len(detections))
        return estimated(self, frame, detections, *args, **options)

    x, y, w, h = box_of(NAMES[0])[0]
    config = estimator._pipeline.config.updated([f"advanced.select.trusted_presence={trusted}"])
    monkeypatch.setattr(estimator, "_pipeline", replace(estimator._pipeline, config=config))
    monkeypatch.setattr(Pipeline, "estimated", spy)
    monkeypatch.setattr("coop_edge.finding.HOPELESS", hopeless)
    (result,) = estimator.find(SCENE.image, SCENE.camera, NAMES[:1], region=(x - w / 2, y - h / 2, 2 * w, 2 * h))
    assert sum(asked) == again
    assert off(estimator, result) <= 2 * WRONG


@pytest.mark.parametrize(("trusted", "most", "tried"), [(0.0, 1, [4]), (1.0, 1, [4, 6]), (0.0, 2, [12])])
def test_a_search_ends_with_the_first_pose_that_is_trusted(estimator, monkeypatch, trusted, most, tried):
    places, first = [], Finder._try

    def spy(self, frame, i, boxes, *args):
        places.append(len(boxes))
        return first(self, frame, i, boxes, *args)

    config = estimator._pipeline.config.updated([f"advanced.select.trusted_presence={trusted}"])
    monkeypatch.setattr(estimator, "_pipeline", replace(estimator._pipeline, config=config))
    monkeypatch.setattr(Finder, "_try", spy)
    result, *_ = estimator.find(SCENE.image, SCENE.camera, NAMES[:1], max_instances=most)
    assert places == tried
    assert off(estimator, result) <= 2 * WRONG


@pytest.mark.parametrize(("score", "presence", "tried"), [(0.3, 0.9, [4]), (0.9, 0.7, [4, 6])])
def test_a_search_is_ended_by_presence_and_not_by_score(estimator, monkeypatch, score, presence, tried):
    """With 0.8 trusted; a far object may be there for sure with a pose that is less so."""
    places, first, judged = [], Finder._try, FeatureJudge.score

    def spy(self, frame, i, boxes, *args):
        places.append(len(boxes))
        return first(self, frame, i, boxes, *args)

    def said(self, refined, *args):
        every = np.where(refined.ok, 1.0, 0.0)
        return judged(self, refined, *args)._replace(score=score * every, presence=presence * every)

    config = estimator._pipeline.config.updated(["advanced.select.trusted_presence=0.8"])
    monkeypatch.setattr(estimator, "_pipeline", replace(estimator._pipeline, config=config))
    monkeypatch.setattr(Finder, "_try", spy)
    monkeypatch.setattr(FeatureJudge, "score", said)
    (result,) = estimator.find(SCENE.image, SCENE.camera, NAMES[:1])
    assert places == tried
    assert (result.score, result.presence) == (score, presence)


def test_views_unlike_the_image_beside_the_best_are_not_refined(estimator, monkeypatch):
    refined, refine = [], Finder._refine

    def spy(self, frame, T, *args):
        refined.append(len(T))
        return refine(self, frame, T, *args)

    monkeypatch.setattr(Finder, "_refine", spy)
    for likely in (0.0, 0.45, 1.0):
        monkeypatch.setattr("coop_edge.finding.LIKELY", likely)
        estimator.detect(SCENE.image, SCENE.camera, NAMES[:1])
    every, some, best = refined
    config = estimator._pipeline.config.updated(["advanced.select.trusted_presence=1"])
    monkeypatch.setattr(estimator, "_pipeline", replace(estimator._pipeline, config=config))
    (result,) = estimator.find(SCENE.image, SCENE.camera, NAMES[:1])
    assert refined[3:5] == [1, 0]  # of the places that come first one view, of the others none
    assert off(estimator, result) <= 2 * WRONG
    assert every == 10 * estimator.config.advanced.find.views
    assert best == 1 < some < every


def test_an_object_that_is_elsewhere_is_not_found(estimator):
    """In a corner without it: refused, with a reason, and no more than one result for at most three."""
    (result,) = estimator.find(
        SCENE.image, SCENE.camera, NAMES[:1], max_instances=3, region=(0, SCENE.camera.height - 60, 60, 60)
    )
    assert (result.object, result.success, result.T_camera_object) == (NAMES[0], False, None)
    assert result.reason.startswith("find: not found")


def test_a_box_that_missed_is_recovered_only_if_asked_for(estimator):
    (x, y, w, h) = box_of(NAMES[0])[0]
    beside = Detection(NAMES[0], (x + 0.9 * w, y + 0.8 * h, 0.5 * w, 0.5 * h))
    (lost,) = estimator.estimate(SCENE.image, SCENE.camera, [beside])
    assert not lost.success
    (result,) = estimator.estimate(SCENE.image, SCENE.camera, [beside], recover=True)
    assert result.success
    assert result.recovered
    assert result.to_dict()["recovered"] is True
    assert off(estimator, result) <= 2 * WRONG


def test_a_box_that_fits_is_estimated_as_without_recovery(estimator):
    box = Detection(NAMES[0], tuple(box_of(NAMES[0])[0]))
    (plain,), (asked,) = (estimator.estimate(SCENE.image, SCENE.camera, [box], recover=each) for each in (False, True))
    np.testing.assert_array_equal(asked.T_camera_object, plain.T_camera_object)
    assert not asked.recovered


def test_two_names_of_one_object_are_one_place(estimator, templates):  # noqa: F811
    """The twin of an object is not found where the object is: of two in one place the earlier one of equal scores."""
    name = NAMES[0]
    mesh, views = templates[name]
    x, y, w, h = box_of(name)[0]
    estimator.add_object("twin", mesh, templates=views)
    try:
        around = (x - w / 2, y - h / 2, 2 * w, 2 * h)
        first, twin = estimator.find(SCENE.image, SCENE.camera, [name, "twin"], region=around)
    finally:
        estimator.remove_object("twin")
    assert first.success
    assert not twin.success
    assert f"{name!r} fits better" in twin.reason


def test_depth_rules_out_places(tmp_path):
    """An image of one distance, from which the object would be some pixels large: no place is left."""
    with Estimator.from_engines(tiny_bundle(tmp_path), device="cpu", threads=1) as estimator:
        estimator.add_object("cube", colored_box((0.1, 0.1, 0.1)))
        image = np.random.default_rng(0).integers(0, 255, (TINY.height, TINY.width, 3), dtype=np.uint8)
        far, unknown = (np.full(image.shape[:2], value, np.uint16) for value in (3000, 0))
        unknown[0, 0] = 3000  # a camera that knows nothing at all is refused
        assert len(estimator.detect(image, TINY, max_instances=3, depth=unknown, depth_unit="mm")) > 0
        assert estimator.detect(image, TINY, max_instances=3, depth=far, depth_unit="mm") == []
        (result,) = estimator.find(image, TINY, depth=far, depth_unit="mm")
        assert result.reason == "find: no place in the image where 'cube' may be"


@pytest.mark.parametrize("call", ["find", "detect"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"objects": "cup"}, "objects: wanted a sequence of str"),
        ({"objects": ["cupp"]}, "unknown object 'cupp'"),
        ({"max_instances": 0}, "max_instances: wanted an integer >= 1, got 0"),
        ({"max_instances": True}, "max_instances: wanted an integer"),
        ({"region": (1, 2, 3)}, r"region: wanted \(x, y, width, height\)"),
        ({"region": (0, 0, -1, 5)}, "width and height positive"),
        ({"region": (5000, 0, 10, 10)}, "lies outside"),
    ],
)
def test_wrong_use_is_named(estimator, call, options, says):
    with pytest.raises(InputError, match=says):
        getattr(estimator, call)(SCENE.image, SCENE.camera, **options)


def test_an_image_of_another_size_is_refused(estimator):
    with pytest.raises(InputError, match="image"):
        estimator.find(SCENE.image[:-1], SCENE.camera)


def test_nothing_registered(tmp_path):
    with Estimator.from_engines(tiny_bundle(tmp_path), device="cpu", threads=1) as empty:
        for call in (empty.find, empty.detect):
            with pytest.raises(InputError, match="there are no objects; add_object adds one"):
                call(np.zeros((TINY.height, TINY.width, 3), np.uint8), TINY)


def test_an_object_larger_than_the_image_can_hold(tmp_path):
    with Estimator.from_engines(
        tiny_bundle(tmp_path), device="cpu", threads=1, config={"find": {"far": 0.3}}
    ) as estimator:
        estimator.add_object("wall", colored_box((2.0, 2.0, 0.2), name="wall"))
        with pytest.raises(InputError, match=r"'wall' .* px large at find.far = 0.3 m, the image has 64x48"):
            estimator.find(np.zeros((TINY.height, TINY.width, 3), np.uint8), TINY)


def test_engines_without_features_cannot_search(tmp_path):
    with Estimator.from_engines(tiny_bundle(tmp_path, features=False), device="cpu", threads=1) as estimator:
        estimator.add_object("cube", colored_box((0.1, 0.1, 0.1)))
        image = np.zeros((TINY.height, TINY.width, 3), np.uint8)
        with pytest.raises(BundleError, match=r"tiny .* have no network 'features'.*give boxes to estimate"):
            estimator.find(image, TINY)
        with pytest.raises(BundleError, match="have no network 'features'"):
            estimator.estimate(image, TINY, [Detection("cube", (1, 1, 20, 20))], recover=True)


def test_a_black_image_of_tiny_networks_gives_a_reason(tmp_path):
    with Estimator.from_engines(tiny_bundle(tmp_path), device="cpu", threads=1) as estimator:
        estimator.add_object("cube", colored_box((0.1, 0.1, 0.1)))
        (result,) = estimator.find(np.zeros((TINY.height, TINY.width, 3), np.uint8), TINY)
        assert not result.success
        assert result.reason.startswith("find: ")
        assert estimator.estimate(np.zeros((48, 64, 3), np.uint8), TINY, [], recover=True) == []
