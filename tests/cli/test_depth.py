"""``--depth`` and ``--depth-unit`` of ``estimate`` and ``track``: which file, which unit, and wrong use in one line."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from coop_edge import Estimator, InputError, PoseEstimate
from coop_edge.cli.depth import depth_of_image, depth_unit, depths_by_number, open_depths, read_depth_file
from tests.cli.test_estimate import T_MUG, command, files, folder, invoke, templates  # noqa: F401

DEPTH = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) + 500


@pytest.fixture
def asked(monkeypatch):
    """Let ``Estimator`` find the mug, and look at what depth it was given."""
    given = []

    def found(self, image, camera, items, depth=None, depth_unit=None):
        given.append((None if depth is None else np.array(depth), depth_unit))
        return [PoseEstimate(True, T_camera_object=T_MUG, score=0.8, object="mug", used_depth=depth is not None)]

    monkeypatch.setattr(Estimator, "estimate", found)
    monkeypatch.setattr(Estimator, "track", found)
    return given


@pytest.fixture
def picture(files):  # noqa: F811
    cv2.imwrite(str(files / "depth.png"), DEPTH)
    return files / "depth.png"


def test_estimate_reads_a_picture_in_the_unit_that_is_said(command, picture, asked):  # noqa: F811
    result = invoke(*command, "--depth", picture, "--depth-unit", "mm", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["results"][0]["used_depth"] is True
    np.testing.assert_array_equal(asked[0][0], DEPTH)
    assert asked[0][1] == "mm"


def test_without_boxes_depth_goes_into_the_search(command, picture, asked, monkeypatch):  # noqa: F811
    def find(self, image, camera, *, depth=None, depth_unit=None, progress=None):
        asked.append((np.array(depth), depth_unit))
        return [PoseEstimate(True, T_camera_object=T_MUG, score=0.8, object="mug")]

    monkeypatch.setattr(Estimator, "find", find)
    i = command.index("--detections")
    result = invoke(*command[:i], *command[i + 2 :], "--depth", picture, "--depth-unit", "mm", "--json")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(asked[0][0], DEPTH)
    assert asked[0][1] == "mm"


def test_estimate_without_depth_is_as_it_was(command, asked):  # noqa: F811
    result = invoke(*command, "--json")
    assert json.loads(result.stdout)["results"][0]["used_depth"] is False
    assert asked == [(None, None)]


def test_the_cameras_file_may_say_the_unit(command, files, picture, asked):  # noqa: F811
    camera = {"fx": 60, "fy": 60, "cx": 31.5, "cy": 23.5, "depth_scale": 0.1}
    (files / "camera.json").write_text(json.dumps(camera))
    assert invoke(*command, "--depth", picture).exit_code == 0
    assert asked[0][1] == pytest.approx(1e-4)


def test_in_a_folder_it_is_the_file_of_the_images_name(command, files, asked):  # noqa: F811
    (files / "depths").mkdir()
    np.save(files / "depths" / "image.npy", DEPTH.astype(np.float32) / 1000)
    np.save(files / "depths" / "other.npy", DEPTH.astype(np.float32))
    assert invoke(*command, "--depth", files / "depths").exit_code == 0
    np.testing.assert_array_equal(asked[0][0], DEPTH.astype(np.float32) / 1000)
    assert asked[0][1] is None


def test_track_takes_one_per_frame_in_order(command, files, asked):  # noqa: F811
    for name in ("frames", "depths"):
        (files / name).mkdir()
    for i in (2, 10):
        cv2.imwrite(str(files / "frames" / f"{i}.png"), np.full((48, 64, 3), i, np.uint8))
        cv2.imwrite(str(files / "depths" / f"d{i}.png"), np.full((48, 64), 500 + i, np.uint16))
    line = ["track", files / "frames", *command[3:], "--depth", files / "depths", "--depth-unit", "mm"]
    assert invoke(*line).exit_code == 0
    assert [(int(depth[0, 0]), unit) for depth, unit in asked] == [(502, "mm"), (510, "mm")]
    np.save(files / "stack.npy", np.ones((2, 48, 64), np.float32))
    asked.clear()
    line[line.index(files / "depths")] = files / "stack.npy"
    assert invoke(*line[:-2]).exit_code == 0
    assert len(asked) == 2
    np.save(files / "stack.npy", np.ones((1, 48, 64), np.float32))
    result = invoke(*line[:-2])
    assert result.exit_code == 2
    assert "frame 10.png: there are fewer depth images than frames" in " ".join(result.output.split())


def test_a_unit_without_depth(command, asked):  # noqa: F811
    result = invoke(*command, "--depth-unit", "mm")
    assert result.exit_code == 2
    assert "--depth-unit mm: wanted with --depth" in " ".join(result.output.split())


def test_files_that_are_no_depth(tmp_path):
    cv2.imwrite(str(tmp_path / "colour.png"), np.zeros((4, 5, 3), np.uint8))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.npy").write_text("no")
    np.save(tmp_path / "line.npy", np.zeros(5))
    for name, says in (
        ("colour.png", r"one 16-bit channel, got uint8 \[4, 5, 3\]; is it a coloured view"),
        ("empty.png", "not a picture that OpenCV reads"),
        ("text.npy", "not an array that NumPy reads"),
        ("line.npy", r"wanted depth \[height,width\] or"),
        ("none.png", "no such depth image"),
    ):
        with pytest.raises(InputError, match=says):
            read_depth_file(tmp_path / name)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="no depth images in this folder"):
        open_depths(tmp_path / "nothing", None)
    with pytest.raises(InputError, match="no depth image frame"):
        depth_of_image(tmp_path, tmp_path / "frame.jpg")


def test_units():
    assert depth_unit("0.0001", "1,1,0,0", Path("d.png")) == 1e-4
    assert depth_unit("cm", "1,1,0,0", Path("d.png")) == "cm"


def test_depths_of_a_page_by_name_and_by_number(tmp_path):
    pictures, depths = tmp_path / "pictures", tmp_path / "depths"
    pictures.mkdir()
    depths.mkdir()
    for i in (2, 10):
        cv2.imwrite(str(depths / f"{i}.png"), np.full((4, 6), 100 * i, np.uint16))
    by_name = depths_by_number(depths, "mm", pictures, ["10.png", "2.png"])
    assert [int(by_name(i)["depth"][0, 0]) for i in (1, 0, 1)] == [200, 1000, 200]
    assert by_name(0)["depth_unit"] == "mm"
    in_order = depths_by_number(depths, None, tmp_path / "video.avi", ["000000", "000001"])
    assert [int(in_order(i)["depth"][0, 0]) for i in (0, 1, 0)] == [200, 1000, 200]
    np.save(tmp_path / "stack.npy", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    stack = depths_by_number(tmp_path / "stack.npy", None, tmp_path / "video.avi", ["000000", "000001"])
    assert stack(1)["depth"][0, 0] == 12
    one = depths_by_number(depths / "2.png", "mm", pictures / "a.png", ["a.png"])
    assert one(0)["depth"][0, 0] == 200
    for depth, source in ((depths / "2.png", pictures), (depths, tmp_path / "video.avi")):
        names = ["0", "1", "2"]
        with pytest.raises(InputError, match=rf"depth images: {1 if depth.suffix else 2}, images in .*: 3; wanted one"):
            depths_by_number(depth, "mm", source, names)
