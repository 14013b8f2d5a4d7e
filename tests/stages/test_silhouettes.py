"""Silhouettes and boxes of objects at poses: against renders in the image itself."""

from __future__ import annotations

import numpy as np

from coop_edge.render import CpuRenderer
from coop_edge.stages.silhouettes import MASK_SIDE, pose_boxes, shared, silhouettes
from coop_edge.types import Camera
from tests.stages.chain import OPS
from tests.stages.scene import at

CAMERA = Camera(np.array([[800.0, 0.0, 319.5], [0.0, 800.0, 239.5], [0.0, 0.0, 1.0]]), 640, 480)


def poses(centre):
    return np.array([at(0.02, -0.03, 0.7, (0.3, 0.7, -0.2), centre), at(0.3, 0.1, 0.8, (0.1, 1.7, 0.4), centre)])


def test_silhouettes_are_the_image_s_reduced(far):
    renderer, T = CpuRenderer([far], threads=1), poses(far.centre)
    found = silhouettes(renderer, T, np.zeros(2, int), CAMERA, OPS)
    assert found.shape == (2, 120, MASK_SIDE)
    large = renderer.render(T, CAMERA.K, (480, 640)).mask
    share = large.reshape(2, 120, 4, 160, 4).mean(axis=(2, 4))
    sure = (share == 0) | (share == 1)
    np.testing.assert_array_equal(found[sure], share[sure] == 1)
    assert sure.mean() > 0.95


def test_boxes_are_those_of_renders(far):
    T = poses(far.centre)
    found = pose_boxes(T, far.vertices, far.centre, CAMERA)
    inside, cut = CpuRenderer(far, threads=1).render(T, CAMERA.K, (480, 640)).mask
    v, u = np.nonzero(inside)
    np.testing.assert_allclose(found[0], [u.min(), v.min(), np.ptp(u) + 1, np.ptp(v) + 1], atol=1.5)
    v, u = np.nonzero(cut)
    assert found[1, 0] + found[1, 2] == 640  # where the image ends
    np.testing.assert_allclose(found[1, :2], [u.min(), v.min()], atol=1.5)
    assert found[1, 3] >= np.ptp(v)


def test_what_is_not_in_the_image_has_no_box(far):
    hidden = np.array([at(3.0, 0.0, 0.7, (0, 0, 0), far.centre), at(0.0, 0.0, 0.02, (0, 0, 0), far.centre)])
    assert np.isnan(pose_boxes(hidden, far.vertices, far.centre, CAMERA)).all()
    assert pose_boxes(hidden[:0], far.vertices, far.centre, CAMERA).shape == (0, 4)


def test_shared_is_intersection_over_union():
    a, b = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
    assert shared(a, b) == 0
    a[:2], b[1:3] = True, True
    assert shared(a, b) == 5 / 15
    assert shared(a, a) == 1
