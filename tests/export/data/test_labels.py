"""Coarse labels against the NumPy oracle, closed forms and brute-force ray casting."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import trimesh

from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.mesh.mesh import Mesh
from coop_edge.render.cpu import CpuRenderer
from coop_edge.templates.viewpoints import template_camera
from export.data import labels
from export.data.batch import PATCH, on_host
from export.data.geometry import projected, turned
from export.data.labels import coarse_labels, match_labels, patch_camera, sides_seen, visible_in
from export.data.objects import TrainingObject
from export.data.render_cpu import HostRenderer
from export.data.render_cuda import KernelRenderer
from tests import label_oracle as oracle
from tests.cuda_host.host_device import HostDevice
from tests.export.data.cases import (
    box,
    box_crops,
    draw,
    facing,
    generator_of,
    one,
    scene_of,
    stock_of,
    tensors,
    things,
)
from tests.export.data.raycast import first_hit, seen_by_camera

SIZE = 96
T = (SIZE // PATCH) ** 2


@pytest.fixture(scope="module")
def stock():
    return stock_of(things(8))


def sphere(radius: float = 0.1) -> TrainingObject:
    ball = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    f = len(ball.faces)
    mesh = Mesh(
        np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32), np.zeros(3),
        np.full((f, 3, 3), 200, np.uint8), np.zeros((f, 3, 2), np.float32), np.full(f, -1, np.int32),
    )  # fmt: skip
    return TrainingObject(mesh, np.zeros((1, 3), np.float32), mesh.diameter)


def coarse(stock, placed, template: int, edge=(0.0, 0.0, 0.0), renderer=HostRenderer):
    """Labels of a scene whose crop is the target's box: index, offset, on_target, and the two cameras."""
    scene = scene_of(stock, placed, edge)
    R, K = box_crops(stock, scene, SIZE)
    mesh = stock.things[placed[0][0]].mesh
    poses, K_template = template_camera(mesh, SIZE)
    depth = CpuRenderer(mesh, threads=1).render(poses[[template]], K_template, SIZE).depth
    found = coarse_labels(
        renderer(stock), stock, scene, R, K, SIZE, *tensors(poses[[template]], K_template[None], depth)
    )
    index, offset, on_target = (t[0].numpy() for t in found)
    T_query = turned(R, scene.items.T[:, 0])[0].numpy()
    return index, offset, on_target, T_query, K[0].numpy(), poses[template], K_template


def template_pixels(index: np.ndarray, offset: np.ndarray, size: int) -> np.ndarray:
    side = size // PATCH
    return PATCH * (np.stack([index % side, index // side], 1) + 0.5 + offset) - 0.5


def test_no_points_at_all():
    none = torch.zeros(0, dtype=torch.int64)
    uv, visible = visible_in(
        torch.zeros(3, 0).double(), none, torch.eye(4).double()[None], torch.eye(3).double()[None],
        torch.zeros(1, 4, 4), one(1),
    )  # fmt: skip
    assert uv.shape == (2, 0)
    assert visible.shape == (0,)
    index, offset = match_labels(torch.zeros(0, 9, 2), torch.zeros(0, 9).bool(), 48)
    assert index.shape == (0, 9)
    assert offset.shape == (0, 9, 2)


def test_definitions_are_the_oracles(stock):
    """Views of three objects; points near their surfaces, in an order that mixes the views."""
    rng = np.random.default_rng(3)
    poses, cameras, depths = [], [], []
    for i in range(3):
        mesh = stock.things[i].mesh
        every, K = template_camera(mesh, 64)
        poses.append(every[5 * i])
        cameras.append(K)
        depths.append(CpuRenderer(mesh, threads=1).render(every[[5 * i]], K, 64).depth[0])
    row = rng.integers(3, size=600)
    model = np.stack([stock.things[i].model_points[rng.integers(256)] for i in row]).astype(np.float64)
    model *= rng.uniform(0.9, 1.3, (600, 1))
    normals = rng.normal(size=(600, 3))
    tolerance = np.array([0.02, 0.01, 0.0]) * [stock.things[i].diameter for i in range(3)]
    given = tensors(model.T, row, np.stack(poses), np.stack(cameras), np.stack(depths), tolerance)
    uv, shown = visible_in(*given)
    front = sides_seen(tensors(normals.T)[0], given[0], given[2], given[1]).numpy()
    for i in range(3):
        mine = row == i
        want_uv, want = oracle.visible_in(model[mine], poses[i], cameras[i], depths[i], tolerance[i])
        np.testing.assert_allclose(uv[:, mine].numpy().T, want_uv, atol=1e-9)
        np.testing.assert_array_equal(shown[mine].numpy(), want)
        assert 0 < want.sum() < len(want)
        np.testing.assert_array_equal(front[mine], oracle.side_seen(normals[mine], model[mine], poses[i]) > 0)
    assert (labels.TOLERANCE, PATCH) == (oracle.TOLERANCE, oracle.PATCH)
    np.testing.assert_allclose(patch_camera(given[3])[0].numpy(), oracle.patch_camera(cameras[0]), atol=1e-12)
    pixels, matched = rng.uniform(-0.5, SIZE - 0.5, (4, T, 2)), rng.random((4, T)) < 0.6
    index, offset = match_labels(*tensors(pixels, matched), SIZE)
    for i in range(4):
        want_index, want_offset = oracle.match_labels(pixels[i], matched[i], SIZE)
        np.testing.assert_array_equal(index[i].numpy(), want_index)
        np.testing.assert_array_equal(offset[i].numpy(), want_offset)


def test_patch_centres_and_their_camera():
    K = np.array([[300.0, 0.5, 47.0], [0.0, 310.0, 48.0], [0.0, 0.0, 1.0]])
    points = np.random.default_rng(0).normal(size=(20, 3)) * 0.1 + (0, 0, 1)
    small = project(oracle.patch_camera(K), points)
    np.testing.assert_allclose(PATCH * small + PATCH / 2 - 0.5, project(K, points), atol=1e-9)
    centres = oracle.patch_centres(SIZE)
    assert centres[0].tolist() == [7.5, 7.5]
    assert centres[1].tolist() == [23.5, 7.5]
    assert len(centres) == T


def test_match_labels_cover_their_patch():
    uv = np.array([[-0.5, -0.5], [15.49, 0.0], [15.5, 16.0], [95.49, 95.49], [40.0, 40.0]])
    matched = np.array([True, True, True, True, False])
    index, offset = (t[0].numpy() for t in match_labels(*tensors(uv[None], matched[None]), SIZE))
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
    stock = stock_of([ball])
    index, offset, _, T_query, K_query, T_template, K = coarse(stock, [(0, facing(ball, R, 0.8), 1.0)], 0)
    eye_query, eye_template = se3.invert(T_query)[:3, 3], se3.invert(T_template)[:3, 3]
    centres = oracle.patch_centres(SIZE)
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
    stock = stock_of([plate])
    front = [(0, facing(plate, poses[0, :3, :3], 1.0), 1.0)]
    behind = [(0, facing(plate, np.diag([1.0, -1.0, -1.0]) @ poses[0, :3, :3], 1.0), 1.0)]
    assert (coarse(stock, front, 0)[0] < T).sum() >= 12
    assert (coarse(stock, behind, 0)[0] == T).all()


def test_occluded_patches_have_no_match():
    """A wide screen covers all that lies left of the optical axis."""
    target, screen = box((0.2, 0.2, 0.05)), box((0.3, 0.6, 0.01))
    stock = stock_of([target, screen])
    poses, _ = template_camera(target.mesh, SIZE)
    alone = [(0, facing(target, poses[0, :3, :3], 1.0), 1.0)]
    # Scaled by 0.5 about the camera it is 0.15 m wide, 0.5 m away, and ends at x = 0.
    pose = facing(screen, np.eye(3), 1.0, (-0.15, 0.0))
    free, covered = coarse(stock, alone, 0)[0], coarse(stock, [*alone, (1, pose, 0.5)], 0)[0]
    left = oracle.patch_centres(SIZE)[:, 0] < (SIZE - 1) / 2
    assert (free[left] < T).any()
    assert (covered[left] == T).all()
    np.testing.assert_array_equal(covered[~left], free[~left])
    # The same screen at its own size and distance is behind the target.
    np.testing.assert_array_equal(coarse(stock, [*alone, (1, pose, 1.5)], 0)[0], free)


def test_patches_of_the_target_are_told_from_background_occluders_and_what_no_photograph_holds():
    """A plate 0.2 m wide fills a crop of 0.25 m but for its border; from behind all of it shows and none is matched."""
    plate, screen = box((0.2, 0.2, 0.01)), box((0.3, 0.6, 0.01))
    stock = stock_of([plate, screen])
    poses, _ = template_camera(plate.mesh, SIZE)
    R = poses[0, :3, :3]
    alone = [(0, facing(plate, R, 1.0), 1.0)]
    centres = oracle.patch_centres(SIZE) - (SIZE - 1) / 2
    index, _, shown, *_ = coarse(stock, alone, 0)
    np.testing.assert_array_equal(shown, (np.abs(centres) < 0.5 * SIZE / 1.25).all(axis=1))
    assert 0 < shown.sum() < len(shown)
    assert (shown >= (index < T)).all()
    index, _, behind, *_ = coarse(stock, [(0, facing(plate, np.diag([1.0, -1.0, -1.0]) @ R, 1.0), 1.0)], 0)
    np.testing.assert_array_equal(behind, shown)
    assert (index == T).all()
    right = centres[:, 0] > 0
    hidden = [*alone, (1, facing(screen, np.eye(3), 1.0, (-0.15, 0.0)), 0.5)]
    np.testing.assert_array_equal(coarse(stock, hidden, 0)[2], shown & right)
    np.testing.assert_array_equal(coarse(stock, alone, 0, edge=(1.0, 0.0, 0.0))[2], shown & right)


def test_coarse_labels_against_ray_casting(stock):
    """Every patch of 12 scenes: the first hit of its ray, and whether the template's camera sees that point."""
    agree, disagree, worst = 0, 0, 0.0
    scenes, _ = draw(stock, 5, 12)
    rng = np.random.default_rng(5)
    for i in range(12):
        items = scenes.items
        placed = [
            (slot, items.T[i, k].numpy(), float(items.scale[i, k]))
            for k, slot in enumerate(items.slot[i].tolist())
            if slot >= 0
        ]
        index, offset, _, T_query, K_query, T_template, K = coarse(stock, placed, int(rng.integers(42)))
        mesh = stock.things[placed[0][0]].mesh
        centres = oracle.patch_centres(SIZE)
        turn = T_query[:3, :3] @ placed[0][1][:3, :3].T
        rays = np.concatenate([centres, np.ones((len(centres), 1))], 1) @ np.linalg.inv(K_query).T
        depth = np.empty((len(placed), len(rays)))
        for k, (slot, pose, scale) in enumerate(placed):
            seen = se3.from_rt(turn, np.zeros(3)) @ pose
            part = stock.things[slot].mesh
            eye, vertices = -seen[:3, :3].T @ seen[:3, 3], part.vertices.astype(np.float64) + part.centre
            depth[k] = scale * first_hit(eye, rays @ seen[:3, :3], vertices, part.faces)
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
    assert agree > 200
    assert disagree <= 0.02 * (agree + disagree), f"{disagree} of {agree + disagree} patches"
    assert worst < 0.02  # pixels; depth is float32, and pixels are snapped to 1/256


def test_labels_by_the_kernels_are_those_of_the_cpu(stock):
    """The kernels snap corners in float32: a patch centre that lies on an outline may fall to the other side."""
    scene, _ = draw(stock, 6, 10)
    R, K = box_crops(stock, scene, SIZE)
    generator = generator_of(stock, SIZE)
    T_template, K_template = generator.template_views(scene, one(10))
    depth = HostRenderer(stock).unlit(scene.items.slot[:, 0], T_template, K_template, SIZE).depth
    a, b = (
        coarse_labels(renderer, stock, scene, R, K, SIZE, T_template, K_template, depth)
        for renderer in (HostRenderer(stock), KernelRenderer(stock, HostDevice(guard=False)))
    )
    same = a[0] == b[0]
    assert int((~same).sum()) <= 2
    assert int((a[2] != b[2]).sum()) <= 2
    assert float((a[1] - b[1]).abs()[same].max()) * PATCH < 1e-3


def test_several_templates_have_the_labels_of_each(stock):
    """Labels of three templates a query are those of three queries with a template each."""
    scene, _ = draw(stock, 7, 4)
    R, K = box_crops(stock, scene, SIZE)
    generator = generator_of(stock, SIZE)
    many = scene.repeated(3)
    T_template, K_template = generator.template_views(many, one(12))
    slot = many.items.slot[:, 0]
    renderer = generator.renderer
    depth = renderer.unlit(slot, T_template, K_template, SIZE).depth
    together = coarse_labels(renderer, stock, scene, R, K, SIZE, T_template, K_template, depth)
    rows = torch.arange(4).repeat_interleave(3)
    each = coarse_labels(renderer, stock, many, R[rows], K[rows], SIZE, T_template, K_template, depth)
    for a, b in zip(together, each, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert (together[1][::3] != together[1][1::3]).any()


def test_coarse_batch_agrees_with_itself(stock):
    """From a batch alone, as a network's user has it: the template's point at the label projects on to the patch."""
    batch = on_host(generator_of(stock, SIZE, 1).coarse(one(32)))
    errors = []
    for i in range(32):
        matched = np.flatnonzero(batch.match_index[i] < T)
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
        errors.append(np.linalg.norm(seen - oracle.patch_centres(SIZE)[matched], axis=1)[smooth])
    found = np.concatenate(errors)
    assert len(found) > 150
    assert np.median(found) < 0.1
    assert found.max() < 2.0


def test_labels_give_the_pose(stock):
    """Perfect answers through OpenCV's EPnP and RANSAC: what an ideal network would reach."""
    size, errors = 128, []
    batch = on_host(generator_of(stock, size, 2).coarse(one(50)))
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
        pixels = oracle.patch_centres(size)[matched[on]]
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


def test_projection_is_numpys():
    rng = np.random.default_rng(0)
    K = np.array([[[300.0, 0, 30], [0, 280, 20], [0, 0, 1]], [[100.0, 0, 5], [0, 100, 6], [0, 0, 1]]])
    points, row = rng.normal(size=(40, 3)) + (0, 0, 0.5), rng.integers(2, size=40)
    uv = projected(*tensors(K, points.T, row)).numpy().T
    want = np.stack([project(K[r], p[None])[0] for r, p in zip(row, points, strict=True)])
    np.testing.assert_allclose(uv, want, atol=1e-9)
    assert np.isnan(want).any()
