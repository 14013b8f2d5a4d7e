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


def refinements(pipeline, monkeypatch):
    """Of each call of ``Pipeline._refined``: hypotheses, how many of them are early, and how many are left."""
    seen, refined = [], Pipeline._refined

    def spy(self, frame, detections, coarse, clock, *, early=None, survivors=0):
        left = refined(self, frame, detections, coarse, clock, early=early, survivors=survivors)
        seen.append((len(coarse), 0 if early is None else int(early.sum()), len(left.coarse)))
        return left

    monkeypatch.setattr(Pipeline, "_refined", spy)
    return seen


@pytest.mark.parametrize("trusted", [0.0, 1.0])
def test_effort_goes_on_only_where_the_most_likely_view_is_not_trusted(estimator, monkeypatch, trusted):
    """It finds the same objects either way: then come the views that "fast" has, then those of "balanced"."""
    config = estimator._pipeline.config.updated([f"advanced.select.trusted_presence={trusted}"])
    monkeypatch.setattr(estimator, "_pipeline", replace(estimator._pipeline, config=config))
    seen = refinements(estimator._pipeline, monkeypatch)
    results = estimator.estimate(SCENE.image, SCENE.camera, SCENE.detections)
    assert max(off(estimator, result) for result in results) <= WRONG
    few, views = (replace(config, effort=effort).schedule for effort in ("fast", config.effort))
    rest = 3 * (views.hypotheses - 1 + views.matched), 3 * (few.hypotheses - 1 + few.matched)
    kept = 3 * max(1, views.survivors - 1)
    assert seen == [(3, 0, 3), *([(*rest, kept)] if trusted else [])]


def test_best_tries_all(estimator, monkeypatch):
    config = replace(estimator.config, effort="best")
    monkeypatch.setattr(estimator, "_pipeline", replace(estimator._pipeline, config=config))
    seen = refinements(estimator._pipeline, monkeypatch)
    estimator.estimate(SCENE.image, SCENE.camera, SCENE.detections[:1])
    views = config.schedule
    assert seen == [(views.hypotheses + views.matched, 0, views.survivors)]


@pytest.mark.parametrize(
    "options", [["refine.iterations=1"], ["refine.survivors=42"], ["coarse.hypotheses=1", "coarse.matched=1"]]
)
def test_schedules_with_nothing_to_choose_among_need_no_first(estimator, monkeypatch, options):
    config = estimator.config.updated([*options, "advanced.select.trusted_presence=1"])
    monkeypatch.setattr(estimator, "_pipeline", replace(estimator._pipeline, config=config))
    seen = refinements(estimator._pipeline, monkeypatch)
    (result,) = estimator.estimate(SCENE.image, SCENE.camera, SCENE.detections[:1])
    views = config.schedule
    every = views.hypotheses + views.matched
    if views.survivors < every and config.refine.iterations > 1:
        assert seen == [(1, 0, 1), (every - 1, every - 1, 1)]
    else:
        assert seen == [(every, 0, every)]
    assert result.success


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
