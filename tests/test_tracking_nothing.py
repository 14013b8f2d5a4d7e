"""Tracking with the engines that ship: where the object is not, tracking says so."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from coop_edge import Estimator, PoseEstimate, SelectConfig
from coop_edge.demo import load_scene

ENGINES = Path(__file__).parents[1] / "engines" / "coop-xs"
NAMES = ("house", "mug")


@pytest.fixture(scope="module")
def scene():
    return load_scene()


@pytest.fixture(scope="module", params=[SelectConfig().min_score, 0.0])
def estimator(scene, request):
    """With the default floors on score and presence, and without any: the other floors must do."""
    config = {"select": {"min_score": request.param}}
    with Estimator.from_engines(ENGINES, device="cpu", config=config, threads=1) as estimator:
        for name in NAMES:
            mesh, unit = scene.meshes[name]
            estimator.add_object(name, mesh, unit=unit)
        yield estimator


def start(scene, depth: float | None = None) -> list[PoseEstimate]:
    """The true poses; depth: as far away, along the same rays."""
    poses = [scene.truth[name].copy() for name in NAMES]
    for T in poses:
        T[:3, 3] *= 1.0 if depth is None else depth / T[2, 3]
    return [PoseEstimate(True, T_camera_object=T, score=1.0, object=n) for n, T in zip(NAMES, poses, strict=True)]


def test_what_is_there_is_followed(scene, estimator):
    for result in estimator.track(scene.image, scene.camera, start(scene)):
        assert result.success, result.reason
        centre = estimator.objects[result.object].centre
        now, truth = (T[:3, :3] @ centre + T[:3, 3] for T in (result.T_camera_object, scene.truth[result.object]))
        assert np.linalg.norm(now - truth) < 0.1 * estimator.objects[result.object].diameter


def nothing(scene) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = scene.image.shape
    gone = scene.image.copy()
    for name in NAMES:
        x, y, w, h = (round(v) for v in next(d.bbox for d in scene.detections if d.object == name))
        gone[y - 4 : y + h + 4, x - 4 : x + w + 4] = np.median(scene.image[y - 8 : y - 4, x : x + w], axis=(0, 1))
    return {
        "black": np.zeros(shape, np.uint8),
        "grey": np.full(shape, 128, np.uint8),
        "white": np.full(shape, 255, np.uint8),
        "noise": rng.integers(0, 256, shape, np.uint8),
        "faint noise": np.clip(128 + rng.normal(0, 3, shape), 0, 255).astype(np.uint8),
        "coarse noise": cv2.resize(rng.integers(0, 256, (30, 40, 3), np.uint8), shape[1::-1]),
        "gone": gone,
    }


def test_nothing_is_followed_where_nothing_is(scene, estimator):
    for name, image in nothing(scene).items():
        for result in estimator.track(image, scene.camera, start(scene)):
            assert not result.success, (name, result.object, result.score)
            assert result.reason.startswith("lost: select: ")


@pytest.mark.parametrize("depth", [20.0, 40.0])
def test_what_is_far_away_is_too_small(scene, estimator, depth):
    for image in (scene.image, *nothing(scene).values()):
        for result in estimator.track(image, scene.camera, start(scene, depth)):
            assert not result.success
            assert "too small in the image" in result.reason, result.reason
