"""The Estimator with the engines that ship and their features, on the demo's picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coop_edge import Detection, Estimator
from coop_edge.cli.demo import WRONG
from coop_edge.demo import load_scene
from coop_edge.geometry import se3
from coop_edge.mesh import Mesh
from coop_edge.pipeline import Pipeline
from coop_edge.runtime.bundle import Bundle
from coop_edge.stages.boxes import overlaps
from coop_edge.stages.judge import FeatureJudge
from coop_edge.templates.template_set import TemplateSet

ENGINES = Path(__file__).parents[1] / "engines" / "coop-xs"
SCENE = load_scene()


@pytest.fixture(scope="module")
def templates():
    """Rendered once for all Estimators: object -> its mesh and templates."""
    bundle = Bundle.load(ENGINES, check_hashes=False)
    options = {"margin": bundle.template.margin, "field_of_view": bundle.template.field_of_view}
    meshes = {name: Mesh.load(path, unit=unit, name=name) for name, (path, unit) in SCENE.meshes.items()}
    return {name: (mesh, TemplateSet.render(mesh, bundle.input_size, **options)) for name, mesh in meshes.items()}


@pytest.fixture(scope="module", params=["fast", "balanced"])
def estimator(request, templates):
    with Estimator.from_engines(ENGINES, device="cpu", config={"effort": request.param}, threads=1) as opened:
        for name, (mesh, views) in templates.items():
            opened.add_object(name, mesh, templates=views)
        yield opened


def off(estimator, result) -> float:
    """Mean distance of the vertices from where they are, over the diameter."""
    mesh = estimator.objects[result.object]
    points = mesh.vertices + mesh.centre
    gap = se3.transform(result.T_camera_object, points) - se3.transform(SCENE.truth[result.object], points)
    return float(np.linalg.norm(gap, axis=1).mean()) / mesh.diameter


@pytest.fixture(scope="module")
def results(estimator):
    return estimator.estimate(SCENE.image, SCENE.camera, SCENE.detections)


def test_every_object_is_found(estimator, results):
    assert "features" in estimator.bundle.networks
    assert estimator.bundle.score_map is not None
    assert [result.object for result in results] == [detection.object for detection in SCENE.detections]
    assert [result.reason for result in results] == [""] * 3
    assert max(off(estimator, result) for result in results) <= WRONG


def test_the_score_is_high_for_what_is_right_and_low_for_what_is_not_there(estimator, results):
    """The same boxes searched with another object's model."""
    names = [detection.object for detection in SCENE.detections]
    swapped = [Detection(names[i - 1], bbox=d.bbox) for i, d in enumerate(SCENE.detections)]
    absent = estimator.estimate(SCENE.image, SCENE.camera, swapped)
    right, wrong = ([result.score for result in some] for some in (results, absent))
    assert min(right) > max(wrong) + 0.2
    assert all(0.0 <= score <= 1.0 for score in right + wrong)


def test_a_detection_is_the_same_whatever_else_is_in_the_batch(estimator, results):
    """But for what a network rounds differently in a batch of another size."""
    for detection, wanted in zip(SCENE.detections, results, strict=True):
        (alone,) = estimator.estimate(SCENE.image, SCENE.camera, [detection])
        T, T_wanted = alone.T_camera_object, wanted.T_camera_object
        assert se3.rotation_angle(T[:3, :3], T_wanted[:3, :3]) < 1e-3
        np.testing.assert_allclose(T[:3, 3], T_wanted[:3, 3], atol=1e-4)
        assert alone.score == pytest.approx(wanted.score, abs=1e-3)


def test_what_was_found_is_tracked(estimator, results):
    tracked = estimator.track(SCENE.image, SCENE.camera, results)
    assert [result.reason for result in tracked] == [""] * 3
    assert max(off(estimator, result) for result in tracked) <= WRONG


def test_boxes_that_are_off_still_find_the_objects(estimator):
    """Moved by a tenth of their sides, as a detector may give them: within a fifth of the diameter."""
    moved = []
    for detection in SCENE.detections:
        x, y, w, h = detection.bbox
        moved.append(Detection(detection.object, bbox=(x + 0.1 * w, y - 0.1 * h, w, h)))
    found = estimator.estimate(SCENE.image, SCENE.camera, moved)
    assert [result.reason for result in found] == [""] * 3
    assert max(off(estimator, result) for result in found) <= 2 * WRONG


def test_warming_up_runs_every_stage(estimator):
    assert set(estimator.warmup()) == {"objects", "crop", "coarse", "refine", "outline", "select"}
    assert estimator.estimate(SCENE.image, SCENE.camera, []) == []


@pytest.mark.parametrize("trusted", [0.0, 1.0])
def test_effort_goes_on_only_where_what_fast_finds_is_not_trusted(estimator, monkeypatch, trusted):
    """It finds the same objects either way; "fast" has nothing to go on with."""
    judged, score = [], FeatureJudge.score

    def spy(self, refined, *args):
        judged.append(len(refined))
        return score(self, refined, *args)

    config = estimator._pipeline.config.updated([f"advanced.select.trusted_presence={trusted}"])
    finished = 3 * (config.schedule.survivors if trusted else 1)  # of three detections
    monkeypatch.setattr(estimator, "_pipeline", replace(estimator._pipeline, config=config))
    monkeypatch.setattr(FeatureJudge, "score", spy)
    results = estimator.estimate(SCENE.image, SCENE.camera, SCENE.detections)
    assert judged == ([3] if estimator.config.effort == "fast" else [3, finished])  # those that come first, then all
    assert max(off(estimator, result) for result in results) <= WRONG


def test_hypotheses_come_first_that_fast_has_too(estimator):
    views, matched, _ = estimator.config.schedule
    early = estimator._pipeline._early(2 * (views + matched))
    assert early.reshape(2, -1).sum(axis=1).tolist() == [5, 5]
    assert early[:4].all()
    assert early[views]
    assert replace(estimator._pipeline, features=None)._early(2) is None


def test_best_tries_all(estimator):
    best = replace(estimator._pipeline, config=replace(estimator.config, effort="best"))
    assert best._early(2 * (best.config.schedule.hypotheses + best.config.schedule.matched)) is None


@pytest.mark.parametrize(("share", "again"), [(0.0, 0), (0.3, 3)])
def test_a_pose_in_doubt_is_looked_for_again_in_its_own_box(estimator, monkeypatch, share, again):
    """Not with "fast", nor where its box is the one given; the second box is nearer the truth than the first."""
    boxes, tried = [], Pipeline._tried

    def spy(self, frame, detections, *args):
        boxes.append([detection.bbox for detection in detections])
        return tried(self, frame, detections, *args)

    config = estimator._pipeline.config.updated(["advanced.select.trusted_presence=1"])
    monkeypatch.setattr(estimator, "_pipeline", replace(estimator._pipeline, config=config))
    monkeypatch.setattr(Pipeline, "_tried", spy)
    true = np.array([detection.bbox for detection in SCENE.detections])
    given = true + share * true[:, 2:] @ np.array([[1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0]])
    detections = [Detection(d.object, bbox=tuple(b)) for d, b in zip(SCENE.detections, given, strict=True)]
    results = estimator.estimate(SCENE.image, SCENE.camera, detections)
    again *= estimator.config.effort != "fast"
    assert [len(each) for each in boxes] == [3, again][: 1 + bool(again)]
    if again:
        assert (overlaps(np.array(boxes[1]), true).diagonal() > overlaps(given, true).diagonal()).all()
        assert max(off(estimator, result) for result in results) <= WRONG
