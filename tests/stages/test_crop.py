"""Crops: pixels where the virtual camera sees them, without aliasing. (Training's crops are held against these cameras
in ``tests/export/data/test_scenes.py``.)"""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.ops.cpu import CpuOperations
from coop_edge.stages.crop import crop_detections, in_sight, pose_crop
from coop_edge.types import Camera, Detection
from tests.stages.scene import CAMERA, at

OPS = CpuOperations()


def crop_of(image, *detections, camera=CAMERA, size=64, margin=1.2):
    return crop_detections(image, camera, list(detections), size, ops=OPS, margin=margin, patch=16)


def ramp(height=480, width=640):
    """R grows with x, G with y, by 0.25 a pixel; B = 77."""
    v, u = np.mgrid[:height, :width]
    return np.stack([u / 4 + 20, v / 4 + 20, np.full(u.shape, 77)], axis=-1).round().astype(np.uint8)


def test_no_detections_give_empty_crops():
    crops = crop_of(ramp())
    assert crops.images.shape == (0, 3, 64, 64)
    assert crops.images.dtype == np.float32
    assert crops.trusted.shape == (0, 16)
    assert len(crops.camera) == 0


@pytest.mark.parametrize("box", [(300, 200, 40, 30), (20, 30, 60, 60), (100, 40, 300, 400), (420.5, 300.25, 80, 90)])
def test_a_crop_pixel_shows_what_lies_at_its_place_in_the_image(box):
    crops, reversed_ = (crop_of(image, Detection("a", bbox=box)) for image in (ramp(), 255 - ramp()))
    pixels = np.stack(np.meshgrid(np.arange(64), np.arange(64)), axis=-1).reshape(1, -1, 2)
    uv = crops.camera.pixels_to_image(pixels)[0].reshape(64, 64, 2)
    inside = ((uv >= 8) & (uv < np.array([640, 480]) - 9)).all(axis=-1)
    assert inside.mean() > 0.7
    # Half the difference: what rounding adds to both falls out.
    got = 255 * (0.5 + 0.5 * (crops.images[0] - reversed_.images[0]).transpose(1, 2, 0).astype(float))
    want = uv[inside] / 4 + 20
    np.testing.assert_allclose(got[inside][:, :2], want, atol=1.01)
    np.testing.assert_allclose(got[inside][:, :2].mean(axis=0), want.mean(axis=0), atol=0.05)  # 0.2 pixels
    np.testing.assert_allclose(got[inside][:, 2], 77, atol=1e-4)


def test_outside_the_image_is_black():
    crops = crop_of(np.full((480, 640, 3), 200, np.uint8), Detection("a", bbox=(-60, 200, 120, 120)))
    assert (crops.images[0, :, :, :20] == 0).all()
    np.testing.assert_allclose(crops.images[0, :, :, 40:], 200 / 255, atol=1e-6)


def test_any_memory_layout_will_do():
    """A BGR image turned into RGB by a view, and one that nobody may write to."""
    image = ramp()
    reversed_ = np.ascontiguousarray(image[..., ::-1])[..., ::-1]
    reversed_.flags.writeable = False
    box = Detection("a", bbox=(300, 200, 80, 60))
    np.testing.assert_array_equal(crop_of(reversed_, box).images, crop_of(image, box).images)


def test_behind_the_camera_is_black():
    """A near object at the side of a very wide image: part of its crop looks backwards, where a homography mirrors."""
    camera = Camera([[100.0, 0.0, 999.5], [0.0, 100.0, 199.5], [0.0, 0.0, 1.0]], 2000, 400)
    crop = pose_crop(camera, at(0.6, 0.0, 0.13)[None], np.zeros((1, 3)), np.array([0.2]), 64, 4.0)
    rays = crop.R_crop_camera[0].T @ np.linalg.inv(crop.K[0])
    pixels = np.stack([*np.meshgrid(np.arange(64), np.arange(64)), np.ones((64, 64))], axis=-1) @ rays.T
    behind = pixels[..., 2] <= 0
    assert 0.1 < behind.mean() < 0.9
    got = OPS.warp(np.full((400, 2000, 3), 200, np.uint8), crop.H, 64)[0]
    assert (got[:, behind] == 0).all()
    assert (got[:, ~behind] > 0).any()


def test_what_a_crop_cannot_resolve_is_averaged():
    v, u = np.mgrid[:480, :640]
    checker = np.repeat((255 * ((u + v) % 2)).astype(np.uint8)[..., None], 3, axis=-1)
    crops = crop_of(checker, Detection("a", bbox=(120, 40, 400, 400)), size=32)
    assert abs(crops.images.mean() - 0.5) < 0.01
    assert crops.images.std() < 0.06  # single bilinear samples give 0.2


@pytest.mark.parametrize(("width", "height"), [(100, 40), (30, 90), (64, 64)])
def test_sides_are_those_of_the_box_in_the_crop(width, height):
    box = Detection("a", bbox=(320 - width / 2, 240 - height / 2, width, height))  # on the axis: no perspective
    crops = crop_of(ramp(), box)
    corners = np.array([[[320 - width / 2, 240 - height / 2], [320 + width / 2, 240 + height / 2]]]) - 0.5
    seen = crops.camera.pixels_to_crop(corners)[0]
    np.testing.assert_allclose(crops.sides[0], seen[1] - seen[0], rtol=1e-3)


def test_a_mask_says_which_patches_to_trust():
    mask = np.zeros((480, 640), bool)
    mask[200:300, 250:300] = True
    crops = crop_of(ramp(), Detection("a", bbox=(250, 200, 100, 100), mask=mask), Detection("a", bbox=(9, 9, 50, 50)))
    assert crops.trusted[1].all()
    trusted = crops.trusted[0].reshape(4, 4)
    assert trusted[:, :2].all()
    assert not trusted[:, 3].any()


def test_a_mask_narrower_than_a_pixel_of_its_crop_is_not_overlooked():
    for column in range(100, 112):
        mask = np.zeros((480, 640), bool)
        mask[10:470, column] = True
        crops = crop_of(ramp(), Detection("a", bbox=(0, 10, 640, 460), mask=mask))
        x = crops.camera.pixels_to_crop([[(column, 240.0)]])[0, 0, 0]
        assert crops.trusted[0].reshape(4, 4)[:, int(x + 0.5) // 16].any()


def test_no_patch_behind_the_camera_is_trusted():
    """A box 150 degrees wide, aside: part of its crop lies behind the camera, where the image would be mirrored."""
    wide = Camera([[50.0, 0.0, 319.5], [0.0, 50.0, 239.5], [0.0, 0.0, 1.0]], 640, 480)
    mask = np.ones((480, 640), bool)
    crops = crop_of(ramp(), Detection("a", bbox=(320, 0, 320, 480), mask=mask), camera=wide)
    inverse = np.linalg.inv(crops.camera.H[0])
    u, v = np.meshgrid(np.arange(64), np.arange(64))
    behind = (inverse @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1))[2].reshape(64, 64) <= 0
    whole = behind.reshape(4, 16, 4, 16).all(axis=(1, 3)).ravel()
    assert whole.any()
    assert not crops.trusted[0][whole].any()
    assert crops.trusted[0].any()


@pytest.mark.parametrize(
    ("image", "box", "says"),
    [
        (np.zeros((480, 640), np.uint8), (1, 1, 9, 9), "wanted RGB"),
        (np.zeros((480, 640, 3), np.float32), (1, 1, 9, 9), "wanted dtype uint8"),
        (np.zeros((640, 480, 3), np.uint8), (1, 1, 9, 9), "look swapped"),
        (np.zeros((480, 640, 3), np.uint8), (700, 1, 9, 9), "lies outside"),
    ],
)
def test_wrong_input_is_refused(image, box, says):
    with pytest.raises(InputError, match=says):
        crop_of(image, Detection("a", bbox=box))


def test_pose_crop_looks_at_the_centre_and_is_a_homography_of_the_image(bar):
    T = at(0.3, 0.2, 0.9, (0.3, 1.0, 2.0), bar.centre)[None]
    crop = pose_crop(CAMERA, T, bar.centre[None], np.array([bar.diameter]), 128, 1.2)
    np.testing.assert_allclose(project(crop.K, se3.transform(crop.to_crop(T), bar.centre[None])), 63.5, atol=1e-9)
    points = (bar.vertices + bar.centre)[None]
    in_image = project(CAMERA.K, se3.transform(T, points))
    in_crop = project(crop.K, se3.transform(crop.to_crop(T), points))
    np.testing.assert_allclose(crop.pixels_to_crop(in_image), in_crop, atol=1e-8)


def test_pose_crop_does_not_depend_on_the_pixels_of_the_real_camera(cube):
    other = Camera([[300.0, 0.0, 100.0], [0.0, 450.0, 80.0], [0.0, 0.0, 1.0]], 320, 240)
    T, centre, diameter = at(0.1, 0.05, 0.5)[None], np.zeros((1, 3)), np.array([cube.diameter])
    a, b = (pose_crop(camera, T, centre, diameter, 64, 1.2) for camera in (CAMERA, other))
    np.testing.assert_array_equal(a.K, b.K)
    np.testing.assert_allclose(a.H @ CAMERA.K, b.H @ other.K, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    ("place", "seen"),
    [
        ((0, 0, 1.0), True),
        ((0, 0, 0.13), True),
        ((0, 0, 0.11), False),  # inside 0.6 diameters of 0.2 m
        ((0, 0, -1.0), False),
        ((0.5, 0, 0.5), True),
        ((5.0, 0, 0.5), False),
        ((np.nan, 0, 1.0), False),
        ((0, 0, np.inf), False),
    ],
)
def test_in_sight(place, seen):
    T = np.eye(4)[None].copy()
    T[0, :3, 3] = place
    assert in_sight(T, np.zeros((1, 3)), np.array([0.2])).tolist() == [seen]


def test_in_sight_of_nothing():
    assert in_sight(np.zeros((0, 4, 4)), np.zeros((0, 3)), np.zeros(0)).shape == (0,)
