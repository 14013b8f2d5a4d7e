"""Retrieval with the features that ship: a view is found in the crop that shows it, in whatever place a box puts it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from coop_edge.geometry import se3
from coop_edge.geometry.crop import CropCamera
from coop_edge.mesh import Symmetries
from coop_edge.pnp.base import PnpStatus
from coop_edge.render import CpuRenderer
from coop_edge.stages.crop import crop_detections
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.retrieve import BEYOND, MOST_WITHIN, TOLERANCE, WITHIN, retrieve
from coop_edge.stages.views import MARGIN, TURNS
from coop_edge.types import Camera, Detection
from tests.stages.chain import OPS

SIZE, PATCH = 128, 16
WIDTH, HEIGHT = 320, 240
VIEWS = (7, 200, 333, 600)


@pytest.fixture(scope="module")
def model(far, views):
    empty = np.zeros((0, 1, 1), np.float32)
    return ObjectModel(far.name, far.centre, far.diameter, Symmetries(), empty, empty, views)


@dataclasses.dataclass
class Shown:
    """One view in the middle of an image, as large as in its crop."""

    image: np.ndarray
    camera: Camera
    mask: np.ndarray
    T: np.ndarray
    sides: np.ndarray

    def detection(self, *, scale=1.0, shift=(0.0, 0.0), mask=None) -> Detection:
        """A box about it, ``scale`` times as large as right and moved by ``shift`` pixels."""
        w, h = scale * self.sides
        return Detection("far", bbox=(WIDTH / 2 - w / 2 + shift[0], HEIGHT / 2 - h / 2 + shift[1], w, h), mask=mask)

    @classmethod
    def of(cls, mesh, views, i: int) -> Shown:
        f = views.focal[i]
        K = np.array([[f, 0.0, (WIDTH - 1) / 2], [0.0, f, (HEIGHT - 1) / 2], [0.0, 0.0, 1.0]])
        seen = CpuRenderer(mesh, threads=1).render(views.T_crop_object[i][None], K, (HEIGHT, WIDTH))
        return cls(seen.rgb[0], Camera(K, WIDTH, HEIGHT), seen.depth[0] > 0, views.T_crop_object[i], views.sides[i])


@pytest.fixture(scope="module")
def shown(far, views):
    return {i: Shown.of(far, views, i) for i in VIEWS}


def found_in(shown, detections, model, frozen, count=5):
    image, index = np.ascontiguousarray(shown.image), np.zeros(len(detections), np.int64)
    crops = crop_detections(image, shown.camera, detections, SIZE, ops=OPS, margin=MARGIN, patch=PATCH)
    found = retrieve(image, crops, [model], index, features=frozen, count=count)
    return found, found.hypotheses(crops.camera, index)


def more(cell, described):
    """What a cell adds to the similarity: its share of the surface, by how far its cosine exceeds 0.3, at most 0.7."""
    share = float(np.linalg.norm(described))
    return max(float(cell @ described) - 0.3 * share, 0.0) / 0.7


def off(T, truth, centre):
    """Angle in degrees, and distance of the centre: across and along the ray to it, as shares of its depth."""
    there, here = (se3.transform(pose, centre[None])[0] for pose in (truth, T))
    angle = np.degrees(se3.rotation_angle(T[:3, :3], truth[:3, :3]))
    return angle, np.linalg.norm((here - there)[:2]) / there[2], abs(here[2] / there[2] - 1)


@pytest.mark.parametrize("i", VIEWS)
def test_a_box_that_fits_finds_the_view_and_its_pose(i, shown, model, frozen):
    found, hypotheses = found_in(shown[i], [shown[i].detection()], model, frozen)
    assert found.view[0, 0] == i
    assert found.scale[0, 0] == 1.0
    np.testing.assert_allclose(found.similarity[0, 0], 1.0, atol=1e-3)
    assert (np.diff(found.similarity[0]) <= 0).all()
    np.testing.assert_allclose(found.T_crop_object[0, 0], shown[i].T, atol=1e-9)
    np.testing.assert_allclose(hypotheses.T_camera_object[0], shown[i].T, atol=1e-9)
    assert hypotheses.template[0] == i // TURNS


@pytest.mark.parametrize("i", VIEWS[:2])
@pytest.mark.parametrize("move", [(1, 0), (0, -1), (-1, 1)])
def test_a_box_beside_the_object_finds_it_where_it_is(i, move, shown, model, frozen):
    """By a cell of the coarsest map, 16 pixels of the crop: here as many of the image."""
    one = shown[i]
    found, hypotheses = found_in(one, [one.detection(shift=16.0 * np.array(move))], model, frozen)
    assert found.view[0, 0] == i
    assert found.scale[0, 0] == 1.0
    angle, across, along = off(hypotheses.T_camera_object[0], one.T, model.centre)
    assert angle < 4.0  # a crop looks aside by the angle of 16 pixels, or 23
    assert across < 0.005
    assert along < 0.01


@pytest.mark.parametrize("i", VIEWS[:2])
@pytest.mark.parametrize(("scale", "crop"), [(1 / 0.75, 0.75), (1 / 1.35, 1.35)])
def test_a_box_of_another_size_finds_the_distance(i, scale, crop, shown, model, frozen):
    one = shown[i]
    found, hypotheses = found_in(one, [one.detection(scale=scale)], model, frozen)
    assert found.view[0, 0] == i
    assert found.scale[0, 0] == crop
    angle, across, along = off(hypotheses.T_camera_object[0], one.T, model.centre)
    assert angle < 1e-3
    assert across < 1e-3
    assert along < 1e-3


def test_a_mask_says_where_the_object_is(shown, model, views, frozen):
    """The box is beside the object and too large: with a mask of that box no other placement is tried."""
    one = shown[7]
    detection = one.detection(scale=1.3, shift=(16, 0), mask=one.mask)
    free, _ = found_in(one, [dataclasses.replace(detection, mask=None)], model, frozen, count=40)
    assert (free.scale != 1.0).any()
    found, _ = found_in(one, [detection], model, frozen, count=40)
    assert (found.scale == 1.0).all()
    crops = crop_detections(one.image, one.camera, [detection], SIZE, ops=OPS, margin=MARGIN, patch=PATCH)
    focal = np.full(40, crops.camera.K[0, 0, 0])
    wanted = views.poses(found.view[0], focal, np.zeros((40, 2)))
    np.testing.assert_allclose(found.T_crop_object[0], wanted, atol=1e-12)


def test_what_lies_off_a_mask_is_like_nothing(shown, model, views, frozen):
    """Another object's pixels beside the mask do not count: cells that it does not touch are zeros."""
    one, rng = shown[333], np.random.default_rng(0)
    near = np.zeros_like(one.mask)
    v, u = np.nonzero(one.mask)
    near[max(v.min() - 24, 0) : v.max() + 24, max(u.min() - 24, 0) : u.max() + 24] = True
    noisy = dataclasses.replace(
        one, image=np.where(near[..., None], one.image, rng.integers(0, 255, one.image.shape)).astype(np.uint8)
    )
    found, _ = found_in(noisy, [noisy.detection(mask=one.mask)], model, frozen)
    assert found.view[0, 0] == 333
    # By hand: only cells of the crop that hold some of the mask.
    crops = crop_detections(noisy.image, noisy.camera, [noisy.detection()], SIZE, ops=OPS, margin=MARGIN, patch=PATCH)
    (maps,) = frozen.maps(crops.images, "s16")
    unit = maps / np.linalg.norm(maps, axis=1, keepdims=True)
    x, y = (WIDTH - SIZE) // 2, (HEIGHT - SIZE) // 2  # the crop is a piece of the image
    cells = one.mask[y : y + SIZE, x : x + SIZE].reshape(8, 16, 8, 16).any(axis=(1, 3))
    wanted = sum(more(unit[0, :, r, c], views.descriptors[333, r, c]) for r, c in np.argwhere(cells))
    np.testing.assert_allclose(found.similarity[0, 0], wanted, atol=1e-5)


def price(box, view):
    """What a view at its place costs: rectangles (left, top, right, bottom)."""
    lengths = np.array([-1, -1, 1, 1]) * (np.array(view) - box) / max(box[2] - box[0], box[3] - box[1])
    within = sum(max(-length - TOLERANCE, 0.0) for length in lengths)
    return min(WITHIN * within, MOST_WITHIN) + BEYOND * sum(max(length - TOLERANCE, 0.0) for length in lengths)


def rectangle(width, height, x=0.0, y=0.0):
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


@pytest.mark.parametrize("scale", [1 / 0.75, 1 / 1.35])
def test_another_scale_is_a_crop_of_that_size_less_its_price(scale, shown, model, frozen):
    one = shown[200]
    right, _ = found_in(one, [one.detection()], model, frozen, count=1)
    found, _ = found_in(one, [one.detection(scale=scale)], model, frozen, count=1)
    wanted = price(rectangle(*scale * one.sides), rectangle(*one.sides))
    assert wanted > 0.02
    np.testing.assert_allclose(found.similarity[0, 0], right.similarity[0, 0] - wanted, atol=1e-4)


def test_a_move_is_the_map_moved_by_a_cell_less_its_price(shown, model, views, frozen):
    one, detection = shown[200], shown[200].detection(shift=(16, 0))
    found, _ = found_in(one, [detection], model, frozen, count=1)
    crops = crop_detections(one.image, one.camera, [detection], SIZE, ops=OPS, margin=MARGIN, patch=PATCH)
    (maps,) = frozen.maps(crops.images, "s16")
    unit = maps[0] / np.linalg.norm(maps[0], axis=0)
    # The box is to the right, so the object is a cell further left than the view has it.
    cells = [(r, c) for r in range(8) for c in range(1, 8)]
    wanted = sum(more(unit[:, r, c - 1], views.descriptors[200, r, c]) for r, c in cells)
    wanted -= price(rectangle(*crops.sides[0]), rectangle(*one.sides, x=-16))
    np.testing.assert_allclose(found.similarity[0, 0], wanted, atol=1e-5)


def test_half_of_an_object_is_placed_as_half_of_it(far, views, model, frozen):
    """The box is about the upper part, the lower one is hidden: as large as it is, and lower than the box."""
    i = int(np.argmax(views.sides[:, 1] / views.sides[:, 0]))  # a view as tall as there is
    one = Shown.of(far, views, i)
    w, h = one.sides
    shown_part, top = 0.7 * h, HEIGHT / 2 - h / 2
    image = one.image.copy()
    image[int(top + shown_part) :] = 90
    whole = Detection("far", bbox=(WIDTH / 2 - w / 2, top, w, shown_part))
    found, hypotheses = found_in(dataclasses.replace(one, image=image), [whole], model, frozen, count=1)
    angle, _, along = off(hypotheses.T_camera_object[0], one.T, model.centre)
    assert found.scale[0, 0] > 1.0
    assert angle < 5.0
    assert along < 0.25  # 0.43 if the box were the whole object's


def test_a_detection_is_the_same_whatever_else_is_in_the_batch(shown, model, frozen):
    one = shown[7]
    detections = [one.detection(), one.detection(scale=1.3, shift=(16, 0), mask=one.mask), one.detection(shift=(0, 9))]
    whole, hypotheses = found_in(one, detections, model, frozen)
    assert hypotheses.detection.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    for d, detection in enumerate(detections):
        alone, _ = found_in(one, [detection], model, frozen)
        np.testing.assert_array_equal(alone.view[0], whole.view[d])
        np.testing.assert_array_equal(alone.scale[0], whole.scale[d])
        np.testing.assert_allclose(alone.similarity[0], whole.similarity[d], atol=1e-5)
        np.testing.assert_allclose(alone.T_crop_object[0], whole.T_crop_object[d], atol=1e-12)


def test_each_crop_is_compared_with_views_of_its_own_object(shown, model, views, frozen):
    """An object whose views are another's in reverse order."""
    backwards = dataclasses.replace(
        views,
        descriptors=np.ascontiguousarray(views.descriptors[::-1]),
        T_crop_object=views.T_crop_object[::-1].copy(),
        focal=views.focal[::-1].copy(),
    )
    one = shown[7]
    crops = crop_detections(one.image, one.camera, [one.detection()] * 3, SIZE, ops=OPS, margin=MARGIN, patch=PATCH)
    objects = [model, dataclasses.replace(model, views=backwards)]
    found = retrieve(one.image, crops, objects, np.array([1, 0, 1]), features=frozen, count=1)
    assert found.view[:, 0].tolist() == [len(views.focal) - 1 - 7, 7, len(views.focal) - 1 - 7]
    np.testing.assert_allclose(found.T_crop_object[:, 0], [one.T] * 3, atol=1e-9)
    assert found.hypotheses(crops.camera, np.array([1, 0, 1])).object_index.tolist() == [1, 0, 1]


def test_no_detections(shown, model, frozen):
    found, hypotheses = found_in(shown[7], [], model, frozen)
    assert len(found.view) == len(found.similarity) == len(found.scale) == 0
    assert found.T_crop_object.shape[0] == 0
    assert len(hypotheses) == 0
    assert hypotheses.T_camera_object.shape == (0, 4, 4)


def test_hypotheses_are_poses_in_the_real_camera(shown, model, frozen):
    """Whatever way a crop looks."""
    found, _ = found_in(shown[7], [shown[7].detection()] * 2, model, frozen, count=3)
    R = se3.so3_exp(np.array([[0.1, -0.2, 0.0], [0.0, 0.3, 0.4]]))
    camera = CropCamera(np.array([np.eye(3)] * 2), R, np.array([np.eye(3)] * 2), SIZE)
    hypotheses = found.hypotheses(camera, np.zeros(2, int))
    back = R[hypotheses.detection] @ hypotheses.T_camera_object[:, :3]
    np.testing.assert_allclose(back, found.T_crop_object.reshape(-1, 4, 4)[:, :3], atol=1e-12)
    assert (hypotheses.status == PnpStatus.SOLVED).all()
    assert [hypotheses.reason(i) for i in range(6)] == [""] * 6
    np.testing.assert_array_equal(hypotheses.evidence, np.clip(found.similarity.reshape(-1), 0, 1))


def test_joined_hypotheses_keep_the_order_of_their_parts(shown, model, frozen):
    _, a = found_in(shown[7], [shown[7].detection()] * 2, model, frozen, count=3)
    b = a.take(np.array([4, 0, 1]))  # of detections 1, 0, 0
    whole = a.joined(b)
    assert whole.detection.tolist() == [0] * 5 + [1] * 4
    np.testing.assert_array_equal(whole.T_camera_object, a.T_camera_object[[0, 1, 2, 0, 1, 3, 4, 5, 4]])
    assert len(a.take(np.zeros(0, int)).joined(b.take(np.zeros(0, int)))) == 0
