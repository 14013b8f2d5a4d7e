"""Scenes and cameras as tensors: geometry against NumPy's, random draws against those of single scenes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from coop_edge.geometry import se3
from coop_edge.geometry.crop import crop_camera as numpy_crop_camera
from export.data import augment, pairs, pairs_refiner, scenes
from export.data.batch import PATCH
from export.data.device_geometry import (
    Draw,
    crop_camera,
    inverse_camera,
    random_rotation,
    rays,
    so3_exp,
)
from export.data.device_labels import coarse_labels
from export.data.device_pairs import Drawer, start_poses
from export.data.device_render import HostRasterizer
from export.data.device_scenes import amodal_box, centres, crops, draw_scenes, inside, pixel_grid
from tests.export.device_cases import CPU, as_tensors, stock_of, tensors, things

SIZE = 48
N = 240


@pytest.fixture(scope="module")
def made():
    return things(10)


@pytest.fixture(scope="module")
def stock(made):
    return stock_of(made)


@dataclass
class Sample:
    """What is compared of N scenes, float64 [N] each."""

    distance: np.ndarray
    items: np.ndarray
    cut: np.ndarray
    in_front: np.ndarray  # whether another object is nearer than the target
    visible: np.ndarray  # share of the target's silhouette
    focal: np.ndarray  # logarithm of the crop's, over the distance
    aside: np.ndarray  # of the target's centre in the crop
    on_target: np.ndarray
    unmatched: np.ndarray


@pytest.fixture(scope="module")
def single(made) -> Sample:
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(N):
        scene = scenes.draw_scene(rng, made)
        crop = scenes.crop_of(rng, scene, SIZE)
        R, K = crop.R_crop_camera[0], crop.K[0]
        T, K_template = pairs.template_view(rng, scene.target, SIZE)
        _, seen = augment.Look(False, np.eye(3), augment.Shading(), 1).render(scene.target.object, T, K_template, SIZE)
        index, _, on_target = pairs.coarse_labels(scene, R, K, SIZE, T, K_template, seen)
        centre, diameter = scenes.centre_of(scene.target), scene.target.object.diameter
        moved = K @ R @ centre
        depths = [scenes.centre_of(item)[2] for item in scene.items[1:]]
        rows.append((
            math.log(centre[2] / diameter), len(scene.items), scene.edge is not None,
            any(z < centre[2] for z in depths),
            scenes.visible_share(scene), math.log(K[0, 0] * diameter / centre[2]),
            np.linalg.norm(moved[:2] / moved[2] - (SIZE - 1) / 2),
            on_target.mean(), (index == (SIZE // PATCH) ** 2).mean(),
        ))  # fmt: skip
    return Sample(*np.array(rows, float).T)


@pytest.fixture(scope="module")
def batch(stock) -> Sample:
    draw, rasterizer = Draw(CPU, 1), HostRasterizer(stock)
    drawer = Drawer(stock, rasterizer, SIZE)
    one = torch.ones(N, dtype=torch.float64)
    scene, probe = draw_scenes(draw, stock, rasterizer, one, 0 * one)
    R, K = crops(draw, scene, probe, stock, SIZE)
    slot = scene.items.slot[:, 0]
    T, K_template = drawer._template_views(scene, slot, one)
    seen = rasterizer.look(slot, T, K_template, SIZE)
    index, _, on_target = coarse_labels(rasterizer, stock, scene, R, K, SIZE, T, K_template, seen.depth)
    alone = rasterizer.look(slot, scene.items.T[:, 0].clone(), *_probe_camera(scene, stock))
    z = scene.centre[:, 2]
    covered = (alone.triangle >= 0).sum(dim=(1, 2))
    moved = (K @ R @ scene.centre[..., None])[..., 0]
    others = centres(scene.items, stock)[:, 1:, 2]
    present = scene.items.slot[:, 1:] >= 0
    columns = (
        torch.log(z / scene.diameter), (scene.items.slot >= 0).sum(dim=1), (scene.edge != 0).any(dim=1),
        (present & (others < z[:, None])).any(dim=1), probe.visible.sum(dim=(1, 2)) / covered,
        torch.log(K[:, 0, 0] * scene.diameter / z), (moved[:, :2] / moved[:, 2:] - (SIZE - 1) / 2).norm(dim=1),
        on_target.double().mean(dim=1), (index == (SIZE // PATCH) ** 2).double().mean(dim=1),
    )  # fmt: skip
    return Sample(*(c.double().numpy() for c in columns))


def _probe_camera(scene, stock):
    """K and size of the probe, for a camera that is not turned: targets lie on the axis, so their boxes do nearly."""
    from export.data.device_scenes import FOCAL

    _, K = crop_camera(FOCAL, amodal_box(scene.items, stock), scenes._PROBE, 1.02)
    return K, scenes._PROBE


@pytest.mark.parametrize("name", Sample.__dataclass_fields__)
def test_scenes_of_both_ways_are_alike(single, batch, name):
    """Means within four standard errors of their difference, and spreads within a fifth, of N scenes each."""
    a, b = getattr(single, name), getattr(batch, name)
    assert np.isfinite(b).all()
    error = math.sqrt(a.var() / len(a) + b.var() / len(b))
    assert abs(a.mean() - b.mean()) < 4 * error, (a.mean(), b.mean(), error)
    if name != "cut":  # a rare event: its spread is its mean
        assert 0.75 < a.std() / b.std() < 1.33


def test_start_poses_of_both_ways_are_alike(made, stock):
    rng = np.random.default_rng(2)
    drawn = [scenes.draw_scene(rng, made, 0.0) for _ in range(100)]
    one = torch.ones(100, 3, dtype=torch.float64)
    scene = as_tensors(drawn, made)
    draw = Draw(CPU, 2)
    found = {"turn": [], "aside": [], "depth": []}
    wanted = {"turn": [], "aside": [], "depth": []}
    for _ in range(4):
        batch = start_poses(draw, stock, scene, one).numpy()
        for i, s in enumerate(drawn):
            for T, out in ((batch[i], found), (pairs_refiner.start_pose(rng, s.target), wanted)):
                moved = T[:3, :3] @ s.target.object.mesh.centre + T[:3, 3] - scenes.centre_of(s.target)
                out["turn"].append(float(se3.rotation_angle(T[:3, :3], s.target.T[:3, :3])))
                out["aside"].append(moved[0] / s.target.object.diameter)
                out["depth"].append(moved[2] / s.target.object.diameter)
    for name, values in wanted.items():
        a, b = np.array(values), np.array(found[name])
        assert abs(a.mean() - b.mean()) < 4 * math.sqrt(a.var() / len(a) + b.var() / len(b)), name
        assert 0.85 < a.std() / b.std() < 1.18, name
    still = start_poses(draw, stock, scene, 0 * one)
    np.testing.assert_allclose(still, scene.items.T[:, 0], atol=1e-12)


def test_easy_scenes_show_whole_targets(stock):
    none = torch.zeros(40, dtype=torch.float64)
    scene, _ = draw_scenes(Draw(CPU, 3), stock, HostRasterizer(stock), none, none)
    assert not scene.edge.any()
    z = centres(scene.items, stock)[..., 2]
    assert ((scene.items.slot[:, 1:] < 0) | (z[:, 1:] > z[:, :1])).all()


def test_boxes_and_crops_are_numpys(made, stock):
    rng = np.random.default_rng(0)
    drawn = [scenes.draw_scene(rng, made) for _ in range(12)]
    box = amodal_box(as_tensors(drawn, made).items, stock)
    wanted = np.concatenate([scenes.amodal_box(scene.target) for scene in drawn])
    np.testing.assert_allclose(box, wanted, rtol=1e-6)
    corner, margin = rng.uniform(-900, 900, (30, 2)), rng.uniform(1.0, 1.4, 30)
    boxes = np.concatenate([corner, rng.uniform(1, 300, (30, 2))], axis=1)
    R, K = crop_camera(1000.0, torch.from_numpy(boxes), 64, torch.from_numpy(margin))
    for i in range(30):
        crop = numpy_crop_camera(scenes.BASE_K, boxes[i : i + 1], 64, margin=margin[i])
        np.testing.assert_allclose(R[i], crop.R_crop_camera[0], atol=1e-12)
        np.testing.assert_allclose(K[i], crop.K[0], rtol=1e-9)
    np.testing.assert_allclose(inverse_camera(K) @ K, np.broadcast_to(np.eye(3), (30, 3, 3)), atol=1e-12)


def test_geometry_is_numpys():
    phi = np.random.default_rng(0).normal(0, 1, (20, 3)) * np.geomspace(1e-9, 3, 20)[:, None]
    np.testing.assert_allclose(so3_exp(torch.from_numpy(phi)), se3.so3_exp(phi), atol=1e-12)
    np.testing.assert_array_equal(so3_exp(torch.zeros((0, 3), dtype=torch.float64)).shape, (0, 3, 3))
    R = random_rotation(Draw(CPU, 0), 500)
    np.testing.assert_allclose(R @ R.mT, np.broadcast_to(np.eye(3), (500, 3, 3)), atol=1e-12)
    np.testing.assert_allclose(torch.linalg.det(R), 1.0, atol=1e-12)
    # Uniform over SO(3): the trace, 1 + 2 cos(angle), has mean 0 and variance 1.
    trace = R.diagonal(dim1=1, dim2=2).sum(dim=1)
    assert abs(float(trace.mean())) < 4 / math.sqrt(500)
    assert 0.8 < float(trace.std()) < 1.2
    K = torch.tensor([[100.0, 0, 12], [0, 90.0, 7], [0, 0, 1]], dtype=torch.float64)[None]
    grid = pixel_grid(16, CPU)
    wanted = torch.cat([grid, torch.ones(256, 1)], dim=1) @ torch.linalg.inv(K[0]).mT
    np.testing.assert_allclose(rays(K, 16)[0].flatten(0, 1), wanted, atol=1e-12)


def test_the_edge_is_that_of_single_scenes(made):
    rng = np.random.default_rng(4)
    drawn = []
    for _ in range(8):
        target = scenes.place(made[0], rng)
        drawn.append(scenes.Scene((target,), scenes._edge(rng, target) if rng.random() < 0.7 else None))
    cameras = [scenes.crop_of(rng, scene, 32) for scene in drawn]
    R, K = (np.concatenate([getattr(c, name) for c in cameras]) for name in ("R_crop_camera", "K"))
    grid = pixel_grid(32, CPU)
    found = inside(as_tensors(drawn, made).edge, *tensors(R, K), grid.expand(8, -1, -1))
    for i, scene in enumerate(drawn):
        np.testing.assert_array_equal(found[i], scenes.inside_photograph(scene, R[i], K[i], grid.numpy()))


@pytest.mark.parametrize("high", [1, 2, 7])
def test_integers_are_uniform(high):
    drawn = Draw(CPU, 0).integers(high, 3000)
    share = torch.bincount(drawn, minlength=high) / 3000
    assert len(share) == high
    assert (share - 1 / high).abs().max() < 4 * math.sqrt(0.25 / 3000)
    assert Draw(CPU, 0).integers(high, 0).shape == (0,)
