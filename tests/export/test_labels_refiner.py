"""Labels of refiner pairs against projection and brute-force ray casting; pairs rendered again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.meshes import grey_box
from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.render.base import Shading
from export.data import augment, labels, pairs_refiner
from export.data.batch import stack
from export.data.objects import TrainingObject
from export.data.rerender import rerender
from export.data.scenes import Item, Scene
from tests.export.raycast import first_hit, seen_by_camera
from tests.export.stock import make_stock

SIZE = 96
stock = pytest.fixture(scope="module")(make_stock)


def plate() -> TrainingObject:
    """0.2 x 0.2 m, 0.8 mm thin: 0.3 % of its diameter."""
    mesh = grey_box((0.2, 0.2, 0.0008))
    return TrainingObject(mesh, np.zeros((4, 3), np.float32), mesh.diameter)


def at(R: np.ndarray, x: float, z: float) -> np.ndarray:
    return se3.from_rt(R, [x, 0.0, z])


def record_of(scene: Scene) -> pairs_refiner.RefinerScene:
    look = augment.Look(True, np.eye(3), Shading(), 1)
    crop = pairs_refiner.object_crop(scene.target.T, scene.target, SIZE, 2.0)
    picture = np.full((SIZE, SIZE, 3), 90, np.uint8)
    return pairs_refiner.RefinerScene(scene, picture, crop.R_crop_camera[0], crop.K[0], look, 1.2, SIZE)


def test_points_between_pixels_are_compared_with_the_depths_around():
    """A view of a plane z = 1 + x that fills all but the last columns; f = 10, 8 x 8 pixels."""
    K = np.array([[10.0, 0.0, 3.5], [0.0, 10.0, 3.5], [0.0, 0.0, 1.0]])
    u = np.arange(8.0)
    depth = np.tile(1.0 / (1.0 - (u - 3.5) / 10.0), (8, 1)).astype(np.float32)
    depth[:, 6:] = 0.0
    x = np.array([-0.2, 0.0, 0.1])
    on = np.stack([x, 0.03 * np.ones(3), 1.0 + x], axis=1)
    step = 0.02 + 1.0 / (1.0 - 0.15) - 1.0 / (1.0 - 0.05)  # more than two pixels differ by, besides the tolerance
    for shift, wanted in ((0.0, True), (0.009, True), (step, False), (-step, False)):
        points = on * (1.0 + shift / on[:, 2:])  # along the ray: the same pixel
        uv, visible = labels.visible_in(points, np.eye(4), K, depth, 0.01)
        np.testing.assert_allclose(uv, project(K, on), atol=1e-12)
        assert (visible == wanted).all(), shift
    beside = np.array([[0.36, 0.0, 1.0], [0.41, 0.0, 1.0], [-0.41, 0.0, 0.6], [0.0, 0.0, -1.0], [np.nan, 0.0, 1.0]])
    assert not labels.visible_in(beside, np.eye(4), K, depth, 1e3)[1].any()


def test_the_far_side_of_a_thin_plate_is_hidden():
    """Turned over, its front lies within the tolerance of what the camera sees, and yet is not seen."""
    turned = np.diag([1.0, -1.0, -1.0])
    for R, wanted in ((np.eye(3), True), (turned, False)):
        record = record_of(Scene((Item(plate(), at(R, 0.0, 1.0)),)))
        batch = pairs_refiner.view_at(record, at(np.eye(3), 0.0, 1.0))
        on = np.isfinite(batch.object_points[0, ..., 0])
        assert on.sum() > 1000
        assert (batch.visible[0][on] == wanted).all()


def test_a_cover_close_to_the_surface_hides_it():
    """A sheet 1 mm before the plate, within the tolerance of 2.8 mm, covers its left half."""
    thing = plate()
    scene = Scene((Item(thing, at(np.eye(3), 0.0, 1.0)), Item(thing, at(np.eye(3), -0.1, 0.9982))))
    batch = pairs_refiner.view_at(record_of(scene), scene.target.T)
    on = np.isfinite(batch.object_points[0, ..., 0])
    columns = np.broadcast_to(np.arange(SIZE), on.shape)
    middle = (SIZE - 1) / 2
    assert batch.visible[0][on & (columns > middle + 1)].all()
    assert not batch.visible[0][on & (columns < middle - 1)].any()


def test_what_lies_outside_the_photograph_is_not_visible():
    """A photograph of half the field of the crop: its border is the limit."""
    scene = Scene((Item(plate(), at(np.eye(3), 0.0, 1.0)),))
    record = record_of(scene)
    small = pairs_refiner.object_crop(scene.target.T, scene.target, SIZE, 1.0).K[0] * (2.4, 2.4, 1.0)
    small[:2, 2] = (SIZE - 1) / 2
    batch = pairs_refiner.view_at(replace(record, K=small), scene.target.T)
    on = np.isfinite(batch.object_points[0, ..., 0])
    in_photograph = project(small, batch.object_points[0][on].astype(np.float64) + (0, 0, 1.0))
    inside = ((in_photograph >= -0.5) & (in_photograph < SIZE - 0.5)).all(axis=1)
    np.testing.assert_array_equal(batch.visible[0][on], inside)
    assert 0.1 < inside.mean() < 0.9


def test_flow_is_the_difference_of_two_projections(stock):
    for seed in range(8):
        batch, _ = pairs_refiner.refiner_pair(np.random.default_rng(seed), stock, SIZE)
        rows, columns = np.nonzero(np.isfinite(batch.object_points[0, ..., 0]))
        points = batch.object_points[0, rows, columns].astype(np.float64)
        here = project(batch.K[0], se3.transform(batch.T_init[0], points))
        np.testing.assert_allclose(here, np.stack([columns, rows], 1), atol=2e-3)
        there = project(batch.K[0], se3.transform(batch.T_true[0], points))
        np.testing.assert_allclose(batch.flow[0, :, rows, columns], there - here, atol=4e-3)
        off = ~np.isfinite(batch.object_points[0, ..., 0])
        assert not batch.flow[0][:, off].any()
        assert not batch.visible[0][off].any()


def test_visibility_against_ray_casting(stock):
    """Rendered points, moved to the true pose: does a ray from the camera reach them before anything else?"""
    agree, disagree = 0, 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        batch, record = pairs_refiner.refiner_pair(rng, stock, SIZE)
        rows, columns = np.nonzero(np.isfinite(batch.object_points[0, ..., 0]))
        pick = rng.permutation(len(rows))[:60]
        points = batch.object_points[0, rows[pick], columns[pick]].astype(np.float64)
        scene, tolerance = record.scene, 0.01 * batch.diameter[0]
        expected = seen_by_camera(points, batch.T_true[0], scene.target.object.mesh, tolerance)
        base = se3.transform(scene.target.T, points)
        for item in scene.items[1:]:
            mesh = item.object.mesh
            rays = (base / item.scale) @ item.T[:3, :3]
            eye = -item.T[:3, :3].T @ item.T[:3, 3]
            expected &= first_hit(eye, rays, mesh.vertices.astype(np.float64) + mesh.centre, mesh.faces) > 1.0
        if scene.edge is not None:
            expected &= base @ scene.edge >= 0
        uv = project(batch.K[0], se3.transform(batch.T_true[0], points))
        expected &= ((uv >= -0.5) & (uv < SIZE - 0.5)).all(axis=1)
        visible = batch.visible[0, rows[pick], columns[pick]]
        agree += (visible == expected).sum()
        disagree += (visible != expected).sum()
    # They may differ within a pixel of an edge of what hides: depth is known at pixels.
    assert disagree <= 0.04 * (agree + disagree), f"{disagree} of {agree + disagree} points"


def test_rerender_at_the_same_pose_changes_nothing(stock):
    made = [pairs_refiner.refiner_pair(np.random.default_rng(i), stock, SIZE) for i in range(3)]
    batch, records = stack([m[0] for m in made]), [m[1] for m in made]
    again = rerender(batch, records, batch.T_init)
    np.testing.assert_array_equal(again.query, batch.query)
    np.testing.assert_array_equal(again.render, batch.render)
    np.testing.assert_array_equal(again.visible, batch.visible)
    np.testing.assert_allclose(again.K, batch.K, rtol=1e-9)


def test_rerender_at_the_truth_leaves_no_flow(stock):
    made = [pairs_refiner.refiner_pair(np.random.default_rng(i), stock, SIZE) for i in range(6)]
    batch, records = stack([m[0] for m in made]), [m[1] for m in made]
    final = rerender(batch, records, batch.T_true)
    assert np.abs(final.flow).max() < 1e-3
    np.testing.assert_allclose(final.T_init, final.T_true, atol=1e-9)
    on = np.isfinite(final.object_points[..., 0])
    assert final.visible.sum() > 0.5 * on.sum()


def test_rerender_keeps_the_error_of_a_pose(stock):
    """The new cameras are turned, but T_true^-1 T_init, in the object's frame, is what was asked for."""
    made = [pairs_refiner.refiner_pair(np.random.default_rng(i), stock, SIZE) for i in range(4)]
    batch, records = stack([m[0] for m in made]), [m[1] for m in made]
    rng = np.random.default_rng(5)
    for _ in range(3):
        asked = batch.T_true @ se3.exp(rng.normal(size=(4, 6)) * 0.05 * batch.diameter[:, None])
        result = rerender(batch, records, asked)
        np.testing.assert_allclose(
            se3.invert(result.T_true) @ result.T_init, se3.invert(batch.T_true) @ asked, atol=1e-9
        )
        batch = result


def test_rerender_passes_over_poses_that_cannot_be(stock):
    made = [pairs_refiner.refiner_pair(np.random.default_rng(i), stock, SIZE) for i in range(4)]
    batch, records = stack([m[0] for m in made]), [m[1] for m in made]
    T = batch.T_init.copy()
    T[0, 0, 0] = np.nan
    T[1, :3, 3] *= -1  # behind the camera
    T[2, :3, :3] *= 2.0
    T[3, :3, 3] += (100.0, 0.0, 0.0)
    kept = rerender(batch, records, T)
    np.testing.assert_array_equal(kept.render, batch.render)
    assert len(rerender(*_none(batch), np.zeros((0, 4, 4))).query) == 0
    with pytest.raises(ValueError, match="keep_scenes=True"):
        rerender(batch, records[:2], T)


def _none(batch):
    return type(batch)(**{name: getattr(batch, name)[:0] for name in batch.__dataclass_fields__}), []
