"""Labels as tensors against those of ``labels``, ``pairs`` and ``pairs_refiner``, for the same scenes and cameras."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coop_edge.geometry import se3
from coop_edge.render.base import object_points
from export.data import augment, pairs, pairs_refiner, scenes
from export.data.batch import PATCH
from export.data.device_geometry import project
from export.data.device_labels import coarse_labels, match_labels, point_map, visible_in
from export.data.device_pairs import Drawer, object_crops
from export.data.device_photo import Looks
from export.data.device_render import HostRasterizer, KernelRasterizer, Lights, Rasterizer
from export.data.device_scenes import look
from export.data.device_stock import Stock
from tests.cuda_host.host_device import HostDevice
from tests.export.device_cases import as_tensors, stock_of, tensors, things

SIZE = 96
N = 24


@pytest.fixture(scope="module")
def made():
    return things(8)


@pytest.fixture(scope="module")
def stock(made) -> Stock:
    return stock_of(made)


@pytest.fixture(scope="module")
def drawn(made) -> list[scenes.Scene]:
    """Scenes with everything in them: a third are cut by the photograph's edge."""
    rng = np.random.default_rng(5)
    out = []
    for i in range(N):
        scene = scenes.draw_scene(rng, made)
        out.append(scene if i % 3 else scenes.Scene(scene.items, scenes._edge(rng, scene.target)))
    return out


@pytest.fixture(scope="module")
def cameras(drawn) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    crops = [scenes.crop_of(rng, scene, SIZE) for scene in drawn]
    return np.concatenate([c.R_crop_camera for c in crops]), np.concatenate([c.K for c in crops])


@pytest.fixture(scope="module", params=["cpu", "kernels"])
def rasterizer(request, stock) -> Rasterizer:
    return HostRasterizer(stock) if request.param == "cpu" else KernelRasterizer(stock, HostDevice(guard=False))


def test_coarse_labels_are_those_of_single_pairs(made, stock, drawn, cameras, rasterizer):
    R, K = cameras
    rng = np.random.default_rng(7)
    views = [pairs.template_view(rng, scene.target, SIZE) for scene in drawn]
    look_at = augment.Look(False, np.eye(3), augment.Shading(), 1)
    wanted, depths = [], []
    for i, (scene, (T, K_template)) in enumerate(zip(drawn, views, strict=True)):
        _, seen = look_at.render(scene.target.object, T, K_template, SIZE)
        depths.append(seen.depth[0])
        wanted.append(pairs.coarse_labels(scene, R[i], K[i], SIZE, T, K_template, seen))
    T_template, K_template, depth = tensors(
        *(np.stack(a) for a in ([v[0] for v in views], [v[1] for v in views], depths))
    )
    found = coarse_labels(
        rasterizer, stock, as_tensors(drawn, made), *tensors(R, K), SIZE, T_template, K_template, depth
    )
    index, offset, on_target = (np.stack(part) for part in zip(*wanted, strict=True))
    matched = index < (SIZE // PATCH) ** 2
    assert 0.1 < matched.mean() < 0.9
    assert (on_target & ~matched).any()
    assert [t.dtype for t in found] == [torch.int64, torch.float32, torch.bool]
    # The kernels snap corners in float32: a patch centre that lies on an outline may fall to the other side.
    allowed = 0 if isinstance(rasterizer, HostRasterizer) else 2
    same = found[0].numpy() == index
    assert np.count_nonzero(~same) <= allowed
    assert np.count_nonzero(found[2].numpy() != on_target) <= allowed
    assert np.abs(found[1].numpy() - offset)[same].max() * PATCH < 1e-3


def test_refiner_pairs_are_those_of_single_pairs(made, stock, drawn):
    """The whole pair from the same photograph, start pose and look: pictures, points, flow, visibility, cameras."""
    rng = np.random.default_rng(8)
    wanted, records, starts = [], [], []
    for scene in drawn:
        T_init, margin = pairs_refiner.start_pose(rng, scene.target), float(rng.uniform(1.05, 1.4))
        n = 2 * round(SIZE * pairs_refiner.FIELD * pairs_refiner.DENSITY / 2)
        wide = pairs_refiner.object_crop(T_init, scene.target, n, margin * pairs_refiner.FIELD)
        picture = rng.integers(0, 256, (n, n, 3), np.uint8)
        look_at = augment.Look(bool(rng.random() < 0.3), np.diag(rng.uniform(0.6, 1.2, 3)), augment.Shading(), 1)
        record = pairs_refiner.RefinerScene(scene, picture, wide.R_crop_camera[0], wide.K[0], look_at, margin, SIZE)
        records.append(record)
        starts.append(T_init)
        wanted.append(pairs_refiner.view_at(record, T_init))
    count = len(records)
    lights = Lights(torch.full((count,), 0.4), torch.full((count,), 0.6), torch.tensor([r.look.plain for r in records]))
    looks = Looks(lights, torch.from_numpy(np.stack([r.look.matrix for r in records])))
    drawer = Drawer(stock, HostRasterizer(stock), SIZE)
    drawer.some = lambda share, n: 0  # no supersampling, as in the looks above
    T_init, margins, picture, R, K = tensors(
        np.stack(starts), np.array([r.margin for r in records]), np.stack([r.picture for r in records]),
        np.stack([r.R for r in records]), np.stack([r.K for r in records]),
    )  # fmt: skip
    found = drawer.refiner_at(as_tensors(drawn, made), T_init, margins, picture, (R, K), looks)
    for name in ("K", "T_init", "T_true", "diameter", "model_points"):
        values = np.concatenate([getattr(w, name) for w in wanted])
        np.testing.assert_allclose(getattr(found, name).numpy(), values, rtol=1e-6, atol=1e-9, err_msg=name)
    for name in ("flow", "visible", "object_points", "render", "query"):
        values, got = np.concatenate([getattr(w, name) for w in wanted]), getattr(found, name).numpy()
        assert got.dtype == values.dtype, name
        assert got.shape == values.shape, name
    visible = np.concatenate([w.visible for w in wanted])
    assert 0.05 < visible.mean() < 0.9
    np.testing.assert_array_equal(found.visible.numpy(), visible)
    np.testing.assert_allclose(found.flow.numpy(), np.concatenate([w.flow for w in wanted]), atol=1e-3)
    points = np.concatenate([w.object_points for w in wanted])
    np.testing.assert_allclose(found.object_points.numpy(), points, atol=1e-6)
    level = np.abs(found.render.numpy().astype(int) - np.concatenate([w.render for w in wanted]))
    assert level.max() <= 1  # colours are changed in float32 here
    off = np.abs(found.query.numpy().astype(int) - np.concatenate([w.query for w in wanted]))
    assert np.quantile(off, 0.999) <= 4  # OpenCV takes positions in a warp to 1/32 pixel; the picture is pure noise
    assert off.mean() < 1


def test_flow_leads_to_where_the_point_is(stock):
    """Independently of the other path: the flow is the projection at the true pose of the point that is labelled."""
    drawer = Drawer(stock, HostRasterizer(stock), 48)
    one = torch.ones(12, dtype=torch.float64)
    drawer.seed(3)
    batch = drawer.refiner(one, 0 * one, 0.5)
    on = torch.isfinite(batch.object_points[..., 0])
    points = torch.where(on[..., None], batch.object_points, 0.0).double()
    moved = points.flatten(1, 2) @ batch.T_true[:, :3, :3].mT + batch.T_true[:, None, :3, 3]
    there = project(batch.K, moved).view(12, 48, 48, 2)
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    expected = there - torch.stack([x, y], dim=-1)
    error = (batch.flow.permute(0, 2, 3, 1) - expected).norm(dim=-1)
    assert float(error[on].max()) < 2e-3
    assert not batch.flow.permute(0, 2, 3, 1)[~on].any()
    assert not batch.visible[~on].any()


def test_matched_template_pixels_show_the_same_point(stock):
    """A match leads to the template pixel whose own point projects back to the query patch's centre."""
    size = 64
    drawer = Drawer(stock, HostRasterizer(stock), size)
    drawer.seed(4)
    one = torch.ones(16, dtype=torch.float64)
    batch = drawer.coarse(one, 0 * one)
    side = size // PATCH
    matched = (batch.match_index < side * side).nonzero()
    assert len(matched) > 30
    errors = []
    for i, t in matched.tolist():
        cell = int(batch.match_index[i, t])
        at = PATCH * (torch.tensor([cell % side, cell // side]) + 0.5 + batch.offset[i, t]) - 0.5
        column, row = at.round().long().clamp(0, size - 1).tolist()
        point = batch.template_points[i, row, column].double()
        if not torch.isfinite(point).all():
            continue  # between pixels at an outline
        moved = batch.T_query[i, :3, :3] @ point + batch.T_query[i, :3, 3]
        centre = PATCH * (torch.tensor([t % side, t // side]) + 0.5) - 0.5
        errors.append(float((project(batch.K_query[i][None], moved[None, None])[0, 0] - centre).norm()))
    assert len(errors) > 25
    assert np.median(errors) < 1.0  # half a template pixel, seen from the query


def test_no_views_and_no_matches():
    empty = torch.zeros((0, 9, 3), dtype=torch.float64)
    none = torch.zeros((0, 4, 4), dtype=torch.float64), torch.zeros((0, 3, 3), dtype=torch.float64)
    uv, shown = visible_in(empty, *none, torch.zeros((0, 48, 48)), torch.zeros(0))
    assert uv.shape == (0, 9, 2)
    assert shown.shape == (0, 9)
    index, offset = match_labels(torch.full((1, 9, 2), torch.nan), torch.zeros((1, 9), dtype=torch.bool), 48)
    assert (index == 9).all()
    assert not offset.any()


def test_cameras_of_the_refiner_are_those_of_single_pairs(made, stock, drawn):
    poses = np.stack([pairs_refiner.start_pose(np.random.default_rng(i), s.target) for i, s in enumerate(drawn)])
    margin = np.linspace(1.05, 1.4, len(drawn))
    R, K = object_crops(stock, as_tensors(drawn, made), *tensors(poses), 64, torch.from_numpy(margin))
    for i, scene in enumerate(drawn):
        wanted = pairs_refiner.object_crop(poses[i], scene.target, 64, margin[i])
        np.testing.assert_allclose(R[i].numpy(), wanted.R_crop_camera[0], atol=1e-12)
        np.testing.assert_allclose(K[i].numpy(), wanted.K[0], rtol=1e-12)


def test_views_are_those_of_single_scenes(made, stock, drawn, cameras):
    R, K = cameras
    found = look(HostRasterizer(stock), as_tensors(drawn, made).items, *tensors(R, K), SIZE)
    for i, scene in enumerate(drawn):
        wanted = scenes.look(scene, R[i], K[i], SIZE)
        np.testing.assert_array_equal(found.item[i].numpy(), wanted.item)
        np.testing.assert_array_equal(found.albedo[i].numpy(), wanted.albedo)
        np.testing.assert_allclose(found.depth[i].numpy(), wanted.depth, rtol=1e-6)
        np.testing.assert_array_equal(found.triangle[i].numpy(), wanted.triangle)


def test_points_of_a_view(stock):
    """Points worked out from depth are those that the CPU renderer reports."""
    slot = torch.arange(4)
    T = torch.eye(4, dtype=torch.float64).repeat(4, 1, 1)
    T[:, 2, 3] = 4 * stock.diameter[slot]
    turn = torch.from_numpy(se3.random_rotation(np.random.default_rng(0), (4,)))
    T[:, :3, :3] = turn
    T[:, :3, 3] -= (turn @ stock.centre[slot][..., None])[..., 0]
    K = torch.tensor([[160.0, 0, 31.5], [0, 160.0, 31.5], [0, 0, 1]], dtype=torch.float64).repeat(4, 1, 1)
    seen = HostRasterizer(stock).look(slot, T, K, 64)
    points = point_map(seen.depth, T, K)
    wanted = object_points(seen.depth.numpy(), T.numpy(), K.numpy())
    on = seen.triangle >= 0
    assert on.float().mean() > 0.05
    np.testing.assert_allclose(points[on].numpy(), wanted[on.numpy()], atol=1e-6)
