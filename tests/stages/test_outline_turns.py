"""The stage outline in the pipeline: whose turn it is, how often, and from where.

The networks know the truth; what the stage does there shows in its time and in what it is called with.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coop_edge.config import EstimatorConfig, OutlineConfig, RefineConfig
from coop_edge.geometry import se3
from coop_edge.stages.outline import align
from coop_edge.stages.refine import refine
from coop_edge.stages.turns import _told_once, scatter
from coop_edge.types import PoseEstimate
from tests.estimators import SMALL, error_px, knowing
from tests.stages.scene import Placed, Scene, at


@pytest.fixture
def scene(cube):
    return Scene((cube,), (Placed(0, at(0.0, 0.0, 0.5, (0.5, 0.7, -0.3))),), SMALL)


@pytest.fixture
def calls(monkeypatch):
    """What was called and how many iterations were asked for, call by call."""
    asked = []

    def noting(maker, T, index, *, iterations, **parts):
        asked.append(("outline", iterations))
        return align(maker, T, index, iterations=iterations, **parts)

    def noting_too(maker, T, index, *, config, T_anchor, **parts):
        asked.append(("refine", config.refine.iterations))
        return refine(maker, T, index, config=config, T_anchor=T_anchor, **parts)

    monkeypatch.setattr("coop_edge.stages.turns.align", noting)
    monkeypatch.setattr("coop_edge.stages.turns.refine", noting_too)
    return asked


def both(folder, scene, **config):
    """What is estimated, then tracked."""
    with knowing(folder, scene, config=EstimatorConfig(**config)) as (estimator, _):
        first = estimator.estimate(scene.image, scene.camera, scene.detections())
        previous = [PoseEstimate(True, T_camera_object=scene.placed[0].T, object="cube")]
        return first[0], estimator.track(scene.image, scene.camera, previous)[0]


def test_estimating_and_tracking_take_their_own_iterations(scene, calls, tmp_path):
    first, tracked = both(tmp_path, scene, outline=OutlineConfig(iterations=2, track_iterations=1))
    assert calls == [("refine", 3), ("outline", 2), ("refine", 2), ("outline", 2), ("refine", 2), ("outline", 1)]
    for result in (first, tracked):
        assert result.success, result.reason
        assert result.times.outline_ms > 0
        assert error_px(result, scene, 0) < 1.0


def test_without_iterations_there_is_no_stage(scene, calls, tmp_path):
    config = OutlineConfig(iterations=0, track_iterations=0)
    for result in both(tmp_path, scene, outline=config):
        assert result.success, result.reason
        assert result.times.outline_ms == 0
        assert error_px(result, scene, 0) < 0.1
    assert calls == [("refine", 5), ("refine", 2)]


def test_what_is_not_refined_is_not_aligned(scene, calls, tmp_path):
    """Without refinement a pose is what the templates say, and too far off for an outline."""
    with knowing(tmp_path, scene, config=EstimatorConfig(refine=RefineConfig(iterations=0))) as (estimator, _):
        (result,) = estimator.estimate(scene.image, scene.camera, scene.detections())
    assert result.times.outline_ms == 0
    assert calls == [("refine", 0)]


@pytest.mark.parametrize(
    ("iterations", "rounds", "wanted"),
    [(5, 1, [5]), (5, 2, [3, 2]), (5, 3, [2, 2, 1]), (1, 3, [1]), (2, 9, [1, 1]), (7, 3, [3, 2, 2])],
)
def test_turns_share_the_iterations(scene, calls, tmp_path, iterations, rounds, wanted):
    """Each turn begins, and is anchored, where the one before it was aligned; a sum of iterations comes back."""
    config = EstimatorConfig(refine=RefineConfig(iterations=iterations), outline=OutlineConfig(rounds=rounds))
    with knowing(tmp_path, scene, config=config) as (estimator, _):
        (result,) = estimator.estimate(scene.image, scene.camera, scene.detections())
    assert result.success, result.reason
    assert [n for name, n in calls if name == "refine"] == wanted
    assert [name for name, _ in calls] == ["refine", "outline"] * len(wanted)


def test_a_turn_is_anchored_where_the_last_one_was_aligned(scene, monkeypatch, tmp_path):
    anchors, aligned = [], []

    def noting(*args, **parts):
        aligned.append(align(*args, **parts))
        return aligned[-1]

    def noting_too(*args, T_anchor, **parts):
        anchors.append(T_anchor.copy())
        return refine(*args, T_anchor=T_anchor, **parts)

    monkeypatch.setattr("coop_edge.stages.turns.align", noting)
    monkeypatch.setattr("coop_edge.stages.turns.refine", noting_too)
    with knowing(tmp_path, scene) as (estimator, _):
        (result,) = estimator.estimate(scene.image, scene.camera, scene.detections())
    assert len(anchors) == len(aligned) == 2
    np.testing.assert_array_equal(anchors[1], aligned[0].T_camera_object)
    assert not np.array_equal(anchors[0], anchors[1])
    np.testing.assert_array_equal(result.T_camera_object, aligned[1].T_camera_object[0])


def test_why_a_turn_failed_is_said_by_the_last_one_too(scene, monkeypatch, tmp_path):
    def failing(maker, T, index, **parts):
        found = refine(maker, T, index, **parts)
        if np.isfinite(T).all():
            nothing = np.full_like(found.T_camera_object, np.nan)
            return replace(found, T_camera_object=nothing, reasons=("refine: it rained",) * len(T))
        return found

    monkeypatch.setattr("coop_edge.stages.turns.refine", failing)
    with knowing(tmp_path, scene) as (estimator, _):
        (result,) = estimator.estimate(scene.image, scene.camera, scene.detections())
    assert not result.success
    assert "it rained" in result.reason


def test_what_refinement_knows_counts_once_in_what_is_stated():
    """Covariances of a sum of informations, one of which counted four times."""
    rng = np.random.default_rng(0)
    A, B = (rng.normal(size=(3, 6, 9)) for _ in range(2))
    lines, known = (M @ np.swapaxes(M, 1, 2) for M in (A, B))
    stated = _told_once(np.linalg.inv(lines + 4.0 * known), np.linalg.inv(known), 4.0)
    np.testing.assert_allclose(stated, np.linalg.inv(lines + known), rtol=1e-6)
    unknown = np.full((3, 6, 6), np.nan)
    np.testing.assert_array_equal(_told_once(lines, unknown, 4.0), lines)
    less = _told_once(np.linalg.inv(known), np.linalg.inv(known), 4.0)  # cannot be: less than it counted
    np.testing.assert_allclose(less, 4.0 * np.linalg.inv(known))


def test_poses_that_do_not_agree_are_less_sure():
    """The scatter is that of the moves which lead from the last pose to the earlier ones; a missing pose has none."""
    rng = np.random.default_rng(3)
    last = np.stack([at(0.1, -0.2, 0.6, rng.normal(size=3)) for _ in range(4)])
    moves = rng.normal(size=(2, 4, 6)) * ([0.01] * 3 + [0.2] * 3)
    earlier = [last.copy() for _ in moves]
    for T, xi in zip(earlier, moves, strict=True):
        T[:, :3, :3] = se3.so3_exp(xi[:, 3:]) @ last[:, :3, :3]
        T[:, :3, 3] += xi[:, :3]
    wanted = np.einsum("kmi,kmj->mij", moves, moves)
    np.testing.assert_allclose(scatter(earlier, last), wanted, rtol=1e-6, atol=1e-12)
    earlier[0][1], last[2] = np.nan, np.nan
    found = scatter(earlier, last)
    np.testing.assert_allclose(found[1], np.outer(moves[1, 1], moves[1, 1]), rtol=1e-6, atol=1e-12)
    assert (found[2] == 0).all()
    assert (scatter([], last) == 0).all()


def test_what_a_later_turn_moves_is_stated(scene, tmp_path):
    """Networks that know the truth and an outline that goes elsewhere in the first turn."""
    moved, calls = np.array([0.004, 0.0, 0.0]), []

    def elsewhere(maker, T, index, **parts):
        found = align(maker, T, index, **parts)
        calls.append(len(T))
        if len(calls) == 1:
            found.aligned[:] = True
            found.T_camera_object[:, :3, 3] = T[:, :3, 3] + moved
        return found

    with knowing(tmp_path, scene, config=EstimatorConfig()) as (estimator, _):
        (sure,) = estimator.estimate(scene.image, scene.camera, scene.detections())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("coop_edge.stages.turns.align", elsewhere)
            (unsure,) = estimator.estimate(scene.image, scene.camera, scene.detections())
    assert len(calls) == 2
    assert np.sqrt(sure.covariance[0, 0]) < 0.5 * moved[0]
    assert 0.9 * moved[0] < np.sqrt(unsure.covariance[0, 0]) < 2.0 * moved[0]
