"""Views: where they look, that a turned view is turned back by a rolled camera, and poses in other crops."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.geometry.crop import CropCamera
from coop_edge.render import CpuRenderer
from coop_edge.stages.views import MAP, MARGIN, TURNS, Views, tight_boxes, turned
from tests.stages.chain import OPS, templates_of

SIZE = 128
MIDDLE = (SIZE - 1) / 2


@pytest.fixture(scope="module")
def drawer(far):
    return CpuRenderer(far, threads=1)


def camera_of(focal: float) -> np.ndarray:
    return np.array([[focal, 0.0, MIDDLE], [0.0, focal, MIDDLE], [0.0, 0.0, 1.0]])


def box_of(depth: np.ndarray) -> np.ndarray:
    """Centre (x, y) and size (width, height) of what a render covers."""
    v, u = np.nonzero(depth > 0)
    low, high = np.array([u.min(), v.min()]), np.array([u.max(), v.max()])
    return np.r_[(low + high) / 2, high - low + 1]


def test_turned_is_clockwise_in_the_image(far):
    T = templates_of(far).T_camera_object[:3]
    points = se3.transform(T, (far.vertices + far.centre)[None])
    found = se3.transform(turned(T), np.repeat((far.vertices + far.centre)[None], 3 * TURNS, axis=0))
    for v in range(3):
        for a in range(TURNS):
            angle = 2 * np.pi * a / TURNS  # x is right, y down: clockwise
            x, y, z = points[v].T
            wanted = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle), z], axis=1)
            np.testing.assert_allclose(found[v * TURNS + a], wanted, atol=1e-12)


def test_tight_boxes_are_those_of_all_vertices(far):
    T = templates_of(far).T_camera_object
    found = tight_boxes(far, T)
    points = (far.vertices.astype(np.float64) + far.centre)[None]
    for i, pose in enumerate(turned(T)):
        pixels = project(np.eye(3), se3.transform(pose[None], points))[0]
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        np.testing.assert_allclose(found[i], [*(low + 0.5), *(high - low)], atol=1e-6)
    assert tight_boxes(far, T[:0]).shape == (0, 4)


def test_tight_boxes_are_those_of_what_is_rendered(far, drawer):
    """In pixels, of which a render covers what its triangles cover the centres of."""
    T, K = templates_of(far).T_camera_object[5:7], camera_of(430.0)
    seen = drawer.render(turned(T), K, SIZE)
    for box, depth in zip(tight_boxes(far, T), seen.depth, strict=True):
        centre, size = 430.0 * (box[:2] - 0.5 + box[2:] / 2) + MIDDLE, 430.0 * box[2:]
        x, y, width, height = box_of(depth)
        np.testing.assert_allclose([x, y], centre, atol=0.6)
        np.testing.assert_allclose([width, height], size, atol=1.1)


def test_a_view_looks_at_its_tight_box(far, views):
    """The longer side of the box is the crop's, but for the margin, and the box is in the middle."""
    assert len(views.T_crop_object) == len(views.focal) == len(views.descriptors) == 42 * TURNS
    seen = se3.transform(views.T_crop_object, np.repeat((far.vertices + far.centre)[None], 42 * TURNS, axis=0))
    pixels = project(np.array([camera_of(f) for f in views.focal]), seen)
    reach = np.abs(pixels - MIDDLE).max(axis=(1, 2))
    np.testing.assert_allclose(reach, SIZE / 2 / MARGIN, rtol=0.02)
    np.testing.assert_array_less((pixels.max(axis=1) + pixels.min(axis=1)) / 2 - MIDDLE, 2.0)
    T = templates_of(far).T_camera_object
    R = np.swapaxes(turned(T)[:, :3, :3], 1, 2) @ views.T_crop_object[:, :3, :3]
    assert max(se3.rotation_angle(one, np.eye(3)) for one in R) < np.radians(5)  # from the template's axis to the box's


def test_a_camera_rolled_by_the_turn_sees_the_view_upright(far, drawer):
    """As ``match_views`` turns a crop."""
    T, K = templates_of(far).T_camera_object[10:11], camera_of(430.0)
    upright = drawer.render(T, K, SIZE)
    for a in (1, 4, 11):
        pose = turned(T)[a][None]
        image = np.ascontiguousarray(drawer.render(pose, K, SIZE).rgb[0])
        crop = CropCamera(K[None], np.eye(3)[None], np.eye(3)[None], SIZE).rolled(np.array([2 * np.pi * a / TURNS]))
        np.testing.assert_allclose(crop.to_crop(pose), T, atol=1e-12)
        found = 255 * OPS.warp(image, crop.H, SIZE)[0].transpose(1, 2, 0)
        inside, wanted = found.max(axis=-1) > 8, upright.depth[0] > 0
        assert (inside & wanted).sum() / (inside | wanted).sum() > 0.93
        off = np.abs(found - upright.rgb[0])[inside & wanted]
        assert off.mean() < 12
        not_rolled = np.abs(image - upright.rgb[0].astype(float))[inside & wanted]
        assert not_rolled.mean() > 30


@pytest.mark.parametrize("factor", [0.6, 1.0, 2.0])
def test_in_another_crop_the_object_is_as_large_and_where_it_was(views, drawer, factor):
    index = np.array([3, 100, 400, 671])
    here = [drawer.render(views.T_crop_object[i][None], camera_of(views.focal[i]), SIZE).depth[0] for i in index]
    focal = factor * views.focal[index]
    shift = np.array([[0.0, 0.0], [16.0, 0.0], [0.0, -16.0], [-8.0, 8.0]])
    T = views.poses(index, focal, shift)
    np.testing.assert_array_equal(T[:, :3, :3], views.T_crop_object[index, :3, :3])
    for i in range(len(index)):
        there = drawer.render(T[i][None], camera_of(focal[i]), SIZE).depth[0]
        if i in (0, 3):  # the others may leave the crop
            found, wanted = box_of(there), box_of(here[i])
            # The object is as deep as before, and nearer or farther: its near side grows or shrinks a little.
            np.testing.assert_allclose(found[:2] - shift[i], wanted[:2], atol=1.0 if factor == 1 else 3.0)
            np.testing.assert_allclose(found[2:], wanted[2:], rtol=0.02 if factor == 1 else 0.08, atol=1.0)
        centre = se3.transform(T[i], views.centre[None])
        at = project(camera_of(focal[i]), centre)[0]
        was = se3.transform(views.T_crop_object[index[i]], views.centre[None])
        np.testing.assert_allclose(at - shift[i], project(camera_of(views.focal[index[i]]), was)[0], atol=1e-9)
        np.testing.assert_allclose(centre[0, 2] / focal[i], was[0, 2] / views.focal[index[i]], rtol=1e-12)


def test_poses_leave_the_views_as_they_are(views):
    before = views.T_crop_object.copy()
    views.poses(np.array([1, 1]), np.array([100.0, 900.0]), np.ones((2, 2)))
    np.testing.assert_array_equal(views.T_crop_object, before)
    assert views.poses(np.zeros(0, int), np.zeros(0), np.zeros((0, 2))).shape == (0, 4, 4)


def test_a_view_is_most_like_itself(views, drawer, frozen):
    """Similarity is the mean over the cells of what their cosines exceed 0.3 by, weighted with what the view covers."""
    index = [7, 333]
    K = np.array([camera_of(views.focal[i]) for i in index])
    seen = drawer.render(views.T_crop_object[index], K, SIZE)
    (maps,) = frozen.maps(OPS.as_network_image(seen.rgb), MAP)
    unit = maps / np.linalg.norm(maps, axis=1, keepdims=True)
    found = views.similarities(unit, OPS)
    assert found.argmax(axis=1).tolist() == index
    np.testing.assert_allclose(found[[0, 1], index], 1.0, atol=1e-5)
    a, b = unit
    covered = (seen.depth[1] > 0).reshape(8, 16, 8, 16).mean(axis=(1, 3))
    cosine = (a * b).sum(axis=0)
    wanted = (covered / covered.sum() * np.maximum(cosine - 0.3, 0.0)).sum() / 0.7
    np.testing.assert_allclose(found[0, index[1]], wanted, atol=1e-5)
    assert views.similarities(unit[:0], OPS).shape == (0, len(views.focal))


def test_what_hides_a_view_counts_as_nothing_not_against_it(views, drawer, frozen):
    """Half of the cells look like nothing of the view, or like its very opposite: the same."""
    cells = np.moveaxis(views.descriptors[7], -1, 0)[None]
    unit = cells / np.maximum(np.linalg.norm(cells, axis=1, keepdims=True), 1e-6)
    hidden, opposite = unit.copy(), unit.copy()
    hidden[..., :4], opposite[..., :4] = 0.0, -unit[..., :4]
    share = np.linalg.norm(cells[0], axis=0)
    for seen in (hidden, opposite):
        np.testing.assert_allclose(views.similarities(seen, OPS)[0, 7], share[:, 4:].sum(), atol=1e-5)


def test_blank_views_are_as_many_and_like_nothing(views):
    T = np.eye(4)[None].copy()
    T[0, 2, 3] = 0.5
    blank = Views.blank(T, SIZE, 256.0, OPS)
    assert blank.descriptors.shape == views.descriptors.shape
    assert (
        blank.similarities(np.ones((1, *np.moveaxis(views.descriptors, -1, 1).shape[1:]), np.float32), OPS) == 0
    ).all()
    np.testing.assert_allclose(blank.poses(np.array([5]), np.array([512.0]), np.zeros((1, 2)))[0, :3, 3], [0, 0, 1.0])
