"""Labels of refiner pairs against projection and brute-force ray casting; pairs rendered again."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from export.training import pairs_refiner
from export.training.batch import stack
from export.training.rerender import rerender
from tests.export.raycast import first_hit, seen_by_camera
from tests.export.stock import make_stock

SIZE = 96
stock = pytest.fixture(scope="module")(make_stock)


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
