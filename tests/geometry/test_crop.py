"""The pinhole camera and the virtual crop camera: round trips to 1e-12, and the crop as a person would define it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coop_edge.errors import InputError
from coop_edge.geometry import camera, se3
from coop_edge.geometry.crop import crop_camera

K = np.array([[600.0, 0.3, 319.2], [0.0, 610.0, 241.7], [0.0, 0.0, 1.0]])
BOXES = st.tuples(st.floats(-50, 600), st.floats(-50, 440), st.floats(1, 400), st.floats(1, 400))


def test_project_and_unproject_are_inverse():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3, 40, 3)) * 0.2 + (0, 0, 1.5)
    pixels = camera.project(K, points)
    np.testing.assert_allclose(camera.unproject(K, pixels, points[..., 2]), points, atol=1e-12)
    no_skew = K * [[1, 0, 1], [1, 1, 1], [1, 1, 1]]
    expected, _ = cv2.projectPoints(points.reshape(-1, 3), np.zeros(3), np.zeros(3), no_skew, None)
    np.testing.assert_allclose(camera.project(no_skew, points).reshape(-1, 2), expected[:, 0], atol=1e-9)


def test_points_behind_the_camera_have_no_pixel():
    assert np.isnan(camera.project(K, [[[0.0, 0.0, -1.0], [0.1, 0.0, 0.0]]])).all()
    assert camera.project(K, np.zeros((0, 3))).shape == (0, 2)


def test_reprojection_error():
    T = se3.exp([[0.0, 0, 1.0, 0.1, 0.2, 0.3]])
    points = np.random.default_rng(0).normal(size=(1, 9, 3)) * 0.1
    pixels = camera.project(K, se3.transform(T, points))
    np.testing.assert_allclose(camera.reprojection_error(T, K, points, pixels + (3.0, 4.0)), 5.0, atol=1e-9)


@settings(deadline=None)
@given(st.lists(BOXES, min_size=0, max_size=4), st.integers(0, 2**31))
def test_round_trips(boxes, seed):
    crop = crop_camera(K, np.reshape(boxes, (-1, 4)), 224, margin=1.3)
    n = len(boxes)
    rng = np.random.default_rng(seed)
    T = se3.from_rt(se3.random_rotation(rng, (n,)), rng.normal(size=(n, 3)) + (0, 0, 2))
    np.testing.assert_allclose(crop.to_camera(crop.to_crop(T)), T, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(crop.R_crop_camera), 1.0, atol=1e-12)
    pixels = rng.uniform(0, 223, (n, 10, 2))
    # Pixels are of order 100: 1e-12 relative.
    np.testing.assert_allclose(crop.pixels_to_crop(crop.pixels_to_image(pixels)), pixels, rtol=1e-10, atol=1e-9)


@settings(deadline=None)
@given(BOXES)
def test_homography_is_the_two_projections(box):
    """A 3D point seen by the real camera, moved by H, is where the virtual camera sees it: no perspective error."""
    crop = crop_camera(K, [box], 128)
    rng = np.random.default_rng(0)
    T = se3.from_rt(se3.random_rotation(rng), camera.unproject(K, [[box[0], box[1]]], [1.5])[0])[None]
    points = rng.normal(size=(1, 20, 3)) * 0.05
    in_image = camera.project(K, se3.transform(T, points))
    in_crop = camera.project(crop.K, se3.transform(crop.to_crop(T), points))
    np.testing.assert_allclose(crop.pixels_to_crop(in_image), in_crop, atol=1e-8)


@settings(deadline=None)
@given(BOXES)
def test_the_crop_is_centred_on_the_box_and_holds_it(box):
    x, y, w, h = box
    size, margin = 128, 1.25
    crop = crop_camera(K, [box], size, margin)
    centre = crop.pixels_to_crop([[[x - 0.5 + w / 2, y - 0.5 + h / 2]]])
    np.testing.assert_allclose(centre, (size - 1) / 2, atol=1e-8)
    corners = [[x - 0.5, y - 0.5], [x + w - 0.5, y - 0.5], [x - 0.5, y + h - 0.5], [x + w - 0.5, y + h - 0.5]]
    extent = np.abs(crop.pixels_to_crop([corners]) - (size - 1) / 2).max()
    np.testing.assert_allclose(extent, size / 2 / margin, rtol=1e-9)


def test_the_crop_has_no_roll_and_no_mirror():
    crop = crop_camera(K, [(500, 400, 60, 40), (310, 230, 20, 20)], 64)
    for i, (x, y) in enumerate([(530, 420), (320, 240)]):
        around = crop.pixels_to_crop([[[x, y], [x + 5, y], [x, y + 5]]] * 2)[i]
        right, down = around[1] - around[0], around[2] - around[0]
        assert right[0] > 0
        assert abs(right[1]) < 0.06 * right[0]
        assert down[1] > 0
        assert abs(down[0]) < 0.06 * down[1]


def test_warping_with_h_makes_the_crop():
    """cv2.warpPerspective with H shows the pixel pattern that H predicts."""
    v, u = np.mgrid[:480, :640].astype(np.float32)
    crop = crop_camera(K, [(100, 60, 90, 120)], 96)
    warped = cv2.warpPerspective(np.dstack([u, v]), crop.H[0], (96, 96))
    grid = np.stack(np.meshgrid(np.arange(96.0), np.arange(96.0)), -1).reshape(1, -1, 2)
    np.testing.assert_allclose(warped.reshape(1, -1, 2), crop.pixels_to_image(grid), atol=0.05)


def test_no_boxes():
    crop = crop_camera(K, np.zeros((0, 4)), 64)
    assert len(crop) == 0
    assert crop.to_crop(np.zeros((0, 4, 4))).shape == (0, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"bbox": np.zeros(4)}, "wanted [N,4]"),
        ({"bbox": [(0, 0, 0, 5)]}, "positive width"),
        ({"bbox": [(0, 0, np.nan, 5)]}, "finite"),
        ({"K": np.eye(4)}, "got [4, 4]"),
        ({"K": np.stack([K, K])}, "wanted [3,3] or [1,3,3]"),
        ({"K": K.T}, "transposed"),
        ({"K": np.diag([-600.0, 600.0, 1.0])}, "positive focal"),
        ({"K": K * np.nan}, "NaN"),
        ({"bbox": "left"}, "wanted numbers"),
        ({"size": 1}, "size: wanted an integer >= 2"),
        ({"size": 64.0}, "size"),
        ({"margin": 0.9}, "margin"),
        ({"bbox": [(-1e7, 0, 2e7, 3)]}, "90 degrees"),
    ],
)
def test_refusals(arguments, says):
    if says == "90 degrees":
        arguments["bbox"] = [(0, 0, 1e9, 3)]
    with pytest.raises(InputError) as error:
        crop_camera(**{"K": K, "bbox": [(10, 10, 20, 20)], "size": 64, **arguments})
    assert says in str(error.value)


def seen_by(crop, points):
    """Where virtual cameras see points [N,P,3] of the real camera's frame."""
    return camera.project(crop.K, points @ np.swapaxes(crop.R_crop_camera, 1, 2))


@pytest.mark.parametrize("change", ["zoomed", "rolled", "both", "zoomed by one number"])
def test_cameras_zoomed_and_rolled_are_cameras_still(change):
    """H is still the two projections, poses still go over, and the middle of the crop stays where it was."""
    crop = crop_camera(K, [(100, 60, 90, 120), (400, 300, 50, 30), (10, 20, 30, 40)], 96)
    factor, angle = np.array([0.75, 1.0, 1.35]), np.array([0.3, -2.0, np.pi])
    if change == "zoomed by one number":
        factor = 1.7
    changed = crop if change == "rolled" else crop.zoomed(factor)
    changed = changed.rolled(angle) if change in ("rolled", "both") else changed
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 95, (3, 20, 2))
    in_image = crop.pixels_to_image(pixels)
    points = np.concatenate([in_image, np.ones((3, 20, 1))], axis=-1) @ np.linalg.inv(K).T
    np.testing.assert_allclose(changed.pixels_to_crop(in_image), seen_by(changed, points), atol=1e-8)
    middle = np.full((3, 1, 2), 47.5)
    np.testing.assert_allclose(changed.pixels_to_image(middle), crop.pixels_to_image(middle), atol=1e-8)
    T = se3.from_rt(se3.random_rotation(rng, (3,)), rng.normal(size=(3, 3)))
    np.testing.assert_allclose(changed.to_camera(changed.to_crop(T)), T, atol=1e-12)
    np.testing.assert_allclose(changed.to_crop(T), se3.from_rt(changed.R_crop_camera, np.zeros(3)) @ T, atol=1e-12)
    np.testing.assert_allclose(
        changed.R_crop_camera @ np.swapaxes(changed.R_crop_camera, 1, 2), [np.eye(3)] * 3, atol=1e-12
    )
    assert changed.size == crop.size
    # What is seen: as far from the middle as the zoom says, turned the other way than the camera.
    gap = pixels - 47.5
    turn = angle if change in ("rolled", "both") else np.zeros(3)
    c, s = np.cos(turn)[:, None], np.sin(turn)[:, None]
    x, y = gap[..., 0], gap[..., 1]  # y points down: by the negative angle is anticlockwise
    wanted = np.stack([c * x + s * y, -s * x + c * y], axis=-1)
    if change != "rolled":
        wanted = wanted * np.broadcast_to(factor, 3)[:, None, None]
    np.testing.assert_allclose(changed.pixels_to_crop(in_image) - 47.5, wanted, atol=1e-7)


def test_zooming_and_rolling_nothing():
    crop = crop_camera(K, np.zeros((0, 4)), 64)
    for changed in (crop.zoomed(2.0), crop.zoomed(np.zeros(0)), crop.rolled(np.zeros(0))):
        assert len(changed) == 0
        assert changed.H.shape == (0, 3, 3)


def test_each_camera_zooms_and_rolls_by_itself():
    crop = crop_camera(K, [(100, 60, 90, 120), (400, 300, 50, 30)], 96)
    factor, angle = np.array([0.75, 1.35]), np.array([0.3, -2.0])
    whole = crop.zoomed(factor).rolled(angle)
    for i in range(2):
        one = crop.take(np.array([i])).zoomed(factor[i : i + 1]).rolled(angle[i : i + 1])
        for name in ("K", "R_crop_camera", "H"):
            np.testing.assert_allclose(getattr(one, name)[0], getattr(whole, name)[i], rtol=1e-12, atol=1e-12)
