"""Distances, residuals and evidence from measured depth."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.config import DepthConfig
from coop_edge.geometry import se3
from coop_edge.geometry.crop import crop_camera
from coop_edge.geometry.patches import patch_centres
from coop_edge.mesh.symmetry import Symmetries
from coop_edge.ops.cpu import CpuOperations
from coop_edge.ops.depth import BINS, BINS_PER_DIAMETER
from coop_edge.render import CpuRenderer
from coop_edge.stages.depth import (
    GATES,
    approach,
    best_shift,
    compare,
    depths_of_matches,
    evidence,
    gate_of,
    is_used,
    patch_depths,
)
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.pairs import ImagePairMaker
from coop_edge.types import Camera
from tests.stages.scene import at, colored_box

CAMERA = Camera(np.array([[300.0, 0.0, 159.5], [0.0, 300.0, 119.5], [0.0, 0.0, 1.0]]), 320, 240)
BOX = colored_box((0.12, 0.08, 0.06))
TRUTH = at(0.05, -0.02, 0.7, (0.4, 0.6, -0.2))
DIAMETER = float(np.linalg.norm((0.12, 0.08, 0.06)))


def model() -> ObjectModel:
    blank = np.zeros((1, 1, 1), np.float32)
    return ObjectModel("box", BOX.centre, BOX.diameter, Symmetries(), blank, blank, None)


def maker_of(depth, size=64) -> ImagePairMaker:
    image = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    return ImagePairMaker(image, CAMERA, [model()], CpuRenderer((BOX,), threads=1), size, 1.2, CpuOperations(), depth)


def scene_depth(wall=0.85, occluder=False, holes=0.0) -> np.ndarray:
    seen = CpuRenderer((BOX,), threads=1).render(TRUTH[None], CAMERA.K, (CAMERA.height, CAMERA.width)).depth[0]
    depth = np.where(seen > 0, seen, np.float32(wall))
    if occluder:
        depth[:, :175] = np.minimum(depth[:, :175], np.float32(0.35))
    depth[np.random.default_rng(0).random(depth.shape) < holes] = 0.0
    return depth


def moved(factor: float) -> np.ndarray:
    """The true pose, at another distance along the line of sight."""
    T = TRUTH.copy()
    T[:3, 3] *= factor
    return T


@pytest.mark.parametrize("factor", [0.75, 0.9, 1.0, 1.15, 1.35])
@pytest.mark.parametrize("scene", [{}, {"occluder": True}, {"holes": 0.3}, {"wall": 3.0}], ids=str)
def test_a_pose_at_another_distance_comes_to_the_measured_one(scene, factor):
    found, used = approach(maker_of(scene_depth(**scene)), moved(factor)[None], np.zeros(1, int), DepthConfig())
    assert used.all()
    assert abs(found[0, 2, 3] - TRUTH[2, 3]) < 0.12 * DIAMETER
    ray, wanted = found[0, :3, 3] / found[0, 2, 3], TRUTH[:3, 3] / TRUTH[2, 3]
    np.testing.assert_allclose(ray, wanted, atol=1e-9)  # along the line of sight
    np.testing.assert_allclose(found[0, :3, :3], TRUTH[:3, :3], atol=1e-12)


def test_poses_that_are_none_and_those_without_depth_stay():
    T = np.array([moved(1.2), np.full((4, 4), np.nan), at(0, 0, -1.0)])
    found, used = approach(maker_of(scene_depth() * 0), T, np.zeros(3, int), DepthConfig())
    assert not used.any()
    np.testing.assert_allclose(found, T, atol=1e-12)
    assert approach(maker_of(scene_depth()), T[:0], np.zeros(0, int), DepthConfig())[0].shape == (0, 4, 4)


def test_a_pose_is_moved_alike_in_any_batch():
    T = np.array([moved(0.8), moved(1.1), moved(1.3)])
    maker = maker_of(scene_depth())
    together, _ = approach(maker, T, np.zeros(3, int), DepthConfig())
    for i in range(3):
        np.testing.assert_array_equal(approach(maker, T[i : i + 1], np.zeros(1, int), DepthConfig())[0][0], together[i])


def test_the_shift_is_that_of_most_places_and_of_the_plausible_ones():
    def bins(**counts):
        gaps = np.zeros((1, BINS), int)
        for name, count in counts.items():
            gaps[0, BINS // 2 + int(name[1:]) * (1 if name[0] == "p" else -1)] = count
        return gaps

    def shift(gaps):
        total = gaps.sum(axis=1)
        return best_shift(gaps, total, np.array([0.2]), np.array([1.0]))[0] * BINS_PER_DIAMETER / 0.2

    assert shift(bins(p5=100)) == pytest.approx(5.0)
    assert shift(bins(p5=100, p6=100)) == pytest.approx(5.5)
    assert shift(bins(p2=100, p40=60)) == pytest.approx(2.0)  # the background is far off the size
    assert shift(bins(m20=40, p2=100)) == pytest.approx(2.0)  # an occluder
    assert shift(bins()) == 0.0


def test_evidence_counts_shares_of_what_is_known():
    tally = np.array([[100, 80, 60, 12, 8], [100, 10, 10, 0, 0], [0, 0, 0, 0, 0], [30, 19, 19, 0, 0]])
    np.testing.assert_array_equal(is_used(tally), [True, False, False, False])
    found = evidence(tally)
    np.testing.assert_allclose(found.agreement, [0.75, 0, 0, 0])
    np.testing.assert_allclose(found.clear, [0.9, 0, 0, 0])


def test_the_true_pose_has_the_most_to_show():
    maker, config = maker_of(scene_depth(occluder=True)), DepthConfig()
    turned = se3.from_rt(se3.so3_exp((0.0, 0.0, 1.2)) @ TRUTH[:3, :3], TRUTH[:3, 3])
    T = np.array([TRUTH, moved(0.8), moved(1.25), turned])
    pairs = maker.make(T, np.zeros(4, int))
    found = evidence(compare(pairs, config, 0.05).tally)
    assert found.used.all()
    assert found.agreement.argmax() == 0
    assert found.clear[0] > 0.95
    assert found.clear[1] < 0.5  # it lies before what was measured: the sensor saw through it
    assert found.clear[2] > 0.95  # hidden by what was measured
    assert found.agreement[2] < 0.1


def test_gates_close():
    assert gate_of(0, 6) == pytest.approx(GATES[0])
    assert gate_of(5, 6) == gate_of(6, 6) == pytest.approx(GATES[1])
    assert gate_of(0, 1) == pytest.approx(GATES[0])
    steps = [gate_of(i, 6) for i in range(7)]
    assert steps == sorted(steps, reverse=True)


def test_the_depth_of_a_patch_is_that_of_its_middle_along_the_crops_axis():
    """Of a crop beside the optical axis the axes differ: each value is the measured point's, worked out anew."""
    depth = scene_depth(holes=0.2)
    crop = crop_camera(CAMERA.K, np.array([[150.0, 70.0, 90.0, 80.0], [-40.0, 20.0, 80.0, 80.0]]), 64, 1.2)
    found = patch_depths(depth, crop, 16, CpuOperations())
    assert found.shape == (2, 16)
    known = 0
    for i in range(2):
        for t, (u, v) in enumerate(np.round(patch_centres(64, 16) + 0.5)):  # of the four middle pixels one
            place = np.linalg.inv(crop.H[i]) @ [u, v, 1.0]
            x, y = np.rint(place[:2] / place[2]).astype(int)
            inside = 0 <= x < CAMERA.width and 0 <= y < CAMERA.height and depth[y, x] > 0
            assert inside == np.isfinite(found[i, t])
            if inside:
                point = depth[y, x] * np.linalg.inv(CAMERA.K) @ [x, y, 1.0]
                np.testing.assert_allclose(found[i, t], (crop.R_crop_camera[i] @ point)[2], rtol=1e-5)
                known += 1
    assert 10 < known < 30  # holes, and what lies beyond the image
    assert patch_depths(None, crop, 16, CpuOperations()) is None
    assert patch_depths(depth, crop.take(np.zeros(0, int)), 16, CpuOperations()).shape == (0, 16)


def test_a_depth_that_is_off_by_its_tolerance_is_an_error_of_the_threshold():
    z = np.array([[0.5, np.nan, 2.0]], np.float32)
    config = DepthConfig(noise=0.003, floor=0.001)
    depth, weights = depths_of_matches(z, np.array([200.0]), 8.0, config, np)
    np.testing.assert_allclose(depth, [[0.5, 0.0, 2.0]])
    for i in (0, 2):
        sensor = np.hypot(0.001, 0.003 * z[0, i] ** 2)
        assert weights[0, i] * np.hypot(3.0 * sensor, 8.0 * z[0, i] / 200.0) == pytest.approx(8.0, rel=1e-6)
    assert weights[0, 1] == 0.0
