"""Labels of refiner pairs against projection and brute-force ray casting; pairs rendered again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from export.data.batch import on_host, take
from export.data.labels import visible_in
from export.data.rerender import centres_of, records_of, rerender, target_of
from export.data.scenes import object_crops
from export.data.starts import StartMix
from tests.export.data.cases import (
    box,
    facing,
    generator_of,
    one,
    photographs_of,
    scene_of,
    stock_of,
    tensors,
    things,
)
from tests.export.data.raycast import first_hit, seen_by_camera

SIZE = 96


@pytest.fixture(scope="module")
def stock():
    return stock_of(things(8))


@pytest.fixture(scope="module")
def drawn(stock):
    """Ten hard pairs and their records."""
    generator = generator_of(stock, SIZE, 3)
    photographs, starts = generator.photographs(one(10), 1, StartMix())
    batch = on_host(generator.refiner_at(photographs, starts, 5))
    return batch, records_of(generator, photographs, 1, 5)


def view_at(stock, placed, T_init, change=lambda photographs: photographs):
    """The pair of one scene at a start pose (base camera), as arrays."""
    photographs = change(photographs_of(stock, scene_of(stock, placed), SIZE))
    return on_host(generator_of(stock, SIZE).refiner_at(photographs, torch.from_numpy(T_init[None]), 0))


def test_points_between_pixels_are_compared_with_the_depths_around():
    """A view of a plane z = 1 + x that fills all but the last columns; f = 10, 8 x 8 pixels."""
    K = np.array([[10.0, 0.0, 3.5], [0.0, 10.0, 3.5], [0.0, 0.0, 1.0]])
    u = np.arange(8.0)
    depth = np.tile(1.0 / (1.0 - (u - 3.5) / 10.0), (8, 1)).astype(np.float32)
    depth[:, 6:] = 0.0

    def visible(points, tolerance):
        row = np.zeros(len(points), np.int64)
        given = tensors(points.T, row, np.eye(4)[None], K[None], depth[None], np.array([tolerance]))
        uv, shown = visible_in(*given)
        return uv.numpy().T, shown.numpy()

    x = np.array([-0.2, 0.0, 0.1])
    on = np.stack([x, 0.03 * np.ones(3), 1.0 + x], axis=1)
    step = 0.02 + 1.0 / (1.0 - 0.15) - 1.0 / (1.0 - 0.05)  # more than two pixels differ by, besides the tolerance
    for shift, wanted in ((0.0, True), (0.009, True), (step, False), (-step, False)):
        points = on * (1.0 + shift / on[:, 2:])  # along the ray: the same pixel
        uv, shown = visible(points, 0.01)
        np.testing.assert_allclose(uv, project(K, on), atol=1e-12)
        assert (shown == wanted).all(), shift
    beside = np.array([[0.36, 0.0, 1.0], [0.41, 0.0, 1.0], [-0.41, 0.0, 0.6], [0.0, 0.0, -1.0], [np.nan, 0.0, 1.0]])
    assert not visible(beside, 1e3)[1].any()


def test_the_far_side_of_a_thin_plate_is_hidden():
    """Turned over, its front lies within the tolerance of what the camera sees, and yet is not seen."""
    plate = box((0.2, 0.2, 0.0008))
    stock = stock_of([plate])
    for R, wanted in ((np.eye(3), True), (np.diag([1.0, -1.0, -1.0]), False)):
        batch = view_at(stock, [(0, facing(plate, R, 1.0), 1.0)], facing(plate, np.eye(3), 1.0))
        on = np.isfinite(batch.object_points[0, ..., 0])
        assert on.sum() > 1000
        assert (batch.visible[0][on] == wanted).all()


def test_a_cover_close_to_the_surface_hides_it():
    """A sheet 1 mm before the plate, within the tolerance of 2.8 mm, covers its left half."""
    plate = box((0.2, 0.2, 0.0008))
    T = facing(plate, np.eye(3), 1.0)
    cover = facing(plate, np.eye(3), 0.9982, (-0.1, 0.0))
    batch = view_at(stock_of([plate]), [(0, T, 1.0), (0, cover, 1.0)], T)
    on = np.isfinite(batch.object_points[0, ..., 0])
    columns = np.broadcast_to(np.arange(SIZE), on.shape)
    middle = (SIZE - 1) / 2
    assert batch.visible[0][on & (columns > middle + 1)].all()
    assert not batch.visible[0][on & (columns < middle - 1)].any()


def test_what_lies_outside_the_photograph_is_not_visible():
    """A photograph of half the field of the crop: its border is the limit."""
    plate = box((0.2, 0.2, 0.0008))
    stock, T = stock_of([plate]), facing(plate, np.eye(3), 1.0)
    _, K = object_crops(stock, scene_of(stock, [(0, T, 1.0)]), torch.from_numpy(T[None]), SIZE, one(1))
    small = K[0].numpy() * (2.4, 2.4, 1.0)
    small[:2, 2] = (SIZE - 1) / 2
    batch = view_at(stock, [(0, T, 1.0)], T, lambda made: replace(made, K=torch.from_numpy(small[None])))
    on = np.isfinite(batch.object_points[0, ..., 0])
    in_photograph = project(small, se3.transform(T, batch.object_points[0][on].astype(np.float64)))
    inside = ((in_photograph >= -0.5) & (in_photograph < SIZE - 0.5)).all(axis=1)
    np.testing.assert_array_equal(batch.visible[0][on], inside)
    assert 0.1 < inside.mean() < 0.9


def test_flow_is_the_difference_of_two_projections(drawn):
    batch, _ = drawn
    for i in range(10):
        rows, columns = np.nonzero(np.isfinite(batch.object_points[i, ..., 0]))
        points = batch.object_points[i, rows, columns].astype(np.float64)
        here = project(batch.K[i], se3.transform(batch.T_init[i], points))
        np.testing.assert_allclose(here, np.stack([columns, rows], 1), atol=2e-3)
        there = project(batch.K[i], se3.transform(batch.T_true[i], points))
        np.testing.assert_allclose(batch.flow[i, :, rows, columns], there - here, atol=4e-3)
        off = ~np.isfinite(batch.object_points[i, ..., 0])
        assert not batch.flow[i][:, off].any()
        assert not batch.visible[i][off].any()


def test_visibility_against_ray_casting(drawn):
    """Rendered points, moved to the true pose: does a ray from the camera reach them before anything else?"""
    batch, records = drawn
    agree, disagree = 0, 0
    rng = np.random.default_rng(0)
    for i, record in enumerate(records):
        rows, columns = np.nonzero(np.isfinite(batch.object_points[i, ..., 0]))
        pick = rng.permutation(len(rows))[:60]
        points = batch.object_points[i, rows[pick], columns[pick]].astype(np.float64)
        expected = seen_by_camera(points, batch.T_true[i], target_of(record).mesh, 0.01 * batch.diameter[i])
        base = se3.transform(record.T_true, points)
        T, scale = record.values["scene.items.T"], record.values["scene.items.scale"]
        for k, other in enumerate(record.things):
            if k == 0 or other is None:
                continue
            rays = (base / scale[k]) @ T[k, :3, :3]
            eye, vertices = -T[k, :3, :3].T @ T[k, :3, 3], other.mesh.vertices.astype(np.float64) + other.mesh.centre
            expected &= first_hit(eye, rays, vertices, other.mesh.faces) > 1.0
        expected &= base @ record.values["scene.edge"] >= 0
        uv = project(batch.K[i], se3.transform(batch.T_true[i], points))
        expected &= ((uv >= -0.5) & (uv < SIZE - 0.5)).all(axis=1)
        visible = batch.visible[i, rows[pick], columns[pick]]
        agree += (visible == expected).sum()
        disagree += (visible != expected).sum()
    # They may differ within a pixel of an edge of what hides: depth is known at pixels.
    assert disagree <= 0.04 * (agree + disagree), f"{disagree} of {agree + disagree} points"


def test_rerender_at_the_same_pose_changes_nothing(drawn):
    batch, records = drawn
    again = rerender(batch, records, batch.T_init)
    for name in ("query", "render", "visible", "query_index", "model_points"):
        np.testing.assert_array_equal(getattr(again, name), getattr(batch, name), err_msg=name)
    np.testing.assert_allclose(again.K, batch.K, rtol=1e-9)


def test_rerender_at_the_truth_leaves_no_flow(drawn):
    batch, records = drawn
    final = rerender(batch, records, batch.T_true)
    assert np.abs(final.flow).max() < 1e-3
    np.testing.assert_allclose(final.T_init, final.T_true, atol=1e-9)
    on = np.isfinite(final.object_points[..., 0])
    assert final.visible.sum() > 0.5 * on.sum()


def test_rerender_keeps_the_error_of_a_pose(drawn):
    """The new cameras are turned, but T_true^-1 T_init, in the object's frame, is what was asked for."""
    batch, records = drawn
    rng = np.random.default_rng(5)
    for _ in range(3):
        asked = batch.T_true @ se3.exp(rng.normal(size=(10, 6)) * 0.05 * batch.diameter[:, None])
        result = rerender(batch, records, asked)
        np.testing.assert_allclose(
            se3.invert(result.T_true) @ result.T_init, se3.invert(batch.T_true) @ asked, atol=1e-9
        )
        batch = result


def test_rerender_does_each_pair_for_itself(drawn):
    batch, records = drawn
    asked = batch.T_true @ se3.exp([0.0, 0, 0, 0.05, 0, 0])
    together, which = rerender(batch, records, asked), [7, 2]
    alone = rerender(take(batch, which), [records[i] for i in which], asked[which])
    for name in vars(alone):
        np.testing.assert_array_equal(getattr(alone, name), getattr(together, name)[which], err_msg=name)


def test_rerender_passes_over_poses_that_cannot_be(drawn):
    batch, records = drawn
    T = batch.T_init.copy()
    T[0, 0, 0] = np.nan
    T[1, :3, 3] *= -1  # behind the camera
    T[2, :3, :3] *= 2.0
    T[3, :3, 3] += (100.0, 0.0, 0.0)
    kept = rerender(batch, records, T)
    np.testing.assert_array_equal(kept.render, batch.render)
    assert len(rerender(take(batch, slice(0, 0)), [], np.zeros((0, 4, 4))).query) == 0
    with pytest.raises(ValueError, match="keep_scenes=True"):
        rerender(batch, records[:2], T)


def test_centres_are_those_that_crops_look_at(drawn):
    batch, records = drawn
    seen = se3.transform(batch.T_init, centres_of(records)[:, None])[:, 0]
    np.testing.assert_allclose(seen[:, :2], 0.0, atol=1e-6)
    assert centres_of([]).shape == (0, 3)
