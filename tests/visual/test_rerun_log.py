"""Recordings for the Rerun viewer, read back: frames, poses, what disappears, what failed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from coop_edge import Camera, Detection, PoseEstimate
from coop_edge.errors import BackendUnavailable
from coop_edge.visual.rerun_log import RerunLog, import_rerun, recording
from tests.recordings import read_recording
from tests.stages.scene import at, colored_box

CUBE = colored_box((0.1, 0.1, 0.1), name="cube")
CAMERA = Camera([[300.0, 0.0, 150.0], [0.0, 310.0, 119.5], [0.0, 0.0, 1.0]], 320, 240)
IMAGE = np.zeros((240, 320, 3), np.uint8)
T = at(0.1, -0.05, 0.7, (0.4, -0.3, 0.2))
FOUND = PoseEstimate(True, T_camera_object=T, score=0.75, object="cube")
GONE = PoseEstimate(False, "lost: it went away", object="cube")


def test_frames_are_read_back_as_they_were(tmp_path):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra rerun)")
    path = tmp_path / "out/run.rrd"
    with RerunLog(path, {"cube": CUBE}) as log:
        log.frame(0, IMAGE, CAMERA, [FOUND], [Detection("cube", (1, 2, 30, 40))])
        log.frame(1, IMAGE, CAMERA, [GONE], [None])
        log.frame(2, IMAGE, CAMERA, [FOUND, FOUND], [None, None])
        log.frame(3, IMAGE, CAMERA, [FOUND], [None])
        log.failure(4, "4.png: broken")
    held = read_recording(path)
    K = np.reshape(held["/world/camera"]["Pinhole:image_from_camera"][0], (3, 3)).T  # by columns
    np.testing.assert_array_equal(K, CAMERA.K)
    assert set(held["/world/camera/image"]["EncodedImage:blob"]) == {0, 1, 2, 3}
    boxes = held["/world/camera/image/boxes"]
    assert (boxes["Boxes2D:centers"][0], boxes["Boxes2D:half_sizes"][0]) == ([[16.0, 22.0]], [[15.0, 20.0]])
    assert boxes["Boxes2D:labels"] == {0: ["cube"], 1: [], 2: [], 3: []}

    first, second = held["/world/objects/cube/0"], held["/world/objects/cube/1"]
    assert set(first["Transform3D:translation"]) == {0, 2, 3}
    for frame in (0, 2, 3):
        np.testing.assert_allclose(first["Transform3D:translation"][frame], [T[:3, 3]], atol=1e-6)
        R = np.reshape(first["Transform3D:mat3x3"][frame], (3, 3)).T
        np.testing.assert_allclose(R, T[:3, :3], atol=1e-6)
    assert set(first["Clear:is_recursive"]) == {1, 4}  # lost, and not in the last image
    assert set(second["Transform3D:translation"]) == {2}
    assert set(second["Clear:is_recursive"]) == {3}  # the frame after has one cube only
    meshes = held["/world/objects/cube/0/mesh"]["Mesh3D:vertex_positions"]
    np.testing.assert_allclose(meshes[0], CUBE.vertices + CUBE.centre.astype(np.float32), atol=1e-6)
    assert set(meshes) == {0, 2}  # again after it was cleared
    assert held["/scores/cube/0"]["Scalars:scalars"] == {0: [0.75], 1: [0.0], 2: [0.75], 3: [0.75]}
    assert held["/reasons/cube/0"]["TextLog:text"] == {1: ["cube/0: lost: it went away"]}
    assert held["/failures"]["TextLog:text"] == {4: ["4.png: broken"]}


def test_without_a_recording_nothing_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert import_rerun(None) is None
    with recording(None, {}) as log:
        assert log is None
    with pytest.raises(
        BackendUnavailable, match=r"--rerun needs Rerun .*pip install '\.\[rerun\]' in the folder of the checkout"
    ):
        recording(tmp_path / "a.rrd", {})
