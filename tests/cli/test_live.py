"""`coop-edge live`: a RealSense with its own intrinsics and depth, on recorded arrays; what is shown and recorded."""

from __future__ import annotations

import sys
from unittest import mock

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from coop_edge import Camera, Estimator, PoseEstimate
from coop_edge.cli.main import app
from coop_edge.cli.realsense import RealSense, is_realsense, to_camera
from coop_edge.errors import BackendUnavailable, InputError
from tests.annotate.runs import setup_of
from tests.realsense import Distortion, intrinsics, package
from tests.recordings import read_recording
from tests.stages.scene import at

WIDTH, HEIGHT = 64, 48
LENS = (0.05, -0.06, 0.001, -0.0005, 0.02)
OF = intrinsics(WIDTH, HEIGHT, model=Distortion.inverse_brown_conrady, coeffs=LENS)
RECORDED = [
    (np.full((HEIGHT, WIDTH, 3), (10 + k, 20, 30), np.uint8), np.full((HEIGHT, WIDTH), 1400 + 2 * k, np.uint16))
    for k in range(4)
]
FOUND = PoseEstimate(True, T_camera_object=at(0.0, 0.0, 0.7), score=0.8, object="cube")
LOST = PoseEstimate(False, "lost: it went away", object="cube")


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["live", *map(str, arguments)])


@pytest.fixture
def given(monkeypatch):
    """Let an Estimator find the cube and lose it in the third frame; what it was given, as (call, image, ...)."""
    calls = []

    def said(name, image, camera, measured):
        depth = measured.get("depth")
        value = None if depth is None else float(depth[0, 0] * measured["depth_unit"])
        calls.append((name, int(image[0, 0, 0]), value, camera))

    def find(self, image, camera, objects, **measured):
        said("find", image, camera, measured)
        return [FOUND]

    def track(self, image, camera, results, **measured):
        said("track", image, camera, measured)
        return [LOST if image[0, 0, 0] == 12 else FOUND for _ in results]

    monkeypatch.setattr(Estimator, "find", find)
    monkeypatch.setattr(Estimator, "track", track)
    return calls


@pytest.fixture
def server(monkeypatch):
    """Stands for viser's."""
    made = mock.MagicMock()
    made.get_port.return_value = 8080
    monkeypatch.setattr("coop_edge.view.page.make_server", lambda host, port: made)
    return made


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    setup = setup_of(tmp_path_factory.mktemp("live"))
    return ["--object", f"cube={setup.objects[0][1]}:m", "--engines", setup.engines, "--device", "cpu"]


def test_intrinsics_with_librealsense_own_distortion():
    """From pixel to ray by librealsense's formula, an oracle of our own; ours within a tenth of a pixel."""
    of = intrinsics(640, 480, model=Distortion.inverse_brown_conrady, coeffs=LENS)
    camera = to_camera(of)
    u, v = (grid.ravel() for grid in np.meshgrid(np.linspace(0, 639, 9), np.linspace(0, 479, 7)))
    x, y = (u - of.ppx) / of.fx, (v - of.ppy) / of.fy
    k1, k2, p1, p2, k3 = LENS
    r2 = x * x + y * y
    f = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    rays = np.stack(
        [
            x * f + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * f + 2 * p2 * x * y + p1 * (r2 + 2 * y * y),
            np.ones_like(x),
        ],
        axis=1,
    )
    np.testing.assert_allclose(camera.project(rays), np.stack([u, v], axis=1), atol=0.1)
    plain = to_camera(intrinsics(640, 480, model=Distortion.inverse_brown_conrady))
    assert plain.distortion is None
    np.testing.assert_allclose(plain.K, [[601.6, 0.0, 320.5], [0.0, 608.0, 240.5], [0.0, 0.0, 1.0]])


def test_frames_are_copies_and_a_lost_half_is_left_out(monkeypatch, caplog):
    color, depth = RECORDED[0]
    pairs = [RECORDED[0], (None, depth), (color, None), RECORDED[1], (color, np.zeros_like(depth))]
    recorded = package(pairs, OF, scale=0.0005)
    monkeypatch.setitem(sys.modules, "pyrealsense2", recorded)
    with RealSense("realsense:1234") as device:
        shots = list(device)
    assert [shot.name for shot in shots] == ["000000", "000001", "000002"]
    for shot, (image, measured) in zip(shots[:2], RECORDED[:2], strict=True):
        np.testing.assert_array_equal(shot.image, image)
        np.testing.assert_array_equal(shot.measured["depth"], measured)
        assert shot.measured["depth_unit"] == 0.0005
    assert shots[2].measured == {}
    assert "frame 000002: its depth image is empty" in caplog.text
    assert "realsense:1234: gave no frame after 3 (RuntimeError: Frame didn't arrive" in caplog.text
    assert recorded.said == [
        ("device", "1234"),
        ("color", 640, 480, "rgb8", 30),
        ("depth", 640, 480, "z16", 30),
        ("aligned to", "color"),
        "stopped",
    ]


def test_no_package_no_camera_and_a_lens_that_is_not_known(monkeypatch):
    assert is_realsense("RealSense:12")
    assert not is_realsense("realsense.mp4")
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(
        BackendUnavailable, match=r"needs pyrealsense2 .*pip install pyrealsense2, or pip install '\.\[realsense\]' in"
    ):
        RealSense()
    monkeypatch.setitem(sys.modules, "pyrealsense2", package([], OF, start=RuntimeError("No device connected")))
    with pytest.raises(InputError, match=r"realsense: no RealSense streams .*No device connected.*is it connected"):
        RealSense()
    strange = intrinsics(WIDTH, HEIGHT, model="distortion.ftheta", coeffs=(1.0,) * 5)
    recorded = package([], strange)
    monkeypatch.setitem(sys.modules, "pyrealsense2", recorded)
    with pytest.raises(InputError, match="model: 'ftheta' is not known"):
        RealSense()
    assert recorded.said[-1] == "stopped"


def test_live_gives_depth_and_the_camera_of_the_device(options, given, server, monkeypatch, tmp_path):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra rerun)")
    recorded = package(RECORDED, OF, scale=0.0005)
    monkeypatch.setitem(sys.modules, "pyrealsense2", recorded)
    result = invoke("realsense", *options, "--every", 1, "--rerun", tmp_path / "run.rrd")
    assert result.exit_code == 0, result.output
    metres = [0.7, 0.701, 0.702, 0.703]
    assert [(name, image) for name, image, _, _ in given] == [
        ("track", 10),  # of nothing
        ("find", 10),
        ("track", 11),
        ("track", 12),
        ("find", 12),
        ("track", 13),
    ]
    np.testing.assert_allclose([value for _, _, value, _ in given], [metres[image - 10] for _, image, _, _ in given])
    for _, _, _, camera in given:
        assert camera.size == (WIDTH, HEIGHT)
        np.testing.assert_allclose(camera.K, to_camera(OF).K)
        np.testing.assert_allclose(camera.distortion, to_camera(OF).distortion)
    lines = [line for line in result.stdout.splitlines() if line.startswith("00000")]
    assert [line[:23] for line in lines] == [f"00000{k}  cube 0.80 found" for k in range(4)]
    assert "open http://localhost:8080" in result.stdout
    assert server.scene.add_image.call_count == 1
    assert recorded.said[-1] == "stopped"
    server.stop.assert_called_once()
    held = read_recording(tmp_path / "run.rrd")
    assert held["/scores/cube/0"]["Scalars:scalars"] == {k: [0.8] for k in range(4)}
    assert set(held["/world/camera/image"]["EncodedImage:blob"]) == {0, 1, 2, 3}


def test_a_camera_that_is_given_takes_the_place_of_the_device_own(options, given, server, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrealsense2", package(RECORDED[:1], OF))
    result = invoke("realsense", *options, "--camera", "60,60,31.5,23.5", "--host", "0.0.0.0")
    assert result.exit_code == 0, result.output
    assert given[0][3].K[0, 0] == 60.0
    assert "listening at 0.0.0.0: whoever reaches this address can see the page" in result.stdout


def test_another_source_needs_a_camera(options, given, server, tmp_path):
    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "frames/0.png"), RECORDED[0][0][..., ::-1])
    result = invoke(tmp_path / "frames", *options)
    assert result.exit_code == 2
    assert "--camera is missing" in " ".join(result.output.split())
    result = invoke(tmp_path / "frames", *options, "--camera", "60,60,31.5,23.5")
    assert result.exit_code == 0, result.output
    assert [call[:3] for call in given] == [("track", 10, None), ("find", 10, None)]
    assert isinstance(given[0][3], Camera)


def test_a_realsense_without_its_package_ends_before_engines_are_loaded(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    monkeypatch.setattr(Estimator, "from_engines", mock.Mock(side_effect=AssertionError))
    result = invoke("realsense", *options)
    assert result.exit_code == 2, result.output
    assert "pip install pyrealsense2" in " ".join(result.output.split())
