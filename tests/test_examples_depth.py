"""The recipes for depth cameras, on recorded arrays behind stand-ins for the cameras' packages."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from coop_edge import Detection, PoseEstimate
from tests.realsense import intrinsics, package
from tests.stages.scene import at

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
HEIGHT, WIDTH = 400, 640
RECORDED = [
    (np.full((HEIGHT, WIDTH, 3), (10 + k, 20, 30), np.uint8), np.full((HEIGHT, WIDTH), 700 + k, np.uint16))
    for k in range(3)
]
"""RGB and millimetres."""


class Recorder:
    """Stands for an Estimator: finds and follows the object, and writes down what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def _answer(self, name, image, camera, items, depth, unit):
        self.calls.append((name, int(image[0, 0, 0]), camera.size, float(depth[0, 0]), unit))
        lost = name == "track" and depth[0, 0] == 702
        return [PoseEstimate(not lost, "lost" if lost else "", None if lost else at(0, 0, 0.7), object="cup")] * len(
            items
        )

    def estimate(self, image, camera, items, depth, depth_unit):
        return self._answer("estimate", image, camera, items, depth, depth_unit)

    def track(self, image, camera, items, depth, depth_unit):
        return self._answer("track", image, camera, items, depth, depth_unit)


def depthai():
    """depthai 3 as far as the recipe goes."""
    pairs, links = iter(RECORDED), []

    class Output:
        def link(self, target):
            links.append(target)

        def createOutputQueue(self):
            def get():
                color, depth = next(pairs)
                bgr = SimpleNamespace(getCvFrame=lambda: color[..., ::-1])
                return {"color": bgr, "depth": SimpleNamespace(getFrame=lambda: depth)}

            return SimpleNamespace(get=get)

    class Node:
        left, right, inputAlignTo = "left", "right", "inputAlignTo"
        inputs = {"color": "sync color", "depth": "sync depth"}  # noqa: RUF012
        out = depth = Output()

        def build(self, socket):
            return self

        def requestOutput(self, size, fps, enableUndistortion=False):
            return Output()

    calibration = SimpleNamespace(
        getCameraIntrinsics=lambda socket, w, h: [[450.0, 0.0, w / 2], [0.0, 450.0, h / 2], [0.0, 0.0, 1.0]]
    )

    class Pipeline:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            links.append("closed")

        create = staticmethod(lambda kind: Node())
        getDefaultDevice = staticmethod(lambda: SimpleNamespace(readCalibration=lambda: calibration))
        start = staticmethod(lambda: links.append("started"))
        isRunning = staticmethod(lambda: True)

    sockets = SimpleNamespace(CAM_A="A", CAM_B="B", CAM_C="C")
    return SimpleNamespace(CameraBoardSocket=sockets, node=mock.Mock(), Pipeline=Pipeline), links


def followed(follow, count=3):
    found = [next(follow) for _ in range(count)]
    assert all(result.success for result in found)


def test_realsense_follows_what_was_recorded(monkeypatch):
    recorded = package(RECORDED, intrinsics(WIDTH, HEIGHT))
    monkeypatch.setitem(sys.modules, "pyrealsense2", recorded)
    example = runpy.run_path(str(EXAMPLES / "realsense.py"))
    estimator, box = Recorder(), Detection("cup", (10, 10, 50, 50))
    with example["RealSense"]() as device:
        followed(example["follow"](estimator, device.camera, device, box))
    size = (WIDTH, HEIGHT)
    assert estimator.calls == [
        ("track", 10, size, 700.0, 0.001),
        ("estimate", 10, size, 700.0, 0.001),
        ("track", 11, size, 701.0, 0.001),
        ("track", 12, size, 702.0, 0.001),
        ("estimate", 12, size, 702.0, 0.001),
    ]
    assert recorded.said[-1] == "stopped"


def test_oak_d_follows_what_was_recorded():
    example, (module, links) = runpy.run_path(str(EXAMPLES / "oak_d.py")), depthai()
    estimator, frames = Recorder(), example["stream"](module)
    followed(example["follow"](estimator, frames, Detection("cup", (10, 10, 50, 50))))
    calls = estimator.calls
    assert [call[:2] for call in calls] == [
        ("track", 10),
        ("estimate", 10),
        ("track", 11),
        ("track", 12),
        ("estimate", 12),
    ]
    assert {call[2:] for call in calls} == {((WIDTH, HEIGHT), 700.0 + k, "mm") for k in range(3)}
    frames.close()
    assert links == ["left", "right", "inputAlignTo", "sync color", "sync depth", "started", "closed"]


def test_depthai_is_asked_for_when_frames_are(monkeypatch):
    monkeypatch.setitem(sys.modules, "depthai", None)
    example = runpy.run_path(str(EXAMPLES / "oak_d.py"))
    with pytest.raises(SystemExit, match="depthai is missing: pip install depthai"):
        next(example["stream"]())
