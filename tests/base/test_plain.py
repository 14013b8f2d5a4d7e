"""What others wrote: JSON without end, numbers beyond a double, complex ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coop_edge import Camera, ConfigError, Detection, EstimatorConfig, InputError, PoseEstimate, StageTimes, Symmetries
from coop_edge.base.plain import floats, parse_json
from coop_edge.cli import inputs
from coop_edge.geometry import se3
from tests.mutations import damaged_data

HUGE = 10**400
EYE = np.eye(4).tolist()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" + "0" * 5000, "", "{", "nan?", b"\xff\xfe\x00"])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 (json's own kinds are of this one)
        parse_json(text)


def test_json_is_read():
    assert parse_json('{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([HUGE], "x: wanted numbers that fit a double, got a larger integer"),
        (HUGE, "got a larger integer"),
        ([1j], "wanted real numbers, got complex ones"),
        (np.eye(3, dtype=np.complex64), "got complex ones"),
        (["one"], "x: wanted numbers, got list"),
        ([[1], [1, 2]], "x: wanted numbers, got list"),
        (None, None),
    ],
)
def test_what_is_no_number_is_refused_by_name(value, says):
    if says is None:
        assert np.isnan(floats(value, "x"))  # NumPy's reading, and the caller's to judge
        return
    with pytest.raises(InputError, match=r"^x: ") as caught:
        floats(value, "x")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Camera([[HUGE, 0, 1], [0, 1, 1], [0, 0, 1]], 64, 48),
        lambda: Camera(np.array([[60, 0, 32], [0, 60, 24], [0, 0, 1 + 1j]]), 64, 48),
        lambda: Camera(np.eye(3) * [60, 60, 1] + 0j, 64, 48),
        lambda: Camera(np.eye(3) * [60, 60, 1], 64, 48, distortion=[HUGE] * 5),
        lambda: Detection("cup", bbox=(0, 0, HUGE, 1)),
        lambda: Detection("cup", bbox=(0, 0, 1, 1), score=HUGE),
        lambda: Detection("cup", bbox=(0, 0, 1, 1), score=-HUGE),
        lambda: PoseEstimate(True, T_camera_object=np.eye(4) + 0j, object="cup"),
        lambda: PoseEstimate(True, T_camera_object=[[HUGE, 0, 0, 0], *EYE[1:]], object="cup"),
        lambda: PoseEstimate(False, "lost", reprojection_rms_px=HUGE),
        lambda: PoseEstimate(True, T_camera_object=EYE, covariance=np.eye(6) + 0j),
        lambda: StageTimes(crop_ms=HUGE),
        lambda: se3.check_transform(np.eye(4) * 1j),
        lambda: Symmetries.from_bop({"symmetries_discrete": [[HUGE] * 16]}),
        lambda: Symmetries.from_bop({"symmetries_continuous": [{"axis": [0, 0, HUGE], "offset": [0, 0, 0]}]}),
    ],
)
def test_huge_and_complex_numbers_are_input_errors(make):
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize("name", ["coarse.margin", "coarse.hypotheses", "select.min_score", "advanced.refine.stop_px"])
@pytest.mark.parametrize("value", [HUGE, -HUGE])
def test_huge_options_are_config_errors(name, value):
    *groups, last = name.split(".")
    options = {last: value}
    for group in reversed(groups):
        options = {group: options}
    with pytest.raises(ConfigError, match=last):
        EstimatorConfig.from_dict(options)


@pytest.mark.filterwarnings("ignore:Camera")
class TestFiles:
    """Whatever stands in a file of a camera or of detections."""

    def test_a_camera(self, tmp_path):
        path, image = tmp_path / "camera.json", np.zeros((48, 64, 3), np.uint8)
        good = {"K": [[60, 0, 31.5], [0, 60, 23.5], [0, 0, 1]], "width": 64, "height": 48, "distortion": [0, 0, 0, 0]}
        for damaged in damaged_data(good):
            path.write_text(json.dumps(damaged))
            try:
                inputs.read_camera(str(path), image)
            except InputError:
                continue
        for text in ("[" * 100_000, '{"K":' * 100_000, '{"fx": 1' + "0" * 400 + ', "fy": 1, "cx": 0, "cy": 0}'):
            path.write_text(text)
            with pytest.raises(InputError):
                inputs.read_camera(str(path), image)

    def test_detections(self, tmp_path):
        path = tmp_path / "found.json"
        for damaged in damaged_data([{"object": "cup", "bbox": [1, 2, 3, 4], "score": 0.5}]):
            path.write_text(json.dumps(damaged))
            try:
                inputs.read_detections(path)
            except InputError as error:
                assert str(error).startswith((str(path), "--detections"))  # noqa: PT017 (some are legal)
        path.write_text("[" * 100_000)
        with pytest.raises(InputError, match="not JSON: nested too deep"):
            inputs.read_detections(path)


def test_a_mask_and_a_box_that_do_not_touch_are_refused():
    mask = np.zeros((40, 60), bool)
    mask[10:20, 10:20] = True
    for box in ((30, 10, 10, 10), (10, 21, 10, 10), (0, 0, 9, 9), (20, 10, 5, 5)):
        with pytest.raises(InputError, match="the mask has no pixel in its bbox"):
            Detection("cup", bbox=box, mask=mask)
    for box in ((19, 19, 10, 10), (0, 0, 10.5, 10.5), (12, 12, 2, 2), (-5, -5, 100, 100), (19.5, 19.5, 0.2, 0.2)):
        assert Detection("cup", bbox=box, mask=mask).bbox == box
