"""Validation of what goes in and what comes out: every refusal says what was given and what was wanted."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from coop_edge import Camera, Detection, InputError, PoseEstimate, StageTimes
from coop_edge.geometry import se3

K = np.array([[600.0, 0.0, 320.0], [0.0, 610.0, 240.0], [0.0, 0.0, 1.0]])
POSE = se3.exp([0.1, -0.2, 1.0, 0.3, 0.2, 0.1])


def _k(**entries: float) -> np.ndarray:
    out = K.copy()
    for key, value in entries.items():
        out[int(key[1]), int(key[2])] = value
    return out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((np.zeros((0,)), 640, 480), "got shape [0]"),
        ((np.eye(4), 640, 480), "wanted a 3x3 matrix [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], got shape [4, 4]"),
        (
            ([850, 851.5, 405, 295], 810, 590),
            "got shape [4]; as fx, fy, cx, cy these numbers are [[850, 0, 405], [0, 851.5, 295], [0, 0, 1]]",
        ),
        ((np.arange(9), 640, 480), "got shape [9]; nine numbers row by row become one with np.reshape(K, (3, 3))"),
        (("K", 640, 480), "wanted numbers"),
        ((None, 640, 480), "wanted"),
        ((_k(k02=np.nan), 640, 480), "NaN"),
        ((K.T, 640, 480), "is it transposed?"),
        ((_k(k00=0.0), 640, 480), "wanted both positive"),
        ((_k(k11=-610.0), 640, 480), "left-handed"),
        ((K, 0, 480), "width: wanted an integer >= 1, got 0"),
        ((K, 640, -1), "height"),
        ((K, 640.0, 480), "width"),
        ((K, True, 480), "width"),
    ],
)
def test_camera_refuses(arguments, says):
    with pytest.raises(InputError) as error:
        Camera(*arguments)
    assert says in str(error.value)


def test_camera_keeps_a_frozen_float64_copy():
    source = K.astype(np.float32)
    camera = Camera(source, np.int64(640), 480)
    source[0, 0] = 1.0
    assert camera.K.dtype == np.float64
    assert camera.K[0, 0] == 600.0
    assert camera.size == (640, 480)
    with pytest.raises(ValueError, match="read-only"):
        camera.K[0, 0] = 1.0
    with pytest.raises(AttributeError):
        camera.width = 3


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (None, "got None; OpenCV's imread gives None for a file that is missing or that it cannot read"),
        ("photo.png", "got str; read the file first"),
        (np.zeros((0, 0, 3), np.uint8), "got [0, 0, 3]"),
        (np.zeros((480, 640), np.uint8), "got [480, 640]"),
        (np.zeros((640, 480, 3), np.uint8), "swapped"),
        (np.zeros((480, 640, 4), np.uint8), "got [480, 640, 4]"),
        (np.zeros((480, 640, 3), np.float32), "multiply"),
        (np.zeros((480, 640, 3), np.int16), "uint8"),
    ],
)
def test_check_image_refuses(image, says):
    with pytest.raises(InputError) as error:
        Camera(K, 640, 480).check_image(image)
    assert says in str(error.value)


@pytest.mark.parametrize("dtype", ["torch.uint8", "torch.float32"])
def test_check_image_knows_the_dtypes_of_pytorch(dtype):
    class Tensor:  # what is looked at of a tensor; coop_edge never imports PyTorch
        shape = (480, 640, 3)

    Tensor.dtype = dtype
    if dtype == "torch.uint8":
        assert Camera(K, 640, 480).check_image(Tensor()) is None
    else:
        with pytest.raises(InputError, match=r"got torch.float32; multiply"):
            Camera(K, 640, 480).check_image(Tensor())


def test_check_image_accepts_what_the_camera_makes():
    assert Camera(K, 640, 480).check_image(np.zeros((480, 640, 3), np.uint8)) is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "wanted bbox=(x, y, width, height) or a bool mask"),
        ({"object": "", "bbox": (0, 0, 1, 1)}, "non-empty name"),
        ({"object": 3, "bbox": (0, 0, 1, 1)}, "non-empty name"),
        ({"bbox": ()}, "got shape [0]"),
        ({"bbox": (1, 2, 3)}, "got shape [3]"),
        ({"bbox": "box"}, "wanted numbers"),
        ({"bbox": (1, 2, np.nan, 4)}, "NaN"),
        ({"bbox": (1, 2, 0, 4)}, "is it (x0, y0, x1, y1)?"),
        ({"bbox": (100, 100, -50, 4)}, "positive"),
        ({"mask": np.zeros((4, 5), bool)}, "no pixel is True"),
        ({"mask": np.zeros((0, 0), bool)}, "no pixel is True"),
        ({"mask": np.ones((4, 5), np.uint8)}, "mask > 0"),
        ({"mask": np.ones((4, 5, 1), bool)}, "shape [4, 5, 1]"),
        ({"mask": [[True]]}, "list"),
        ({"mask": np.ones((4, 5), bool), "bbox": (10, 10, 2, 2)}, "outside the 5x4 image"),
        ({"bbox": (0, 0, 1, 1), "score": 1.5}, "in [0, 1]"),
        ({"bbox": (0, 0, 1, 1), "score": float("nan")}, "in [0, 1]"),
        ({"bbox": (0, 0, 1, 1), "score": "high"}, "in [0, 1]"),
    ],
)
def test_detection_refuses(arguments, says):
    with pytest.raises(InputError) as error:
        Detection(**{"object": "cup", **arguments})
    assert says in str(error.value)


def test_detection_box_of_a_mask_covers_its_pixels():
    mask = np.zeros((480, 640), bool)
    mask[100:131, 200:251] = True
    assert Detection("cup", mask=mask).bbox == (200.0, 100.0, 51.0, 31.0)
    assert Detection("cup", mask=mask, bbox=(190, 90, 70, 60)).bbox == (190.0, 90.0, 70.0, 60.0)


@pytest.mark.parametrize("box", [(640, 0, 5, 5), (0, 480, 5, 5), (-5, 0, 5, 5), (0, -9.5, 3, 9)])
def test_a_box_outside_the_image_is_refused(box):
    with pytest.raises(InputError, match="outside the 640x480 image"):
        Detection("cup", bbox=box).check_camera(Camera(K, 640, 480))


def test_detection_fits_its_camera():
    camera = Camera(K, 640, 480)
    assert Detection("cup", bbox=(-10, 470, 20, 20)).check_camera(camera) is None
    with pytest.raises(InputError, match=r"wanted \[480,640\]"):
        Detection("cup", mask=np.ones((640, 480), bool)).check_camera(camera)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"success": False}, "wants a reason"),
        ({"success": False, "reason": "lost", "T_camera_object": POSE}, "must not carry a pose"),
        ({"success": False, "reason": "lost", "covariance": np.eye(6)}, "must not carry"),
        ({"success": True}, "wants T_camera_object"),
        ({"success": True, "T_camera_object": POSE, "reason": "x"}, "must not carry a reason"),
        ({"success": True, "T_camera_object": np.zeros((0, 4, 4))}, "wanted [4,4]"),
        ({"success": True, "T_camera_object": POSE[:3]}, "wanted shape"),
        ({"success": True, "T_camera_object": POSE * np.nan}, "NaN"),
        ({"success": True, "T_camera_object": POSE.T}, "transposed"),
        ({"success": True, "T_camera_object": np.diag([1.0, 1, -1, 1])}, "reflection"),
        ({"success": True, "T_camera_object": np.diag([2.0, 2, 2, 1])}, "orthonormal"),
        ({"success": True, "T_camera_object": POSE, "score": 2}, "in [0, 1]"),
        ({"success": True, "T_camera_object": POSE, "presence": 2}, "PoseEstimate.presence"),
        ({"success": True, "T_camera_object": POSE, "presence": "high"}, "PoseEstimate.presence"),
        ({"success": True, "T_camera_object": POSE, "n_inliers": -1}, "n_inliers"),
        ({"success": True, "T_camera_object": POSE, "reprojection_rms_px": np.nan}, "reprojection_rms_px"),
        ({"success": True, "T_camera_object": POSE, "covariance": np.eye(3)}, "[6,6]"),
        ({"success": True, "T_camera_object": POSE, "covariance": -np.eye(6)}, "non-negative"),
        ({"success": True, "T_camera_object": POSE, "covariance": np.triu(np.ones((6, 6)))}, "symmetric"),
        (
            {"success": True, "T_camera_object": POSE, "covariance": 3 * np.eye(6) - np.ones((6, 6))},
            "semi-definite",
        ),
        ({"success": True, "T_camera_object": POSE, "reprojection_rms_px": "1"}, "reprojection_rms_px"),
        ({"success": True, "T_camera_object": POSE, "score": 1j}, "in [0, 1]"),
        ({"success": True, "T_camera_object": POSE, "times": 3.0}, "StageTimes"),
        ({"success": False, "reason": 3}, "wanted text"),
        ({"success": "yes"}, "True or False"),
    ],
)
def test_pose_estimate_refuses(arguments, says):
    with pytest.raises(InputError) as error:
        PoseEstimate(**arguments)
    assert says in str(error.value)


def test_pose_estimate_to_json():
    covariance = np.diag([1e-6, 1e-6, 4e-6, 1e-4, 1e-4, 1e-4])
    estimate = PoseEstimate(
        True, T_camera_object=POSE, score=0.9, n_inliers=40, covariance=covariance, times=StageTimes(1, 2, 3, 4, 5)
    )
    data = json.loads(json.dumps(estimate.to_dict()))
    np.testing.assert_array_equal(data["T_camera_object"], POSE)
    assert data["times"]["total_ms"] == 15
    again = PoseEstimate.from_dict(data)
    assert again.to_dict() == estimate.to_dict()
    np.testing.assert_array_equal(again.T_camera_object, POSE)
    np.testing.assert_array_equal(again.covariance, covariance)
    assert again.times == StageTimes(1, 2, 3, 4, 5)
    assert again.presence == 0.9  # by default the score
    told = PoseEstimate.from_dict(data | {"presence": 0.95})
    assert (told.score, told.presence, told.to_dict()["presence"]) == (0.9, 0.95, 0.95)
    del data["presence"]  # as written before there was one
    assert PoseEstimate.from_dict(data).presence == 0.9
    failed = PoseEstimate(False, reason="too few inliers")
    assert failed.T_camera_object is None
    assert failed.score == 0.0
    assert PoseEstimate.from_dict(failed.to_dict()).to_dict() == failed.to_dict()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"success": True, "pose": POSE}, "unknown value 'pose'"),
        ({"reason": "none"}, "wanted a value for 'success'"),
        ({"success": True, "T_camera_object": [[1, 2], [3, 4]]}, "wanted"),
        ({"success": False, "reason": "none", "times": {"crop_ms": -1}}, "StageTimes.crop_ms"),
    ],
)
def test_pose_estimate_of_other_values_is_refused(values, says):
    with pytest.raises(InputError, match=re.escape(says)):
        PoseEstimate.from_dict(values)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "1"])
def test_stage_times_refuse(value):
    with pytest.raises(InputError, match=r"StageTimes\.refine_ms"):
        StageTimes(refine_ms=value)


@pytest.mark.parametrize(
    ("K", "says"),
    [
        (
            [[0.9, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]],
            r"shares of the image \(0\.\.1\).* multiply its first row by the width, 640",
        ),
        ([[0.004, 0, 0.0024], [0, 0.004, 0.0018], [0, 0, 1]], "metres.* divide by the size of a pixel"),
        ([[4.2, 0, 3.1], [0, 4.2, 2.3], [0, 0, 1]], "millimetres.* divide by the size of a pixel"),
        ([[35.0, 0, 18.0], [0, 35.0, 12.0], [0, 0, 1]], "millimetres"),
    ],
)
def test_a_k_that_is_surely_not_in_pixels_is_refused(K, says):
    with pytest.raises(InputError, match=says):
        Camera(K, 640, 480)


@pytest.mark.parametrize(
    ("camera", "says"),
    [
        (([[1200.0, 0, 640], [0, 1200, 360], [0, 0, 1]], 640, 480), "far from the image's centre"),
        (
            ([[600.0, 0, 319.5], [0, 600, 239.5], [0, 0, 1]], 1280, 960),
            r"fits an image of about 640x480; was this one resized\? .* size over that one's, about 2 \(fx",
        ),
        (
            ([[1200.0, 0, 648], [0, 1200, 475], [0, 0, 1]], 640, 480),
            r"of about 1297x951; .* multiply fx, fy, cx and cy by this image's size over that one's, about 0\.499 \(fx",
        ),
        (
            ([[1200.0, 0, 700], [0, 1200, 450], [0, 0, 1]], 640, 480),
            r"of about 1401x901; .* multiply fx, fy, cx and cy by this image's size over that one's \(fx",
        ),
        (([[600.0, 0, 239.5], [0, 600, 319.5], [0, 0, 1]], 640, 480), "width and height are swapped"),
        (([[20.0, 0, 319.5], [0, 20, 239.5], [0, 0, 1]], 640, 480), "field of view of 173 degrees"),
        (([[6e5, 0, 319.5], [0, 6e5, 239.5], [0, 0, 1]], 640, 480), r"field of view of 0\.061 degrees"),
        (([[600.0, 0, 319.5], [0, 60, 239.5], [0, 0, 1]], 640, 480), "far apart"),
    ],
)
def test_a_k_that_hardly_fits_its_image_is_doubted(camera, says):
    with pytest.warns(UserWarning, match=says) as found:
        Camera(*camera)
    assert found[0].filename == __file__  # it names the caller's line


def test_a_k_that_fits_is_not_doubted(recwarn):
    Camera(K, 640, 480)
    Camera(np.array([[4000.0, 0, 2100], [0, 4000, 1450], [0, 0, 1]]), 4000, 3000)
    Camera([[3.0, 0, 0.5], [0, 3, 0.5], [0, 0, 1]], 2, 2)  # too small to judge
    assert not recwarn.list


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((300, 200, 500, 400), r"50% of it lie outside|is it \(x0, y0, x1, y1\)\? Then it is \(300, 200, 200, 200\)"),
        ((100, 100, 640, 480), r"is it \(x0, y0, x1, y1\)\?"),
        ((-500, 100, 600, 100), "83% of it lie outside; is it right"),
        ((600, 440, 400, 400), "is it right"),
    ],
)
def test_a_box_that_leaves_the_image_by_far_is_doubted(box, says):
    camera = Camera(np.array([[600, 0, 319.5], [0, 600, 239.5], [0, 0, 1]]), 640, 480)
    with pytest.warns(UserWarning, match=says):
        Detection("cup", bbox=box).doubt(camera)


@pytest.mark.parametrize("box", [(0, 0, 640, 480), (-50, -50, 740, 580), (600, 400, 80, 120), (200, 100, 450, 400)])
def test_a_box_that_leaves_it_a_little_is_not(box, recwarn):
    camera = Camera(np.array([[600, 0, 319.5], [0, 600, 239.5], [0, 0, 1]]), 640, 480)
    Detection("cup", bbox=box).doubt(camera)
    assert not recwarn.list


@pytest.mark.parametrize("box", [(650, 100, 80, 80), (-90, 100, 80, 80), (100, 480, 80, 80), (700, 500, 80, 80)])
def test_a_box_outside_is_an_error_and_no_doubt(box, recwarn):
    camera = Camera(np.array([[600, 0, 319.5], [0, 600, 239.5], [0, 0, 1]]), 640, 480)
    Detection("cup", bbox=box).doubt(camera)
    assert not recwarn.list
    with pytest.raises(InputError, match="lies outside the 640x480 image"):
        Detection("cup", bbox=box).check_camera(camera)


class TestResult:
    """What a result offers beside the matrix, and how it prints."""

    T = se3.from_rt(se3.so3_exp(np.array([0.3, -0.2, 1.1])), np.array([0.01, -0.02, 0.5]))
    FOUND = PoseEstimate(True, T_camera_object=T, score=0.856, object="cup")
    LOST = PoseEstimate(False, "select: render and image disagree", object="cup")

    def test_truth(self):
        assert self.FOUND
        assert not self.LOST
        assert [bool(each) for each in (self.FOUND, self.LOST)] == [True, False]

    def test_the_pose_in_other_forms(self):
        np.testing.assert_allclose(self.FOUND.rvec, [0.3, -0.2, 1.1], atol=1e-12)
        np.testing.assert_array_equal(self.FOUND.tvec, [0.01, -0.02, 0.5])
        assert (self.LOST.rvec, self.LOST.tvec, self.LOST.quaternion) == (None, None, None)

    @pytest.mark.parametrize("rvec", [[0, 0, 0], [1e-9, 0, 0], [0.3, -0.2, 1.1], [np.pi, 0, 0], [-2, 1, 1.9]])
    def test_the_quaternion_is_that_of_scipy(self, rvec):
        from scipy.spatial.transform import Rotation

        wanted = Rotation.from_rotvec(rvec)
        T = se3.from_rt(wanted.as_matrix(), np.zeros(3))
        q = PoseEstimate(True, T_camera_object=T, object="cup").quaternion
        assert q[3] >= 0
        np.testing.assert_allclose(np.linalg.norm(q), 1.0, atol=1e-12)
        np.testing.assert_allclose(Rotation.from_quat(q).as_matrix(), wanted.as_matrix(), atol=1e-12)

    def test_it_prints_in_a_line_that_shows_the_rotation(self):
        assert repr(self.FOUND) == (
            "PoseEstimate('cup', score 0.86, t = (0.0100, -0.0200, 0.5000) m, R = 66.3 deg about (0.26, -0.17, 0.95))"
        )
        assert repr(self.LOST) == "PoseEstimate('cup', score 0.00, no pose: select: render and image disagree)"
        assert str([self.FOUND, self.LOST]) == f"[{self.FOUND!r}, {self.LOST!r}]"
        camera = Camera([[600, 0, 319.5], [0, 601, 239.5], [0, 0, 1]], 640, 480, distortion=[0.1, 0, 0, 0])
        assert repr(camera) == "Camera(640x480, fx=600, fy=601, cx=319.5, cy=239.5, distortion=[0.1, 0.0, 0.0, 0.0])"
        mask = np.ones((48, 64), bool)
        assert repr(Detection("cup", mask=mask)) == "Detection('cup', bbox=(0, 0, 64, 48), mask 64x48, score=1)"

    def test_save_and_plot(self, tmp_path):
        self.FOUND.save(tmp_path / "cup.json")
        assert json.loads((tmp_path / "cup.json").read_text()) == self.FOUND.to_dict()
        with pytest.raises(InputError, match="its image is not known any more"):
            self.FOUND.plot()
        with pytest.raises(InputError, match="its image is not known any more"):
            self.FOUND.save(tmp_path / "cup.png")
