"""Hypotheses of detections: how much of its box a pose fills, and which boxes are looked at again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.meshes import colored_torus, grey_box
from coop_edge.config import EstimatorConfig
from coop_edge.mesh import Symmetries
from coop_edge.pnp.base import PnpStatus
from coop_edge.render import CpuRenderer
from coop_edge.stages.coarse import CoarseHypotheses
from coop_edge.stages.frame import Frame
from coop_edge.stages.hypotheses import Hypotheses
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.scoring import Judged
from coop_edge.types import Camera, Detection
from tests.stages.scene import at
from tests.stages.test_select import cells, refined_of

CAMERA = Camera(np.array([[800.0, 0.0, 319.5], [0.0, 800.0, 239.5], [0.0, 0.0, 1.0]]), 640, 480)
GREY, COLOURED = 0, 1
PLACES = [(0.02, -0.03, 0.7), (-0.2, 0.1, 0.8), (0.31, 0.0, 0.8)]  # the last one reaches out of the image


@pytest.fixture(scope="module")
def frame():
    meshes = [grey_box(), colored_torus()]
    empty = np.zeros((0, 1, 1), np.float32)
    models = [
        ObjectModel(m.name, m.centre, m.diameter, Symmetries(), empty, empty, plain_grey=m.is_plain_grey)
        for m in meshes
    ]
    assert [model.plain_grey for model in models] == [True, False]
    return Frame(np.zeros((480, 640, 3), np.uint8), CAMERA, models, CpuRenderer(meshes, threads=1))


def corners(mesh, T):
    """The box of projected vertices, pixels from the image's edge, cut off where the image ends."""
    seen = (mesh.vertices + mesh.centre) @ T[:3, :3].T + T[:3, 3]
    pixels = np.clip(seen[:, :2] / seen[:, 2:] * 800.0 + [320.0, 240.0], 0.0, [640.0, 480.0])
    return np.r_[pixels.min(axis=0), np.ptp(pixels, axis=0)]


def hypotheses_of(frame, places, index, detection, boxes, presence, *, masks=None):
    T = np.array([at(*place, (0.3, 0.7, -0.2), frame.models[i].centre) for place, i in zip(places, index, strict=True)])
    m = len(T)
    zeros, ones = np.zeros(m, np.int64), np.ones(m)
    coarse = CoarseHypotheses(
        np.array(detection), np.array(index), zeros, T, np.full(m, PnpStatus.SOLVED, np.int32), ones, zeros, zeros,
        ones, ones,
    )  # fmt: skip
    refined = dataclasses.replace(refined_of([cells(90, 10)] * m), T_camera_object=T)
    looks = np.where([frame.models[i].plain_grey for i in index], np.nan, 0.9)
    judged = Judged(np.array(presence), np.array(presence), looks)
    names = [frame.models[index[list(detection).index(d)]].name for d in range(len(boxes))]
    masks = masks or [None] * len(boxes)
    given = [Detection(name, tuple(box), mask=mask) for name, box, mask in zip(names, boxes, masks, strict=True)]
    return Hypotheses(frame, given, coarse, refined, None, judged)


def moved(box, share):
    return box + np.array([share * box[2], 0.0, 0.0, 0.0])


def own(frame, place, i):
    return corners(frame.renderer.meshes[i], at(*place, (0.3, 0.7, -0.2), frame.models[i].centre))


def test_boxes_of_a_frame_are_those_of_projected_vertices(frame):
    T = np.array([at(*place, (0.3, 0.7, -0.2), frame.models[i].centre) for i in (0, 1) for place in PLACES])
    T[1] = np.nan
    index = np.repeat([0, 1], len(PLACES))
    found = frame.boxes(T, index)
    assert np.isnan(found[1]).all()
    for row in (0, 2, 3, 4, 5):
        np.testing.assert_allclose(found[row], corners(frame.renderer.meshes[index[row]], T[row]), atol=1e-6)
    assert found[2, 0] + found[2, 2] == 640


@pytest.mark.parametrize("place", PLACES[:2])
@pytest.mark.parametrize(
    ("share", "presence", "believed"),
    [(0.0, 0.3, True), (0.05, 0.3, True), (0.15, 0.3, False), (-0.15, 0.3, False), (0.15, 0.55, True)],
)
def test_a_grey_object_has_to_fill_its_box_unless_it_is_surely_there(frame, place, share, presence, believed):
    box = moved(own(frame, place, GREY), share)
    hypotheses = hypotheses_of(frame, [place], [GREY], [0], [box], [presence])
    (reason,) = hypotheses.choose(EstimatorConfig()).reasons
    wanted = (
        f"select: the object fills {1 - abs(share):.2f} of its box at a presence of {presence:.2f} "
        "(wanted 0.9 at least, or a presence of 0.5)"
    )
    assert reason == ("" if believed else wanted)
    assert hypotheses.choose(EstimatorConfig().updated(["select.min_score=0"])).reasons == ("",)
    assert hypotheses.choose(EstimatorConfig().updated(["advanced.select.min_filled=0"])).reasons == ("",)


def test_what_of_a_box_lies_outside_the_image_need_not_be_filled(frame):
    box = own(frame, PLACES[2], GREY) * [1.0, 1.0, 1.5, 1.0]
    assert box[0] + box[2] > 650
    assert hypotheses_of(frame, PLACES[2:], [GREY], [0], [box], [0.3]).choose(EstimatorConfig()).reasons == ("",)


def test_a_pose_whose_box_is_not_known_is_not_refused_for_it(frame):
    """Of an object so near that a part of it is behind the camera."""
    hypotheses = hypotheses_of(frame, [(0.0, 0.0, 0.03)], [GREY], [0], [(10.0, 10.0, 600.0, 400.0)], [0.3])
    assert np.isnan(frame.boxes(hypotheses.refined.T_camera_object, np.array([GREY]))).all()
    assert hypotheses.choose(EstimatorConfig()).reasons == ("",)


def test_objects_whose_looks_are_known_need_not_fill_their_box(frame):
    box = moved(own(frame, PLACES[0], COLOURED), 0.5)
    assert hypotheses_of(frame, PLACES[:1], [COLOURED], [0], [box], [0.3]).choose(EstimatorConfig()).reasons == ("",)


def test_a_pose_that_fills_the_box_is_chosen_before_one_of_more_presence_that_does_not(frame):
    box = own(frame, PLACES[0], GREY)
    chosen = hypotheses_of(frame, [PLACES[1], PLACES[0]], [GREY] * 2, [0, 0], [box], [0.4, 0.3])
    assert chosen.choose(EstimatorConfig()).hypothesis.tolist() == [1]


def test_boxes_are_looked_at_again_where_the_best_pose_is_in_doubt_and_lies_elsewhere(frame):
    """Best poses: of the first detection trusted, of the second in doubt, of the third in doubt in its own box, of the
    fourth refused, of the fifth in doubt beside its mask."""
    boxes = [own(frame, PLACES[0], COLOURED), *[own(frame, PLACES[1], COLOURED)] * 4]
    given = [moved(box, share) for box, share in zip(boxes, (0.3, 0.3, 0.05, 0.3, 0.3), strict=True)]
    masks = [None] * 4 + [np.ones((480, 640), bool)]
    places = [PLACES[0], PLACES[0], *[PLACES[1]] * 4]
    found = hypotheses_of(frame, places, [COLOURED] * 6, [0, 1, 1, 2, 3, 4], given, [0.7, 0.3, 0.5, 0.5, 0.01, 0.5],
                          masks=masks)  # fmt: skip
    rows, again = found.in_other_boxes(EstimatorConfig())
    assert rows.tolist() == [1, 3]
    assert [each.object for each in again] == [frame.models[COLOURED].name] * 2
    np.testing.assert_allclose([each.bbox for each in again], [boxes[1]] * 2, atol=1e-6)
    every, _ = found.in_other_boxes(EstimatorConfig().updated(["advanced.select.trusted_presence=1"]))
    assert every.tolist() == [0, 1, 3]


def test_what_was_found_in_other_boxes_competes_with_what_was_found_before(frame):
    boxes = [own(frame, PLACES[i], COLOURED) for i in (0, 1)]
    first = hypotheses_of(frame, [PLACES[0], PLACES[1]], [COLOURED] * 2, [0, 1], boxes, [0.5, 0.4])
    second = hypotheses_of(frame, [PLACES[0], PLACES[2]], [COLOURED] * 2, [0, 0], boxes[1:], [0.3, 0.6])
    both = first.joined(second, np.array([1]))
    assert both.coarse.detection.tolist() == [0, 1, 1, 1]
    chosen = both.choose(EstimatorConfig())
    assert chosen.hypothesis.tolist() == [0, 3]
    np.testing.assert_array_equal(chosen.T_camera_object[1], second.refined.T_camera_object[1])
    assert chosen.presence.tolist() == [0.5, 0.6]
