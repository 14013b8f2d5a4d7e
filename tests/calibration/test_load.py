"""Camera.load: the files of every tool it names, as these tools write them."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from coop_edge import Camera, InputError

K = np.array([[600.0, 0.0, 322.0], [0.0, 610.0, 241.0], [0.0, 0.0, 1.0]])
D = [-0.3, 0.12, 1e-3, -2e-3, -0.02]

CALIBRATOR = """image_width: 640
image_height: 480
camera_name: narrow_stereo/left
camera_matrix:
  rows: 3
  cols: 3
  data: [600.0, 0.0, 322.0, 0.0, 610.0, 241.0, 0.0, 0.0, 1.0]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.3, 0.12, 0.001, -0.002, -0.02]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
projection_matrix:
  rows: 3
  cols: 4
  data: [550.0, 0.0, 320.0, -40.0, 0.0, 550.0, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0]
"""
MESSAGE = """header:
  stamp:
    sec: 17
    nanosec: 5
  frame_id: camera
height: 480
width: 640
distortion_model: plumb_bob
d:
- -0.3
- 0.12
- 0.001
- -0.002
- -0.02
k:
- 600.0
- 0.0
- 322.0
- 0.0
- 610.0
- 241.0
- 0.0
- 0.0
- 1.0
r: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
p: [550.0, 0.0, 320.0, 0.0, 0.0, 550.0, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0]
binning_x: 0
binning_y: 0
roi:
  x_offset: 0
  y_offset: 0
  height: 0
  width: 0
  do_rectify: false
---
"""
KALIBR = """cam0:
  T_cam_imu:
  - [0.0, 1.0, 0.0, 0.1]
  - [1.0, 0.0, 0.0, 0.2]
  cam_overlaps: [1]
  camera_model: pinhole
  distortion_coeffs: [-0.3, 0.12, 0.001, -0.002]
  distortion_model: radtan
  intrinsics: [600.0, 610.0, 322.0, 241.0]
  resolution: [640, 480]
  rostopic: /cam0/image_raw
cam1:
  camera_model: pinhole
  distortion_coeffs: [0.05, -0.02, 0.01, -0.002]
  distortion_model: equidistant
  intrinsics: [600.0, 610.0, 322.0, 241.0]
  resolution: [640, 480]
"""


def write(tmp_path, content, name="camera.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def is_ours(camera, distortion=D, fisheye=False):
    np.testing.assert_allclose(camera.K, K)
    assert (camera.size, camera.fisheye) == ((640, 480), fisheye)
    if distortion is None:
        assert camera.distortion is None
    else:
        np.testing.assert_allclose(camera.distortion, distortion)


class TestJson:
    @pytest.mark.parametrize(
        "values",
        [
            {"K": K.tolist(), "width": 640, "height": 480, "distortion": D},
            {"K": K.ravel().tolist(), "width": 640, "height": 480, "distortion": D},
            {"fx": 600, "fy": 610, "cx": 322, "cy": 241, "width": 640, "height": 480, "distortion": D},
        ],
    )
    def test_ours(self, tmp_path, values):
        is_ours(Camera.load(write(tmp_path, values)))

    def test_our_fisheye(self, tmp_path):
        values = {"K": K.tolist(), "width": 640, "height": 480, "distortion": D[:4], "fisheye": True}
        is_ours(Camera.load(str(write(tmp_path, values))), D[:4], fisheye=True)

    def test_bop_data_sets(self, tmp_path):
        values = {"cx": 322, "cy": 241, "depth_scale": 0.1, "fx": 600, "fy": 610, "height": 480, "width": 640}
        is_ours(Camera.load(write(tmp_path, values)), None)

    def test_bop_scenes(self, tmp_path):
        other = K + np.diag([5.0, 0.0, 0.0])
        entry = {"cam_R_w2c": [1] * 9, "cam_t_w2c": [0] * 3, "depth_scale": 1.0}
        values = {"0": {"cam_K": K.ravel().tolist(), **entry}, "17": {"cam_K": other.ravel().tolist(), **entry}}
        path = write(tmp_path, values)
        is_ours(Camera.load(path, size=(640, 480), name=0), None)
        for name in (17, "17", "000017"):
            np.testing.assert_array_equal(Camera.load(path, size=(640, 480), name=name).K, other)
        with pytest.raises(InputError, match=r"holds several \(image 0, 17\); say which: name='0' \(--camera FILE#0\)"):
            Camera.load(path, size=(640, 480))
        with pytest.raises(InputError, match=r"has no image '3' \(it has: 0, 17"):
            Camera.load(path, size=(640, 480), name=3)
        with pytest.raises(InputError, match="does not say how large its images are; pass size"):
            Camera.load(path, name=0)
        alike = write(tmp_path, {"0": values["0"], "1": values["0"]}, "alike.json")
        is_ours(Camera.load(alike, size=(640, 480)), None)

    def test_megapose(self, tmp_path):
        is_ours(Camera.load(write(tmp_path, {"K": K.tolist(), "resolution": [480, 640]})), None)

    def test_open3d(self, tmp_path):
        inner = {"width": 640, "height": 480, "intrinsic_matrix": K.T.ravel().tolist()}
        is_ours(Camera.load(write(tmp_path, inner)), None)
        values = {"class_name": "PinholeCameraParameters", "extrinsic": [1.0] * 16, "intrinsic": inner}
        is_ours(Camera.load(write(tmp_path, values)), None)

    def test_open3d_trajectories(self, tmp_path):
        inner = {"width": 640, "height": 480, "intrinsic_matrix": K.T.ravel().tolist()}
        view = {"class_name": "PinholeCameraParameters", "extrinsic": [1.0] * 16, "intrinsic": inner}
        values = {"class_name": "PinholeCameraTrajectory", "parameters": [view] * 3, "version_major": 1}
        is_ours(Camera.load(write(tmp_path, values)), None)
        other = {**view, "intrinsic": {**inner, "intrinsic_matrix": (K + np.diag([5.0, 0, 0])).T.ravel().tolist()}}
        path = write(tmp_path, {**values, "parameters": [other, view]})
        is_ours(Camera.load(path, name=1), None)
        with pytest.raises(InputError, match=r"holds several \(view 0, 1\); say which: name='0' \(--camera FILE#0\)"):
            Camera.load(path)
        for wrong, says in (([], "wanted a list of views"), ([view, {}], "view 1 has no intrinsic")):
            with pytest.raises(InputError, match=f"parameters: {says}"):
                Camera.load(write(tmp_path, {**values, "parameters": wrong}))

    @pytest.mark.open3d
    def test_open3d_as_it_writes_them(self, tmp_path):
        import open3d

        made = open3d.camera.PinholeCameraIntrinsic(640, 480, 600.0, 610.0, 322.0, 241.0)
        open3d.io.write_pinhole_camera_intrinsic(str(tmp_path / "camera.json"), made)
        is_ours(Camera.load(tmp_path / "camera.json"), None)
        view = open3d.camera.PinholeCameraParameters()
        view.intrinsic, view.extrinsic = made, np.eye(4)
        trajectory = open3d.camera.PinholeCameraTrajectory()
        trajectory.parameters = [view, view]
        open3d.io.write_pinhole_camera_trajectory(str(tmp_path / "trajectory.json"), trajectory)
        is_ours(Camera.load(tmp_path / "trajectory.json"), None)


REALSENSE = {"width": 640, "height": 480, "ppx": 322.0, "ppy": 241.0, "fx": 600.0, "fy": 610.0}


def deprojected(k, x, y):
    """rs2_deproject_pixel_to_point of librealsense, inverse Brown-Conrady."""
    r2 = x * x + y * y
    f = 1 + k[0] * r2 + k[1] * r2 * r2 + k[4] * r2 * r2 * r2
    return x * f + 2 * k[2] * x * y + k[3] * (r2 + 2 * x * x), y * f + 2 * k[3] * x * y + k[2] * (r2 + 2 * y * y)


def projected(k, x, y):
    """rs2_project_point_to_pixel of librealsense, modified Brown-Conrady."""
    r2 = x * x + y * y
    f = 1 + k[0] * r2 + k[1] * r2 * r2 + k[4] * r2 * r2 * r2
    x, y = x * f, y * f
    return x + 2 * k[2] * x * y + k[3] * (r2 + 2 * x * x), y + 2 * k[3] * x * y + k[2] * (r2 + 2 * y * y)


class TestRealSense:
    COLOR = (-0.055, 0.066, -0.0005, 0.0007, -0.021)
    """Of a D455's colour camera."""

    @pytest.mark.parametrize(
        "model", ["distortion.brown_conrady", "Brown Conrady", "RS2_DISTORTION_BROWN_CONRADY", 4, "4"]
    )
    def test_brown_conrady_is_opencvs(self, tmp_path, model):
        is_ours(Camera.load(write(tmp_path, {**REALSENSE, "model": model, "coeffs": D})))

    @pytest.mark.parametrize("model", ["distortion.inverse_brown_conrady", "none", "f_theta", 0, 2])
    def test_zeros(self, tmp_path, model):
        is_ours(Camera.load(write(tmp_path, {**REALSENSE, "model": model, "coeffs": [0] * 5})), None)

    @pytest.mark.parametrize("model", ["distortion.kannala_brandt4", 5])
    def test_fisheye(self, tmp_path, model):
        values = {**REALSENSE, "model": model, "coeffs": [*D[:4], 0.0]}
        is_ours(Camera.load(write(tmp_path, values)), D[:4], fisheye=True)

    @pytest.mark.parametrize("model", ["inverse_brown_conrady", 2])
    def test_inverse(self, tmp_path, model):
        camera = Camera.load(write(tmp_path, {**REALSENSE, "model": model, "coeffs": self.COLOR}))
        pixels = np.random.default_rng(0).uniform(0, (639, 479), (200, 2))
        x, y = deprojected(self.COLOR, *((pixels - K[:2, 2]) / (600.0, 610.0)).T)
        np.testing.assert_allclose(camera.project(np.stack([x, y, np.ones(200)], axis=1)), pixels, atol=0.1)

    @pytest.mark.parametrize("model", ["modified_brown_conrady", 1])
    def test_modified(self, tmp_path, model):
        camera = Camera.load(write(tmp_path, {**REALSENSE, "model": model, "coeffs": self.COLOR}))
        rays = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 2)) * (1.0, 0.75)
        seen = np.stack(projected(self.COLOR, *rays.T), axis=1) * (600.0, 610.0) + K[:2, 2]
        np.testing.assert_allclose(camera.project(np.c_[rays, np.ones(200)]), seen, atol=0.1)

    def test_several_streams(self, tmp_path):
        path = write(
            tmp_path, {"color": {**REALSENSE, "model": "none"}, "depth": {**REALSENSE, "fx": 1.0}, "serial": "7"}
        )
        is_ours(Camera.load(path, name="color"), None)
        with pytest.raises(InputError, match=r"holds several \(stream color, depth\); say which: name='color'"):
            Camera.load(path)

    @pytest.mark.parametrize(
        ("model", "coeffs", "says"),
        [
            ("ftheta", [0.1] * 5, "model: 'ftheta' is not known"),
            (3, [0.1] * 5, "model: 'ftheta' is not known"),
            (6, [0.1] * 5, "model: '6' is not known .* or their numbers 0, 4, 2, 1, 5"),
            ("inverse_brown_conrady", [2.0, -3.0, 0, 0, 5.0], "px from librealsense's inverse_brown_conrady"),
            ("inverse_brown_conrady", [0.1], "coeffs: wanted 5, got 1"),
        ],
    )
    def test_refusals(self, tmp_path, model, coeffs, says):
        with pytest.raises(InputError, match=says):
            Camera.load(write(tmp_path, {**REALSENSE, "model": model, "coeffs": coeffs}))


class TestRos:
    @pytest.mark.parametrize("text", [CALIBRATOR, MESSAGE, MESSAGE.replace("\nk:", "\nK:").replace("\nd:", "\nD:")])
    def test_raw_and_rectified(self, tmp_path, text):
        path = write(tmp_path, text, "camera_info.yaml")
        is_ours(Camera.load(path))
        rectified = Camera.load(path, rectified=True)
        np.testing.assert_array_equal(rectified.K, [[550, 0, 320], [0, 550, 240], [0, 0, 1]])
        assert (rectified.distortion, rectified.size) == (None, (640, 480))

    @pytest.mark.parametrize("text", [CALIBRATOR[: CALIBRATOR.index("projection_matrix")], "no P"])
    def test_rectified_without_its_matrix(self, tmp_path, text):
        if text == "no P":
            values = {"height": 480, "width": 640, "distortion_model": "plumb_bob", "d": D, "k": K.ravel().tolist()}
            text = json.dumps(values)
        path = write(tmp_path, text, "camera_info.yaml")
        is_ours(Camera.load(path))
        with pytest.raises(InputError, match=r"has no projection_matrix \(P\).*without #rectified\) and give the raw"):
            Camera.load(path, rectified=True)

    def test_no_matrix(self, tmp_path):
        text = CALIBRATOR.replace("data: [600.0, 0.0, 322.0, 0.0, 610.0, 241.0, 0.0, 0.0, 1.0]", "data:")
        with pytest.raises(InputError, match="camera_matrix: wanted a 3x3 matrix; the file has none of this name, or"):
            Camera.load(write(tmp_path, text))

    def test_messages_as_json(self, tmp_path):
        values = {"height": 480, "width": 640, "distortion_model": "rational_polynomial", "d": [*D, 0.1, 0.0, 0.0]}
        is_ours(Camera.load(write(tmp_path, {**values, "k": K.ravel().tolist()})), [*D, 0.1, 0.0, 0.0])

    def test_fisheye(self, tmp_path):
        text = CALIBRATOR.replace("plumb_bob", "equidistant").replace(", -0.02]", "]")
        is_ours(Camera.load(write(tmp_path, text)), D[:4], fisheye=True)

    def test_binning_and_region_are_applied(self, tmp_path):
        """The image is columns 100..419 and rows 60..299, in bins of 2 x 4: a point is in the bin it falls into."""
        region = "roi:\n  x_offset: 100\n  y_offset: 60\n  height: 240\n  width: 320\n  do_rectify: false\n---"
        text = MESSAGE[: MESSAGE.index("roi:")] + region
        text = text.replace("binning_x: 0", "binning_x: 2").replace("binning_y: 0", "binning_y: 4")
        camera, full = Camera.load(write(tmp_path, text)), Camera.load(write(tmp_path, MESSAGE, "full.yaml"))
        assert camera.size == (160, 60)
        points = np.random.default_rng(0).uniform(-0.3, 0.3, (50, 3)) + (0, 0, 1)
        # Pixel b of a row of bins covers 2 b .. 2 b + 1, from 2 b - 0.5 to 2 b + 1.5.
        expected = (full.project(points) - (100, 60) + 0.5) / (2, 4) - 0.5
        np.testing.assert_allclose(camera.project(points), expected, atol=1e-9)

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ("  x_offset: 0", "  x_offset: 500", None),
            (
                "  height: 0\n  width: 0",
                "  height: 500\n  width: 100",
                "roi: 100x500 .* does not fit into the image of 640x480",
            ),
            ("binning_x: 0", "binning_x: 3", "binning: 3x1 pixels do not divide the image of 640x480"),
            ("plumb_bob", "field_of_view", "distortion_model: 'field_of_view' is not known"),
            ("k:\n- 600.0", "k:\n- 0.0", "wanted both positive"),
            ("- 610.0\n", "", r"camera_matrix: wanted a 3x3 matrix, got shape \[8\]"),
            ("width: 640", "width: many", "image_width: wanted a positive whole number, got 'many'"),
        ],
    )
    def test_what_does_not_fit_is_named(self, tmp_path, old, new, says):
        assert old in MESSAGE
        path = write(tmp_path, MESSAGE.replace(old, new, 1), "info.yaml")
        if says is None:
            with pytest.warns(UserWarning, match="principal point"):
                assert Camera.load(path).size == (140, 480)
            return
        with pytest.raises(InputError, match=says) as error:
            Camera.load(path)
        assert str(error.value).startswith(str(path))

    def test_a_camera_that_is_not_calibrated(self, tmp_path):
        text = CALIBRATOR.replace(
            "[600.0, 0.0, 322.0, 0.0, 610.0, 241.0, 0.0, 0.0, 1.0]", "[0, 0, 0, 0, 0, 0, 0, 0, 0]"
        )
        with pytest.raises(InputError, match="all zeros, which is how ROS says that the camera is not calibrated"):
            Camera.load(write(tmp_path, text))


class TestKalibr:
    def test_one_of_several(self, tmp_path):
        path = write(tmp_path, KALIBR, "camchain.yaml")
        is_ours(Camera.load(path, name="cam0"), D[:4])
        is_ours(Camera.load(path, name="cam1"), [0.05, -0.02, 0.01, -0.002], fisheye=True)
        with pytest.raises(InputError, match=r"holds several \(camera cam0, cam1\); say which"):
            Camera.load(path)

    def test_the_only_one(self, tmp_path):
        is_ours(Camera.load(write(tmp_path, KALIBR[: KALIBR.index("cam1")])), D[:4])

    @pytest.mark.parametrize(("old", "new"), [("radtan", "fov"), ("camera_model: pinhole", "camera_model: omni")])
    def test_models_that_are_not_known(self, tmp_path, old, new):
        with pytest.raises(InputError, match=r"is not known \(known: pinhole with none, radtan, equidistant"):
            Camera.load(write(tmp_path, KALIBR.replace(old, new, 1)), name="cam0")


class TestOpenCv:
    @pytest.mark.parametrize("suffix", ["yaml", "yml", "xml", "json"])
    @pytest.mark.parametrize("names", [("camera_matrix", "distortion_coefficients"), ("cameraMatrix", "distCoeffs")])
    def test_as_opencv_writes_them(self, tmp_path, suffix, names):
        path = tmp_path / f"camera.{suffix}"
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
        storage.write("calibration_time", "Sun 29 Nov 2026 11:00:00 UTC")
        storage.write("image_width", 640)
        storage.write("image_height", 480)
        storage.write(names[0], K)
        storage.write(names[1], np.array(D)[:, None])
        storage.write("avg_reprojection_error", 0.25)
        storage.release()
        is_ours(Camera.load(path))

    def test_fisheye_and_size(self, tmp_path):
        path = tmp_path / "camera.xml"
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
        storage.write("fisheye_model", 1)
        storage.write("camera_matrix", K)
        storage.write("distortion_coefficients", np.array(D[:4]))
        storage.release()
        is_ours(Camera.load(path, size=(640, 480)), D[:4], fisheye=True)

    def test_stereo(self, tmp_path):
        path = tmp_path / "intrinsics.yml"
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
        for key, value in (("M1", K), ("D1", np.array(D)), ("M2", 2 * K), ("D2", np.zeros(5))):
            storage.write(key, value)
        storage.release()
        is_ours(Camera.load(path, size=(640, 480), name="M1"))
        with pytest.raises(InputError, match=r"holds several \(matrix M1, M2\); say which"):
            Camera.load(path, size=(640, 480))

    def test_no_matrix(self, tmp_path):
        path = write(tmp_path, '<?xml version="1.0"?>\n<opencv_storage>\n<a>3</a>\n</opencv_storage>\n', "a.xml")
        with pytest.raises(InputError, match="has no camera matrix"):
            Camera.load(path, size=(640, 480))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "wanted a JSON object with K"),
        ("[1, 2]", "wanted a JSON object with K"),
        ("{", "not JSON"),
        ("<?xml version='1.0'?><svg></svg>", "OpenCV does not read it"),
        ({"K": K.tolist(), "width": 640, "height": 480, "focal": 1}, "unknown key 'focal'"),
        ({"K": K.tolist(), "width": 320, "height": 240}, "its camera has 320x240 pixels, the image 640x480"),
        ({"K": [[0.9, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]], "width": 640, "height": 480}, "looks like shares"),
        ({"K": K.tolist(), "resolution": [640]}, "resolution: wanted"),
        ("a: [1", "YAML, line 1"),
    ],
)
def test_what_is_no_camera(tmp_path, content, says):
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=says) as error:
        Camera.load(path, size=(640, 480))
    assert str(path) in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="is no file"):
        Camera.load(tmp_path / "nowhere.yaml")
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    with pytest.raises(InputError, match="cannot be read as text"):
        Camera.load(tmp_path / "binary")
    with pytest.raises(InputError, match="rectified=True is for ROS camera_info files"):
        Camera.load(write(tmp_path, {"K": K.tolist()}), rectified=True)
