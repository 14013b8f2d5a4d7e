"""Lens distortion against OpenCV: there, back, where it ends, and through the crops."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from coop_edge import Camera
from coop_edge.errors import InputError
from coop_edge.geometry.camera import project
from coop_edge.geometry.crop import crop_camera
from coop_edge.geometry.lens import Lens

K = np.array([[600.0, 0.0, 322.0], [0.0, 610.0, 241.0], [0.0, 0.0, 1.0]])
WIDE = np.array([[240.0, 0.0, 322.0], [0.0, 244.0, 241.0], [0.0, 0.0, 1.0]])
SIZE = 640, 480
LENSES = {
    "4": [-0.3, 0.1, 1e-3, -2e-3],
    "5": [-0.3, 0.12, 1e-3, -2e-3, -0.02],
    "5, pincushion": [0.25, 0.1, -2e-3, 1e-3, 0.05],
    "8": [0.5, -0.2, 1e-3, 2e-4, 0.05, 0.6, -0.1, 0.02],
    "12": [0.5, -0.2, 1e-3, 2e-4, 0.05, 0.6, -0.1, 0.02, 1e-3, 2e-3, -1e-3, 5e-4],
    "14": [-0.2, 0.1, 1e-3, 2e-4, 0.05, 0.0, 0.0, 0.0, 1e-3, 2e-3, -1e-3, 5e-4, 0.05, -0.03],
}
FISHEYE = [0.05, -0.02, 0.01, -0.002]
EVERY = [pytest.param(Camera(K, *SIZE, distortion=d), id=name) for name, d in LENSES.items()]
EVERY.append(pytest.param(Camera(0.4 * K + np.diag([0, 0, 0.6]), 260, 190, FISHEYE, fisheye=True), id="fisheye"))


def by_opencv(camera, points):
    function = cv2.fisheye.projectPoints if camera.fisheye else cv2.projectPoints
    points = np.asarray(points, np.float64).reshape(-1, 1, 3)
    return function(points, np.zeros(3), np.zeros(3), camera.K, np.array(camera.distortion))[0].reshape(-1, 2)


def points_seen(camera, count=400, seed=0):
    """Points in front of the camera, at random pixels and depths: by OpenCV's own way back where it has one."""
    rng = np.random.default_rng(seed)
    spread = 2.5 if camera.fisheye else 0.6
    return np.c_[rng.uniform(-spread, spread, (count, 2)), np.ones(count)] * rng.uniform(0.3, 3.0, (count, 1))


@pytest.mark.parametrize("camera", EVERY)
def test_projects_as_opencv_does_and_comes_back(camera):
    points = points_seen(camera)
    pixels = camera.project(points)
    np.testing.assert_allclose(pixels, by_opencv(camera, points), atol=1e-9)
    rays = camera.rays(pixels)
    np.testing.assert_allclose(rays, points / points[:, 2:], atol=1e-9)
    np.testing.assert_allclose(camera.project(rays), pixels, atol=1e-7)


@pytest.mark.parametrize("camera", EVERY)
def test_one_pixel_does_not_depend_on_the_others(camera):
    pixels = camera.project(points_seen(camera, 50))
    alone = np.concatenate([camera.rays(pixel[None]) for pixel in pixels])
    np.testing.assert_array_equal(camera.rays(pixels), alone)
    assert camera.rays(np.zeros((0, 2))).shape == (0, 3)
    assert camera.project(np.zeros((4, 0, 3))).shape == (4, 0, 2)


def test_behind_the_camera_nothing_is_seen():
    camera = Camera(K, *SIZE, distortion=LENSES["5"])
    assert np.isnan(camera.project([[0.1, 0.1, -1.0], [0.0, 0.0, 0.0]])).all()


def test_beyond_the_fold_nothing_is_seen():
    """r (1 - 0.4 r^2) shrinks from r = 0.913 on: rays beyond it would show up in the image again."""
    with pytest.warns(UserWarning, match="folds the image back before its border"):
        camera = Camera(WIDE, *SIZE, distortion=[-0.4, 0, 0, 0])
    limit = np.sqrt(1 / 1.2)
    assert camera.lens.limit == pytest.approx(limit)
    seen = camera.project([[limit - 1e-6, 0, 1], [limit + 1e-6, 0, 1]])
    assert np.isfinite(seen).all(axis=1).tolist() == [True, False]
    beside = seen[0] + (1.0, 0.0)  # no ray comes out there
    assert np.isnan(camera.rays(beside[None])).all()


@pytest.mark.parametrize(("k1", "folds"), [(0.1, False), (-0.2, True)])
def test_the_limit_of_a_fisheye(k1, folds):
    """Its angle t (1 + k1 t^2) grows up to t^2 = -1 / (3 k1)."""
    lens = Lens.make(K, [k1, 0, 0, 0], fisheye=True)
    assert lens.limit == pytest.approx(np.tan(np.sqrt(1 / 0.6)) if folds else np.tan(np.radians(89.0)))


def test_a_rational_lens_ends_where_its_denominator_vanishes():
    assert Lens.make(K, [0, 0, 0, 0, 0, -0.25, 0, 0]).limit == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("distortion", "options", "says"),
    [
        ([0.1] * 3, {}, "wanted 4, 5, 8, 12 or 14 .* got 3"),
        ([], {}, "got 0"),
        ([0.1] * 5, {"fisheye": True}, r"wanted 4 \(k1, k2, k3, k4\) coefficients for a fisheye, got 5"),
        ([0.1, np.nan, 0, 0], {}, "NaN"),
        ("none", {}, "wanted numbers"),
        ([0.0] * 12 + [2.0, 0.0], {}, "tilt the sensor by 115 and 0 degrees"),
        (None, {"fisheye": True}, "wants distortion"),
    ],
)
def test_refusals(distortion, options, says):
    with pytest.raises(InputError, match=says):
        Camera(K, *SIZE, distortion=distortion, **options)


def test_refuses_skew_with_distortion():
    skewed = K + np.array([[0, 0.5, 0], [0, 0, 0], [0, 0, 0]])
    assert Camera(skewed, *SIZE).lens is None
    with pytest.raises(InputError, match=r"has skew 0\.5"):
        Camera(skewed, *SIZE, distortion=LENSES["4"])


def test_zeros_are_no_distortion_but_for_a_fisheye():
    assert Camera(K, *SIZE, distortion=np.zeros(5)).lens is None
    assert Camera(K, *SIZE, distortion=np.zeros(5)).distortion is None
    fisheye = Camera(K, *SIZE, distortion=np.zeros(4), fisheye=True)
    np.testing.assert_allclose(fisheye.project([[1.0, 0.0, 1.0]]), [[322.0 + 600 * np.pi / 4, 241.0]])


def test_takes_coefficients_as_opencv_returns_them():
    column = np.array(LENSES["5"])[:, None]
    for given in (column, column.T):
        camera = Camera(K, *SIZE, distortion=given)
        assert camera.distortion.tolist() == LENSES["5"]
        with pytest.raises(ValueError, match="read-only"):
            camera.distortion[0] = 1


class TestCrops:
    @pytest.mark.parametrize("camera", EVERY)
    def test_a_crop_shows_a_point_where_its_camera_projects_it(self, camera):
        w, h = camera.size
        boxes = [(0.1 * w, 0.1 * h, 0.2 * w, 0.3 * h), (0.4 * w, 0.5 * h, 0.1 * w, 0.1 * h)]
        crop = crop_camera(camera.K, boxes, 96, 1.2, camera.lens).zoomed([0.8, 1.3]).rolled([0.4, -1.0])
        rng = np.random.default_rng(0)
        pixels = rng.uniform(0, 95, (2, 50, 2))
        in_image = crop.pixels_to_image(pixels)
        points = camera.rays(in_image)
        seen = project(crop.K, points @ np.swapaxes(crop.R_crop_camera, 1, 2))
        np.testing.assert_allclose(seen, pixels, atol=1e-6)
        np.testing.assert_allclose(crop.pixels_to_crop(in_image), pixels, atol=1e-6)
        np.testing.assert_allclose(in_image.reshape(-1, 2), by_opencv(camera, points), atol=1e-7)

    @pytest.mark.parametrize("camera", EVERY)
    def test_the_whole_box_is_inside_its_crop(self, camera):
        """Its sides are bent: its corners are not enough."""
        w, h = camera.size
        box = np.array([0.02 * w, 0.3 * h, 0.95 * w, 0.4 * h])
        crop = crop_camera(camera.K, box[None], 64, 1.0, camera.lens)
        t = np.linspace(0, 1, 40)
        border = np.concatenate([np.c_[t, 0 * t], np.c_[t, 0 * t + 1], np.c_[0 * t, t], np.c_[0 * t + 1, t]])
        seen = crop.pixels_to_crop(box[:2] - 0.5 + border * box[2:])[0]
        assert seen.min() > -0.5 - 0.05
        assert seen.max() < 63.5 + 0.05
        assert np.ptp(seen, axis=0).max() > 60  # and no larger than it must be

    def test_a_box_where_the_lens_shows_nothing(self):
        camera = Camera(WIDE, *SIZE, distortion=[-0.2, 0, 0, 0], fisheye=True)
        with pytest.raises(InputError, match="where the lens images nothing, by its distortion coefficients"):
            crop_camera(camera.K, [(600, 440, 30, 30)], 64, 1.2, camera.lens)
        inner = crop_camera(camera.K, [(0, 0, 300, 300)], 64, 1.2, camera.lens)  # its corner shows nothing
        assert np.isfinite(inner.H).all()
