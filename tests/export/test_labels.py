"""Labels against closed forms and against brute-force ray casting."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import trimesh

from benchmarks.meshes import grey_box
from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.geometry.crop import crop_camera
from coop_edge.mesh.mesh import Mesh
from coop_edge.render.cpu import CpuRenderer
from coop_edge.templates.template_set import template_camera
from export.data import labels, objects, pairs, scenes
from export.data.batch import PATCH, stack
from export.data.objects import TrainingObject
from export.data.scenes import BASE_K, Item, Scene
from tests.export.raycast import first_hit, seen_by_camera
from tests.export.stock import make_stock

SIZE = 96
stock = pytest.fixture(scope="module")(make_stock)


def thing(mesh: Mesh) -> TrainingObject:
    return TrainingObject(mesh, objects.sample_surface(mesh, 64, np.random.default_rng(0)), mesh.diameter)


def box(extents: tuple[float, float, float]) -> TrainingObject:
    return thing(replace(grey_box(extents), centre=np.array([0.01, -0.02, 0.03])))


def sphere(radius: float = 0.1) -> TrainingObject:
    ball = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    f = len(ball.faces)
    mesh = Mesh(
        np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32), np.zeros(3),
        np.full((f, 3, 3), 200, np.uint8), np.zeros((f, 3, 2), np.float32), np.full(f, -1, np.int32),
    )  # fmt: skip
    return thing(mesh)


def facing(chosen: TrainingObject, R: np.ndarray, distance: float, aside: tuple[float, float] = (0.0, 0.0)) -> Item:
    return Item(chosen, se3.from_rt(R, np.array([*aside, distance]) - R @ chosen.mesh.centre))


def coarse(scene: Scene, template: int, size: int = SIZE):
    """Labels of a scene whose crop is the target's box, its template, and the two cameras."""
    crop = crop_camera(BASE_K, scenes.amodal_box(scene.target), size, margin=1.25)
    poses, K = template_camera(scene.target.object.mesh, size)
    seen = CpuRenderer(scene.target.object.mesh, threads=1).render(poses[[template]], K, size)
    R, K_query = crop.R_crop_camera[0], crop.K[0]
    index, offset, _ = pairs.coarse_labels(scene, R, K_query, size, poses[template], K, seen)
    return index, offset, crop.to_crop(scene.target.T[None])[0], K_query, poses[template], K


def template_pixels(index: np.ndarray, offset: np.ndarray, size: int) -> np.ndarray:
    side = size // PATCH
    return PATCH * (np.stack([index % side, index // side], 1) + 0.5 + offset) - 0.5


def test_no_points_at_all():
    uv, visible = labels.visible_in(np.zeros((0, 3)), np.eye(4), np.eye(3), np.zeros((4, 4), np.float32), 0.01)
    assert uv.shape == (0, 2)
    assert visible.shape == (0,)


def test_patch_centres_and_their_camera():
    K = np.array([[300.0, 0.5, 47.0], [0.0, 310.0, 48.0], [0.0, 0.0, 1.0]])
    points = np.random.default_rng(0).normal(size=(20, 3)) * 0.1 + (0, 0, 1)
    small = project(labels.patch_camera(K), points)
    np.testing.assert_allclose(PATCH * small + PATCH / 2 - 0.5, project(K, points), atol=1e-9)
    centres = labels.patch_centres(SIZE)
    assert centres[0].tolist() == [7.5, 7.5]
    assert centres[1].tolist() == [23.5, 7.5]
    assert len(centres) == (SIZE // PATCH) ** 2


def test_match_labels_cover_their_patch():
    uv = np.array([[-0.5, -0.5], [15.49, 0.0], [15.5, 16.0], [95.49, 95.49], [40.0, 40.0]])
    matched = np.array([True, True, True, True, False])
    index, offset = labels.match_labels(uv, matched, SIZE)
    assert index.tolist() == [0, 0, 7, 35, 36]
    assert np.abs(offset).max() <= 0.5
    np.testing.assert_allclose(template_pixels(index, offset, SIZE)[:4], uv[:4], atol=1e-5)
    assert (offset[4] == 0).all()


@pytest.mark.parametrize("angle", [0, 40, 75])
def test_sphere_matches_where_both_cameras_see_it(angle):
    """On a sphere a camera at e sees exactly the points p with p . (e - p) > 0."""
    ball = sphere()
    poses, _ = template_camera(ball.mesh, SIZE)
    R = se3.so3_exp([0.0, np.radians(angle), 0.0]) @ poses[0, :3, :3]
    index, offset, T_query, K_query, T_template, K = coarse(Scene((facing(ball, R, 0.8),)), 0)
    eye_query, eye_template = se3.invert(T_query)[:3, 3], se3.invert(T_template)[:3, 3]
    centres = labels.patch_centres(SIZE)
    checked = 0
    for t, centre in enumerate(centres):
        ray = T_query[:3, :3].T @ np.linalg.solve(K_query, [*centre, 1.0])
        ray /= np.linalg.norm(ray)
        along = -ray @ eye_query
        gap = along**2 - (eye_query @ eye_query - 0.1**2)
        if gap < 0:
            assert index[t] == len(centres), "a patch off the sphere has no match"
            continue
        p = eye_query + (along - np.sqrt(gap)) * ray
        margin = p @ (eye_template - p) / (0.1 * np.linalg.norm(eye_template - p))
        if gap < 0.02**2 or abs(margin) < 0.08:
            continue  # the mesh is not the sphere at its limb
        checked += 1
        assert (index[t] < len(centres)) == (margin > 0)
        if margin > 0:
            error = (
                template_pixels(index[t : t + 1], offset[t : t + 1], SIZE)[0]
                - project(K[None], se3.transform(T_template[None], p[None, None]))[0, 0]
            )
            assert np.abs(error).max() < 0.25
    assert checked >= 12


def test_thin_plate_from_behind_has_no_match():
    """Both faces lie at the same depth to within the tolerance; only their sides tell them apart."""
    plate = box((0.2, 0.2, 0.0008))
    poses, _ = template_camera(plate.mesh, SIZE)
    front = Scene((facing(plate, poses[0, :3, :3], 1.0),))
    behind = Scene((facing(plate, np.diag([1.0, -1.0, -1.0]) @ poses[0, :3, :3], 1.0),))
    count = (SIZE // PATCH) ** 2
    assert (coarse(front, 0)[0] < count).sum() >= 12
    assert (coarse(behind, 0)[0] == count).all()


def test_occluded_patches_have_no_match():
    """A wide screen covers all that lies left of the optical axis."""
    target, screen = box((0.2, 0.2, 0.05)), box((0.3, 0.6, 0.01))
    poses, _ = template_camera(target.mesh, SIZE)
    R = poses[0, :3, :3]
    alone = Scene((facing(target, R, 1.0),))
    # Scaled by 0.5 about the camera it is 0.15 m wide, 0.5 m away, and ends at x = 0.
    hidden = Scene((alone.target, replace(facing(screen, np.eye(3), 1.0, (-0.15, 0.0)), scale=0.5)))
    free, covered = coarse(alone, 0)[0], coarse(hidden, 0)[0]
    count = (SIZE // PATCH) ** 2
    left = labels.patch_centres(SIZE)[:, 0] < (SIZE - 1) / 2
    assert (free[left] < count).any()
    assert (covered[left] == count).all()
    np.testing.assert_array_equal(covered[~left], free[~left])
    # The same screen at its own size and distance is behind the target.
    beyond = Scene((alone.target, replace(hidden.items[1], scale=1.5)))
    np.testing.assert_array_equal(coarse(beyond, 0)[0], free)


def test_coarse_labels_against_ray_casting(stock):
    """Every patch of 12 scenes: the first hit of its ray, and whether the template's camera sees that point."""
    agree, disagree, worst = 0, 0, 0.0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scene = replace(scenes.draw_scene(rng, stock.objects), edge=None)
        view = int(rng.integers(42))
        index, offset, T_query, K_query, T_template, K = coarse(scene, view)
        mesh = scene.target.object.mesh
        centres = labels.patch_centres(SIZE)
        crop = crop_camera(BASE_K, scenes.amodal_box(scene.target), SIZE, margin=1.25)
        rays = np.concatenate([centres, np.ones((len(centres), 1))], 1) @ np.linalg.inv(K_query).T
        depth = np.empty((len(scene.items), len(rays)))
        for k, item in enumerate(scene.items):
            T = crop.to_crop(item.T[None])[0]
            part = item.object.mesh
            depth[k] = item.scale * first_hit(
                -T[:3, :3].T @ T[:3, 3], rays @ T[:3, :3], part.vertices.astype(np.float64) + part.centre, part.faces
            )
        on = np.isfinite(depth[0]) & (depth[0] <= depth.min(axis=0))
        points = (rays * np.where(on, depth[0], 1.0)[:, None] - T_query[:3, 3]) @ T_query[:3, :3]
        expected = on & seen_by_camera(points, T_template, mesh, 0.01 * mesh.diameter)
        matched = index < len(centres)
        depth_map = CpuRenderer(mesh, threads=1).render(T_template[None], K, SIZE).depth[0]
        agree += (matched == expected).sum()
        disagree += (matched != expected).sum()
        both = matched & expected
        pixels = project(K, se3.transform(T_template, points))
        for t in np.flatnonzero(matched != expected):  # only beside an outline, where pixels cannot tell
            x, y = np.floor(pixels[t]).astype(int)
            around = depth_map[y : y + 2, x : x + 2]
            assert around.min() == 0 or np.ptp(around) > 0.05 * mesh.diameter
        if both.any():
            error = template_pixels(index, offset, SIZE) - pixels
            worst = max(worst, float(np.abs(error[both]).max()))
    assert disagree <= 0.02 * (agree + disagree), f"{disagree} of {agree + disagree} patches"
    assert worst < 0.02  # pixels; depth is float32, and pixels are snapped to 1/256


def on_target(scene: Scene, template: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Which patches show the target, and which have a match."""
    crop = crop_camera(BASE_K, scenes.amodal_box(scene.target), SIZE, margin=1.25)
    poses, K = template_camera(scene.target.object.mesh, SIZE)
    seen = CpuRenderer(scene.target.object.mesh, threads=1).render(poses[[template]], K, SIZE)
    R, K_query = crop.R_crop_camera[0], crop.K[0]
    index, _, shown = pairs.coarse_labels(scene, R, K_query, SIZE, poses[template], K, seen)
    return shown, index < (SIZE // PATCH) ** 2


def test_patches_of_the_target_are_told_from_background_occluders_and_what_no_photograph_holds():
    """A plate 0.2 m wide fills a crop of 0.25 m but for its border; from behind all of it shows and none is matched."""
    plate, screen = box((0.2, 0.2, 0.01)), box((0.3, 0.6, 0.01))
    poses, _ = template_camera(plate.mesh, SIZE)
    R = poses[0, :3, :3]
    alone = Scene((facing(plate, R, 1.0),))
    centres = labels.patch_centres(SIZE) - (SIZE - 1) / 2
    covered = np.abs(centres) < 0.5 * SIZE / 1.25
    shown, matched = on_target(alone)
    np.testing.assert_array_equal(shown, covered.all(axis=1))
    assert 0 < shown.sum() < len(shown)
    assert (shown >= matched).all()
    behind, unmatched = on_target(Scene((facing(plate, np.diag([1.0, -1.0, -1.0]) @ R, 1.0),)))
    np.testing.assert_array_equal(behind, shown)
    assert not unmatched.any()
    right = centres[:, 0] > 0
    hidden = Scene((alone.target, replace(facing(screen, np.eye(3), 1.0, (-0.15, 0.0)), scale=0.5)))
    np.testing.assert_array_equal(on_target(hidden)[0], shown & right)
    cut = replace(alone, edge=np.array([1.0, 0.0, 0.0]))
    np.testing.assert_array_equal(on_target(cut)[0], shown & right)


def test_coarse_batch_agrees_with_itself(stock):
    """From a batch alone, as a network's user has it: the template's point at the label projects on to the patch."""
    batch = stack([pairs.coarse_pair(np.random.default_rng(i), stock, SIZE) for i in range(32)])
    errors = []
    for i in range(32):
        matched = np.flatnonzero(batch.match_index[i] < (SIZE // PATCH) ** 2)
        uv = template_pixels(batch.match_index[i, matched], batch.offset[i, matched], SIZE)
        assert np.abs(batch.offset[i]).max() <= 0.5
        corner = np.clip(np.floor(uv).astype(int), 0, SIZE - 2)
        points, weight = np.zeros((len(uv), 3)), uv - corner
        spread = []
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            share = np.abs(1 - dx - weight[:, 0]) * np.abs(1 - dy - weight[:, 1])
            point = batch.template_points[i, corner[:, 1] + dy, corner[:, 0] + dx]
            points += share[:, None] * point
            spread.append(point)
        smooth = np.ptp(np.stack(spread), axis=0).max(axis=1) < 0.03 * batch.diameter[i]  # not across an edge
        seen = project(batch.K_query[i], se3.transform(batch.T_query[i], points))
        errors.append(np.linalg.norm(seen - labels.patch_centres(SIZE)[matched], axis=1)[smooth])
    found = np.concatenate(errors)
    assert len(found) > 150
    assert np.median(found) < 0.1
    assert found.max() < 2.0


def test_labels_give_the_pose(stock):
    """Perfect answers through OpenCV's EPnP and RANSAC: what an ideal network would reach."""
    size, errors = 128, []
    batch = stack([pairs.coarse_pair(np.random.default_rng(100 + i), stock, size) for i in range(50)])
    for i in range(50):
        matched = np.flatnonzero(batch.match_index[i] < (size // PATCH) ** 2)
        if len(matched) < 15:  # fewer, read at whole pixels, leave the pose uncertain
            continue
        uv = template_pixels(batch.match_index[i, matched], batch.offset[i, matched], size)
        column, row = np.rint(uv).astype(int).clip(0, size - 1).T
        points = batch.template_points[i, row, column].astype(np.float64)
        on = np.isfinite(points).all(axis=1)
        extent = np.linalg.svd(points[on] - points[on].mean(axis=0), compute_uv=False)
        if extent[2] < 0.05 * extent[0]:
            continue  # a plane has a second pose that fits nearly as well
        pixels = labels.patch_centres(size)[matched[on]]
        done, r, t, _ = cv2.solvePnPRansac(
            points[on], pixels, batch.K_query[i], None, reprojectionError=3.0, flags=cv2.SOLVEPNP_EPNP
        )
        assert done
        found = se3.from_rt(cv2.Rodrigues(r)[0], t[:, 0])
        angle = np.degrees(se3.rotation_angle(found[:3, :3], batch.T_query[i, :3, :3]))
        shift = np.linalg.norm(found[:3, 3] - batch.T_query[i, :3, 3]) / np.linalg.norm(batch.T_query[i, :3, 3])
        errors.append((angle, shift))
    assert len(errors) > 12
    angle, shift = np.max(errors, axis=0)
    assert angle < 3.0  # degrees; template points are read at whole pixels
    assert shift < 0.02  # of the distance
