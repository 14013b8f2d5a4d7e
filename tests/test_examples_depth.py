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

    def estimate(self, *given):
        return self._answer("estimate", *given)

    def track(self, *given):
        return self._answer("track", *given)


def realsense():
    """pyrealsense2 as far as the recipe goes."""
    stopped = mock.Mock()
    intrinsics = SimpleNamespace(fx=600.0, fy=601.0, ppx=320.5, ppy=200.5, width=WIDTH, height=HEIGHT)
    stream = SimpleNamespace(as_video_stream_profile=lambda: SimpleNamespace(get_intrinsics=lambda: intrinsics))
    sensor = SimpleNamespace(get_depth_scale=lambda: 0.001)
    profile = SimpleNamespace(
        get_stream=lambda which: {"color": stream}[which],
        get_device=lambda: SimpleNamespace(first_depth_sensor=lambda: sensor),
    )
    frames = iter(RECORDED)

    def processed(given):
        color, depth = given
        return SimpleNamespace(
            get_color_frame=lambda: SimpleNamespace(get_data=lambda: memoryview(color)),
            get_depth_frame=lambda: SimpleNamespace(get_data=lambda: memoryview(depth)),
        )

    package = SimpleNamespace(
        stream=SimpleNamespace(color="color", depth="depth"),
        format=SimpleNamespace(rgb8="rgb8", z16="z16"),
        config=mock.Mock,
        pipeline=lambda: SimpleNamespace(
            start=lambda config: profile, wait_for_frames=lambda: next(frames), stop=stopped
        ),
        align=lambda to: SimpleNamespace(process=processed),
    )
    return package, stopped


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


def followed(example, stream, count=3):
    estimator, frames = Recorder(), stream
    follow = example["follow"](estimator, frames, Detection("cup", (10, 10, 50, 50)))
    found = [next(follow) for _ in range(count)]
    assert all(result.success for result in found)
    return estimator.calls, frames


def test_realsense_follows_what_was_recorded():
    example, (package, stopped) = runpy.run_path(str(EXAMPLES / "realsense.py")), realsense()
    calls, frames = followed(example, example["stream"](package))
    size = (WIDTH, HEIGHT)
    assert calls == [
        ("track", 10, size, 700.0, 0.001),
        ("estimate", 10, size, 700.0, 0.001),
        ("track", 11, size, 701.0, 0.001),
        ("track", 12, size, 702.0, 0.001),
        ("estimate", 12, size, 702.0, 0.001),
    ]
    frames.close()
    stopped.assert_called_once()


def test_oak_d_follows_what_was_recorded():
    example, (package, links) = runpy.run_path(str(EXAMPLES / "oak_d.py")), depthai()
    calls, frames = followed(example, example["stream"](package))
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


@pytest.mark.parametrize(("name", "package"), [("realsense", "pyrealsense2"), ("oak_d", "depthai")])
def test_the_package_is_asked_for_when_frames_are(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    with pytest.raises(SystemExit, match=f"{package} is missing: pip install {package}"):
        next(example["stream"]())
