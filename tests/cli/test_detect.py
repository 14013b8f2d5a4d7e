"""`coop-edge detect`, and `estimate` without boxes: files, forms, options and wrong use."""

from __future__ import annotations

import json

import pytest

from coop_edge import Camera, Detection, Estimator
from coop_edge.cli.detect import bop, coco, numbered
from coop_edge.cli.inputs import read_detections
from tests.cli.test_estimate import FAILED, FOUND, MUG, command, files, folder, invoke, templates  # noqa: F401

BOXES = [Detection("mug", (20.0, 10.0, 20.5, 20.0), score=0.75), Detection("mug", (1.0, 2.0, 3.0, 4.0), score=0.25)]


@pytest.fixture
def searched(monkeypatch):
    """Let the search answer what the test says, and look at what it was asked."""
    asked = []

    def answer_with(name, results):
        def search(self, image, camera, objects=None, *, progress=None, **options):
            progress(0, 1)
            asked.append((image.shape, camera.size, objects, options))
            progress(1, 1)
            return list(results)

        monkeypatch.setattr(Estimator, name, search)
        return asked

    return answer_with


def without_boxes(command, name):  # noqa: F811
    at = command.index("--detections")
    return [name, *command[1:at], *command[at + 2 :]]


def test_numbers_of_objects():
    assert numbered(["obj_000005", "obj_000012"]) == {"obj_000005": 5, "obj_000012": 12}
    assert numbered(["mug", "cup2"]) == {"mug": 1, "cup2": 2}
    assert numbered(["mug1", "cup1"]) == {"mug1": 1, "cup1": 2}
    assert numbered([]) == {}


def test_forms_of_the_file():
    numbers = {"mug": 7}
    assert bop(BOXES[:1], numbers, 3, 4) == [
        {"scene_id": 3, "image_id": 4, "category_id": 7, "bbox": [20, 10, 20.5, 20], "score": 0.75, "time": -1.0}
    ]
    camera = Camera([[60, 0, 31.5], [0, 60, 23.5], [0, 0, 1]], 64, 48)
    found = coco(BOXES, numbers, 4, "a.png", camera)
    assert found["images"] == [{"id": 4, "file_name": "a.png", "width": 64, "height": 48}]
    assert found["categories"] == [{"id": 7, "name": "mug"}]
    assert [a["id"] for a in found["annotations"]] == [1, 2]
    assert found["annotations"][1] == {
        "id": 2, "image_id": 4, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0, "score": 0.25
    }  # fmt: skip
    assert coco([], {}, 0, "a.png", camera)["annotations"] == []


def test_detect_writes_what_estimate_reads(command, files, searched):  # noqa: F811
    asked = searched("detect", BOXES)
    out = files / "out.json"
    result = invoke(*without_boxes(command, "detect"), "--output", out, "--max-instances", 2, "--region", "1,2,30,40")
    assert result.exit_code == 0, result.output
    assert asked == [((48, 64, 3), (64, 48), None, {"max_instances": 2, "region": (1, 2, 30, 40)})]
    back = read_detections(out)
    assert [(d.object, d.bbox, d.score) for d in back] == [(d.object, d.bbox, d.score) for d in BOXES]
    assert "tiny 0.0.1 on cpu (asked for)" in result.stdout
    assert "mug  0.750  20.0, 10.0, 20.5, 20.0" in result.stdout


@pytest.mark.parametrize("form", ["coco", "bop"])
def test_detect_in_other_forms(command, files, searched, form):  # noqa: F811
    searched("detect", BOXES)
    out = files / "out.json"
    numbers = ("--image-id", 5, "--scene-id", 6)
    result = invoke(*without_boxes(command, "detect"), "--format", form, *numbers, "--output", out, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["detections"] == json.loads(out.read_text())
    first = report["detections"]["annotations"][0] if form == "coco" else report["detections"][0]
    assert (first["image_id"], first["category_id"], first["bbox"]) == (5, 1, [20, 10, 20.5, 20])
    if form == "bop":
        assert first["scene_id"] == 6


@pytest.mark.parametrize(("results", "code"), [([FOUND], 0), ([FAILED], 1)])
def test_estimate_without_boxes_finds(command, files, searched, results, code):  # noqa: F811
    asked = searched("find", results)
    result = invoke(*without_boxes(command, "estimate"), "--overlay", files / "out.png")
    assert result.exit_code == code, result.output
    assert asked == [((48, 64, 3), (64, 48), None, {})]
    assert (files / "out.png").is_file()


def test_estimate_recovers_if_asked(command, monkeypatch):  # noqa: F811
    asked = []

    def estimate(self, image, camera, detections, **options):
        asked.append(options)
        return [FOUND]

    monkeypatch.setattr(Estimator, "estimate", estimate)
    assert invoke(*command, "--recover").exit_code == 0
    assert invoke(*command).exit_code == 0
    assert asked == [{"recover": True}, {}]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--region", "1,2,3"], "--region: wanted X,Y,WIDTH,HEIGHT, got '1,2,3'"),
        (["--region", "a,2,3,4"], "--region: wanted X,Y,WIDTH,HEIGHT"),
        (["--region", "1,2,3,4"], "--region: only for a search without boxes"),
        (["--max-instances", 2], "--max-instances: only for a search without boxes"),
    ],
)
def test_wrong_use(command, options, says):  # noqa: F811
    result = invoke(*command, *options)
    assert result.exit_code == 2
    assert says in result.output


def test_more_wrong_use(command):  # noqa: F811
    for name, options, says in (
        ("estimate", ["--recover"], "--recover: looks around boxes, and there are none"),
        ("detect", ["--format", "yolo"], "yolo"),
        ("estimate", [], "engines tiny 0.0.1 have no network 'features'"),
        ("detect", ["--max-instances", 0], "engines tiny 0.0.1 have no network 'features'"),
    ):
        result = invoke(*without_boxes(command, name), *options)
        assert result.exit_code == 2, result.output
        assert says in " ".join(result.output.split())
