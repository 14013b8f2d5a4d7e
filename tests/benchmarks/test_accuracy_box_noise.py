"""Boxes that are off: by how much, always the same, and never beyond the image."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.accuracy.box_noise import ALL, BoxNoise, noisy_bbox, noisy_boxes, parse_noises
from benchmarks.accuracy.boxes import read_boxes
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.records import Box
from coop_edge import InputError
from tests.benchmarks.bop import scene_of, write_dataset

LARGE = 1000, 800


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    images = {(1, 3): scene_of(0), (1, 0): scene_of(1, count=2), (7, 3): scene_of(2)}
    return BopDataset(write_dataset(tmp_path_factory.mktemp("bop") / "boxes", images))


def corners(bbox) -> np.ndarray:
    x, y, width, height = bbox
    return np.array([x, y, x + width, y + height])


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("direction", np.linspace(0.0, 2 * np.pi, 9))
def test_a_shift_is_a_share_of_the_sides_and_keeps_the_size(share, direction):
    bbox = (400.0, 300.0, 100.0, 50.0)
    moved = noisy_bbox(bbox, BoxNoise(shift=share), direction, LARGE)
    assert moved[2:] == pytest.approx(bbox[2:])
    by = (np.array(moved[:2]) - bbox[:2]) / bbox[2:]
    np.testing.assert_allclose(by, [share * math.cos(direction), share * math.sin(direction)], atol=1e-12)


@pytest.mark.parametrize("factor", [0.7, 0.85, 1.2, 1.4])
def test_a_size_is_about_the_centre(factor):
    moved = noisy_bbox((400.0, 300.0, 100.0, 50.0), BoxNoise(size=factor), 0.0, LARGE)
    assert moved == pytest.approx((450 - 50 * factor, 325 - 25 * factor, 100 * factor, 50 * factor))


def test_both_at_once():
    moved = noisy_bbox((400.0, 300.0, 100.0, 50.0), BoxNoise(0.2, 1.4), 0.0, LARGE)
    assert moved == pytest.approx((470 - 70, 325 - 35, 140, 70))


@pytest.mark.parametrize("bbox", [(-20.0, -10.0, 60.0, 40.0), (980.0, 780.0, 60.0, 60.0), (0.0, 0.0, 1000.0, 800.0)])
@pytest.mark.parametrize("noise", [*ALL, BoxNoise(0.5, 0.1), BoxNoise(0.5, 10.0)])
def test_boxes_are_cut_off_at_the_border_and_something_is_left(bbox, noise):
    for direction in np.linspace(0.0, 2 * np.pi, 17):
        left, top, right, bottom = corners(noisy_bbox(bbox, noise, direction, LARGE))
        assert 0 <= left < right <= LARGE[0]
        assert 0 <= top < bottom <= LARGE[1]


def test_what_lies_beyond_the_border_is_cut_off_before_it_is_measured():
    """Of a box half outside, a detector gives the half that is inside; a tenth is a tenth of that."""
    inside = noisy_bbox((0.0, 300.0, 50.0, 50.0), BoxNoise(shift=0.1), 0.0, LARGE)
    assert noisy_bbox((-50.0, 300.0, 100.0, 50.0), BoxNoise(shift=0.1), 0.0, LARGE) == inside
    assert inside == pytest.approx((5.0, 300.0, 50.0, 50.0))


def test_a_direction_is_that_of_the_target_alone(dataset):
    """Not of the length, of other boxes or of the order of images."""
    boxes = read_boxes(dataset, "visib")
    again = noisy_boxes(dataset, boxes, BoxNoise(shift=0.1))
    assert again == noisy_boxes(dataset, dict(reversed(boxes.items())), BoxNoise(shift=0.1))
    alone = {(1, 0): boxes[1, 0][-1:]}
    assert noisy_boxes(dataset, alone, BoxNoise(shift=0.1))[1, 0] == again[1, 0][-1:]
    inner = {image: [Box(1, (30.0, 20.0, 4.0, 4.0))] * 2 + [Box(2, (30.0, 20.0, 4.0, 4.0))] for image in boxes}
    turns = {}
    for share in (0.1, 0.3):
        moved = [box for each in noisy_boxes(dataset, inner, BoxNoise(shift=share)).values() for box in each]
        turns[share] = [math.atan2(box.bbox[1] - 20, box.bbox[0] - 30) for box in moved]
    np.testing.assert_allclose(turns[0.1], turns[0.3], atol=1e-9)
    assert len(set(np.round(turns[0.1], 6))) == 9  # three images, in each two boxes of object 1 and one of object 2


def test_images_without_boxes_and_objects_stay(dataset):
    boxes = read_boxes(dataset, "visib") | {(7, 3): []}
    moved = noisy_boxes(dataset, boxes, BoxNoise(size=1.2))
    assert {image: [box.obj_id for box in each] for image, each in moved.items()} == {
        image: [box.obj_id for box in each] for image, each in boxes.items()
    }


def test_boxes_with_masks_are_refused(dataset):
    boxes = {(1, 3): [Box(1, (1.0, 1.0, 5.0, 5.0), np.ones((48, 64), bool))]}
    with pytest.raises(InputError, match="wanted boxes without masks"):
        noisy_boxes(dataset, boxes, BoxNoise(shift=0.1))


def test_texts():
    assert parse_noises(["shift=0.2", "size=1.4", "shift=0.1,size=0.7", "shift=0.20"]) == [
        BoxNoise(0.2),
        BoxNoise(size=1.4),
        BoxNoise(0.1, 0.7),
    ]
    assert parse_noises(["size=1.2", "all"]) == [BoxNoise(size=1.2), *(each for each in ALL if each.size != 1.2)]
    assert [str(each) for each in ALL] == [
        *("shift=0.1", "shift=0.2", "shift=0.3"),
        *("size=0.7", "size=0.85", "size=1.2", "size=1.4"),
    ]
    for noise in (*ALL, BoxNoise(0.1, 0.7)):
        assert BoxNoise.parse(str(noise)) == noise


@pytest.mark.parametrize(
    "text",
    ["", "shift", "shift=", "shift=far", "turn=0.1", "shift=0.1,shift=0.2", "shift=nan", "shift=-0.1", "shift=0.6",
     "size=0", "size=-1", "size=11", "size=1", "shift=0", "shift=0,size=1"],
)  # fmt: skip
def test_texts_that_are_refused(text):
    with pytest.raises(InputError, match=f"--box-noise {text}: wanted"):
        BoxNoise.parse(text)
