"""Things that were put down: they rest on what is below, in balance, and nothing is inside anything else."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from benchmarks.datasets.make_dataset.arrange import arrange
from benchmarks.datasets.make_dataset.settle import CELL, Body, Table, _support
from coop_edge.geometry import se3
from tests.benchmarks.solids import SIDES, box, colored

FLAT = np.array(SIDES)


def lowest(body: Body, T: np.ndarray) -> float:
    return float(se3.transform(T, body.mesh.vertices + body.mesh.centre)[:, 2].min())


@pytest.mark.parametrize("seed", range(6))
def test_a_box_comes_to_lie_on_a_side(seed):
    body = Body(box())
    T = Table().settle(body, se3.random_rotation(np.random.default_rng(seed)), 0.05, -0.02)
    assert T is not None
    upright = np.abs(T[2, :3])  # the world's z in the box's axes
    assert upright.max() > np.cos(np.radians(1.0))
    assert lowest(body, T) == pytest.approx(0.0, abs=1e-3)
    assert T[2, 3] == pytest.approx(FLAT[upright.argmax()] / 2, abs=1.5e-3)


def test_what_lies_flat_stays_as_it_is():
    T = Table().settle(Body(box()), np.eye(3), 0.0, 0.0)
    np.testing.assert_allclose(T[:3, :3], np.eye(3))
    np.testing.assert_allclose(T[:3, 3], [0, 0, SIDES[2] / 2], atol=2e-4)


def test_an_origin_beside_the_object_is_accounted_for():
    body = Body(box(centre=np.array([0.2, -0.1, 0.4])))
    T = Table().settle(body, np.eye(3), 0.0, 0.0)
    middle = se3.transform(T, body.mesh.centre[None])[0]
    np.testing.assert_allclose(middle, [0, 0, SIDES[2] / 2], atol=2e-4)


def test_a_box_on_a_box_stands_on_it_and_one_over_its_edge_leans():
    table, big, small = Table(), Body(box((0.16, 0.16, 0.06))), Body(box((0.06, 0.05, 0.04)))
    table.add(big, table.settle(big, np.eye(3), 0.0, 0.0))
    on = table.settle(small, np.eye(3), 0.02, 0.01)
    assert on[2, 3] == pytest.approx(0.06 + 0.02, abs=5e-4)
    rod = Body(box((0.02, 0.18, 0.02)))
    leaning = table.settle(rod, np.eye(3), 0.0, 0.115)  # its middle is beyond the edge
    along = np.abs(leaning[2, 1])
    assert 0.15 < along < 0.9  # neither flat nor upright
    assert lowest(rod, leaning) == pytest.approx(0.0, abs=2e-3)


def test_what_is_put_over_the_edge_falls_off():
    assert Table(0.4).settle(Body(box()), np.eye(3), 0.25, 0.0) is None


@pytest.mark.parametrize("seed", range(3))
def test_nothing_pierces_anything(seed):
    """Points of each box against the exact extent of every other."""
    sides = [(0.1, 0.06, 0.05), (0.12, 0.04, 0.03), (0.07, 0.07, 0.07), (0.15, 0.05, 0.02), (0.06, 0.09, 0.04)]
    bodies = [Body(box(s)) for s in sides]
    placed = arrange(bodies, range(5), [], np.random.default_rng(seed))
    assert len(placed) >= 4
    assert max(p.T_world_object[2, 3] for p in placed) > 0.05  # they do lie on each other
    for a in placed:
        assert lowest(bodies[a.index], a.T_world_object) > -1e-3
        shape = trimesh.creation.box(sides[a.index])
        points = se3.transform(a.T_world_object, trimesh.sample.sample_surface(shape, 4000, seed=0)[0])
        for b in placed:
            if b is not a:
                inside = np.array(sides[b.index]) / 2 - np.abs(se3.transform(se3.invert(b.T_world_object), points))
                assert inside.min(axis=1).max() < 1.5 * CELL


def test_the_footprint_is_that_of_the_solid():
    body = Body(colored(trimesh.creation.cylinder(0.04, 0.1, sections=128)))
    seen = body.footprint(np.eye(3))
    n = len(seen.low)
    y, x = (np.mgrid[:n, :n] - (n - 1) / 2) * CELL
    inside = np.hypot(x, y) < 0.04 - CELL
    np.testing.assert_allclose(seen.low[inside], -0.05, atol=1e-4)
    np.testing.assert_allclose(seen.high[inside], 0.05, atol=1e-4)
    assert not np.isfinite(seen.low[np.hypot(x, y) > 0.04 + CELL]).any()


def test_a_footprint_is_not_mirrored():
    corners = np.array([(0, 0, 0), (0.08, 0, 0), (0, 0.05, 0), (0, 0, 0.03)], float)
    mesh = colored(trimesh.Trimesh(corners, [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)], process=False))
    R = se3.random_rotation(np.random.default_rng(4))
    seen = Body(mesh).footprint(R)
    n = len(seen.low)
    y, x = (np.mgrid[:n, :n] - (n - 1) / 2) * CELL
    turned = corners @ R.T
    low, high = np.full((n, n), -np.inf), np.full((n, n), np.inf)
    for face in mesh.faces:  # a convex solid: between its planes, low and high are linear
        normal = np.cross(turned[face[1]] - turned[face[0]], turned[face[2]] - turned[face[0]])
        z = (normal @ turned[face[0]] - normal[0] * x - normal[1] * y) / normal[2]
        low, high = (low, np.minimum(high, z)) if normal[2] > 0 else (np.maximum(low, z), high)
    well_inside = low < high - 2e-3
    assert well_inside.sum() > 100
    np.testing.assert_allclose(seen.low[well_inside], low[well_inside], atol=1e-3)  # 0.02 mm aside of steep planes
    np.testing.assert_allclose(seen.high[well_inside], high[well_inside], atol=1e-3)
    assert not np.isfinite(seen.low[low > high + 2e-3]).any()


@pytest.mark.parametrize(
    ("weight", "over"), [((0.0, 0.0), True), ((0.0109, 0.0), True), ((0.013, 0.0), False), ((0.3, 0.2), False)]
)
def test_balance_is_over_the_polygon_of_contacts(weight, over):
    touching = np.array([(-0.01, -0.01), (0.01, -0.01), (0.01, 0.01), (-0.01, 0.01)])
    found, pivot = _support(touching, np.array(weight))
    assert found == over
    if not over:
        np.testing.assert_allclose(pivot, np.clip(weight, -0.011, 0.011), atol=1e-9)
    alone, pivot = _support(np.array([[0.0, 0.0]]), np.array([0.05, 0.0]))
    assert not alone
    np.testing.assert_allclose(pivot, [0.001, 0.0], atol=1e-9)
