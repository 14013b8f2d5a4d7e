"""Scenes and cameras: geometry against NumPy's, random draws against what is stated."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coop_edge.geometry import se3
from coop_edge.geometry.crop import crop_camera as numpy_crop_camera
from coop_edge.stages.crop import pose_crop
from coop_edge.templates.viewpoints import VIEWPOINTS, template_camera
from coop_edge.types import Camera
from export.data import scenes
from export.data.batch import PATCH
from export.data.geometry import (
    Random,
    crop_camera,
    inverse_camera,
    per_pixel,
    random_rotation,
    rotate,
    selected_pixels,
    so3_exp,
    transformed,
    turned,
    unprojected,
)
from export.data.labels import coarse_labels
from export.data.scenes import (
    BOX_SHIFT,
    BOX_SIZES,
    FARTHEST,
    FOCAL,
    LEAST_VISIBLE,
    NEAREST,
    amodal_box,
    centres,
    draw_crops,
    inside,
    inside_view,
    object_crops,
)
from export.data.starts import start_poses
from tests.export.data.cases import CPU, draw, facing, generator_of, one, scene_of, stock_of, tensors, things

SIZE = 48
N = 240
RECORDED = {
    "distance": (1.5977, 0.5242), "items": (2.1840, 0.7399), "cut": (0.0773, 0.2671), "in_front": (0.5327, 0.4989),
    "visible": (0.8513, 0.1885), "focal": (3.8637, 0.1992), "aside": (4.1233, 2.9683), "on_target": (0.3153, 0.1640),
    "unmatched": (0.7553, 0.1726),
}  # fmt: skip
"""Mean and standard deviation over 1,500 scenes of these ten objects, as an earlier program drew them one by one."""


@pytest.fixture(scope="module")
def stock():
    return stock_of(things(10))


@pytest.fixture(scope="module")
def sample(stock) -> dict[str, np.ndarray]:
    """What is compared of N scenes, float64 [N] each."""
    generator = generator_of(stock, SIZE, 1)
    scene, probe = draw(stock, 1, N)
    R, K = draw_crops(generator.random, scene, probe, stock, SIZE)
    slot = scene.items.slot[:, 0]
    T, K_template = generator.template_views(scene, one(N))
    depth = generator.renderer.unlit(slot, T, K_template, SIZE).depth
    index, _, on_target = coarse_labels(generator.renderer, stock, scene, R, K, SIZE, T, K_template, depth)
    z = scene.centre[:, 2]
    moved = (K @ R @ scene.centre[..., None])[..., 0]
    others = centres(scene.items, stock)[:, 1:, 2]
    present = scene.items.slot[:, 1:] >= 0
    columns = {
        "distance": torch.log(z / scene.diameter),
        "items": (scene.items.slot >= 0).sum(dim=1),
        "cut": (scene.edge != 0).any(dim=1),
        "in_front": (present & (others < z[:, None])).any(dim=1),
        "visible": probe.visible.sum(dim=(1, 2)) / probe.covered.sum(dim=(1, 2)),
        "focal": torch.log(K[:, 0, 0] * scene.diameter / z),
        "aside": (moved[:, :2] / moved[:, 2:] - (SIZE - 1) / 2).norm(dim=1),
        "on_target": on_target.double().mean(dim=1),
        "unmatched": (index == (SIZE // PATCH) ** 2).double().mean(dim=1),
    }
    return {name: values.double().numpy() for name, values in columns.items()}


@pytest.mark.parametrize("name", RECORDED)
def test_scenes_are_distributed_as_recorded(sample, name):
    """Means within four standard errors of their difference, and spreads within a third."""
    (mean, spread), found = RECORDED[name], sample[name]
    assert np.isfinite(found).all()
    error = math.sqrt(spread**2 / 1500 + found.var() / N)
    assert abs(found.mean() - mean) < 4 * error, (found.mean(), mean, error)
    if name != "cut":  # a rare event: its spread is its mean
        assert 0.75 < found.std() / spread < 1.33


def test_shares_of_scenes(sample):
    """Occluders in half of the scenes, one to three objects, a target that can be seen."""
    assert set(sample["items"]) == {1.0, 2.0, 3.0}
    assert 0.35 < sample["in_front"].mean() < 0.65
    assert sample["visible"].min() >= LEAST_VISIBLE
    assert sample["distance"].min() > math.log(NEAREST) - 1e-9
    assert sample["distance"].max() < math.log(FARTHEST) + 1e-9


def test_easy_scenes_show_whole_targets(stock):
    scene, probe = draw(stock, 3, 60, hardness=0.0)
    assert not scene.edge.any()
    z = centres(scene.items, stock)[..., 2]
    assert ((scene.items.slot[:, 1:] < 0) | (z[:, 1:] > z[:, :1])).all()
    # What stands behind may still touch them.
    assert (probe.visible.sum(dim=(1, 2)) / probe.covered.sum(dim=(1, 2))).min() > 0.97


def test_targets_are_turned_uniformly(stock):
    """The mean of a uniform rotation is zero; that of R_z^2 is a third."""
    R = random_rotation(Random(CPU, 0), 4000).numpy()
    np.testing.assert_allclose(R @ R.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (4000, 3, 3)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(R), 1.0, atol=1e-12)
    assert np.abs(R.mean(axis=0)).max() < 0.05
    np.testing.assert_allclose((R**2).mean(axis=0), 1 / 3, atol=0.03)
    trace = np.trace(R, axis1=1, axis2=2)  # 1 + 2 cos(angle): mean 0 and variance 1
    assert abs(trace.mean()) < 4 / math.sqrt(4000)
    assert 0.9 < trace.std() < 1.1
    scene, _ = draw(stock, 4, 400, hardness=0.0)
    assert np.abs(scene.items.T[:, 0, :3, :3].numpy().mean(axis=0)).max() < 4 / math.sqrt(3 * 400)


@pytest.mark.parametrize(("hardness", "share"), [(1.0, 0.7 + 0.3 / 42), (0.0, 1.0)])
def test_share_of_near_templates(stock, hardness, share):
    """Of the views jittered by four degrees per axis, most of the near ones are nearest to the query still."""
    generator = generator_of(stock, SIZE, 5)
    scene, _ = draw(stock, 5, 600, hardness=0.0)
    T, _ = generator.template_views(scene, torch.full((600,), hardness).double())
    c = stock.centre[scene.items.slot[:, 0]]
    seen_from = -rotate(T[:, :3, :3].mT, rotate(T[:, :3, :3], c) + T[:, :3, 3])
    query_from = -rotate(scene.items.T[:, 0, :3, :3].mT, scene.centre)
    directions = torch.from_numpy(np.array(VIEWPOINTS))
    unit = [v / v.norm(dim=1, keepdim=True) for v in (seen_from, query_from)]
    nearest = directions[(unit[1] @ directions.mT).argmax(dim=1)]
    angle = torch.rad2deg(torch.arccos((unit[0] * nearest).sum(dim=1).clamp(-1, 1))).numpy()
    assert abs((angle < 16).mean() - share) < 0.06
    assert (angle[angle < 16] > 0.5).mean() > 0.9  # each has a small turn of its own


def test_templates_follow_the_convention_of_template_sets(stock):
    """Up to their small turn they are the templates that an estimator renders: same K, same distance, centred."""
    scene, _ = draw(stock, 6, 10, hardness=0.0)
    T, K = generator_of(stock, SIZE, 6).template_views(scene, one(10))
    for i, slot in enumerate(scene.items.slot[:, 0].tolist()):
        mesh = stock.things[slot].mesh
        poses, K_set = template_camera(mesh, SIZE)
        np.testing.assert_allclose(K[i].numpy(), K_set, rtol=1e-12)
        centre = T[i, :3, :3].numpy() @ mesh.centre + T[i, :3, 3].numpy()
        np.testing.assert_allclose(centre, poses[0, :3, :3] @ mesh.centre + poses[0, :3, 3], rtol=1e-6, atol=1e-7)
        # The line of sight is that of a view, up to the small turn.
        lines = poses[:, 2, :3] @ T[i, 2, :3].numpy()
        assert np.degrees(np.arccos(np.clip(lines.max(), -1, 1))) < 20
    assert len(VIEWPOINTS) == 42


def test_templates_are_turned_as_the_query_is(stock):
    """About the line of sight they differ by what retrieval's sixteen turns leave, and by their view's own turn."""
    scene, _ = draw(stock, 8, 200, hardness=0.0)
    T, _ = generator_of(stock, SIZE, 6).template_views(scene, 0.0 * one(200))
    relative = scene.items.T[:, 0, :3, :3] @ T[:, :3, :3].mT
    roll = torch.rad2deg(torch.atan2(relative[:, 1, 0] - relative[:, 0, 1], relative[:, 0, 0] + relative[:, 1, 1]))
    assert roll.abs().max() <= 11.25 + 1e-6
    assert roll.abs().max() > 10.0


def test_templates_of_one_query_are_seen_from_its_nearest_views(stock):
    scene, _ = draw(stock, 8, 20, hardness=0.0)
    T, _ = generator_of(stock, SIZE, 6).template_views(scene.repeated(4), 0.0 * one(80), 4)
    angle = torch.rad2deg(
        torch.arccos((T[:, 2, :3] * scene.repeated(4).items.T[:, 0, 2, :3]).sum(dim=1).clamp(-1, 1))
    ).view(20, 4)
    assert (angle[:, 0] < 35).all()
    assert (angle.mean(dim=0).diff() > 0).all()


def test_start_poses_have_the_stated_noise(stock):
    scene, _ = draw(stock, 3, 1, hardness=0.0)
    many = scene.repeated(3000)
    start = start_poses(Random(CPU, 2), stock, many, one(3000)[:, None].expand(3000, 3)).numpy()
    thing = stock.things[int(scene.items.slot[0, 0])]
    shift = start[:, :3, :3] @ thing.mesh.centre + start[:, :3, 3] - scene.centre[0].numpy()
    d, z = thing.diameter, float(scene.centre[0, 2])
    np.testing.assert_allclose(shift.std(axis=0), [0.05 * d, 0.05 * d, min(0.25 * d, 0.05 * z)], rtol=0.06)
    angle = np.degrees(se3.rotation_angle(start[:, :3, :3], scene.items.T[:, 0, :3, :3].numpy()))
    assert abs(np.sqrt((angle**2).mean()) - 15 * np.sqrt(3)) < 1.0
    still = start_poses(Random(CPU, 2), stock, many, 0 * one(3000)[:, None].expand(3000, 3))
    np.testing.assert_allclose(still, many.items.T[:, 0], atol=1e-12)


def test_boxes_and_crops_are_numpys(stock):
    rng = np.random.default_rng(0)
    scene, _ = draw(stock, 0, 12)
    box = amodal_box(scene.items, stock)
    for i, slot in enumerate(scene.items.slot[:, 0].tolist()):
        mesh, T = stock.things[slot].mesh, scene.items.T[i, 0].numpy()
        p = se3.transform(T, mesh.vertices + mesh.centre)
        uv = FOCAL * p[:, :2] / p[:, 2:]
        wanted = np.concatenate([uv.min(axis=0) + 0.5, np.ptp(uv, axis=0)])
        np.testing.assert_allclose(box[i], wanted, rtol=2e-5, atol=1e-3)
    corner, margin = rng.uniform(-900, 900, (30, 2)), rng.uniform(1.0, 1.4, 30)
    boxes = np.concatenate([corner, rng.uniform(1, 300, (30, 2))], axis=1)
    R, K = crop_camera(FOCAL, torch.from_numpy(boxes), 64, torch.from_numpy(margin))
    for i in range(30):
        crop = numpy_crop_camera(np.diag([FOCAL, FOCAL, 1.0]), boxes[i : i + 1], 64, margin=margin[i])
        np.testing.assert_allclose(R[i], crop.R_crop_camera[0], atol=1e-12)
        np.testing.assert_allclose(K[i], crop.K[0], rtol=1e-9)
    np.testing.assert_allclose(inverse_camera(K) @ K, np.broadcast_to(np.eye(3), (30, 3, 3)), atol=1e-12)


@pytest.mark.parametrize("place", [(0, 0, 0.5), (0.1, -0.05, 0.5), (0.3, 0.2, 0.4), (-0.5, 0.1, 1.5)])
def test_a_pose_is_cropped_as_at_run_time(stock, place):
    """Around any start pose: the virtual camera of ``coop_edge.stages.crop``."""
    camera = Camera([[600.0, 0.0, 320.0], [0.0, 590.0, 240.0], [0.0, 0.0, 1.0]], 640, 480)
    thing = stock.things[0]
    mesh, diameter = thing.mesh, np.array([thing.diameter])
    T = facing(thing, se3.so3_exp([0.3, 1.0, 2.0]), place[2] * thing.diameter * 8, place[:2])
    R, K = object_crops(stock, scene_of(stock, [(0, T, 1.0)]), torch.from_numpy(T[None]), 128, 1.2 * one(1))
    want = pose_crop(camera, T[None], mesh.centre[None], diameter, 128, 1.2)
    np.testing.assert_allclose(K.numpy(), want.K, rtol=1e-6)
    np.testing.assert_allclose(R.numpy(), want.R_crop_camera, atol=1e-9)
    np.testing.assert_allclose(K.numpy() @ R.numpy() @ np.linalg.inv(camera.K), want.H, rtol=1e-6, atol=1e-6)


def test_geometry_is_numpys():
    phi = np.random.default_rng(0).normal(0, 1, (20, 3)) * np.geomspace(1e-9, 3, 20)[:, None]
    R = so3_exp(torch.from_numpy(phi))
    np.testing.assert_allclose(R, se3.so3_exp(phi), atol=1e-12)
    np.testing.assert_array_equal(so3_exp(torch.zeros((0, 3), dtype=torch.float64)).shape, (0, 3, 3))
    T = torch.from_numpy(se3.from_rt(se3.so3_exp(phi), phi[::-1]))
    row, points = torch.arange(20), np.random.default_rng(1).normal(size=(20, 3))
    moved = transformed(T, *tensors(points.T), row).numpy().T
    np.testing.assert_allclose(moved, se3.transform(T.numpy(), points[:, None])[:, 0], atol=1e-12)
    np.testing.assert_allclose(turned(R, T), se3.from_rt(R.numpy(), np.zeros((20, 3))) @ T.numpy(), atol=1e-12)
    np.testing.assert_array_equal(per_pixel(R, row), R.permute(1, 2, 0))


def test_pixels_and_the_points_behind_them():
    """A point at a pixel's depth projects on to the pixel; only pixels of the mask are taken on a CPU."""
    K = torch.tensor([[100.0, 0, 12], [0, 90.0, 7], [0, 0, 1]], dtype=torch.float64)[None]
    T = torch.from_numpy(se3.from_rt(se3.so3_exp([0.3, -0.5, 1.0]), [0.1, 0.2, 2.0]))[None]
    mask = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.3
    at = selected_pixels(mask)
    assert len(at.row) == int(mask.sum())
    np.testing.assert_array_equal(at.of(mask), True)
    z = torch.linspace(1.0, 3.0, len(at.row)).double()
    seen = transformed(T, unprojected(T, K, at, z), at.row)
    np.testing.assert_allclose(seen[2], z, atol=1e-12)
    np.testing.assert_allclose(100 * seen[0] / seen[2] + 12, at.u, atol=1e-9)
    np.testing.assert_allclose(90 * seen[1] / seen[2] + 7, at.v, atol=1e-9)


def test_the_edge_is_a_plane_through_the_camera(stock):
    """Pixels lie inside where their rays, in the base camera's axes, have a positive product with the edge."""
    scene, probe = draw(stock, 7, 8)
    edge = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 3)) * (1, 1, 0.2))
    R, K = draw_crops(Random(CPU, 0), scene, probe, stock, 32)
    at = selected_pixels(torch.ones(8, 32, 32, dtype=torch.bool))
    found = inside(edge, R, K, at.row, at.u, at.v).view(8, 32, 32)
    np.testing.assert_array_equal(found, inside_view(edge, R, K, 32))
    pixel = torch.stack([at.u, at.v, torch.ones_like(at.u)], dim=1).view(8, 1024, 3)
    rays = pixel @ torch.linalg.inv(K).mT @ R
    np.testing.assert_array_equal(found.flatten(1), (rays * edge[:, None]).sum(dim=-1) >= 0)
    assert 0.2 < found.double().mean() < 0.8


@pytest.mark.parametrize("high", [1, 2, 7])
def test_integers_are_uniform(high):
    drawn = Random(CPU, 0).integers(high, 3000)
    share = torch.bincount(drawn, minlength=high) / 3000
    assert len(share) == high
    assert (share - 1 / high).abs().max() < 4 * math.sqrt(0.25 / 3000)
    assert Random(CPU, 0).integers(high, 0).shape == (0,)


def test_loose_boxes_are_shifted_and_sized_as_stated(stock):
    """Off the box of the other draws by at most a shift of 0.3 and a half of the change of size; only their share."""
    scene, probe = draw(stock, 4, 400, hardness=0.0)
    box = amodal_box(scene.items, stock)
    tight, given = [], []
    for loose, found in ((0.0, tight), (1.0, given)):
        boxes = caught_boxes(lambda share=loose: draw_crops(Random(CPU, 0), scene, probe, stock, 32, share))
        found.append(((boxes[:, :2] + boxes[:, 2:] / 2 - box[:, :2] - box[:, 2:] / 2) / box[:, 2:]).numpy())
        found.append((boxes[:, 2:] / box[:, 2:]).numpy())
    assert np.abs(given[0]).max() <= BOX_SHIFT + 0.02  # visible pixels give boxes to a pixel of the probe
    assert np.abs(given[0]).max() > 0.9 * BOX_SHIFT
    assert given[0].std() == pytest.approx(BOX_SHIFT / np.sqrt(3), rel=0.1)
    low, high = BOX_SIZES
    assert low * 0.95 < given[1].min() < low * 1.05
    assert high * 0.95 < given[1].max() < high * 1.05
    assert np.std(tight[0]) < 0.5 * given[0].std()
    some = caught_boxes(lambda: draw_crops(Random(CPU, 0), scene, probe, stock, 32, 0.25))
    none = caught_boxes(lambda: draw_crops(Random(CPU, 0), scene, probe, stock, 32))
    assert (some != none).any(dim=1).double().mean().item() == pytest.approx(0.25, abs=0.06)


def caught_boxes(make):
    """The boxes that cameras are made from while ``make`` runs."""
    boxes = []

    def caught(focal, box, *rest):
        boxes.append(box)
        return crop_camera(focal, box, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "crop_camera", caught)
        make()
    return boxes[0]
