"""Silhouettes through lenses: where OpenCV projects the object's points."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from benchmarks.meshes import grey_box
from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.render import CpuRenderer
from coop_edge.types import Camera, PoseEstimate
from coop_edge.visual.overlay import OverlayItem, box_corners, draw_overlay
from coop_edge.visual.silhouette import silhouette

K = np.array([[600.0, 0.0, 318.0], [0.0, 600.0, 243.0], [0.0, 0.0, 1.0]])
CAMERAS = {
    "barrel": Camera(K, 640, 480, [-0.4, 0.2, 1e-3, -2e-3, -0.05]),
    "pincushion": Camera(K, 640, 480, [0.3, 0.1, 0, 0]),
    "fisheye": Camera(
        K * [[0.4], [0.4], [1]] + [[0, 0, 190], [0, 0, 146], [0, 0, 0]], 640, 480, [0.05, -0.02, 0, 0], fisheye=True
    ),
}


def points_on(mesh):
    """Points on the surface, metres, dense enough for a pixel."""
    corners = mesh.vertices[mesh.faces].astype(np.float64) + mesh.centre
    weights = np.random.default_rng(0).dirichlet(np.ones(3), (len(corners), 20000))
    return np.einsum("fpc,fcd->fpd", weights, corners).reshape(-1, 3)


def by_opencv(camera, points):
    project = cv2.fisheye.projectPoints if camera.fisheye else cv2.projectPoints
    return project(points[:, None], np.zeros(3), np.zeros(3), camera.K, camera.distortion.copy())[0].reshape(-1, 2)


@pytest.mark.parametrize("where", [(0.0, 0.0), (0.22, 0.15), (-0.2, -0.13)])
@pytest.mark.parametrize("lens", CAMERAS)
def test_is_where_opencv_projects_the_surface(lens, where):
    camera, mesh = CAMERAS[lens], grey_box()
    if camera.fisheye:
        where = (4 * where[0], 4 * where[1])
    T = se3.from_rt(se3.so3_exp([0.9, -0.5, 0.3]), [*where, 0.5])
    found = silhouette(T, camera, CpuRenderer(mesh))
    pixels = np.rint(by_opencv(camera, se3.transform(T, points_on(mesh)))).astype(int)
    pixels = pixels[((pixels >= 0) & (pixels < camera.size)).all(axis=1)]
    wanted = np.zeros((480, 640), np.uint8)
    wanted[pixels[:, 1], pixels[:, 0]] = 1
    wanted = cv2.morphologyEx(wanted, cv2.MORPH_CLOSE, np.ones((3, 3)))
    assert wanted.sum() > 100
    assert wanted.sum() / 1.2 < found.sum() < 1.2 * wanted.sum()
    square = np.ones((3, 3), np.uint8)
    missing, extra = (cv2.erode(wanted, square) == 1) & ~found, found & (cv2.dilate(wanted, square) == 0)
    assert not (missing | extra)[2:-2, 2:-2].any()  # at the image's border OpenCV's closing adds pixels


def test_the_overlay_bends_its_lines():
    """The box's edges follow its silhouette; a pinhole's would lie many pixels beside it."""
    camera, mesh = CAMERAS["barrel"], grey_box()
    T = se3.from_rt(np.eye(3), [-0.16, -0.11, 0.5])
    estimate = PoseEstimate(True, T_camera_object=T, score=0.9, object="box")
    blank = np.full((480, 640, 3), 90, np.uint8)
    drawn = draw_overlay(blank, camera, [OverlayItem(estimate, mesh)], renderer=CpuRenderer)
    changed = (drawn != blank).any(axis=2)
    corners = camera.project(se3.transform(T, box_corners(mesh)))
    pinhole = project(camera.K, se3.transform(T, box_corners(mesh)))
    assert np.linalg.norm(corners - pinhole, axis=1).max() > 6
    for i, j in ((0, 1), (0, 2), (3, 1), (3, 2)):  # of the near face; between the corners its sides are bent
        for share in (0.25, 0.5, 0.75):
            u, v = camera.project(
                se3.transform(T, (1 - share) * box_corners(mesh)[[i]] + share * box_corners(mesh)[[j]])
            )[0]
            assert changed[round(v) - 1 : round(v) + 2, round(u) - 1 : round(u) + 2].any()
    middle = camera.project(se3.transform(T, np.zeros((1, 3))))[0]
    assert changed[int(middle[1]) - 3 : int(middle[1]) + 4, int(middle[0]) - 3 : int(middle[0]) + 4].any()
