"""Coverage by the CUDA renderer: neighbours neither gap nor overlap, near plane, guard band, ties, nonsense."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, binary_fill_holes
from scipy.spatial import Delaunay

from benchmarks.meshes import grey_box, look_at_views, textured_sphere
from tests.kernels.devices import device  # noqa: F401
from tests.oracles import render as oracle
from tests.render.cuda_scenes import EXACT, flat, render, times_covered
from tests.render.scenes import ABSURD_DISTANCES, THIN_TRIANGLES, intrinsics, soup, translation


@pytest.mark.parametrize("side", [11, 60], ids=["a thread each", "a warp each"])
@pytest.mark.parametrize("turn", [1, -1], ids=["clockwise", "anticlockwise"])
@pytest.mark.parametrize("diagonal", [0, 1])
def test_square_with_corners_on_pixel_centres(device, diagonal, turn, side):  # noqa: F811
    corners = flat([[5, 7], [5 + side, 7], [5 + side, 7 + side], [5, 7 + side]])
    split = [[0, 1, 2], [0, 2, 3]] if diagonal else [[0, 1, 3], [1, 2, 3]]
    count = times_covered(device, corners[[s[::turn] for s in split]], size=80)
    expected = np.zeros((80, 80), int)
    expected[7 : 7 + side, 5 : 5 + side] = 1  # top and left edges belong to it, bottom and right ones do not
    np.testing.assert_array_equal(count, expected)


@pytest.mark.parametrize("scale", [1, 4], ids=["small", "large"])
@pytest.mark.parametrize("seed", range(5))
def test_triangulation_covers_every_pixel_once(device, seed, scale):  # noqa: F811
    rng = np.random.default_rng(seed)
    points = np.unique(rng.integers(0, 62, (24, 2)), axis=0) / 2.0 * scale  # edges through pixel centres are the rule
    hull = Delaunay(points)
    count = times_covered(device, flat(points[hull.simplices]), size=32 * scale)
    assert count.max() <= 1
    v, u = np.mgrid[: 32 * scale, : 32 * scale]
    inside = hull.find_simplex(np.stack([u, v], axis=-1)) >= 0
    np.testing.assert_array_equal(count[binary_erosion(inside)], 1)
    np.testing.assert_array_equal(count[binary_erosion(~inside, border_value=1)], 0)


@pytest.mark.parametrize("seed", range(6))
def test_tilted_triangulation_cut_by_the_near_plane(device, seed):  # noqa: F811
    # A patch of ground under and behind the camera: many triangles are clipped, their neighbours with them.
    rng = np.random.default_rng(seed)
    ground = rng.uniform(-1, 1, (30, 2))
    hull = Delaunay(ground)
    points = np.stack([ground[:, 0], np.full(30, 0.05), ground[:, 1]], axis=-1)
    (c, s), (d, e) = [(np.cos(a), np.sin(a)) for a in (rng.uniform(-1.2, 1.2), rng.uniform(-3, 3))]
    points = points @ (np.array([[d, -e, 0], [e, d, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])).T
    triangles = points[hull.simplices].astype(np.float32)
    K = intrinsics(32, 16.0)
    count = times_covered(device, triangles, K)
    assert count.max() <= 1
    _, face, _ = oracle.intersect(triangles.astype(float), oracle.pixel_rays(K, 32, 32))
    seen = face >= 0
    np.testing.assert_array_equal(count[binary_erosion(seen, border_value=0)], 1)
    np.testing.assert_array_equal(count[binary_erosion(~seen, border_value=0)], 0)


@pytest.mark.parametrize("seed", range(3))
def test_closed_meshes_have_no_holes(device, seed):  # noqa: F811
    mask = render(device, textured_sphere(4, texture_size=4), look_at_views(1, 0.15, seed), intrinsics(150), 150).mask[
        0
    ]
    assert mask.sum() > 5000
    np.testing.assert_array_equal(binary_fill_holes(mask), mask)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make_mesh", [lambda: textured_sphere(2, texture_size=4), grey_box])
def test_from_inside_a_closed_mesh_everything_is_covered(device, make_mesh, seed):  # noqa: F811
    result = render(device, make_mesh(), look_at_views(1, 0.01, seed), intrinsics(100, 30.0), 100)
    assert result.mask.all()
    assert result.depth.min() > 0.0


def test_equal_depth_lower_id_wins(device):  # noqa: F811
    triangle = flat([[2, 2], [28, 3], [12, 29]])
    twisted = triangle[[1, 2, 0]]
    for stack in ([triangle, triangle], [triangle, twisted, triangle[::-1]], [twisted, triangle]):
        ids = render(device, soup(np.stack(stack)), np.eye(4)[None], EXACT, 32).triangle_id
        assert set(np.unique(ids)) == {-1, 0}


@pytest.mark.parametrize("order", [1, -1])
def test_nearer_triangle_wins_whatever_the_order(device, order):  # noqa: F811
    near, far = 2.0 * flat([[2, 2], [28, 3], [12, 29]]), 3.0 * flat([[0, 0], [31, 0], [0, 31]])
    result = render(device, soup(np.stack([near, far][::order])), np.eye(4)[None], EXACT, 32)
    alone = render(device, soup(near[None]), np.eye(4)[None], EXACT, 32).mask
    assert alone.any()
    np.testing.assert_allclose(result.depth[alone], 2.0, rtol=1e-6)


@pytest.mark.parametrize("distance", [0.002, 0.1])
@pytest.mark.parametrize("extent", [10.0, 1e4, 1e7])
def test_triangles_that_reach_far_beyond_the_guard_band(device, distance, extent):  # noqa: F811
    # Projections reach 1e12 pixels; two triangles share an edge right through the picture.
    square = np.array([[-1.1, -1, 0], [1, -1.3, 0], [1.2, 1, 0], [-1, 1, 0]]) * extent
    triangles = square[[[0, 1, 2], [0, 2, 3]]]
    K, T = intrinsics(32, 400.0), translation(0, 0, distance)
    np.testing.assert_array_equal(times_covered(device, triangles, K, T=T), 1)
    depth = render(device, soup(triangles), T[None], K, 32).depth
    np.testing.assert_allclose(depth, distance, rtol=1e-6)


@pytest.mark.parametrize("place", ABSURD_DISTANCES)
def test_absurd_distances_draw_nothing_and_do_not_crash(device, place):  # noqa: F811
    for T in (translation(place, 0, 1), translation(0, place, place), translation(-place, place, -place)):
        result = render(device, grey_box(), T[None], intrinsics(16), 16)
        assert np.isfinite(result.depth).all()
        assert not result.mask.any()


@pytest.mark.parametrize("corners", THIN_TRIANGLES.values(), ids=THIN_TRIANGLES)
def test_thin_triangles_draw_nothing(device, corners):  # noqa: F811
    assert not times_covered(device, flat([corners])).any()


def test_edge_on_triangles_draw_nothing(device):  # noqa: F811
    # A wall that contains the camera's centre.
    assert not times_covered(device, np.array([[[0.0, -1, 0.5], [0, 1, 0.5], [0, 0, 3]]]), intrinsics(33)).any()
