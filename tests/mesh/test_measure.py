from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from coop_edge.errors import InputError
from coop_edge.mesh import measure
from coop_edge.mesh.measure import diameter


@pytest.mark.parametrize(
    ("points", "want"),
    [
        (np.zeros((0, 3)), 0.0),
        (np.ones((1, 3)), 0.0),
        (np.ones((5000, 3)), 0.0),
        ([[0, 0, 0], [3, 4, 0]], 5.0),
    ],
)
def test_few_points(points, want):
    assert diameter(points) == want


SHAPES = {
    "gaussian": lambda r: r.normal(size=(4000, 3)),
    "sphere": lambda r: (lambda x: x / np.linalg.norm(x, axis=1, keepdims=True))(r.normal(size=(4000, 3))),
    "flat": lambda r: np.column_stack([r.normal(size=(4000, 2)), np.zeros(4000)]),
    "flat, tilted": lambda r: r.normal(size=(4000, 2)) @ r.normal(size=(2, 3)),
    "line": lambda r: r.normal(size=(4000, 1)) * (1.0, 2.0, -3.0),
    "disc": lambda r: (lambda a: np.column_stack([np.cos(a), np.sin(a), 0 * a]))(r.uniform(0, 7, 4000)),
    "dumbbell": lambda r: r.normal(size=(4000, 3)) * 1e-3 + np.where(np.arange(4000) % 2, 1, -1)[:, None],
    "needle": lambda r: r.normal(size=(4000, 3)) * (1.0, 1e-4, 1e-4),
    "box corners": lambda r: np.repeat(trimesh.creation.box((3, 4, 12)).vertices, 500, axis=0),
    "far away": lambda r: r.normal(size=(4000, 3)) + 1e3,
}


@pytest.mark.parametrize("shape", SHAPES, ids=list(SHAPES))
@pytest.mark.parametrize("seed", range(3))
def test_against_all_pairs(shape, seed):
    points = SHAPES[shape](np.random.default_rng(seed))
    assert diameter(points) == pytest.approx(pdist(points).max(), rel=1e-9)


def test_search_by_direction_without_a_hull(monkeypatch):
    """Many points on a plane leave no hull: the search over directions alone must find the pair."""
    points = np.random.default_rng(5).uniform(size=(6000, 2)) @ np.array([[1.0, 0.2, 0.3], [0.1, 1.0, -0.4]])
    assert measure._by_direction(points) == pytest.approx(pdist(points, "sqeuclidean").max(), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 3))
def test_search_by_direction_on_small_sets(seed, n, rank):
    rng = np.random.default_rng(seed)
    points = rng.integers(-4, 5, size=(n, rank)) @ rng.integers(-3, 4, size=(rank, 3)).astype(float)
    assert measure._by_direction(points) == pytest.approx(pdist(points, "sqeuclidean").max(), abs=1e-9)


def test_directions_cover_the_sphere_as_closely_as_claimed():
    directions, cosine = measure._directions()
    u = np.random.default_rng(0).normal(size=(20000, 3))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    nearest = np.abs(u @ directions.T).max(axis=1)
    assert nearest.min() >= cosine
    assert np.degrees(np.arccos(nearest.min())) > 0.7 * np.degrees(np.arccos(cosine))  # the bound is not idle


@pytest.mark.parametrize("points", [np.zeros((3, 2)), np.full((3, 3), np.nan), [[0, 0, np.inf]]])
def test_bad_points(points):
    with pytest.raises(InputError):
        diameter(points)
